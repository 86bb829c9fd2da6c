"""What makes hostile inputs, by the kind of input; each kind has its share of all inputs."""

from __future__ import annotations

import random

from tests.faults.fuzz.cases import Maker
from tests.faults.fuzz.makers import (
    jobs,
    masks,
    pictures,
    places,
    prompts,
    run_folders,
    single,
    tables,
    tars,
    weights,
)

SHARES: dict[str, tuple[int, tuple[Maker, ...]]] = {
    "pictures": (24, pictures.MAKERS),
    "jobs": (18, jobs.MAKERS),
    "tables": (18, tables.MAKERS),
    "tars": (12, tars.MAKERS),
    "run_folders": (16, run_folders.MAKERS),
    "places": (10, places.MAKERS),
    "weights": (8, weights.MAKERS),
    "masks": (4, masks.MAKERS),
    "prompts": (4, prompts.MAKERS),
    "single": (4, single.MAKERS),
}
"""Of each kind: how often it comes up, and its makers, of which each is as likely as the others."""


def names() -> dict[str, Maker]:
    """Every maker, by `kind.name`."""
    return {
        f"{kind}.{maker.__name__}": maker
        for kind, (_, makers) in SHARES.items()
        for maker in makers
    }


def chosen(draw: random.Random, wanted: str = "") -> str:
    """The name of a maker.

    Args:
        draw: the source of chance.
        wanted: a kind, or `kind.name`; any unless given.
    """
    known = names()
    if wanted in known:
        return wanted
    kinds = [kind for kind in SHARES if wanted in ("", kind)]
    if not kinds:
        raise ValueError(f"no maker {wanted!r}; known: {', '.join([*SHARES, *known])}")
    (kind,) = draw.choices(kinds, [SHARES[kind][0] for kind in kinds])
    return draw.choice([name for name in known if name.startswith(f"{kind}.")])
