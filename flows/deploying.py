"""What does `stylefarm deploy` write into a Prefect server: which deployments has a job?

They name a module of the installed package, so that nothing is copied and nothing is pulled: any
worker that has stylefarm runs them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from flows.automations import MADE, UPDATED, write_watching
from flows.gc import duration
from flows.prefect_writing import prefect_client
from flows.terminal import Terminal, counted
from flows.work_pools import BANNED, PROCESS, check_name, queue_limit, work_pool, worker_command
from manifests.budget import UNLIMITED, Budget
from manifests.errors import JobError
from manifests.job import Job
from tasks.inputs.output_place import OutputPlace

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.objects import WorkPool
    from prefect.client.schemas.responses import DeploymentResponse
    from prefect.flows import Flow

Kind = Literal["run", "extend", "work", "gc"]
KINDS: tuple[Kind, ...] = get_args(Kind)

TAG = "stylefarm"
"""Of every deployment and so of its flow runs; the automations look for it."""

HEARTBEAT = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"
HEARTBEAT_SECONDS = 30
"""Between two signs of life of a flow run, so that one that was killed is soon known."""

DEFAULT_POOL, DEFAULT_QUEUE = "gpu", "default"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How a job is to be deployed.

    Attributes:
        pool: the work pool.
        queue: of the pool; unless given, one that has the name of the deployments.
        only: the one deployment that is wanted; all unless given.
        cron: when it is to run by itself; unless given, schedules stay as they are.
        timezone: of `cron`.
        machines: how many flow runs each tick starts, and may go on at once; one unless given.
        keep: what is younger stays when garbage is collected; where it is given, that runs at the
            times of `cron`, too.
        work_dir: where processes start, on the machine of the worker.
        job_variables: more for the work pool, such as `image`.
        budget: of each flow run.
    """

    pool: str = DEFAULT_POOL
    queue: str | None = None
    only: Kind | None = None
    cron: str | None = None
    timezone: str = "UTC"
    machines: int | None = None
    keep: str | None = None
    work_dir: str | None = None
    job_variables: Mapping[str, Any] = field(default_factory=dict[str, Any])
    budget: Budget = UNLIMITED


class Wanted(NamedTuple):
    """One deployment as it shall be."""

    flow: Flow[..., Any]
    parameters: dict[str, Any]
    queue: str
    is_scheduled: bool


class Deployed(NamedTuple):
    """One deployment as it is now; `schedules` in words."""

    name: str
    outcome: str
    schedules: str
    queue: str


def check_asked(asked: Asked) -> None:
    """Refuses what no deployment can have.

    Raises:
        JobError: it says what is wrong, and what to give instead.
    """
    for option, given in (("--pool", asked.pool), ("--queue", asked.queue)):
        check_name(option, given)
    if asked.cron is not None:
        _schedules(asked)
    if asked.keep is not None:
        duration(asked.keep, "--keep")


def deployments_name(job: Job, file: Path) -> str:
    """What the deployments of a job are called.

    Raises:
        JobError: Prefect takes no such name.
    """
    name = job.name or file.stem
    if banned := sorted(BANNED & set(name)):
        raise JobError(
            f"a deployment's name cannot hold {' '.join(banned)}; got {name!r}. Give the job "
            "another: --set name=NAME"
        )
    return name


def deploy_job(
    terminal: Terminal, job: Job, *, name: str, base: str, place: OutputPlace, asked: Asked
) -> None:
    """Makes or updates the deployments of a job, and says what there is and how to start it.

    Args:
        terminal: what it is said on.
        job: checked, as it is deployed.
        name: of the deployments.
        base: the folder that the job's relative paths start from.
        place: where its runs lie.
        asked: how; checked by `check_asked`.

    Raises:
        PrefectUnavailable: see `prefect_client`.
        JobError: the work pool cannot take what was asked for.
    """
    wanted = wanted_deployments(job, name=name, base=base, place=place, asked=asked)
    with prefect_client() as client:
        pool, is_new_pool = work_pool(client, asked.pool)
        variables = _job_variables(pool, asked)
        queues = {one.queue for one in wanted} - {DEFAULT_QUEUE}
        limits = {
            queue: queue_limit(client, asked.pool, queue, asked.machines)
            for queue in sorted(queues)
        }
        done = [_write(client, one, name, asked, variables) for one in wanted]
        write_watching(client)
    if is_new_pool:
        terminal.say(f"Made the work pool {asked.pool}, of type {PROCESS}.")
    terminal.say_table(
        ("deployment", "", "schedule", "queue"),
        [(one.name, one.outcome, one.schedules, one.queue) for one in done],
    )
    _say_what_it_means(terminal, wanted, place, limits)
    _say_how_to_start(terminal, done, worker_command(asked.pool, pool.type, asked.queue))


def wanted_deployments(
    job: Job, *, name: str, base: str, place: OutputPlace, asked: Asked
) -> list[Wanted]:
    """The deployments of a job, in the order of `KINDS`."""
    from flows.job import collect_garbage, extend_job, run_job, work_on_run

    budget: dict[str, Any] = {}
    if asked.budget.is_limited:
        budget["budget"] = asked.budget.model_dump(mode="json", exclude_none=True)
    named = job.model_copy(update={"name": name})
    makes = {"job": named.model_dump(mode="json", exclude_unset=True), "base": base, **budget}
    run = f"{place.latest_uri}{place.inside}" if place.is_dated else place.uri
    own = asked.queue or name
    found: dict[Kind, tuple[Flow[..., Any], dict[str, Any], str]] = {
        "run": (run_job, makes, own),
        "extend": (extend_job, makes, own),
        # It joins a run, so it does not wait in the queue that lets one run at a time go on.
        "work": (work_on_run, {"run": run, **budget}, _queue_of_work(asked)),
        "gc": (collect_garbage, {"run": run, "older_than": asked.keep or "2d"}, own),
    }
    scheduled = _scheduled(asked, place)
    kinds = KINDS if asked.only is None else (asked.only,)
    return [Wanted(*found[kind], kind in scheduled) for kind in kinds]


def _queue_of_work(asked: Asked) -> str:
    return asked.queue or DEFAULT_QUEUE if asked.only == "work" else DEFAULT_QUEUE


def _scheduled(asked: Asked, place: OutputPlace) -> set[Kind]:
    """Which deployments get the schedule that was asked for."""
    if asked.cron is None:
        return set()
    if asked.only is not None:
        return {asked.only}
    makes: Kind = "run" if place.is_dated else "extend"
    return {makes} if asked.keep is None else {makes, "gc"}


def _schedules(asked: Asked) -> list[DeploymentScheduleCreate]:
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule
    from pydantic import ValidationError

    try:
        schedule = CronSchedule(cron=asked.cron or "", timezone=asked.timezone)
    except ValidationError as error:
        if error.errors()[0]["loc"][-1:] == ("timezone",):
            raise JobError(
                f"--timezone takes a name such as Europe/Zurich or UTC; got {asked.timezone!r}"
            ) from None
        raise JobError(
            '--cron takes five fields (minute, hour, day of month, month, day of week), such as "0 '
            f'2 * * *"; got {asked.cron!r}'
        ) from None
    numbers = range(1, (asked.machines or 1) + 1)
    slugs = [f"{TAG}-{number}" for number in numbers]
    return [DeploymentScheduleCreate(schedule=schedule, slug=slug) for slug in slugs]


def _job_variables(pool: WorkPool, asked: Asked) -> dict[str, Any]:
    """What the deployments tell the work pool.

    Raises:
        JobError: its workers start nothing in a folder.
    """
    known = pool.base_job_template.get("variables", {}).get("properties", {})
    given = dict(asked.job_variables)
    env = {HEARTBEAT: str(HEARTBEAT_SECONDS), **given.pop("env", {})}
    variables: dict[str, Any] = {"env": env}
    if asked.work_dir is not None:
        if "working_dir" not in known:
            raise JobError(
                f"--work-dir is for work pools of type {PROCESS}; {asked.pool!r} is of type "
                f"{pool.type!r}. Leave it out, or give what its template has with --job-variable"
            )
        variables["working_dir"] = str(Path(asked.work_dir).absolute())
    if "image" in known and not known["image"].get("default"):
        variables["image"] = f"{TAG}:{version(TAG)}"
    return {**variables, **given}


def _write(
    client: SyncPrefectClient,
    wanted: Wanted,
    name: str,
    asked: Asked,
    job_variables: Mapping[str, Any],
) -> Deployed:
    """Makes or updates one deployment; its id stays."""
    from prefect.utilities.callables import parameter_schema

    flow = wanted.flow
    found = _find_deployment(client, f"{flow.name}/{name}")
    schedules = _schedules(asked) if wanted.is_scheduled else _kept_schedules(found)
    client.create_deployment(
        flow_id=client.create_flow_from_name(flow.name),
        name=name,
        entrypoint=f"{flow.fn.__module__}.{flow.fn.__name__}",
        description=(inspect.getdoc(flow.fn) or "").partition("\n")[0],
        version=version(TAG),
        tags=[TAG],
        parameters=wanted.parameters,
        parameter_openapi_schema=parameter_schema(flow).model_dump(exclude_unset=True),
        enforce_parameter_schema=True,
        schedules=schedules,
        work_pool_name=asked.pool,
        work_queue_name=wanted.queue,
        job_variables=dict(job_variables),
        pull_steps=[],
    )
    outcome = MADE if found is None else UPDATED
    return Deployed(f"{flow.name}/{name}", outcome, _in_words(schedules), wanted.queue)


def _find_deployment(client: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


def _kept_schedules(found: DeploymentResponse | None) -> list[DeploymentScheduleCreate]:
    from prefect.client.schemas.actions import DeploymentScheduleCreate

    kept = [] if found is None else found.schedules
    names = set(DeploymentScheduleCreate.model_fields)
    return [DeploymentScheduleCreate(**one.model_dump(include=names)) for one in kept]


def _in_words(schedules: Sequence[DeploymentScheduleCreate]) -> str:
    words: dict[str, int] = {}
    for one in schedules:
        when: Any = one.schedule
        told = getattr(when, "cron", None) or getattr(when, "rrule", None)
        told = f"{told or f'every {when.interval}'} {getattr(when, 'timezone', None) or 'UTC'}"
        told = told if one.active else f"{told} (off)"
        words[told] = words.get(told, 0) + 1
    return ", ".join(f"{number} × {told}" if number > 1 else told for told, number in words.items())


def _say_what_it_means(
    terminal: Terminal,
    wanted: Sequence[Wanted],
    place: OutputPlace,
    limits: Mapping[str, int | None],
) -> None:
    from flows.job import extend_job, run_job

    scheduled = {one.flow.name for one in wanted if one.is_scheduled}
    if extend_job.name in scheduled:
        terminal.say("At each time of the schedule, what is new in the sources is made.")
    if run_job.name in scheduled:
        each = "a run folder of its own" if place.is_dated else "whatever is pending"
        terminal.say(f"At each time of the schedule, the job is run: {each}.")
    for queue, limit in limits.items():
        if limit is not None:
            at_once = f"{counted(limit, 'flow run')} at a time {'goes' if limit == 1 else 'go'} on"
            terminal.say(f"In the queue {queue}, {at_once}; others wait.")


def _say_how_to_start(terminal: Terminal, done: Sequence[Deployed], command: str) -> None:
    terminal.say("Start a worker, on each machine that renders:")
    terminal.say(f"  {command}")
    terminal.say("Start one now:")
    for one in done:
        terminal.say(f"  prefect deployment run '{one.name}'")
