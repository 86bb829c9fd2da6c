"""Into which batches will a worker cut the items of a shard?

As `tasks.work.render` and `ad_lib.batch` do it: items of one size in plan order, so many at once,
and of these those together that agree in what a batch must agree in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ad_lib.presets import find_preset
from manifests.items import REFERENCE_ROLES, Item
from tasks.runs.item_settings import settings_of

Kind = tuple[object, ...]


def batches_of(items: Iterable[Item], most_together: int) -> Iterator[list[Item]]:
    """The batches of a shard's items; those that cannot be rendered are in none.

    Args:
        items: of the shard, in plan order.
        most_together: items of a batch, at most.
    """
    for alike in _by_size(items):
        for start in range(0, len(alike), most_together):
            for batch in _by_kind(alike[start : start + most_together]):
                yield from ([one] for one in batch) if _is_alone(batch[0]) else (batch,)


def usual_batch(items: Sequence[Item], most_together: int) -> tuple[list[Item], list[Item]]:
    """The largest batch of a shard, and all items of its size and kind, in plan order."""
    batch = max(batches_of(items, most_together), key=len)
    first, kind = batch[0], _kind(batch[0])
    alike = [
        one
        for one in items
        if one.problem is None
        and (one.width, one.height) == (first.width, first.height)
        and _kind(one) == kind
    ]
    return batch, alike


def _by_size(items: Iterable[Item]) -> list[list[Item]]:
    found: dict[tuple[int, int], list[Item]] = {}
    for one in items:
        if one.problem is None:
            found.setdefault((one.width, one.height), []).append(one)
    return list(found.values())


def _by_kind(items: Iterable[Item]) -> list[list[Item]]:
    found: dict[Kind, list[Item]] = {}
    for one in items:
        found.setdefault(_kind(one), []).append(one)
    return list(found.values())


def _kind(item: Item) -> Kind:
    """What items of one size and the same settings must agree in besides."""
    settings = settings_of(item)
    references = [one for one in item.inputs if one.role in REFERENCE_ROLES]
    has_own_sizes = settings.reference_size is not None
    return (
        tuple(one.role for one in item.inputs),
        tuple((one.width, one.height) for one in references) if has_own_sizes else (),
        references[0].sha256 if settings.decoder_epochs else None,
    )


def _is_alone(item: Item) -> bool:
    """Whether an item is a batch of its own, as its views are many."""
    return find_preset(item.task).algorithm == "expand"
