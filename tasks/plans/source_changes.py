"""What has become of a run's sources since they were planned, and are they there at all?

A plan stays as it is: what came, went or changed is told by name, and `extend` plans what is new.
Where the sources as a whole are gone, that is nobody's item's fault: SourcesGone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from infra.store import Store, UriError, store_and_key
from manifests.commits import RunRecord
from manifests.source_table import WAY_OUT, SourceRow, read_sources
from tasks.inputs.listed_sources import TABLE_ROLE, listed_sources
from tasks.inputs.resolving import ResolvedJob
from tasks.runs.faults import SourcesGone
from tasks.runs.run_folder import find_generations, pending_shards, read_file, recorded_job
from tasks.runs.run_plan import RunPlan, open_plan

MAX_NAMES = 5
"""Files of each kind that a sentence names."""

MAX_PROMPT_LETTERS = 60

NUM_PROBES = 256
"""Files that are asked for where no listing says whether the sources are there."""

NUM_SHARDS = 64
"""Shards whose items are asked for the sources of a run that recorded none."""

FROZEN = ("shard_items", "shard_seconds", "seconds_per_item")
"""Settings of `compute` that matter to planning alone."""

T = TypeVar("T")
Listing = Mapping[tuple[str, str], SourceRow]


@dataclass(frozen=True)
class SourceChanges:
    """How the sources differ from what was planned.

    Attributes:
        sentences: one for each role and kind of change, with some names; none where nothing
            differs.
        num_came, num_gone, num_changed: files.
    """

    sentences: tuple[str, ...]
    num_came: int = 0
    num_gone: int = 0
    num_changed: int = 0


def source_changes(resolved: ResolvedJob, plan: RunPlan) -> SourceChanges:
    """Compares what a job's sources list now with what the generations of its run listed.

    Args:
        resolved: the job, with its sources listed.
        plan: of its run.

    Raises:
        SourcesGone: items are pending, and more than half of the planned files are gone, or all
            those of a source.
        RunFolderError: a table of sources is missing or damaged.
    """
    recorded = plan.run.sources_name is not None
    planned = newest_listing(plan.store, plan.run) or planned_files(plan, list(plan.shards))
    now = {
        (row.role, row.name if recorded else row.uri): row
        for row in listed_sources(resolved.inputs)
        if row.size is not None and (recorded or row.role != TABLE_ROLE)
    }
    gone = [key for key in planned if key not in now]
    has_pending = bool(pending_shards(plan.store, plan))
    if has_pending and (sentence := _sentence_of_gone(planned, gone)):
        raise SourcesGone(sentence)
    moved = [key for key in planned if key in now and planned[key].uri != now[key].uri]
    if has_pending and moved and (sentence := missing_sources(plan.store, plan.run)):
        raise SourcesGone(sentence)
    job = resolved.job
    knows_all = recorded or (job.limits.max_items is None and job.pairing.mode != "random")
    came = [key for key in now if key not in planned] if knows_all else []
    changed = [key for key in planned if key in now and _differ(planned[key], now[key])]
    new_prompts = _new_prompts(resolved, plan)
    sentences = list(_sentences({"came": came, "gone": gone, "changed": changed}))
    if new_prompts:
        sentences.append(f"prompt: {len(new_prompts)} came ({_some(new_prompts)})")
    if came or changed or new_prompts:
        sentences.append(
            "this run finishes what is planned; 'stylefarm extend' plans what came or changed"
        )
    if gone and has_pending:
        sentences.append("pending items of files that are gone fail as input_missing")
    if moved:
        there, here = planned[moved[0]].uri, now[moved[0]].uri
        sentences.append(
            f"the job names its sources elsewhere ({here}) than the plan does ({there}): what is "
            "pending is read where it was planned"
        )
    return SourceChanges(tuple(sentences), len(came), len(gone), len(changed))


def ignored_settings(resolved: ResolvedJob, run: RunRecord) -> list[str]:
    """One sentence for each setting of a job that its run's frozen plan does not follow."""
    recorded, wanted = recorded_job(run).compute, resolved.job.compute
    return [
        f"compute.{name}: {getattr(wanted, name)} is not followed, as the plan is frozen (it was "
        f"made with {getattr(recorded, name)}); what 'stylefarm extend' plans follows it"
        for name in FROZEN
        if getattr(wanted, name) != getattr(recorded, name)
    ]


def missing_sources(store: Store, run: RunRecord) -> str | None:
    """Why no item can be rendered: a sentence where the planned sources are gone as a whole.

    At most `NUM_PROBES` files are asked for.

    Raises:
        StoreError: a store refuses or does not answer.
        RunFolderError: the run folder is damaged.
    """
    planned = newest_listing(store, run)
    if not planned:
        plan = open_plan(store, run)
        planned = planned_files(plan, _evenly(list(plan.shards), NUM_SHARDS))
    probed = dict(_evenly_over_roles(planned))
    with ThreadPoolExecutor(16) as pool:
        are_there = pool.map(lambda row: _is_there(row.uri), probed.values())
        gone = [key for key, is_there in zip(probed, are_there, strict=True) if not is_there]
    return _sentence_of_gone(probed, gone)


def newest_listing(store: Store, run: RunRecord) -> dict[tuple[str, str], SourceRow]:
    """What each file was when a generation listed it last, by role and name.

    Named files that were not there are left out. A run of the first layout has recorded nothing.

    Raises:
        RunFolderError: a table of sources is missing or damaged.
    """
    found: dict[tuple[str, str], SourceRow] = {}
    for reference in (run, *find_generations(store, run)):
        name, digest = reference.sources_name, reference.sources_digest
        if name is not None and digest is not None:
            rows = read_sources(read_file(store, name, WAY_OUT), name, digest)
            found.update(((row.role, row.name), row) for row in rows)
    return {key: row for key, row in found.items() if row.size is not None}


def planned_files(plan: RunPlan, shards: Iterable[str]) -> dict[tuple[str, str], SourceRow]:
    """The files that the items of some shards name, by role and URI; sizes but of tars."""
    return {
        (one.role, one.uri): SourceRow(
            one.role, one.uri, one.uri, None if one.member else one.num_bytes
        )
        for shard in shards
        for item in plan.items(shard)
        for one in item.inputs
        if one.uri and one.num_bytes is not None
    }


def _differ(planned: SourceRow, now: SourceRow) -> bool:
    """Whether the bytes may differ; a moved file has another time, a tar's size may be unknown."""
    if planned.etag is None or planned.uri != now.uri:
        return planned.size is not None and planned.size != now.size
    return (planned.size, planned.etag) != (now.size, now.etag)


def _sentence_of_gone(planned: Listing, gone: Sequence[tuple[str, str]]) -> str | None:
    """Why this is no matter of single files, if it is not."""
    num_planned: dict[str, int] = defaultdict(int)
    num_gone: dict[str, int] = defaultdict(int)
    for role, _ in planned:
        num_planned[role] += 1
    for key in gone:
        num_gone[key[0]] += 1
    lost = next((role for role, number in num_gone.items() if number == num_planned[role]), None)
    if lost is None and 2 * len(gone) <= len(planned):
        return None
    example = planned[next(key for key in gone if lost in (None, key[0]))].uri
    what = f"every file of {lost}" if lost else f"{len(gone)} of {len(planned)} source files"
    return (
        f"{what} is gone, such as {example}: is a drive not mounted, or a folder moved? Nothing "
        "was rendered; bring them back, or plan what there is in another output.uri"
    )


def _sentences(kinds: Mapping[str, Sequence[tuple[str, str]]]) -> Iterator[str]:
    for kind, keys in kinds.items():
        by_role: dict[str, list[str]] = defaultdict(list)
        for role, name in keys:
            by_role[role].append(name)
        for role, names in sorted(by_role.items()):
            verb = kind if kind == "came" else f"{'is' if len(names) == 1 else 'are'} {kind}"
            yield f"{role}: {_counted(names)} {verb} ({_some(sorted(names))})"


def _counted(names: Sequence[str]) -> str:
    return "1 file" if len(names) == 1 else f"{len(names)} files"


def _new_prompts(resolved: ResolvedJob, plan: RunPlan) -> list[str]:
    """The beginnings of the prompts that no item has; a sample of items need not have each."""
    if not resolved.inputs.prompts or resolved.job.limits.max_items is not None:
        return []
    columns = (one.columns("prompt")["prompt"] for one in plan.plans)
    planned = {prompt for column in columns for prompt in column.unique().to_pylist()}
    came = (prompt for prompt in resolved.inputs.prompts if prompt not in planned)
    return [f"{prompt:.{MAX_PROMPT_LETTERS}}" for prompt in came]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


def _evenly_over_roles(planned: Listing) -> Iterator[tuple[tuple[str, str], SourceRow]]:
    by_role: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for key in planned:
        by_role[key[0]].append(key)
    for keys in by_role.values():
        chosen = _evenly(keys, max(1, NUM_PROBES // len(by_role)))
        yield from ((key, planned[key]) for key in chosen)


def _evenly(entries: Sequence[T], most: int) -> Sequence[T]:
    return entries[:: max(1, -(-len(entries) // most))]


def _is_there(uri: str) -> bool:
    try:
        store, key = store_and_key(uri)
    except UriError:
        return False
    return store.find(key) is not None
