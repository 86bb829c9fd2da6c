"""How a resolved job becomes a frozen plan, or finds the plan that its run folder holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

import pyarrow as pa

from infra.store import Store, honours_put_if_absent, open_store
from manifests.commits import RUN_NAME, Commit, PlanReference, RunRecord
from manifests.errors import FingerprintMismatch, JobError, RunFolderError
from manifests.items import Input
from manifests.plan import sources_name
from manifests.plan_table import PlanFile, write_plan
from manifests.source_table import sources_digest, write_sources
from tasks.inputs.dated_output import new_run_uri
from tasks.inputs.listed_sources import listed_sources
from tasks.inputs.resolving import ResolvedJob, differences_to
from tasks.plans.combinations import list_combinations
from tasks.plans.given_pictures import given_pictures
from tasks.plans.item_columns import ItemColumns
from tasks.plans.preflight import inspect_inputs
from tasks.runs.committed import sound_commits
from tasks.runs.environment import versions
from tasks.runs.run_folder import find_run, recorded_job, store_of
from tasks.runs.run_plan import RunPlan, open_plan
from tasks.runs.scratch import scratch_file


@dataclass(frozen=True)
class PreparedRun:
    """A run folder that is ready to be rendered.

    Attributes:
        is_new: whether this call planned it.
        commits: what was committed when it was found, by shard.
    """

    uri: str
    run: RunRecord
    plan: RunPlan
    is_new: bool
    commits: Mapping[str, Commit] = field(default_factory=dict[str, Commit])


def plan_items(
    resolved: ResolvedJob, on_inspected: Callable[[Input], None] = lambda item_input: None
) -> PlanFile:
    """Preflight and planning: every item, cut into shards, with the problems that it has.

    The plan lies in a temporary file; nothing is stored.

    Raises:
        JobError: not one item can be rendered, two would have the same key, or a name cannot be
            planned.
    """
    compute = resolved.job.compute
    listed = list_combinations(resolved)

    def inspect(images: Iterable[Input]) -> dict[Input, Input]:
        return inspect_inputs(
            images,
            max_pixels=resolved.job.limits.max_pixels,
            num_threads=compute.io_threads,
            on_inspected=on_inspected,
        )

    found = inspect(listed.images)
    listed = replace(listed, images=[found[image] for image in listed.images])
    external = {name: one.images() for name, one in resolved.inputs.external.items()}
    given = given_pictures(resolved, listed.each_row(), external)
    found = inspect(image for pictures in given.values() for image in pictures)
    given = {name: [found[image] for image in pictures] for name, pictures in given.items()}
    tables = ItemColumns(resolved, listed, given).tables(
        shard_seconds=compute.shard_seconds, shard_items=compute.shard_items
    )
    try:
        return written_plan(tables)
    except RunFolderError as error:
        raise JobError(f"this job cannot be planned ({error}): take that input out") from None


def written_plan(tables: Iterable[pa.Table], *, generation: int = 0) -> PlanFile:
    """A new plan in a temporary file of this machine, read back and held to all rules.

    Args:
        tables: the rows in plan order, whole shards in each; see `manifests.plan_table`.
        generation: that the names of its shards hold.

    Raises:
        RunFolderError: nobody could read such a plan again.
    """
    with ExitStack() as until_opened:
        file = until_opened.enter_context(scratch_file())
        reference = write_plan(file, tables)  # the tables are gone now, and their memory
        plan = PlanFile(file, reference, generation=generation)
        until_opened.pop_all()  # the plan closes it
    return plan


def open_prepared(resolved: ResolvedJob) -> PreparedRun | None:
    """The run that the job's folder already holds, or None where there is none of this job.

    A run folder with a date that another job has taken meanwhile is as good as none: `store_plan`
    takes the next.

    Raises:
        FingerprintMismatch: the folder belongs to another job.
        RunFolderError: a record of the run or a committed file is missing or damaged.
    """
    store = open_store(resolved.output_uri)
    run = find_run(store)
    if run is None:
        return None
    if differing := differences_to(run, resolved):
        if resolved.place.is_dated:
            return None
        raise FingerprintMismatch(
            f"{resolved.output_uri} holds the run of another job; choose another output.uri for "
            "this one (nothing was changed). They differ in:",
            differing,
        )
    recorded_job(run)
    plan = open_plan(store_of(run, store), run)
    commits = sound_commits(plan)
    return PreparedRun(resolved.output_uri, run, plan, is_new=False, commits=commits)


def store_plan(resolved: ResolvedJob, plan: PlanFile) -> PreparedRun:
    """Stores the plan, then `run.json`, which makes it binding; whoever is first wins.

    A planning that loses, or is killed, leaves at worst files that nothing names. Where the store
    refuses, the plan is closed.
    """
    try:
        return _stored(resolved, plan)
    except BaseException:
        plan.close()
        raise


def _stored(resolved: ResolvedJob, plan: PlanFile) -> PreparedRun:
    store = open_store(resolved.output_uri)
    conditional_put = honours_put_if_absent(store)
    sources = write_sources(listed_sources(resolved.inputs))
    reference = put_plan(store, plan, sources)
    record = run_record(resolved, reference, conditional_put=conditional_put)
    store = store_of(record, store)
    if not store.put_if_absent(RUN_NAME, record.to_bytes()):
        return _of_the_winner(resolved, plan)
    put_back(store, plan, sources)
    run_plan = RunPlan(store, record, (), (plan,))
    return PreparedRun(resolved.output_uri, record, run_plan, is_new=True)


def _of_the_winner(resolved: ResolvedJob, plan: PlanFile) -> PreparedRun:
    """The run that another planned meanwhile; where that is another job's of today, the next."""
    if prepared := open_prepared(resolved):
        return prepared
    if resolved.place.is_dated and find_run(open_store(resolved.output_uri)) is not None:
        return store_plan(replace(resolved, output_uri=new_run_uri(resolved.place)), plan)
    raise RunFolderError(
        f"{RUN_NAME} was refused by the store and is not there: does another program delete files "
        "of this run folder? Run the job again"
    )


def put_plan(store: Store, plan: PlanFile, sources: bytes | None = None) -> PlanReference:
    """Stores a plan and what its sources listed, under the names that their content gives them.

    Nothing names them yet. Whoever stores them again writes the same bytes.

    Args:
        store: of the run folder.
        plan: as it was written on this machine.
        sources: see `manifests.source_table`; None where nothing was listed.
    """
    store.put(plan.reference.plan_name, plan.path)
    if sources is None:
        return plan.reference
    digest = sources_digest(sources)
    store.put(sources_name(digest), sources)
    named = {"sources_name": sources_name(digest), "sources_digest": digest}
    return plan.reference.model_copy(update=named)


def put_back(store: Store, plan: PlanFile, sources: bytes | None) -> None:
    """Stores again what `gc` took away before a record named it; see `tasks.keeping.collecting`."""
    if store.find(plan.reference.plan_name) is None:
        store.put(plan.reference.plan_name, plan.path)
    if sources is not None and store.find(sources_name(sources_digest(sources))) is None:
        store.put(sources_name(sources_digest(sources)), sources)


def run_record(
    resolved: ResolvedJob, reference: PlanReference, *, conditional_put: bool
) -> RunRecord:
    """What `run.json` says of a new run.

    Args:
        resolved: its job.
        reference: its plan, which is stored.
        conditional_put: whether the store refuses a second conditional write.
    """
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
        png_strategy="rle",
        **dict(reference),
        conditional_put=conditional_put,
        versions=versions(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
