"""Is this the same item, the same run? Hashes over everything that changes pixels, nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from manifests.items import Input
from manifests.job import Job

NOT_IDENTITY = {
    "name": "a label for people",
    "inputs": "where images lie does not matter; which they are stands under `sources`",
    "output.uri": "where results go does not change them",
    "backbone.name": "the revision says which weights they are, whatever they are called",
    "backbone.revision": "replaced by the revision that was found",
    "backbone.config": "the revision covers it",
    "backbone.controlnet": "the revision covers it",
    "backbone.controlnet_revision": "the revision covers it",
    "limits.max_failed": "judges a run, does not change it",
    "compute": "speed only; the frozen plan keeps its shards",
    "settings": "replaced by the preset's settings with these in them",
    "sweep": "replaced by the settings of every entry, under `settings.sweep`",
}
"""Fields of a job that its fingerprint leaves out, each with the reason."""


def canonical_json(value: Any) -> str:
    """The one way in which we write JSON that is hashed: sorted keys, no spaces, plain text."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(value: Any) -> str:
    """sha256 of a value's canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def item_id(
    inputs: Sequence[Input],
    *,
    task: str,
    params: Mapping[str, Any],
    model_revision: str,
    seed: int,
    variant: int,
    prompt: str | None = None,
    negative_prompt: str | None = None,
    noise_of: str | None = None,
) -> str:
    """32 hex digits that name an item: what goes in, what is done with it, and by which model.

    An item of a sweep has the noise of another one, `noise_of`, so that the two can be compared.
    """
    words = {"prompt": prompt, "negative_prompt": negative_prompt, "noise_of": noise_of}
    identity: dict[str, Any] = {
        "inputs": [[one.role, one.sha256 or f"uri:{one.full_uri}"] for one in inputs],
        "task": task,
        "params": params,
        "model_revision": model_revision,
        "seed": seed,
        "variant": variant,
        **{name: text for name, text in words.items() if text is not None},
    }
    return digest(identity)[:32]


def seed_of(item: str, retry: int = 0) -> int:
    """The seed that follows from an item's id and the number of a retry: 64 bits of their hash."""
    text = f"{item}seed{retry or ''}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def source_digest(objects: Iterable[tuple[str, int | None]]) -> str:
    """Which files a source listed, by name within the source and size in bytes.

    This is cheap enough to look at again on every resume; the bytes themselves are held to their
    sha256 when a shard reads them.
    """
    return digest(sorted([name, size or 0] for name, size in objects))


def run_identity(
    job: Job,
    *,
    settings: Mapping[str, Any],
    model_revision: str,
    sources: Mapping[str, str],
    rendering_revision: int,
) -> dict[str, Any]:
    """Every field that makes a run what it is, flat, by dotted name."""
    fields = _flat(job.model_dump(mode="json"))
    kept = {name: value for name, value in fields.items() if not _left_out(name)}
    return {
        **kept,
        **_flat({"settings": dict(settings), "sources": dict(sources)}),
        "model_revision": model_revision,
        "rendering_revision": rendering_revision,
    }


def fingerprint(identity: Mapping[str, Any]) -> str:
    """sha256 of a run's identity, in hex."""
    return digest(identity)


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """One line for each field in which two identities differ."""
    return [
        f"  {name}: the run folder has {stored.get(name)!r}, the job says {wanted.get(name)!r}"
        for name in sorted({*stored, *wanted})
        if stored.get(name) != wanted.get(name)
    ]


def _left_out(name: str) -> bool:
    return any(name == left or name.startswith(f"{left}.") for left in NOT_IDENTITY)


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            flat.update(_flat(inner, f"{prefix}{name}."))  # pyright: ignore[reportUnknownArgumentType]
        else:
            flat[f"{prefix}{name}"] = inner
    return flat
