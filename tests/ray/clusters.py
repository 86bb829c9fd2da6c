"""A real Ray cluster on this machine: each node is a session of processes of its own.

Its GPUs are logical ones: Ray gives them away, and what renders is the CPU.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_SECONDS = 120
"""Until a node has to be up, on a busy machine."""


@dataclass
class Cluster:
    """Nodes that run; `nodes[0]` is the head, whose end is the cluster's."""

    address: str
    folder: Path
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def add_node(self, *within: str) -> subprocess.Popen[bytes]:
        """Starts a node and waits until the cluster has it.

        Args:
            within: a command that runs the one that follows it.
        """
        port = self.address.rpartition(":")[2]
        joins = [f"--address={self.address}"] if self.nodes else self._head(port)
        log = self.folder / f"node-{len(self.nodes)}.log"
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *joins]
        small = [
            "--num-cpus=1",
            "--num-gpus=1",
            "--object-store-memory=80000000",
            "--disable-usage-stats",
        ]
        with log.open("wb") as output:
            node = subprocess.Popen(
                [*within, *command, *small],
                env=self._environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.nodes.append(node)
        deadline = time.monotonic() + START_SECONDS
        while b"Ray runtime started" not in log.read_bytes():
            assert node.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        return node

    def kill_node(self, node: subprocess.Popen[bytes]) -> None:
        """Kills all processes of a node at once, as a machine dies that loses its power."""
        for pid in processes_of(node.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.wait()

    def _head(self, port: str) -> list[str]:
        # Ray's own paths are long, and a socket's may have 107 letters.
        return [
            "--head",
            f"--port={port}",
            "--include-dashboard=false",
            f"--temp-dir={self.folder}",
        ]

    def _environment(self) -> dict[str, str]:
        scratch = self.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            "RAY_USAGE_STATS_ENABLED": "0",
            "TMPDIR": str(scratch),
        }


@contextmanager
def ray_cluster(*, num_nodes: int) -> Iterator[Cluster]:
    """A cluster of so many nodes with a logical GPU each; nothing of it outlives the block."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(f"{_own_address()}:{_free_port()}", Path(folder))
        try:
            for _ in range(num_nodes):
                cluster.add_node()
            yield cluster
        finally:
            for node in reversed(cluster.nodes):
                cluster.kill_node(node)


def processes_of(session: int) -> list[int]:
    """The processes of a session that live."""
    found: list[int] = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(status.parent.name))
    return found


def _own_address() -> str:
    """The address of this machine as Ray finds it: it takes no loopback address for a node."""
    from ray._private.services import get_node_ip_address

    return get_node_ip_address()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
