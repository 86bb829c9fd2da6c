"""Machines that share nothing but a store, as far as one computer can play several.

Each has a network namespace of its own, joined to this one by a cable that can be cut, and a host
name. Each process on it has its own process ids, home and scratch, as in a container. It needs
root and `ip`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.fault_proxy import FaultProxy

ROOT = Path(__file__).parents[2]
PLANTED = ROOT / "tests/faults/planted_renderers"
NETWORK = "198.18"
"""Addresses that are kept for tests of networks."""

SECONDS_TO_END = 60.0


def why_not() -> str | None:
    """Why machines cannot be played here; None where they can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "machines with a network of their own need root"
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return "machines with a network of their own need `ip` (iproute2) and `unshare`"
    name = f"sf-{os.getpid()}-try"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if tried.returncode:
        return f"this system makes no network namespace: {tried.stderr.strip()}"
    _ip("netns", "del", name)
    return None


@dataclass
class Machine:
    """One machine.

    Attributes:
        name: its host name.
        proxy: the store as this machine reaches it.
        folder: where the homes and the scratch of its processes lie.
        environment: of each of its processes.
    """

    name: str
    proxy: FaultProxy
    folder: Path
    environment: dict[str, str]
    _namespace: str
    _cable: str
    _processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts a `stylefarm` command that is the first process of its own namespace."""
        home = self.folder / f"process-{len(self._processes)}"
        for part in ("home", "scratch"):
            (home / part).mkdir(parents=True)
        places = {"HOME": str(home / "home"), "TMPDIR": str(home / "scratch")}
        process = subprocess.Popen(
            [
                *("ip", "netns", "exec", self._namespace),
                *("unshare", "--uts", "--pid", "--mount-proc", "--fork", "--kill-child"),
                *("sh", "-c", f'hostname {self.name} && exec "$@"', "sh"),
                *(sys.executable, "-m", "flows.cli", *arguments),
            ],
            env=self.environment | places,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def cut(self) -> None:
        """Pulls the cable: nothing passes any more, and nobody is told."""
        _ip("link", "set", self._cable, "down")

    def mend(self) -> None:
        """Puts the cable back."""
        _ip("link", "set", self._cable, "up")

    def end(self) -> None:
        """Kills what still runs and takes the machine away."""
        for process in self._processes:
            kill(process)
        _ip("link", "del", self._cable)
        _ip("netns", "del", self._namespace)


def kill(process: subprocess.Popen[str]) -> None:
    """Kills a command of a machine with everything that it started, as a power cut does."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # `unshare` takes all of its namespace with it
        process.wait(SECONDS_TO_END)
    if process.stdout:
        process.stdout.close()


@contextmanager
def machine(
    number: int, store_port: int, folder: Path, settings: dict[str, str]
) -> Iterator[Machine]:
    """A machine that reaches the store on a port of this computer's loopback.

    Args:
        number: from 0; two machines of one test differ in it.
        store_port: where the store listens.
        folder: for what its processes keep.
        settings: how to sign in at the store, and what else its processes find.
    """
    namespace = f"sf{os.getpid()}-{number}"
    here, there, cable = *_addresses(number), f"sf{os.getpid()}h{number}"
    _ip("netns", "add", namespace)
    _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", namespace)
    _ip("addr", "add", f"{here}/30", "dev", cable)
    _ip("link", "set", cable, "up")
    _ip("-n", namespace, "addr", "add", f"{there}/30", "dev", "eth0")
    for link in ("lo", "eth0"):
        _ip("-n", namespace, "link", "set", link, "up")
    with FaultProxy(store_port, host=here) as proxy:
        environment = _environment() | settings | {"AWS_ENDPOINT_URL": proxy.url}
        made = Machine(f"farm-{number}", proxy, folder, environment, namespace, cable)
        try:
            yield made
        finally:
            made.end()


def _addresses(number: int) -> tuple[str, str]:
    """The two ends of a cable: of this process and this machine, as others may play too."""
    block = (os.getpid() * 8 + number) % (1 << 14) * 4
    return tuple(f"{NETWORK}.{(block + end) >> 8}.{(block + end) & 255}" for end in (1, 2))  # type: ignore[return-value]


def _environment() -> dict[str, str]:
    """Nothing of this computer but its programs."""
    paths = os.pathsep.join([str(PLANTED), str(ROOT)])
    fixed = {
        "PYTHONPATH": paths,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "PREFECT_API_URL": "none:",
    }
    return {"PATH": os.environ.get("PATH", ""), **fixed}


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
