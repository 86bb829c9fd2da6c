"""What does the model tell of a plan before anything is rendered?

How surely pairs match, of tasks whose optimisation starts from a content: there the figure is known
beforehand. And how much memory pictures take.
Invariant: a prediction never fails a plan; what cannot be looked at is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from multiprocessing.connection import Connection

from ad_lib.presets import find_preset
from manifests.items import Input, Item, Problem
from tasks.work.fork_server import ForkServer
from tasks.work.shard_work import Demand, MemoryNeed, PlannedModel

logger = logging.getLogger(__name__)

MOST_PAIRS = 8
MOST_ITEMS = 1000
"""Of a plan, whose order is a hash's: the pairs are taken evenly from its first items."""

SHORTER_SIDE = 128
"""Pixels at which pairs are looked at, so that a pair costs little on a CPU."""

PATIENCE_SECONDS = 120.0
"""How long loading the model and looking may take."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a process that predicts is sent.

    Attributes:
        pairs: items whose matches are looked at.
        demands: of items whose memory is told; None where there are none.
        batch_size: of those, at most; see `room.memory_need`.
        memory_sharers: workers that share the device's memory; see there.
    """

    pairs: tuple[Item, ...]
    demands: tuple[Demand | None, ...] = ()
    model: PlannedModel
    device: str
    batch_size: int = 1
    memory_sharers: int | None = None
    max_pixels: int


@dataclass(frozen=True, kw_only=True)
class Match:
    """A pair of the plan, by the key of its first item, and its match uncertainty."""

    key: str
    match_uncertainty: float


@dataclass(kw_only=True)
class Predicted:
    """What was found out, as far as it was.

    Attributes:
        matches: of the pairs; those that cannot be looked at are missing.
        needs: for each of the demands; empty where nobody knows.
    """

    matches: list[Match] = field(default_factory=list[Match])
    needs: list[MemoryNeed | None] = field(default_factory=list["MemoryNeed | None"])


def pairs_of(items: Iterable[Item]) -> list[Item]:
    """A few items of a plan, each with other pictures, for which a prediction can be made."""
    pairs: dict[tuple[Input, ...], Item] = {}
    for item in islice(items, MOST_ITEMS):
        if item.problem is None and find_preset(item.task).starts_from_content:
            pairs.setdefault(item.inputs, item)
    found = list(pairs.values())
    step = max(1, len(found) / MOST_PAIRS)
    return [found[int(place * step)] for place in range(min(MOST_PAIRS, len(found)))]


def predict_in_child(server: ForkServer, asked: Asked) -> Predicted:
    """The predictions, made by a process of its own; none where it does not answer in time."""
    child = server.fork("tasks.work.predicting.answer_prediction")
    try:
        child.connection.send(asked)
        if child.connection.poll(PATIENCE_SECONDS):
            return child.connection.recv()
        logger.info("the model was not asked: %g seconds were not enough", PATIENCE_SECONDS)
    except (EOFError, OSError):
        logger.info("the model was not asked: %s", child.last_words())
    finally:
        child.close()
    return Predicted()


def answer_prediction(connection: Connection) -> None:
    """What the child does: sends its parent the predictions, and ends."""
    connection.send(predicted(connection.recv()))


def predicted(asked: Asked) -> Predicted:
    """The predictions of some items, computed here; none where the model cannot be loaded."""
    from ad_lib.matching import predicted_matches
    from tasks.runs.requests import request_of
    from tasks.work.decode import load_picture
    from tasks.work.models import ModelCache
    from tasks.work.room import memory_need

    models = ModelCache()
    found = Predicted()
    try:
        backbone, _ = models.backbone(asked.model, asked.device)
        found.needs = [
            one and memory_need(backbone, one, asked.batch_size, asked.memory_sharers)
            for one in asked.demands
        ]
        for item in map(_small, asked.pairs):
            loaded = {one: load_picture(one, item, asked.max_pixels) for one in item.inputs}
            images = {one: it for one, it in loaded.items() if not isinstance(it, Problem)}
            if len(images) == len(loaded):
                request = request_of(item, images, item.seed)
                settings = replace(request.settings, reference_size=None)
                small = replace(request, settings=settings)
                (figure,) = predicted_matches(backbone, [small], models.encoded)
                found.matches.append(Match(key=item.key, match_uncertainty=figure))
    except Exception:
        logger.info("the model did not tell everything", exc_info=True)
    finally:
        models.clear()
    return found


def _small(item: Item) -> Item:
    scale = min(1.0, SHORTER_SIDE / min(item.width, item.height))
    return replace(item, width=round(scale * item.width), height=round(scale * item.height))


def unsure(matches: Sequence[Match], bound: float) -> list[Match]:
    """Those above a bound, the least sure first."""
    above = [one for one in matches if one.match_uncertainty > bound]
    return sorted(above, key=lambda one: -one.match_uncertainty)
