"""From a job to a frozen plan, or back to the plan that the run folder holds."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from ad_lib.images import scaled_size
from ad_lib.presets import Preset, Settings, find_preset
from ad_lib.weights import EMBEDDED, Weights, find_weights
from infra.store import honours_put_if_absent, open_store
from manifests.commits import RUN_NAME, RunRecord
from manifests.errors import FingerprintMismatch, JobError
from manifests.identity import (
    canonical_json,
    differences,
    fingerprint,
    item_id,
    run_identity,
    seed_of,
    source_digest,
)
from manifests.items import ErrorClass, Input, Item, Problem, slug
from manifests.job import Job, Source
from manifests.pairing import pair
from manifests.plan import PLAN_NAME, Plan, cut_into_shards, plan_digest, read_plan, write_plan
from tasks.environment import versions
from tasks.preflight import inspect_inputs
from tasks.run_folder import find_run, load_plan, pending_shards
from tasks.sources import (
    SourceFile,
    TableRow,
    images_in,
    list_files,
    read_table,
    resolve_uri,
)

RENDERING_REVISION = 1
"""Goes up with every change of ours that changes rendered images; the CHANGELOG names it."""

SECONDS_PER_STEP = {(True, "cpu"): 1.0, (True, "cuda"): 0.02, (False, "cpu"): 40.0}
"""Rough time of one step at 512x512 by (embedded, device): it only sizes the shards."""
SECONDS_PER_STEP_ELSEWHERE = 0.05

MIN_SIDE, MAX_SIDE = 64, 8192


@dataclass(frozen=True)
class ResolvedJob:
    """A job with its names resolved and its sources listed; no image has been read.

    Attributes:
        output_uri: the run folder.
        files: what the sources list, by role.
        table: the rows of the table, where the job names one.
        identity, fingerprint: of the run that this job describes.
    """

    job: Job
    preset: Preset
    settings: Settings
    weights: Weights
    output_uri: str
    files: Mapping[str, list[SourceFile]]
    table: list[TableRow]
    identity: dict[str, object]
    fingerprint: str


@dataclass(frozen=True)
class PreparedRun:
    """A run folder that is ready to be rendered.

    Attributes:
        is_new: whether this call planned it.
    """

    uri: str
    run: RunRecord
    plan: Plan
    is_new: bool


def resolve_job(job: Job, base: str) -> ResolvedJob:
    """Looks up everything that a job names.

    Args:
        job: as written.
        base: the folder that relative paths start from.

    Raises:
        RequestError, BackboneError: an unknown preset, setting or backbone.
        JobError: sources that are not there or do not fit the task.
        StoreError: a store refuses or does not answer.
    """
    preset = find_preset(job.task)
    settings = preset.settings.updated(job.settings)
    weights = find_weights(_local_name(job.backbone.name, base), job.backbone.revision)
    table, files, sources = _sources(job, preset, base)
    identity = run_identity(
        job,
        settings=asdict(settings),
        model_revision=weights.revision,
        sources=sources,
        rendering_revision=RENDERING_REVISION,
    )
    return ResolvedJob(
        job=job,
        preset=preset,
        settings=settings,
        weights=weights,
        output_uri=resolve_uri(job.output.uri, base),
        files=files,
        table=table,
        identity=identity,
        fingerprint=fingerprint(identity),
    )


def plan_items(
    resolved: ResolvedJob, on_inspected: Callable[[Input], None] = lambda one: None
) -> list[Item]:
    """Preflight and planning: every item, cut into shards, with the problems that it has.

    Raises:
        JobError: not one item can be rendered, or two would have the same key.
    """
    job = resolved.job
    rows = _limited(_rows(resolved), job.limits.max_items)
    inspected = inspect_inputs(
        [one for row in rows for one in row.inputs],
        max_pixels=job.limits.max_pixels,
        num_threads=job.compute.io_threads,
        on_inspected=on_inspected,
    )
    rows = [replace(row, inputs=tuple(inspected[i] for i in row.inputs)) for row in rows]
    items = list(_items(resolved, rows))
    if all(item.problem for item in items):
        lines = dict.fromkeys(item.problem.message for item in items if item.problem)
        raise JobError("no item can be rendered, and nothing was written:\n" + "\n".join(lines))
    return cut_into_shards(
        items, shard_seconds=job.compute.shard_seconds, shard_items=job.compute.shard_items
    )


def open_prepared(resolved: ResolvedJob) -> PreparedRun | None:
    """The run that the job's folder already holds, or None where it is empty.

    Raises:
        FingerprintMismatch: the folder belongs to another job, or its sources have moved.
    """
    store = open_store(resolved.output_uri)
    run = find_run(store)
    if run is None:
        return None
    if run.fingerprint != resolved.fingerprint:
        raise FingerprintMismatch(
            f"{resolved.output_uri} holds the run of another job; choose another output.uri for "
            "this one (nothing was changed). They differ in:",
            differences(run.identity, resolved.identity),
        )
    plan = load_plan(store, run)
    _refuse_moved_sources(resolved, pending_shards(store, plan))
    return PreparedRun(resolved.output_uri, run, plan, is_new=False)


def store_plan(resolved: ResolvedJob, items: Sequence[Item]) -> PreparedRun:
    """Writes the plan, then `run.json`, which makes it binding; whoever is first wins."""
    store = open_store(resolved.output_uri)
    data = write_plan(items)
    record = _run_record(resolved, items, plan_digest(data), honours_put_if_absent(store))
    if not store.put_if_absent(PLAN_NAME, data) and find_run(store) is None:
        store.put(PLAN_NAME, data)  # left by a planning that was killed before it was binding
    if not store.put_if_absent(RUN_NAME, record.to_bytes()):
        prepared = open_prepared(resolved)
        assert prepared is not None
        return prepared
    plan = read_plan(store.get(PLAN_NAME), expected_digest=record.plan_digest)
    return PreparedRun(resolved.output_uri, record, plan, is_new=True)


def _refuse_moved_sources(resolved: ResolvedJob, pending: Mapping[str, list[Item]]) -> None:
    """The plan names files by their URI; rendering it from where they no longer are loses items."""
    listed = {file.uri for files in resolved.files.values() for file in files}
    listed |= {one.uri for row in resolved.table for one in row.inputs}
    planned = (one.uri for items in pending.values() for item in items for one in item.inputs)
    moved = next((uri for uri in planned if uri not in listed), None)
    if moved is not None:
        raise FingerprintMismatch(
            f"{resolved.output_uri} was planned with {moved}, which the job no longer lists; "
            "move the sources back, or choose another output.uri",
            [],
        )


def _run_record(
    resolved: ResolvedJob, items: Sequence[Item], digest: str, conditional_put: bool
) -> RunRecord:
    return RunRecord(
        fingerprint=resolved.fingerprint,
        identity=resolved.identity,
        job=resolved.job.model_dump(mode="json", exclude_unset=True),
        settings=asdict(resolved.settings),
        model_id=resolved.weights.model_id,
        model_revision=resolved.weights.revision,
        plan_digest=digest,
        num_items=len(items),
        num_shards=len({item.shard for item in items}),
        conditional_put=conditional_put,
        versions=versions(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _local_name(name: str, base: str) -> str:
    """A backbone's folder is named relative to the job file, like every other path."""
    return resolve_uri(name, base) if name.startswith((".", "~")) else name


def _sources(
    job: Job, preset: Preset, base: str
) -> tuple[list[TableRow], dict[str, list[SourceFile]], dict[str, str]]:
    """The table's rows or the sources' files, and a digest of each source."""
    if job.inputs.table is not None:
        table, sha256 = read_table(job.inputs.table, preset.roles, base)
        return table, {}, {"table": sha256}
    sources: dict[str, Source] = {**job.inputs.roles()}
    for role in preset.roles:
        if role not in sources:
            raise JobError(f"the task {preset.name} needs a source for {role}: add inputs.{role}")
    for role in sources:
        if role not in preset.roles:
            raise JobError(
                f"the task {preset.name} takes {' and '.join(preset.roles)}: drop inputs.{role}"
            )
    files = {role: list_files(role, sources[role], base) for role in preset.roles}
    digests = {
        role: source_digest((file.name, file.size) for file in of_role)
        for role, of_role in files.items()
    }
    return [], files, digests


def _rows(resolved: ResolvedJob) -> list[TableRow]:
    """The combinations of inputs that become items: the table's rows, or pairs of the sources."""
    if resolved.table:
        return resolved.table
    inputs = {
        role: [image for file in files for image in images_in(file)]
        for role, files in resolved.files.items()
    }
    return [TableRow(combination, "", "{}") for combination in pair(inputs, resolved.job.pairing)]


def _limited(rows: list[TableRow], max_items: int | None) -> list[TableRow]:
    """So many rows at most, picked by hash and kept in order, so that they are a fair sample."""
    if max_items is None or len(rows) <= max_items:
        return rows

    def rank(row: TableRow) -> bytes:
        names = [[one.role, one.key] for one in row.inputs]
        return hashlib.sha256(canonical_json([names, row.key]).encode()).digest()

    picked = set(sorted(range(len(rows)), key=lambda number: rank(rows[number]))[:max_items])
    return [row for number, row in enumerate(rows) if number in picked]


def _items(resolved: ResolvedJob, rows: Sequence[TableRow]) -> Iterator[Item]:
    twins: Counter[str] = Counter()
    keys: dict[str, TableRow] = {}
    for row in rows:
        for variant in range(resolved.job.variants):
            item = _item(resolved, row, variant)
            rank = twins[item.item_id]
            twins[item.item_id] += 1
            if rank:
                # Byte-identical inputs under other names: told apart by their rank in key order.
                item = _item(resolved, row, variant, rank)
            if item.key in keys:
                raise JobError(
                    f"inputs.table: two rows would be stored under the key {item.key!r} "
                    f"({keys[item.key].key!r} and {row.key!r}): make the keys differ in "
                    "letters, digits, '_' or '-'"
                )
            keys[item.key] = row
            yield item


def _item(resolved: ResolvedJob, row: TableRow, variant: int, rank: int = 0) -> Item:
    key_suffix = f"-{variant}" if variant else ""
    variant += rank * resolved.job.variants
    width, height = _result_size(resolved, row.inputs)
    params = {"settings": asdict(resolved.settings), "width": width, "height": height}
    identity = item_id(
        row.inputs,
        task=resolved.preset.name,
        params=params,
        model_revision=resolved.weights.revision,
        seed=resolved.job.seed,
        variant=variant,
    )
    return Item(
        item_id=identity,
        key=_sample_key(row, identity, key_suffix),
        seed=seed_of(identity),
        task=resolved.preset.name,
        params=canonical_json(params),
        variant=variant,
        width=width,
        height=height,
        inputs=row.inputs,
        cost_seconds=_cost_seconds(resolved, width, height),
        user=row.user,
        problem=_problem(row.inputs, width, height),
    )


def _sample_key(row: TableRow, identity: str, suffix: str) -> str:
    if row.key:
        return slug(row.key, 120) + suffix
    names = dict.fromkeys(slug(one.key) for one in row.inputs)
    return "-".join([*names, identity[:10]])


def _result_size(resolved: ResolvedJob, inputs: Sequence[Input]) -> tuple[int, int]:
    output = resolved.job.output
    size = output.size or (resolved.preset.size, resolved.preset.size)
    content = next((one for one in inputs if one.role == "content"), None)
    if content is None or not content.width or not content.height:
        return size
    if output.resize_mode == "keep_ratio":
        return scaled_size(content.width, content.height, min(size))
    if output.resize_mode == "no":
        return content.width, content.height
    return size


def _problem(inputs: Sequence[Input], width: int, height: int) -> Problem | None:
    found = next((one.problem for one in inputs if one.problem), None)
    if found is None and not MIN_SIDE <= min(width, height) <= max(width, height) <= MAX_SIDE:
        return Problem(
            ErrorClass.UNSUPPORTED,
            f"{inputs[0].full_uri}: the result would be {width}x{height}, but sides lie in "
            f"{MIN_SIDE}..{MAX_SIDE}; use output.resize_mode center_crop",
        )
    return found


def _cost_seconds(resolved: ResolvedJob, width: int, height: int) -> float:
    compute = resolved.job.compute
    if compute.seconds_per_item is not None:
        return compute.seconds_per_item
    device = compute.device.partition(":")[0]
    if device == "auto":
        device = _default_device()
    kind = (resolved.weights.model_id == EMBEDDED, device)
    settings = resolved.settings
    steps = settings.num_inference_steps * max(1, settings.num_optimization_steps)
    per_step = SECONDS_PER_STEP.get(kind, SECONDS_PER_STEP_ELSEWHERE)
    return round(steps * per_step * width * height / 512**2, 3)


def _default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
