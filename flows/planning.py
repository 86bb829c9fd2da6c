"""What commands plan, and what they say of it: a new run, an extension, a retry.

Whatever is planned is said before anything is rendered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ad_lib.errors import BackboneError
from ad_lib.settings import UNSURE
from flows.bars import counting_bar
from flows.forecasts import examples_of, forecast_document, known_forecast, run_kind, show_forecast
from flows.memory_words import memory_warnings
from flows.plan_documents import extension_document, plan_document, retry_document
from flows.presets import warn_of_prompts
from flows.terminal import Terminal, counted
from infra.store import open_store
from manifests.commits import Commit
from manifests.errors import JobError
from manifests.items import Item
from manifests.job import Compute, Job, with_overrides
from manifests.plan_table import PlanFile
from tasks.estimating.buckets import largest_shard
from tasks.estimating.forecast import Forecast
from tasks.inputs.dated_output import point_latest
from tasks.inputs.devices import devices_for
from tasks.inputs.resolving import ResolvedJob
from tasks.plans.extending import extend
from tasks.plans.planning import PreparedRun, open_prepared, plan_items, store_plan
from tasks.plans.retrying import Retry, retry
from tasks.plans.source_changes import SourceChanges, ignored_settings, source_changes
from tasks.runs.run_folder import find_run, has_pending_shards, open_run, recorded_job
from tasks.runs.run_plan import RunPlan
from tasks.runs.spending import spent_seconds
from tasks.work.predicting import Asked, Match, Predicted, pairs_of, unsure
from tasks.work.shard_work import MemoryNeed, PlannedModel, demand_of
from tasks.work.workplace import memory_sharers, most_together

DRY_RUN = "Dry run: nothing was written."


Predict = Callable[[Asked], Predicted]


def show_dry_run(
    terminal: Terminal, resolved: ResolvedJob, predict: Predict, *, as_json: bool = False
) -> None:
    """Checks the inputs and plans, and prints what would be done, and what the model tells of it.

    Only a dry run asks the model beforehand: `run` shall not wait until it is loaded, warns of
    memory before the first picture, and writes the uncertainty of each match.
    """
    planned = planned_or_found(terminal, resolved)
    forecast = _known_forecast(resolved, planned)
    predicted = _predicted(resolved, planned.plan, forecast, predict)
    forecast, is_bound = _with_memory(forecast, predicted.needs)
    workers = (forecast.workers,)
    show_forecast(terminal, forecast, resolved.device_type, workers)
    if is_bound:
        terminal.say("Memory that was never measured here is the most that a batch may take.")
    terminal.say_list(examples_of(forecast), rest="more buckets")
    terminal.say_list(memory_warnings(predicted.needs), "yellow", rest="more sizes")
    _show_matches(terminal, predicted.matches)
    terminal.say(DRY_RUN)
    if as_json:
        document = plan_document(planned.uri, planned.plan, planned.changes, predicted.matches)
        estimate = forecast_document(forecast, resolved.device_type, workers)
        terminal.print_json(document | {"estimate": estimate})


@dataclass(frozen=True)
class Planned:
    """What a run would render: a plan that is stored nowhere, or what a run folder holds.

    Attributes:
        uri: of the run folder.
        plan: new, or found.
        changes: of the sources since a plan that was found was made; None where it is new.
        commits: of the run that was found, by shard; those that no longer count are among them.
    """

    uri: str
    plan: PlanFile | RunPlan
    changes: SourceChanges | None
    commits: Mapping[str, Commit]


def _known_forecast(resolved: ResolvedJob, planned: Planned) -> Forecast:
    """What a run will take, by what is known before anything is rendered."""
    compute = resolved.job.compute
    try:
        devices = devices_for(resolved.device_type, compute.device, compute.workers)
    except (JobError, BackboneError):  # this machine cannot render it
        devices = [resolved.device_type] * (compute.workers or 1)
    kind = run_kind(
        compute,
        model_revision=resolved.model.revision,
        dtype=resolved.dtype,
        device_type=resolved.device_type,
        devices=devices,
    )
    return known_forecast(
        *(planned.plan, planned.commits, kind),
        workers=len(devices),
        price_per_hour=compute.price_per_hour,
        spent_seconds=spent_of(planned),
    )


def _with_memory(forecast: Forecast, needs: Sequence[MemoryNeed | None]) -> tuple[Forecast, bool]:
    """The forecast with the most that batches may take where it was never measured; if any was."""
    outlooks = list(forecast.outlooks)
    for place, need in enumerate(needs):
        if need is not None and outlooks[place].peak_memory_bytes is None:
            outlooks[place] = replace(outlooks[place], peak_memory_bytes=need.batch_bytes)
    return replace(forecast, outlooks=outlooks), outlooks != list(forecast.outlooks)


def spent_of(planned: Planned) -> float:
    """What earlier runs of a folder have spent, in seconds; 0 where there is no run yet."""
    if planned.changes is None:
        return 0.0
    return spent_seconds(open_store(planned.uri), planned.commits.values())


def planned_or_found(terminal: Terminal, resolved: ResolvedJob) -> Planned:
    """Checks the inputs and plans, or finds the run that is there; says so, and stores nothing."""
    warn_of_prompts(terminal, resolved.preset, resolved.model.backbone.model_id)
    if found := open_prepared(resolved):
        changes = _show_changes(terminal, resolved, found)
        planned = Planned(found.uri, found.plan, changes, found.commits)
    else:
        planned = Planned(resolved.output_uri, _plan(terminal, resolved), None, {})
    _show_plan(terminal, planned.plan)
    return planned


def prepare(terminal: Terminal, resolved: ResolvedJob, *, as_json: bool = False) -> str:
    """Finds the run of a job in its folder, or plans and stores a new one.

    Returns:
        The URI of the run folder; no temporary file of its plan is left.
    """
    warn_of_prompts(terminal, resolved.preset, resolved.model.backbone.model_id)
    prepared, changes = open_prepared(resolved), None
    if prepared is not None:
        changes = _show_changes(terminal, resolved, prepared)
    else:
        prepared = store_plan(resolved, _plan(terminal, resolved))
        _show_plan(terminal, prepared.plan)
        if not prepared.run.conditional_put:
            terminal.say(
                "This store does not honour conditional writes: let only one stylefarm at a time "
                "work on this run folder.",
                "yellow",
            )
    point_latest(resolved.place, prepared.uri)
    if as_json:
        terminal.print_json(plan_document(prepared.uri, prepared.plan, changes))
    prepared.plan.close()
    return prepared.uri


def begin_or_extend(terminal: Terminal, resolved: ResolvedJob) -> str:
    """Plans what is new in the sources of a run, or a new run where there is none.

    Returns:
        The URI of the run folder.
    """
    if find_run(open_store(resolved.output_uri)) is None:
        return prepare(terminal, resolved)
    extend_run(terminal, resolved, dry_run=False)
    return resolved.output_uri


def extend_run(
    terminal: Terminal, resolved: ResolvedJob, *, dry_run: bool, as_json: bool = False
) -> bool:
    """Plans what is new in the sources of a run, and says what that is.

    Returns:
        Whether the run has shards to render now.
    """
    warn_of_prompts(terminal, resolved.preset, resolved.model.backbone.model_id)
    with counting_bar(terminal, "checking inputs") as advance:
        extension = extend(resolved, lambda inspected: advance(), dry_run=dry_run)
    _show_passed_over(terminal, resolved)
    if extension is not None:
        _show_problems(terminal, extension.problems)
        terminal.say_list(extension.sentences, "yellow", rest="more sentences")
    if extension is None or not extension.num_items:
        terminal.say("Nothing is new: every input of the job is planned.")
    else:
        line = f"Planned {counted(extension.num_items, 'new item')}"
        if extension.num_replacing:
            line += f"; {extension.num_replacing} of them replace items whose inputs have changed"
        terminal.say(f"{line}.")
    if not dry_run:
        point_latest(resolved.place, resolved.output_uri)
    if as_json:
        terminal.print_json(extension_document(resolved.output_uri, extension))
    return _planned_or_dry(terminal, resolved.output_uri, dry_run)


def retry_items(
    terminal: Terminal,
    uri: str,
    *,
    classes: Sequence[str],
    overrides: Mapping[str, str],
    dry_run: bool,
    as_json: bool = False,
) -> Retry | None:
    """Plans failed items of a run again, and says which.

    Returns:
        What was planned, where the run has shards to render now.
    """
    retried = retry(uri, classes=classes, overrides=overrides, dry_run=dry_run)
    terminal.say_list(retried.sentences, "yellow", rest="more sentences")
    if retried.by_class:
        number = sum(retried.by_class.values())
        told = ", ".join(f"{number} {name}" for name, number in retried.by_class.items())
        changed = "".join(f"; {name} is {value} now" for name, value in retried.changes.items())
        terminal.say(f"Trying {counted(number, 'failed item')} again ({told}){changed}.")
    else:
        terminal.say("Nothing to try again: no failed item is of these classes.")
    if as_json:
        terminal.print_json(retry_document(uri, retried))
    return retried if _planned_or_dry(terminal, uri, dry_run) else None


def job_of(uri: str, compute: Compute) -> Job:
    """The job of a run, computed in another way."""
    _, run = open_run(uri)
    return recorded_job(run).model_copy(update={"compute": compute})


def price_of(uri: str, overrides: Mapping[str, str]) -> float | None:
    """What an hour of a worker of a run costs, as far as the run or `--set` says."""
    _, run = open_run(uri)
    key = "compute.price_per_hour"
    changed = {key: overrides[key]} if key in overrides else {}
    return with_overrides(recorded_job(run), changed).compute.price_per_hour


def _planned_or_dry(terminal: Terminal, uri: str, dry_run: bool) -> bool:
    """Whether the run has shards to render now; nothing is rendered in a dry run."""
    if dry_run:
        terminal.say(DRY_RUN)
    return not dry_run and has_pending_shards(*open_run(uri))


def _plan(terminal: Terminal, resolved: ResolvedJob) -> PlanFile:
    with counting_bar(terminal, "checking inputs") as advance:
        plan = plan_items(resolved, lambda inspected: advance())
    _show_passed_over(terminal, resolved)
    return plan


def _show_passed_over(terminal: Terminal, resolved: ResolvedJob) -> None:
    for role, passed_over in resolved.inputs.passed_over.items():
        if passed_over:
            terminal.say(f"{role}: {passed_over}", "yellow")


def _show_changes(terminal: Terminal, resolved: ResolvedJob, found: PreparedRun) -> SourceChanges:
    """Says what of the sources has changed since they were planned, and what is not followed."""
    changes = source_changes(resolved, found.plan)
    terminal.say_list(changes.sentences, "yellow", rest="more changes")
    ignored = ignored_settings(resolved, found.run)
    terminal.say_list(ignored, "yellow", rest="more settings")
    return changes


def _show_plan(terminal: Terminal, plan: PlanFile | RunPlan) -> None:
    broken = list(plan.problems())
    _show_problems(terminal, broken)
    items, shards = counted(plan.num_items, "item"), counted(len(plan.shards), "shard")
    line = f"Planned {items} in {shards}"
    if broken:
        line += f"; {len(broken)} cannot be rendered and will be recorded as failed"
    terminal.say(f"{line}.")


def _predicted(
    resolved: ResolvedJob, plan: PlanFile | RunPlan, forecast: Forecast, predict: Predict
) -> Predicted:
    """What the model tells of a few pairs, and of the memory of each bucket that is pending."""
    pairs = pairs_of(plan.iter_items())
    demands = [demand_of(largest_shard(plan, one.bucket)) for one in forecast.outlooks]
    if not pairs and not any(demands):
        return Predicted()
    job = resolved.job
    try:
        device = devices_for(resolved.device_type, job.compute.device, 1)[0]
    except (JobError, BackboneError):  # this machine cannot render it
        return Predicted()
    model = PlannedModel(
        model_id=resolved.model.backbone.model_id,
        revision=resolved.model.revision,
        config=resolved.model.config,
        controlnet=resolved.model.controlnet and resolved.model.controlnet.model_id,
        dtype=resolved.dtype,
        deterministic=job.backbone.deterministic,
    )
    return predict(
        Asked(
            pairs=tuple(pairs),
            demands=tuple(demands),
            model=model,
            device=device,
            batch_size=most_together(job.compute),
            memory_sharers=memory_sharers(job.compute, device),
            max_pixels=job.limits.max_pixels,
        )
    )


def _show_matches(terminal: Terminal, matches: Sequence[Match]) -> None:
    """Says which of a few pairs will probably be matched wrongly."""
    told = [
        f"{one.key}: match_uncertainty {one.match_uncertainty:.2f}, above {UNSURE}: content and "
        "style have little in common, expect wrong matches"
        for one in unsure(matches, UNSURE)
    ]
    terminal.say_list(told, "yellow", rest="more pairs")
    if matches:
        terminal.say(
            f"Looked at the matches of {counted(len(matches), 'pair')} of content and style; "
            f"{len(told) or 'none'} above {UNSURE}."
        )


def _show_problems(terminal: Terminal, items: Iterable[Item]) -> None:
    problems = dict.fromkeys(
        f"{item.problem.error_class.value}: {item.problem.message}"
        for item in items
        if item.problem
    )
    terminal.say_list(problems, "yellow", rest="more problems")
