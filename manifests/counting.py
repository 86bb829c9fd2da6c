"""What counts in a run of several generations: of every planned item at most one row.

Rows of superseded shards do not count, nor do items that a later plan row replaces; of an item its
`ok` row counts (of two, the earlier generation's), else its latest. Where every item is planned
once, commits add up and no row is read.
"""

# pyright: standard
# pyarrow ships no types, so strict checking would see nothing but unknowns here.
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from manifests.commits import (
    MEND,
    RUN_NAME,
    Commit,
    Counts,
    Index,
    IndexedGeneration,
    IndexedShard,
    RunRecord,
    commit_name,
)
from manifests.errors import RunFolderError
from manifests.generations import Generation, generation_name
from manifests.items import Status
from manifests.outcomes import add_digests, content_digest_of
from manifests.plan import generation_of
from manifests.shard_stats import ShardStats

Row = Mapping[str, Any]
ReadRows = Callable[[Commit], Iterable[Row]]
"""Gives the rows of a committed shard; asked only where they are needed."""

PLAN_COLUMNS = ("item_id", "shard", "replaces")


@dataclass(frozen=True)
class Contested:
    """The items whose rows must be looked at, as the plans of all generations show them.

    Attributes:
        num_items: distinct items that nothing replaces.
        replaced: items that a plan row of a later generation replaces.
        repeated: items that are planned more than once.
        shards: those that plan an item of either kind.
    """

    num_items: int
    replaced: frozenset[str] = frozenset()
    repeated: frozenset[str] = frozenset()
    shards: frozenset[str] = frozenset()

    def __contains__(self, item_id: str) -> bool:
        return item_id in self.replaced or item_id in self.repeated


@dataclass(frozen=True)
class Counted:
    """The items of a run, each counted once.

    Attributes:
        counts, errors: of all items.
        content_digest: over the ok items; None where it was not asked for.
        row_in: of each contested item that has a row that counts, the shard of that row.
    """

    counts: Counts
    errors: Mapping[str, int]
    content_digest: str | None
    row_in: Mapping[str, str] = field(default_factory=dict[str, str])


def contested_items(plans: Sequence[pa.Table]) -> Contested:
    """The items of a run whose rows must be looked at.

    Args:
        plans: the `PLAN_COLUMNS` of each generation, in order.
    """
    if len(plans) == 1:
        return Contested(plans[0].num_rows)
    item_ids = pa.concat_tables([plan.select(["item_id"]) for plan in plans])["item_id"]
    numbers = item_ids.value_counts()
    values, counts = numbers.field("values"), numbers.field("counts")
    repeated = values.filter(pc.call_function("greater", [counts, pa.scalar(1)]))
    replaced = _replaced_items(plans)
    wanted = pa.concat_arrays([repeated, pa.array(sorted(replaced), pa.string())])
    shards = (plan["shard"].filter(_is_in(plan["item_id"], wanted)).unique() for plan in plans)
    return Contested(
        num_items=len(values) - len(replaced),
        replaced=replaced,
        repeated=frozenset(repeated.to_pylist()),
        shards=frozenset(name for found in shards for name in found.to_pylist()),
    )


def _replaced_items(plans: Sequence[pa.Table]) -> frozenset[str]:
    """The items that a row names in a generation after the newest that plans them."""
    named_in: dict[str, int] = {}
    for number, plan in enumerate(plans):
        named_in.update(dict.fromkeys(plan["replaces"].drop_null().to_pylist(), number))
    planned_in: dict[str, int] = {}
    for number, plan in enumerate(plans):
        named = _is_in(plan["item_id"], pa.array(list(named_in), pa.string()))
        planned_in.update(dict.fromkeys(plan["item_id"].filter(named).to_pylist(), number))
    return frozenset(item for item, number in planned_in.items() if named_in[item] > number)


def _is_in(values: Any, wanted: pa.Array) -> Any:
    return pc.call_function("is_in", [values], pc.SetLookupOptions(value_set=wanted))


def count_items(
    commits: Iterable[Commit],
    contested: Contested,
    superseded: Collection[str],
    read_rows: ReadRows,
    *,
    with_digest: bool = True,
) -> Counted:
    """Counts every item of a run once.

    Args:
        commits: of the run.
        contested: the items whose rows must be looked at.
        superseded: the shards whose rows do not count.
        read_rows: of a shard with such items, and of one of the first layout for the digest.
        with_digest: whether the content digest is wanted.
    """
    live = [commit for commit in _in_order(commits) if commit.shard not in superseded]
    found = _Tally()
    rows_of: dict[str, tuple[str, Row]] = {}
    for commit in live:
        is_contested = commit.shard in contested.shards
        if not is_contested:
            found.add_shard(commit)
        if is_contested or (with_digest and commit.schema_version == 1):
            for row in read_rows(commit):
                if row["item_id"] not in contested:
                    found.add_row(row, with_status=is_contested)
                elif row["item_id"] not in contested.replaced:
                    _prefer(rows_of, commit.shard, row)
    for _, row in rows_of.values():
        found.add_row(row)
    counts = found.counts(contested.num_items)
    digest = add_digests(found.digests) if with_digest else None
    row_in = {item_id: shard for item_id, (shard, _) in rows_of.items()}
    return Counted(counts, dict(found.errors), digest, row_in)


def build_index(
    run: RunRecord,
    commits: Iterable[Commit],
    read_rows: ReadRows,
    *,
    generations: Sequence[Generation] = (),
    contested: Contested | None = None,
) -> Index:
    """Adds up the commits of a run to its index.

    Args:
        run: the run.
        commits: all of them.
        read_rows: see `count_items`.
        generations: those after the first, in order.
        contested: needed where there are such.

    Raises:
        RunFolderError: a commit belongs to another plan, or there are more than were planned.
    """
    ordered = _in_order(commits)
    superseded = superseded_shards(generations)
    live = [commit for commit in ordered if commit.shard not in superseded]
    refuse_foreign_commits(run, generations, live)
    contested = Contested(run.num_items) if contested is None else contested
    counted = count_items(ordered, contested, superseded, read_rows)
    stats = ShardStats.total(commit.stats for commit in live)
    wanted = sum(plan.num_shards for plan in (run, *generations)) - len(superseded)
    return Index(
        fingerprint=run.fingerprint,
        plan_digest=run.plan_digest,
        content_digest=counted.content_digest or "",
        complete=len(live) == wanted and counted.counts.pending == 0,
        counts=counted.counts,
        stats=stats.model_copy(update={"errors": dict(sorted(counted.errors.items()))}),
        generations=_indexed_generations(run, generations),
        shards=_indexed_shards(generations, ordered),
    )


def is_current(
    index: Index, run: RunRecord, generations: Sequence[Generation], commits: Iterable[Commit]
) -> bool:
    """Whether an index lists these very generations and commits, so that its counts are theirs."""
    return index.generations == _indexed_generations(run, generations) and (
        index.shards == _indexed_shards(generations, _in_order(commits))
    )


def _indexed_shards(
    generations: Sequence[Generation], commits: Iterable[Commit]
) -> tuple[IndexedShard, ...]:
    superseded = superseded_shards(generations)
    return tuple(indexed(one, superseded=one.shard in superseded) for one in commits)


def indexed(commit: Commit, **known: Any) -> IndexedShard:
    """A commit with what else the index says of it: its `etag`, and whether it is `superseded`."""
    if isinstance(commit, IndexedShard) and all(
        getattr(commit, name) == value for name, value in known.items()
    ):
        return commit
    return IndexedShard.model_construct(**{**dict(commit), **known})


def superseded_shards(generations: Iterable[Generation]) -> frozenset[str]:
    """The shards that a later generation has planned anew."""
    return frozenset(shard for generation in generations for shard in generation.superseded)


def refuse_foreign_commits(
    run: RunRecord, generations: Sequence[Generation], commits: Iterable[Commit]
) -> None:
    """Refuses commits that no generation of the run has planned.

    Raises:
        RunFolderError: a commit belongs to another plan, or there are more than were planned.
    """
    plans = (run, *generations)
    num_shards: Counter[int] = Counter()
    num_items: Counter[int] = Counter()
    for commit in commits:
        number = generation_of(commit.shard)
        if number >= len(plans):
            raise RunFolderError(
                f"{commit_name(commit.shard)} belongs to generation {number}, and this run has no "
                f"{generation_name(number)}: {MEND}"
            )
        if commit.plan_digest != plans[number].plan_digest:
            raise RunFolderError(
                f"{commit_name(commit.shard)} belongs to another plan ({commit.plan_digest[:12]}…, "
                f"this run has {plans[number].plan_digest[:12]}…): {MEND}"
            )
        num_shards[number] += 1
        num_items[number] += commit.counts.planned
    for number, plan in enumerate(plans):
        if num_items[number] > plan.num_items or num_shards[number] > plan.num_shards:
            name = generation_name(number) if number else RUN_NAME
            raise RunFolderError(
                f"commits/ counts {num_items[number]} items in {num_shards[number]} shards, {name} "
                f"only {plan.num_items} in {plan.num_shards}: call 'stylefarm verify', which "
                "names the commits that are not of this run and moves them away"
            )


@dataclass
class _Tally:
    """Adds up what shards and single rows hold."""

    statuses: Counter[str] = field(default_factory=Counter[str])
    errors: Counter[str] = field(default_factory=Counter[str])
    digests: list[str] = field(default_factory=list[str])

    def add_shard(self, commit: Commit) -> None:
        for status in (Status.OK, Status.FAILED, Status.SKIPPED):
            self.statuses[status] += getattr(commit.counts, status)
        self.errors.update(commit.stats.errors)
        if commit.schema_version > 1:
            self.digests.append(commit.content_digest)

    def add_row(self, row: Row, *, with_status: bool = True) -> None:
        self.digests.append(
            content_digest_of((row["key"], output["sha256"]) for output in row["outputs"])
        )
        if with_status:
            self.statuses[row["status"]] += 1
            self.errors.update([row["error_class"]] if row["error_class"] else [])

    def counts(self, num_items: int) -> Counts:
        by_status = {status: self.statuses[status] for status in ("ok", "failed", "skipped")}
        pending = num_items - sum(by_status.values())
        return Counts(planned=num_items, pending=pending, **by_status)


def _prefer(rows_of: dict[str, tuple[str, Row]], shard: str, row: Row) -> None:
    """Keeps a row of a later generation, unless the item has an `ok` row already."""
    found = rows_of.get(row["item_id"])
    if found is None or found[1]["status"] != Status.OK:
        rows_of[row["item_id"]] = (shard, row)


def _in_order(commits: Iterable[Commit]) -> list[Commit]:
    return sorted(commits, key=lambda commit: (generation_of(commit.shard), commit.shard))


def _indexed_generations(
    run: RunRecord, generations: Sequence[Generation]
) -> tuple[IndexedGeneration, ...]:
    return tuple(
        IndexedGeneration(
            number=number,
            kind=plan.kind if isinstance(plan, Generation) else "plan",
            plan_digest=plan.plan_digest,
            num_items=plan.num_items,
            num_shards=plan.num_shards,
        )
        for number, plan in enumerate((run, *generations))
    )
