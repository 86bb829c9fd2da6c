"""Inputs and items as planning would make them, without pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from manifests.identity import canonical_json, item_id, seed_of
from manifests.items import Input, Item, Problem, slug

PARAMS = {"settings": {"num_inference_steps": 2}, "width": 64, "height": 64}


def make_input(role: str, key: str, **changes: Any) -> Input:
    """An input whose bytes are a function of its role and key."""
    sha256 = hashlib.sha256(f"{role} {key}".encode()).hexdigest()
    found = Input(role, key, f"/{role}/{key}.png", None, None, 10, sha256, 128, 96)
    return replace(found, **changes)


def make_inputs(role: str, keys: Sequence[str]) -> list[Input]:
    return [make_input(role, key) for key in keys]


def make_item(
    inputs: Sequence[Input],
    *,
    cost_seconds: float = 1.0,
    width: int = 64,
    task: str = "style-transfer",
    seed: int = 0,
    variant: int = 0,
    problem: Problem | None = None,
    user: str = "{}",
) -> Item:
    params = PARAMS | {"width": width}
    identity = item_id(
        inputs, task=task, params=params, model_revision="r", seed=seed, variant=variant
    )
    return Item(
        item_id=identity,
        key="-".join([*(slug(one.key) for one in inputs), identity[:10]]),
        seed=seed_of(identity),
        task=task,
        params=canonical_json(params),
        variant=variant,
        width=width,
        height=64,
        inputs=tuple(inputs),
        cost_seconds=cost_seconds,
        user=user,
        problem=problem,
    )
