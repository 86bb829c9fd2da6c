"""How do shards whose files are lost come back? Their items are planned again, as they were.

A repair is a generation that supersedes those shards. Items keep ids, keys, seeds and what changes
their pixels, so that the same pictures come of it and the run's content digest stays. Nothing of
the lost shards is deleted; it no longer counts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from infra.store import Store
from manifests.commits import INDEX_NAME
from manifests.generations import Generation
from manifests.identity import canonical_json
from manifests.items import Item, Status
from tasks.keeping.verifying import Verified
from tasks.plans.growing import add_generation
from tasks.runs.committed import shard_rows
from tasks.runs.run_folder import find_commit, open_run, recorded_job
from tasks.runs.run_plan import RunPlan, open_plan

FOREIGN = "foreign/"
"""Where records go that belong to no plan of a run."""


@dataclass(frozen=True, kw_only=True)
class Mended:
    """What was done about damage.

    Attributes:
        generations: those that plan lost shards again.
        moved: records of no plan, and where they lie now.
        removed: damaged files that are derived, and that publishing makes again.
    """

    generations: tuple[Generation, ...] = ()
    moved: Mapping[str, str] = field(default_factory=dict[str, str])
    removed: tuple[str, ...] = ()


@dataclass
class _Part:
    """What one generation of a repair plans: shards that were planned with the same changes."""

    changes: Mapping[str, Any]
    superseded: list[str] = field(default_factory=list[str])
    items: list[Item] = field(default_factory=list[Item])


def repair(run_uri: str, lost: Collection[str]) -> tuple[Generation, ...]:
    """Plans the items of lost shards again; those that are superseded by now are left.

    Args:
        run_uri: the run folder.
        lost: planned shards; their commits or files are damaged or missing.

    Returns:
        What was planned: a generation for each way in which the shards were rendered.

    Raises:
        RunFolderError: the run folder is damaged otherwise.
        StoreError: the store refuses or does not answer.
    """
    added: list[Generation] = []
    while True:
        store, run = open_run(run_uri)
        plan = open_plan(store, run)
        left = [shard for shard in plan.shards if shard in lost]
        if not left:
            return tuple(added)
        part = _parts(plan, left)[0]
        generation = add_generation(
            store,
            run,
            part.items,
            number=len(plan.generations) + 1,
            kind="repair",
            compute=recorded_job(run).compute,
            reason=f"files of {len(part.superseded)} shards are damaged or missing",
            changes=part.changes,
            superseded=sorted(part.superseded),
        )
        if generation is not None:
            added.append(generation)


def mend(run_uri: str, verified: Verified) -> Mended:
    """Brings back what was found damaged, as far as the run folder itself can.

    Nothing is planned or moved where something is damaged that only a copy brings back.

    Raises:
        RunFolderError, StoreError: see `repair`.
    """
    by_remedy: dict[str, list[str]] = {}
    for one in verified.findings:
        by_remedy.setdefault(one.remedy, []).append(one.name)
    if "restore" in by_remedy:
        return Mended()
    store, _ = open_run(run_uri)
    moved = {name: _set_aside(store, name) for name in by_remedy.get("set aside", ())}
    derived = by_remedy.get("publish", [])
    for name in [*derived, INDEX_NAME] if derived else ():
        store.delete(name)
    generations = repair(run_uri, verified.lost_shards)
    return Mended(generations=generations, moved=moved, removed=tuple(derived))


def _set_aside(store: Store, name: str) -> str:
    """Moves a record that belongs to no plan, over no other one; returns its new name."""
    data, place = store.get(name), f"{FOREIGN}{name}"
    places = chain([place], (f"{place}.{number}" for number in count(1)))
    place = next(one for one in places if store.put_if_absent(one, data))
    store.delete(name)
    return place


def _parts(plan: RunPlan, lost: Sequence[str]) -> list[_Part]:
    """What must be planned; shards of which nothing is needed go with others, or with one item.

    An item that stands in several lost shards is planned as in the newest. A generation plans at
    least one item; one that has its picture may be planned again: the earlier picture counts.
    """
    found: dict[str, _Part] = {}
    needed = _needed_items(plan, lost)
    for shard in reversed(lost):
        changes = plan.changes(shard)
        part = found.setdefault(canonical_json(dict(changes)), _Part(changes))
        part.superseded.append(shard)
        part.items += [item for item in plan.items(shard) if item.item_id in needed]
        needed -= {item.item_id for item in part.items}
    parts = [part for part in found.values() if part.items] or [_any_item(plan)]
    for part in found.values():
        if not part.items:
            parts[0].superseded += part.superseded
    return parts


def _any_item(plan: RunPlan) -> _Part:
    item = next(plan.counting_items())
    return _Part(plan.changes(item.shard), items=[item])


def _needed_items(plan: RunPlan, lost: Sequence[str]) -> set[str]:
    """The items of lost shards that nothing replaces, and that no other shard has or will have."""
    planned = {item.item_id for shard in lost for item in plan.items(shard)}
    needed = planned - plan.contested.replaced
    return needed - _found_elsewhere(plan, frozenset(lost), needed & plan.contested.repeated)


def _found_elsewhere(plan: RunPlan, lost: frozenset[str], wanted: Collection[str]) -> set[str]:
    """Those of the items that are `ok` in another shard, or wait in one to be rendered."""
    found: set[str] = set()
    for shard, items in _planned_in(plan, wanted):
        if shard in lost or shard not in plan.shards:
            continue
        commit = find_commit(plan.store, shard)
        if commit is not None:
            rows = shard_rows(plan.store, commit, plan.items(shard))
            items &= {row["item_id"] for row in rows if row["status"] == Status.OK}
        found |= items
    return found


def _planned_in(plan: RunPlan, wanted: Collection[str]) -> Iterator[tuple[str, set[str]]]:
    """The shards that plan any of the items, each with those."""
    options = pc.SetLookupOptions(value_set=pa.array(sorted(wanted), pa.string()))
    for file in plan.plans if wanted else ():
        table = file.columns("item_id", "shard")
        table = table.filter(pc.call_function("is_in", [table["item_id"]], options))
        shards: dict[str, set[str]] = {}
        for row in table.to_pylist():
            shards.setdefault(row["shard"], set()).add(row["item_id"])
        yield from shards.items()
