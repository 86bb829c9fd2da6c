"""How does a rendering process start in tenths of a second, and end when its parent does?

A fork server imports what rendering needs once, and forks a child for each request; it computes
nothing and touches no GPU. It ends when its parent does, however that ends, and takes its children
with it: it kills them, and the kernel does where it is killed itself.

The one of `multiprocessing` runs the caller's `__main__` again in every child, is one for all that
happens in a process, and keeps the environment of its first start; hence this one.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import logging
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import IO, NoReturn

from tasks.runs.scratch import scratch_errors

logger = logging.getLogger(__name__)

_PRELOADED = ("tasks.work.render", "tasks.work.models", "ad_lib.model.loading")
"""What rendering, and checking a model, needs: torch and diffusers with it."""

LAST_WORDS = 300
"""Letters of a child's standard error that are told when it dies."""

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from tasks.work.fork_server import serve; serve(*map(int, sys.argv[2:4]), sys.argv[4:])"
)
_PR_SET_PDEATHSIG = 1
_NUMBER = struct.Struct("q")


def rendering_fork_server() -> ForkServer:
    """A fork server for rendering processes, which several `ChildProcess`es may share."""
    return ForkServer(_PRELOADED)


@dataclass(eq=False)
class ForkedChild:
    """A child of a fork server, as the process that asked for it sees it.

    Attributes:
        connection: to the child.
        status: where its pid can be read, and later its exit code.
        log: what it writes to its standard output and error.
        exit_code: as `subprocess` has it, negative for a signal; None while it is not known.
        is_killed: whether this process killed it.
    """

    connection: Connection
    status: int
    log: IO[bytes]
    pid: int | None = None
    exit_code: int | None = None
    is_killed: bool = False
    _is_over: bool = field(default=False, init=False)
    _reading: threading.Lock = field(default_factory=threading.Lock, init=False)

    def kill(self) -> None:
        """Kills the child, if it is not over already; any thread may call this."""
        self.is_killed = True
        self.poll(0)
        if self.pid is not None and not self._is_over:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def poll(self, seconds: float) -> bool:
        """Waits so long at most for the end; whether the child is over.

        Where nobody could read its exit code it was killed together with its server.
        """
        while not self._is_over and select.select([self.status], [], [], seconds)[0]:
            with self._reading, suppress(BlockingIOError):  # another thread was first
                self._read()
        return self._is_over

    def _read(self) -> None:
        data = os.read(self.status, _NUMBER.size)
        if self.pid is None and data:
            (self.pid,) = _NUMBER.unpack(data)
            return
        self._is_over = True
        self.exit_code = _NUMBER.unpack(data)[0] if data else -signal.SIGKILL

    def last_words(self) -> str:
        """The end of what it wrote, on one line."""
        size = self.log.seek(0, os.SEEK_END)
        self.log.seek(max(0, size - 4 * LAST_WORDS))
        lines = self.log.read().decode(errors="replace").split("\n")
        words = [line.strip() for line in lines if line.strip()]
        return words[-1][:LAST_WORDS] if words else ""

    def forget_words(self) -> None:
        """Makes room for what it writes next."""
        self.log.truncate(0)

    def close(self) -> None:
        """Kills the child and lets go of it."""
        self.kill()
        if self.pid is not None:  # else it is not there yet, and finds its connection closed
            self.poll(5.0)
        self.connection.close()
        with suppress(OSError):
            os.close(self.status)
        self.log.close()


class ForkServer:
    """The process that forks children for this one; it starts at once, in the background.

    Args:
        modules: what it imports.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self._modules = tuple(modules)
        self._lock = threading.Lock()
        self._start()

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fork(self, target: str) -> ForkedChild:
        """A new child, which calls `target` with its connection; a server that died is replaced.

        Args:
            target: `module.function`.
        """
        with self._lock:
            if self._process.poll() is not None:
                logger.warning("the fork server ended and is started again: %s", self.last_words())
                self._end()
                self._start()
            return self._fork(target)

    def last_words(self) -> str:
        """The last line that it wrote itself, or how it ended."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:LAST_WORDS] if lines else f"exit code {self._process.poll()}"

    def close(self) -> None:
        """Ends the server at once, and its children."""
        with self._lock:
            self._end()

    def _start(self) -> None:
        self._log = _log_file()
        self._control, theirs = socket.socketpair()
        arguments = [str(theirs.fileno()), str(os.getpid()), *self._modules]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, json.dumps(sys.path), *arguments],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            # Whether there is a GPU is asked in a way that leaves it alone: a process that has
            # touched one cannot fork children that use it.
            env={**os.environ, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"},
        )
        theirs.close()

    def _fork(self, target: str) -> ForkedChild:
        ours, theirs = Pipe()
        status, status_of_child = os.pipe()
        os.set_blocking(status, False)
        log = _log_file()
        with theirs, suppress(BrokenPipeError):  # the status says then that nothing came of it
            numbers = [theirs.fileno(), status_of_child, log.fileno()]
            socket.send_fds(self._control, [target.encode().ljust(_MAX_NAME)], numbers)
        os.close(status_of_child)
        return ForkedChild(ours, status, log)

    def _end(self) -> None:
        self._process.kill()  # it may be importing; it holds nothing
        self._process.wait()
        self._control.close()
        self._log.close()


_MAX_NAME = 200


def _log_file() -> IO[bytes]:
    """A file for what a process writes; in memory where that can be, as disks may be full."""
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("stylefarm"), "a+b", 0)
    with scratch_errors():
        return tempfile.TemporaryFile("a+b", 0, prefix="stylefarm-")


def serve(control_number: int, parent: int, modules: Sequence[str]) -> None:
    """What the fork server does: forks a child for each request until its parent is gone."""
    _ignore_signals()
    control = socket.socket(fileno=control_number)
    gc.disable()  # a quarter of the time of importing torch and diffusers is spent on collecting
    for module in modules:
        importlib.import_module(module)
    gc.freeze()  # children share what was imported, and never look through it
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    statuses: dict[int, int] = {}
    while os.getppid() == parent:
        ready, _, _ = select.select([control, woken], [], [], 1.0)
        if woken in ready:
            os.read(woken, 1024)
        _tell_ends(statuses)
        if control in ready:
            target, numbers, _, _ = socket.recv_fds(control, _MAX_NAME, 3)
            if not target:
                break
            connection, status, log = numbers
            pid = os.fork()
            if pid == 0:
                server_only = [control.detach(), woken, wake, status, *statuses.values()]
                _become(target.decode().strip(), connection, log, server_only)
            statuses[pid] = status
            os.close(connection)
            os.close(log)
            _write(status, pid)
    for pid in statuses:
        os.kill(pid, signal.SIGKILL)
    os._exit(0)  # nothing is left to be tidied up, and torch takes seconds for it


def _tell_ends(statuses: dict[int, int]) -> None:
    """Writes the exit codes of children that ended to those who wait for them."""
    while statuses:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        number = statuses.pop(pid)
        _write(number, os.waitstatus_to_exitcode(status))
        os.close(number)


def _write(status: int, number: int) -> None:
    with suppress(BrokenPipeError):  # nobody waits any more
        os.write(status, _NUMBER.pack(number))


def _become(target: str, connection: int, log: int, server_only: Sequence[int]) -> NoReturn:
    """Turns a process that was just forked into the child, and ends it."""
    code = 1
    try:
        server = os.getppid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        gc.enable()
        _die_with(server)
        for number in server_only:
            os.close(number)
        for standard in (1, 2):
            os.dup2(log, standard)
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
        module, _, function = target.rpartition(".")
        getattr(importlib.import_module(module), function)(Connection(connection))
        code = 0
    except BaseException:
        logger.exception("the rendering process ends")
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _die_with(server: int) -> None:
    """Has the kernel kill this process when the server dies, whatever this process is doing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:
        os._exit(1)


def _ignore_signals() -> None:
    """Leaves to the parent what a terminal or a scheduler sends to all processes of a group."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
