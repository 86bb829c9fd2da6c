"""How a resolved job becomes a frozen plan, or finds the plan that its run folder holds."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from tempfile import NamedTemporaryFile

from infra.store import Store, honours_put_if_absent, open_store
from manifests.commits import RUN_NAME, PlanReference, RunRecord
from manifests.errors import FingerprintMismatch, JobError, RunFolderError
from manifests.identity import canonical_json
from manifests.items import Input, Item
from manifests.limits import MAX_ITEMS
from manifests.pairing import count_pairs, pair, with_source_masks
from manifests.plan import cut_into_shards, plan_name
from manifests.plan_rules import checked_items
from manifests.plan_table import PlanWriter
from tasks.committed import sound_commits
from tasks.environment import versions
from tasks.items import make_items
from tasks.passed_over import PassedOver
from tasks.preflight import inspect_inputs
from tasks.resolving import ResolvedJob, differences_to
from tasks.run_folder import find_run, recorded_job
from tasks.run_plan import RunPlan, open_plan
from tasks.sources import images_in
from tasks.tables import TableRow

MAX_URI_LETTERS = 1000


@dataclass(frozen=True)
class PreparedRun:
    """A run folder that is ready to be rendered.

    Attributes:
        is_new: whether this call planned it.
    """

    uri: str
    run: RunRecord
    plan: RunPlan
    is_new: bool


def plan_items(
    resolved: ResolvedJob, on_inspected: Callable[[Input], None] = lambda item_input: None
) -> list[Item]:
    """Preflight and planning: every item, cut into shards, with the problems that it has.

    Raises:
        JobError: not one item can be rendered, or two would have the same key.
    """
    job = resolved.job
    rows = _limited(_rows(resolved), _most_rows(resolved))
    inspected = inspect_inputs(
        [item_input for row in rows for item_input in row.inputs],
        max_pixels=job.limits.max_pixels,
        num_threads=job.compute.io_threads,
        on_inspected=on_inspected,
    )
    rows = [replace(row, inputs=tuple(inspected[i] for i in row.inputs)) for row in rows]
    items = list(make_items(resolved, rows))
    if all(item.problem for item in items):
        lines = dict.fromkeys(item.problem.message for item in items if item.problem)
        raise JobError("no item can be rendered, and nothing was written:\n" + "\n".join(lines))
    return _readable(
        cut_into_shards(
            items, shard_seconds=job.compute.shard_seconds, shard_items=job.compute.shard_items
        )
    )


def _readable(items: list[Item]) -> list[Item]:
    """The items, where a plan of them could be read again; a run folder keeps its plan for ever."""
    try:
        for _ in checked_items(items):
            pass
    except ValueError as error:
        raise JobError(f"this job cannot be planned ({error}): take that input out") from None
    return items


def open_prepared(resolved: ResolvedJob) -> PreparedRun | None:
    """The run that the job's folder already holds, or None where it is empty.

    Raises:
        FingerprintMismatch: the folder belongs to another job, or its sources have moved.
        RunFolderError: a record of the run or a committed file is missing or damaged.
        JobError: no folder can have this name.
    """
    _check_place(resolved.output_uri)
    store = open_store(resolved.output_uri)
    run = find_run(store)
    if run is None:
        return None
    if differing := differences_to(run, resolved):
        raise FingerprintMismatch(
            f"{resolved.output_uri} holds the run of another job; choose another output.uri for "
            "this one (nothing was changed). They differ in:",
            differing,
        )
    recorded_job(run)
    plan = open_plan(store, run)
    commits = sound_commits(plan)
    pending = (item for item in plan.iter_items() if item.shard not in commits)
    _refuse_moved_sources(resolved, pending)
    return PreparedRun(resolved.output_uri, run, plan, is_new=False)


def store_plan(resolved: ResolvedJob, items: Sequence[Item]) -> PreparedRun:
    """Writes the plan, then `run.json`, which makes it binding; whoever is first wins.

    A planning that loses, or is killed, leaves at worst a plan that nothing names.
    """
    store = open_store(resolved.output_uri)
    reference = put_plan(store, items)
    record = _run_record(resolved, reference, honours_put_if_absent(store))
    if not store.put_if_absent(RUN_NAME, record.to_bytes()):
        prepared = open_prepared(resolved)
        if prepared is None:
            raise RunFolderError(
                f"{RUN_NAME} was refused by the store and is not there: does another program "
                "delete files of this run folder? Run the job again"
            )
        return prepared
    return PreparedRun(resolved.output_uri, record, open_plan(store, record), is_new=True)


def put_plan(store: Store, items: Iterable[Item]) -> PlanReference:
    """Stores a plan under the name that its content gives it; nothing names it yet.

    Args:
        store: of the run folder.
        items: in plan order, each with its shard.
    """
    with NamedTemporaryFile(prefix="stylefarm-") as file:
        told = PlanWriter(file)
        told.write_items(items)
        told.close()
        digest = told.digest
        store.put(plan_name(digest), Path(file.name))
    return PlanReference(
        plan_name=plan_name(digest),
        plan_digest=digest,
        num_items=told.num_items,
        num_shards=told.num_shards,
    )


def _check_place(uri: str) -> None:
    """Refuses a run folder that no store could hold, before any input is read."""
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in uri):
        raise JobError(
            f"output.uri: a name with control characters cannot be a run folder; got {uri[:200]!r}"
        )
    if len(uri) > MAX_URI_LETTERS:
        raise JobError(
            f"output.uri: the name of a run folder has at most {MAX_URI_LETTERS} letters; got "
            f"{len(uri)}, {uri[:40]!r}…"
        )
    if not uri.strip("/."):
        raise JobError(f"output.uri: {uri!r} cannot be a run folder: name a folder of its own")


def _refuse_moved_sources(resolved: ResolvedJob, pending: Iterable[Item]) -> None:
    """Refuses a job whose sources lie elsewhere than planned: its pending items would all fail."""
    listed = resolved.inputs.uris()
    planned = (item_input.uri for item in pending for item_input in item.inputs)
    moved = next((uri for uri in planned if uri not in listed), None)
    if moved is not None:
        raise FingerprintMismatch(
            f"{resolved.output_uri} was planned with {moved}, which the job no longer lists; "
            "move the sources back, or choose another output.uri",
            [],
        )


def _run_record(
    resolved: ResolvedJob, reference: PlanReference, conditional_put: bool
) -> RunRecord:
    return RunRecord(
        fingerprint=resolved.fingerprint,
        identity=resolved.identity,
        job=resolved.job.model_dump(mode="json", exclude_unset=True),
        settings=asdict(resolved.settings),
        model_id=resolved.model.backbone.model_id,
        model_config_id=resolved.model.config,
        controlnet_id=resolved.model.controlnet and resolved.model.controlnet.model_id,
        model_revision=resolved.model.revision,
        dtype=resolved.dtype,
        device_type=resolved.device_type,
        deterministic=resolved.job.backbone.deterministic,
        **dict(reference),
        conditional_put=conditional_put,
        versions=versions(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _rows(resolved: ResolvedJob) -> list[TableRow]:
    """The combinations of inputs that become items: the table's rows, or pairs of the sources."""
    listed = resolved.inputs
    if listed.table:
        return [listed.table[number] for number in _planned_numbers(resolved, len(listed.table))]
    images = {
        role: [image for file in files for image in images_in(file, listed.passed_over[role])]
        for role, files in listed.files.items()
    }
    _refuse_empty_sources(images, listed.passed_over)
    masks = images.pop("source_mask", None)
    prompts = listed.prompts or [None]
    pairing = resolved.job.pairing
    numbers = _planned_numbers(resolved, count_pairs(images, pairing) * len(prompts))
    combinations = pair(images, pairing, [number // len(prompts) for number in numbers])
    if masks is not None:
        combinations = with_source_masks(combinations, masks, list(listed.files))
    return [
        TableRow(
            inputs,
            "",
            "{}",
            prompt=prompts[number % len(prompts)],
            negative_prompt=listed.negative_prompt,
        )
        for inputs, number in zip(combinations, numbers, strict=True)
    ]


def _refuse_empty_sources(
    images: Mapping[str, Sequence[Input]], passed_over: Mapping[str, PassedOver]
) -> None:
    for role, found in images.items():
        if not found and passed_over[role]:
            raise JobError(
                f"the {role} source holds no images: check its uri ({passed_over[role]})"
            )


def _planned_numbers(resolved: ResolvedJob, num_rows: int) -> Sequence[int]:
    """The places of the rows that are looked at: all, or a sample of more than a run can hold.

    Raises:
        JobError: they would become more items than a run may have.
    """
    most = _most_rows(resolved)
    planned = num_rows if most is None else min(num_rows, most)
    num_items = planned * resolved.job.variants * len(resolved.variations)
    if num_items > MAX_ITEMS:
        raise JobError(
            f"the job asks for {num_items:,} items ({planned:,} combinations of inputs), a run has "
            f"at most {MAX_ITEMS:,}: set limits.max_items, or split it into several jobs"
        )
    return range(num_rows) if num_rows <= MAX_ITEMS else _sample_of(num_rows, planned)


def _sample_of(num_rows: int, num_picked: int) -> list[int]:
    """So many different numbers below `num_rows`, the same ones every time, in order."""
    picked: set[int] = set()
    for attempt in count():
        if len(picked) == num_picked:
            break
        hashed = hashlib.sha256(f"row {attempt}".encode()).digest()
        picked.add(int.from_bytes(hashed, "big") % num_rows)
    return sorted(picked)


def _most_rows(resolved: ResolvedJob) -> int | None:
    """So many combinations at most; the items of each stay together."""
    most = resolved.job.limits.max_items
    if most is None:
        return None
    return max(1, most // (resolved.job.variants * len(resolved.variations)))


def _limited(rows: list[TableRow], most: int | None) -> list[TableRow]:
    """So many rows at most, picked by hash and kept in order, so that they are a fair sample."""
    if most is None or len(rows) <= most:
        return rows

    def rank(row: TableRow) -> bytes:
        names = [[item_input.role, item_input.key] for item_input in row.inputs]
        words = [row.prompt] if row.prompt is not None else []
        return hashlib.sha256(canonical_json([names, row.key, *words]).encode()).digest()

    picked = set(sorted(range(len(rows)), key=lambda number: rank(rows[number]))[:most])
    return [row for number, row in enumerate(rows) if number in picked]
