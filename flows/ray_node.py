"""What does one worker of a Ray cluster do on its node, and how does its crew know where it is?

It is a worker's parent as any other and has a child; whatever it does is told to the crew. What it
puts into the run folder first is looked for by the crew: both must have the same folder.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import queue
import socket
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from flows.logs import PACKAGES
from flows.metrics_server import metrics_served
from manifests.budget import Bounds
from manifests.errors import JobError, RunFolderError
from manifests.job import Compute
from tasks.inputs.devices import DeviceType, devices_for
from tasks.runs.faults import DeviceFault
from tasks.runs.run_folder import SIGN, open_run
from tasks.work.child import ChildProcess, portable
from tasks.work.worker import work


@dataclass(frozen=True, kw_only=True)
class AtWork:
    """The first thing that a worker tells: where it is, and what it has put into the run folder."""

    host: str
    sign: str


def other_folder(host: str, finding: str) -> RunFolderError:
    """What ends a run whose node works on another run folder of the same name."""
    return RunFolderError(
        f"the node {host} of the Ray cluster does not work on the same run folder ({finding}): "
        "give an output.uri on S3, or a folder that every node has mounted at the same path"
    )


def work_on_this_node(
    *,
    tell: Callable[[object], None],
    should_stop: Callable[[], bool],
    run_uri: str,
    number: int,
    device_type: DeviceType | None,
    compute: Compute,
    bounds: Bounds,
    num_threads: int,
    log_level: int,
) -> None:
    """What an actor does: one worker, on the device that Ray has given it.

    It tells its log records and events, and at last what it has done or what ended it.
    """
    host = socket.gethostname()
    _tell_records(tell, host, log_level)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line has it
    try:
        sign = _leave_sign(run_uri, host)
        tell(AtWork(host=host, sign=sign))
        with (
            metrics_served(run_uri, compute, number, tell, should_stop) as tell_of_work,
            ChildProcess(num_threads) as renderer,
        ):
            worked = work(
                run_uri,
                device=_device_here(device_type, host),
                compute=compute,
                renderer=renderer,
                bounds=bounds,
                should_stop=should_stop,
                tell=tell_of_work,
            )
        tell(worked)
    except Exception as error:
        tell(portable(error))


def _leave_sign(run_uri: str, host: str) -> str:
    """Writes an object into the run folder, for the crew to find."""
    try:
        store, _ = open_run(run_uri)
    except RunFolderError as error:
        raise other_folder(host, str(error)) from error
    sign = f"{SIGN}{uuid.uuid4().hex}"
    store.put(sign, host.encode())
    return sign


def _device_here(device_type: DeviceType | None, host: str) -> str:
    """The device of this worker; of a node with many GPUs it sees the one that Ray gave it."""
    try:
        return devices_for(device_type, "auto", 1)[0]
    except JobError as error:
        raise DeviceFault(f"the node {host} of the Ray cluster: {error}") from error


def _tell_records(tell: Callable[[object], None], host: str, level: int) -> None:
    handler = _TellingHandler(tell, host)
    for name in PACKAGES:
        package = logging.getLogger(name)
        package.handlers = [handler]
        package.setLevel(level)


class _TellingHandler(logging.handlers.QueueHandler):
    """Tells records, as a message with the name of this node."""

    def __init__(self, tell: Callable[[object], None], host: str) -> None:
        super().__init__(queue.SimpleQueue())
        self._tell, self._host = tell, host

    def enqueue(self, record: logging.LogRecord) -> None:
        record.msg = f"{self._host}: {record.msg}"
        self._tell(record)
