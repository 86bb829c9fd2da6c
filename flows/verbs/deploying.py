"""The commands that write into a Prefect server: deploy, gpu-limit, automations."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from flows.verbs.opening import resolved_job
from flows.verbs.options import (
    Call,
    Deadline,
    JobPath,
    Limit,
    MaxCost,
    MaxGpuHours,
    OutputUri,
    Overrides,
    budget_of,
    pairs_of,
)
from manifests.credentials import carried, entries_in, is_secret_name

if TYPE_CHECKING:
    from flows.deploying import Kind

ONLY = ("run", "extend", "work", "gc")

Pool = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="The work pool; one of type process is made where it is missing."
    ),
]


def deploy(
    context: typer.Context,
    job: JobPath,
    cron: Annotated[
        str | None,
        typer.Option(
            metavar='"0 2 * * *"',
            help="When it runs by itself. It is the schedule of 'extend', which makes what is new; "
            "of 'run' where output.uri holds {date}, which begins a folder each day; of the one "
            "named by --only. Unless given, schedules stay as they are.",
        ),
    ] = None,
    timezone: Annotated[
        str, typer.Option(metavar="NAME", help="Of --cron, such as Europe/Zurich.")
    ] = "UTC",
    machines: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="So many flow runs start at each time of --cron, and go on at once: one for each "
            "machine that shall work on the job.",
        ),
    ] = None,
    pool: Pool = "gpu",
    queue: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The work queue, such as a machine's that 'stylefarm gpu-limit' has made; unless "
            "given, one of the job's own, in which one flow run at a time goes on.",
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(metavar="|".join(ONLY), help="Only this deployment; all four unless given."),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="AGE",
            help="With --cron, 'gc' runs at the same times; what is younger stays, such as 2d.",
        ),
    ] = None,
    overrides: Overrides = [],  # noqa: B006 - typer copies it
    limit: Limit = None,
    output: OutputUri = None,
    max_gpu_hours: MaxGpuHours = None,
    max_cost: MaxCost = None,
    deadline: Deadline = None,
    work_dir: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Where workers start it, on their machine; a temporary folder unless given.",
        ),
    ] = None,
    job_variables: Annotated[
        list[str],
        typer.Option(
            "--job-variable",
            metavar="KEY=VALUE",
            help="What the work pool is told, such as image=registry/stylefarm:0.1.0. May be "
            "repeated.",
        ),
    ] = [],  # noqa: B006 - typer copies it
) -> None:
    """Write a job's deployments into the configured Prefect server; again updates them.

    'run' plans, renders and publishes; 'extend' makes what is new in the sources; 'work' joins the
    run; 'gc' deletes what nobody needs. The job is checked first, as 'stylefarm run' would.
    Relative paths start from the job file's folder, on the machine that renders.
    """
    call = context.ensure_object(Call)
    if only is not None and only not in ONLY:
        raise typer.BadParameter(f"--only takes one of {', '.join(ONLY)}; got {only!r}")
    variables = _variables(job_variables)
    from flows.deploying import Asked, check_asked, deploy_job, deployments_name
    from infra.prefect_api import configured_api

    asked = Asked(
        pool=pool,
        queue=queue,
        only=cast("Kind | None", only),
        cron=cron,
        timezone=timezone,
        machines=machines,
        keep=keep,
        work_dir=work_dir,
        job_variables=variables,
        budget=budget_of(max_gpu_hours, max_cost, deadline),
    )
    check_asked(asked)
    configured_api()
    from tasks.plans.combinations import list_combinations
    from tasks.plans.planning import open_prepared
    from tasks.work.fork_server import rendering_fork_server

    server = context.with_resource(rendering_fork_server())
    resolved = resolved_job(server, job, overrides, limit, output, will_render=False)
    name = deployments_name(resolved.job, job)
    if prepared := open_prepared(resolved):
        prepared.plan.close()
    list_combinations(resolved)
    base = str(job.absolute().parent)
    deploy_job(call.terminal, resolved.job, name=name, base=base, place=resolved.place, asked=asked)


def gpu_limit(
    context: typer.Context,
    limits: Annotated[
        list[str],
        typer.Argument(metavar="HOST=NUMBER…", help="Machines, such as farm1=2 farm2=1."),
    ],
    pool: Pool = "gpu",
) -> None:
    """Bound how many flow runs go on at once on a machine with GPUs.

    Each machine gets a work queue of its name. Nothing is held that can be lost: a flow run that
    has begun goes on, whatever becomes of the server, the queue or its limit.
    """
    call = context.ensure_object(Call)
    from flows.work_pools import check_name, limit_hosts

    taken = "give each machine as HOST=NUMBER, such as farm1=2"
    wanted = {host: _number(host, number) for host, number in pairs_of(limits, taken).items()}
    for name in (pool, *wanted):
        check_name("a work pool or a work queue", name)
    limit_hosts(call.terminal, pool, wanted)


def automations(
    context: typer.Context,
    notify: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE/NAME",
            help="The Prefect block that is notified, such as slack-webhook/studio, or "
            "webhook/studio.",
        ),
    ] = None,
) -> None:
    """Make or update the automations that watch over flow runs in the configured Prefect server.

    They notify of a failure, of a completion and of an hour without progress, and mark flow runs
    as crashed whose process is gone.
    """
    call = context.ensure_object(Call)
    from flows.automations import show_automations

    show_automations(call.terminal, notify)


def _number(host: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 1000:
        raise typer.BadParameter(f"{host}={text[:100]}: give a number from 1 to 999")
    return int(text)


def _variables(texts: list[str]) -> dict[str, Any]:
    """Job variables; a value that begins as a JSON object or array is read as JSON."""
    variables: dict[str, Any] = {}
    for key, text in pairs_of(texts, "--job-variable takes KEY=VALUE, such as image=…").items():
        try:
            variables[key] = json.loads(text) if text.startswith(("{", "[")) else text
        except ValueError as error:
            raise typer.BadParameter(f"--job-variable {key}: {error}") from None
    _refuse_secrets(variables)
    return variables


def _refuse_secrets(variables: dict[str, Any]) -> None:
    """Refuses credentials, which a deployment would show to everybody who may look into Prefect."""
    way_out = (
        "and a deployment is stored in Prefect, where others read it: set it on the machine that "
        "renders, or name a block of Prefect, such as '{{ prefect.blocks.secret.aws-key }}'"
    )
    for name, value in entries_in(variables):
        is_named = isinstance(value, str) and value.strip().startswith("{{")
        if is_secret_name(name) and not is_named:
            raise typer.BadParameter(
                f"--job-variable: {name[:80]!r} is named like a password or a key, {way_out}"
            )
    for keys, found in carried(variables):
        raise typer.BadParameter(f"--job-variable: {keys[-1][:80]!r} holds {found}, {way_out}")
