"""A service: a process with a log of its own that lives as long as a block does."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LEASH = Path(__file__).parent / "leash.py"
LAST_LINES = 25
START_SECONDS = 120.0
"""How long a service may take to answer on a busy machine; 3 to 10 is usual."""


class ServiceFailed(RuntimeError):
    """A service did not start, or has ended too early; the message has its last words."""


@dataclass(frozen=True)
class Service:
    """A process that runs.

    Attributes:
        name: for people.
        log: what it says, both streams.
    """

    name: str
    log: Path
    process: subprocess.Popen[bytes]

    def check(self) -> None:
        """Raises `ServiceFailed` where it has ended."""
        if (code := self.process.poll()) is not None:
            raise ServiceFailed(f"{self.name} has ended with {code}; {self.last_words()}")

    def ask_to_end(self) -> None:
        """Lets go of the leash; the end of the block waits."""
        assert self.process.stdin
        self.process.stdin.close()

    def last_words(self) -> str:
        """The last lines of its log, with the file's name."""
        lines = self.log.read_text(errors="replace").splitlines()[-LAST_LINES:]
        return "\n    ".join([f"{self.log} ends:", *lines])

    def wait_until(self, what: Callable[[], bool], seconds: float = START_SECONDS) -> None:
        """Waits for something that this service does."""
        deadline = time.monotonic() + seconds
        while not what():
            self.check()
            if time.monotonic() > deadline:
                raise ServiceFailed(
                    f"{self.name}: not ready in {seconds:.0f} s; {self.last_words()}"
                )
            time.sleep(0.1)


@contextmanager
def service(
    name: str,
    command: Sequence[str | Path],
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    leash: Sequence[str] = (),
) -> Iterator[Service]:
    """A command that runs until the end of the block, and never longer than this process.

    Args:
        name: for people.
        command: what is started; it is not waited for.
        log: the file that takes what it says.
        environment: all of it; this process's unless given.
        folder: where it starts.
        leash: options of `leash.py`.
    """
    with log.open("ab") as said:
        process = subprocess.Popen(
            [sys.executable, "-P", "-S", str(LEASH), *leash, *map(str, command)],
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=dict(environment) if environment is not None else None,
            cwd=folder,
            start_new_session=True,
        )
    started = Service(name, log, process)
    try:
        yield started
    finally:
        started.ask_to_end()
        process.wait()


def free_port() -> int:
    """A port of loopback that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(port: int) -> bool:
    """Whether somebody listens on a port of loopback."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
