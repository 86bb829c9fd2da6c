"""Which process is a worker, and is that very process gone?

A process is known by the machine's boot, the namespace of its number, the number, and the time at
which it began; numbers alone are used again. Only a worker of the same boot and namespace can be
known to be gone; of others nothing is concluded.
"""

from __future__ import annotations

import os
import socket
import uuid
from contextlib import suppress
from pathlib import Path

from manifests.attempts import Worker

_DEAD_STATES = ("Z", "X", "x")
"""What the system calls a process that has ended and was not yet waited for."""


def this_worker(device: str) -> Worker:
    """A worker of this process, with an id of its own."""
    pid = os.getpid()
    found = _state_and_start(pid)
    return Worker(
        id=uuid.uuid4().hex,
        host=socket.gethostname(),
        boot_id=_boot_id(),
        pid_namespace=_pid_namespace(),
        pid=pid,
        started=found[1] if found else None,
        device=device,
    )


def is_gone(worker: Worker) -> bool:
    """Whether the worker's process is known to have ended."""
    if not is_comparable(worker):
        return False
    found = _state_and_start(worker.pid)
    return found is None or found[0] in _DEAD_STATES or found[1] != worker.started


def is_comparable(worker: Worker) -> bool:
    """Whether the worker's process would be seen from here: same boot, same namespace."""
    return (
        None not in (worker.boot_id, worker.pid_namespace, worker.started)
        and worker.boot_id == _boot_id()
        and worker.pid_namespace == _pid_namespace()
    )


def _boot_id() -> str | None:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None


def _pid_namespace() -> str | None:
    with suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return None


def _state_and_start(pid: int) -> tuple[str, str] | None:
    """The state of a process and the time at which it began; None where there is none."""
    with suppress(OSError, IndexError):
        # The second field is the name in brackets, which may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], fields[19]
    return None
