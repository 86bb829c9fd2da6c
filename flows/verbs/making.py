"""The commands that plan and render: run, extend, retry, plan, work, stop."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, cast

import typer

from flows.exit_codes import ExitCode
from flows.verbs.opening import resolved_job, run_folder
from flows.verbs.options import (
    AsJson,
    Call,
    Deadline,
    DryRun,
    JobPath,
    Limit,
    MaxCost,
    MaxGpuHours,
    OutputUri,
    Overrides,
    PlannedAsJson,
    RunUri,
    budget_of,
    names_of,
    pairs_of,
    refuse_json_of_work,
)

if TYPE_CHECKING:
    from manifests.budget import Bounds
    from manifests.job import Job
    from tasks.inputs.devices import DeviceType
    from tasks.work.fork_server import ForkServer


def run(
    context: typer.Context,
    job: JobPath,
    overrides: Overrides = [],  # noqa: B006 - typer copies it
    limit: Limit = None,
    output: OutputUri = None,
    max_gpu_hours: MaxGpuHours = None,
    max_cost: MaxCost = None,
    deadline: Deadline = None,
    dry_run: DryRun = False,
    as_json: PlannedAsJson = False,
) -> None:
    """Make a job's pictures; run it again to finish what was interrupted.

    Every input is read and checked before anything is rendered. One worker renders on each device
    of this machine; 'stylefarm work' adds workers of other machines. What is finished is in the
    run folder, whatever happens; the same command continues from there and recomputes nothing.
    """
    refuse_json_of_work(as_json, dry_run)
    budget = budget_of(max_gpu_hours, max_cost, deadline)
    call = context.ensure_object(Call)
    server = fork_server(context)
    resolved = resolved_job(server, job, overrides, limit, output, will_render=True)
    bounds = budget.bounds(resolved.job.compute.price_per_hour, call.began)
    from flows import planning

    if dry_run:
        from tasks.work import predicting

        predict = partial(predicting.predict_in_child, server)
        planning.show_dry_run(call.terminal, resolved, predict, as_json=as_json)
        return
    uri = planning.prepare(call.terminal, resolved)
    _finish(call, server, uri, resolved.job, job.stem, bounds)


def extend(
    context: typer.Context,
    job: JobPath,
    overrides: Overrides = [],  # noqa: B006 - typer copies it
    limit: Limit = None,
    output: OutputUri = None,
    max_gpu_hours: MaxGpuHours = None,
    max_cost: MaxCost = None,
    deadline: Deadline = None,
    dry_run: DryRun = False,
    as_json: PlannedAsJson = False,
) -> None:
    """Add what is new in a job's sources to its run, and make those pictures.

    What is planned stays as it is. New files become new items; a changed file makes an item that
    replaces the old one. Files that were planned as they are now are not read again.
    """
    refuse_json_of_work(as_json, dry_run)
    budget = budget_of(max_gpu_hours, max_cost, deadline)
    call = context.ensure_object(Call)
    server = fork_server(context)
    resolved = resolved_job(
        server, job, overrides, limit, output, will_render=True, for_extension=True
    )
    bounds = budget.bounds(resolved.job.compute.price_per_hour, call.began)
    from flows import planning

    if planning.extend_run(call.terminal, resolved, dry_run=dry_run, as_json=as_json):
        _finish(call, server, resolved.output_uri, resolved.job, job.stem, bounds)


def retry(
    context: typer.Context,
    run_uri: RunUri,
    classes: Annotated[
        str,
        typer.Option(
            "--class",
            metavar="CLASS,…",
            help="Try items again that failed with these classes, such as oom,decode; all unless "
            "given.",
        ),
    ] = "",
    overrides: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="What differs this time: a key of compute, such as compute.batch_size=1, or "
            "backbone.dtype. May be repeated.",
        ),
    ] = [],  # noqa: B006 - typer copies it
    max_gpu_hours: MaxGpuHours = None,
    max_cost: MaxCost = None,
    deadline: Deadline = None,
    dry_run: DryRun = False,
    as_json: PlannedAsJson = False,
) -> None:
    """Plan the failed items of a run once more, and try to make their pictures.

    Their rows stay; of an item the newest row counts. Rejected items go on at the next seed.
    """
    refuse_json_of_work(as_json, dry_run)
    budget = budget_of(max_gpu_hours, max_cost, deadline)
    call = context.ensure_object(Call)
    server = fork_server(context)
    uri = run_folder(run_uri)
    from flows import planning

    wanted, values = names_of(classes), pairs_of(overrides)
    bounds = budget.bounds(planning.price_of(uri, values), call.began)
    retried = planning.retry_items(
        *(call.terminal, uri),
        classes=wanted,
        overrides=values,
        dry_run=dry_run,
        as_json=as_json,
    )
    if retried is not None:
        job = planning.job_of(uri, retried.compute)
        device_type = cast("DeviceType | None", retried.changes.get("device_type"))
        _finish(call, server, uri, job, "retry", bounds, device_type)


def plan(
    context: typer.Context,
    job: JobPath,
    overrides: Overrides = [],  # noqa: B006 - typer copies it
    limit: Limit = None,
    output: OutputUri = None,
    as_json: AsJson = False,
) -> None:
    """Check every input and write the plan, without rendering."""
    call = context.ensure_object(Call)
    server = fork_server(context)
    resolved = resolved_job(server, job, overrides, limit, output, will_render=False)
    from flows import planning

    planning.prepare(call.terminal, resolved, as_json=as_json)


def work(
    context: typer.Context,
    run_uri: RunUri,
    device: Annotated[
        str,
        typer.Option(help="What renders: cpu, cuda, cuda:1, mps; auto takes the run's kind."),
    ] = "auto",
    max_shards: Annotated[
        int | None, typer.Option(min=1, help="Commit so many shards at most, then end.")
    ] = None,
    max_gpu_hours: MaxGpuHours = None,
    max_cost: MaxCost = None,
    deadline: Deadline = None,
) -> None:
    """Join a planned run from any machine that reaches its folder, with one device.

    Any number of workers may join and leave at any time: each takes shards that nobody holds,
    until every shard is committed. Then one of them publishes the run.
    """
    budget = budget_of(max_gpu_hours, max_cost, deadline)
    call = context.ensure_object(Call)
    server = fork_server(context)
    uri = run_folder(run_uri)
    from flows import session
    from flows.working import RunWork
    from tasks.runs.run_folder import open_run, recorded_job

    job = recorded_job(open_run(uri)[1])
    work = RunWork(
        *(uri, job),
        server=server,
        stopping=call.stopping,
        bounds=budget.bounds(job.compute.price_per_hour, call.began),
        device=device,
        max_shards=max_shards,
    )
    session.work_on(call.terminal, work)


def stop(context: typer.Context, run_uri: RunUri) -> None:
    """Ask all workers of a run to stop, wherever they are; nothing that is committed is lost."""
    call = context.ensure_object(Call)
    uri = run_folder(run_uri)
    from flows import session

    session.stop_run(call.terminal, uri)


def fork_server(context: typer.Context) -> ForkServer:
    """The process that forks those that render; it ends with the command.

    It starts before anything is looked up, because importing torch takes longer than all of that.
    """
    from tasks.work.fork_server import rendering_fork_server

    return context.with_resource(rendering_fork_server())


def _finish(
    call: Call,
    server: ForkServer,
    uri: str,
    job: Job,
    name: str,
    bounds: Bounds,
    device_type: DeviceType | None = None,
) -> None:
    """Renders what is pending, publishes, and ends with the run's exit code."""
    from flows import session
    from flows.working import RunWork

    work = RunWork(
        *(uri, job),
        server=server,
        stopping=call.stopping,
        bounds=bounds,
        device_type=device_type,
    )
    index = session.finish(call.terminal, work, job.name or name)
    session.show_outcome(call.terminal, job, uri, index)
    if not index.complete:
        raise typer.Exit(ExitCode.INCOMPLETE)
    if not job.limits.allows(index.counts.failed, index.counts.planned):
        session.show_failed_items(call.terminal, job, uri, index)
        raise typer.Exit(ExitCode.FAILED_ITEMS)
