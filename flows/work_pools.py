"""Which work pools and work queues take flow runs, and how many go on at once?

That is bounded by work queues, whose places are counted from the states of flow runs. Prefect's
other limits rest on leases: it kills a flow run whose lease cannot be renewed, and those leases are
gone when a server restarts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from flows.automations import MADE, UPDATED
from flows.prefect_writing import prefect_client
from flows.terminal import Terminal, counted
from manifests.errors import JobError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import WorkPool

PROCESS = "process"
"""The type of the work pools that are made here."""

BANNED = frozenset("/%&<>?#\\")
"""Letters that Prefect takes in no name."""


def check_name(option: str, name: str | None) -> None:
    """Refuses a name of a work pool or a work queue that Prefect's addresses cannot hold.

    Raises:
        JobError: it has such letters, or none.
    """
    if name is not None and (not name.strip() or BANNED & set(name)):
        raise JobError(f"{option} takes a name without {' '.join(sorted(BANNED))}; got {name!r}")


def limit_hosts(terminal: Terminal, pool: str, limits: Mapping[str, int]) -> None:
    """Bounds how many flow runs go on at once on machines, by a work queue for each.

    Args:
        terminal: what it is said on.
        pool: the work pool, made where it is missing.
        limits: by the name of the machine.

    Raises:
        PrefectUnavailable: see `prefect_client`.
    """
    with prefect_client() as client:
        kind = work_pool(client, pool)[0].type
        rows = [
            (host, counted(limit, "flow run"), _set_queue(client, pool, host, limit))
            for host, limit in limits.items()
        ]
    terminal.say_table(("queue", "at once", ""), rows)
    for host in limits:
        terminal.say(f"On {host}:  {worker_command(pool, kind, host)}")
    terminal.say(
        f"A job for it:  stylefarm deploy JOB.yaml --pool {pool} --queue {next(iter(limits))}"
    )


def work_pool(client: SyncPrefectClient, name: str) -> tuple[WorkPool, bool]:
    """A work pool, made where it is missing, and whether it was."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    try:
        return client.read_work_pool(name), False
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        pool = WorkPoolCreate(name=name, type=PROCESS, base_job_template=template)
        return client.create_work_pool(pool), True


def queue_limit(client: SyncPrefectClient, pool: str, name: str, limit: int | None) -> int | None:
    """Makes a work queue where it is missing; tells how many flow runs it lets go on at once.

    Args:
        client: of the server.
        pool: the work pool.
        name: of the queue.
        limit: that it gets; unless given, one where it is made, else as it is.
    """
    if limit is None and (found := _find_queue(client, pool, name)):
        return found.concurrency_limit
    _set_queue(client, pool, name, limit or 1)
    return limit or 1


def _set_queue(client: SyncPrefectClient, pool: str, name: str, limit: int) -> str:
    """Makes or updates a work queue; tells which of the two."""
    if found := _find_queue(client, pool, name):
        client.update_work_queue(found.id, concurrency_limit=limit)
        return UPDATED
    client.create_work_queue(name, concurrency_limit=limit, work_pool_name=pool)
    return MADE


def _find_queue(client: SyncPrefectClient, pool: str, name: str):
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_work_queue_by_name(name, work_pool_name=pool)
    except ObjectNotFound:
        return None


def worker_command(pool: str, kind: str, queue: str | None) -> str:
    """What starts a worker. It names the pool's type, else it would not wait for a server."""
    served = f"--work-queue {queue}" if queue else "--limit 1"
    return f"prefect worker start --pool {pool} --type {kind} {served}"
