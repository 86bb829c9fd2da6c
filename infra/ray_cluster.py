"""How does a function run on the nodes of a Ray cluster, and what does it tell?

Ray is spoken to by a process of its own, the driver: what Ray prints, waits for or dies of is the
driver's alone. Each function runs in an actor, which is never started twice: whoever asked for it
hears that it is lost, and may ask for another. What it tells arrives in order, and once.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import queue
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import IO, Any

JOIN_SECONDS = 60.0
"""How long joining a cluster may take on a busy machine; 3 is usual."""

ANSWER_SECONDS = 5.0
"""How long the head of a cluster may take to accept a connection."""

END_SECONDS = 5.0
"""How long the driver may take to leave the cluster before it is killed."""

NEWS_SECONDS = 0.5
GATHER_SECONDS = 0.1
"""How long an actor waits for something to tell, and then for more to tell with it."""

UNREACHABLE_SECONDS = 1.0
"""The pause before an actor is asked again that does not answer and is not known to be dead."""

MAX_REASON = 300
"""Letters of Ray's words that are passed on."""

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from infra.ray_cluster import drive; drive(int(sys.argv[2]))"
)


class RayUnavailable(RuntimeError):
    """The cluster cannot be joined, or is gone; the message says what to do."""


class WorkerLost(RuntimeError):
    """A worker has ended and told nothing of its end: it was killed, or its node is gone."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A living node of the cluster, and what Ray may give away there."""

    host: str
    num_cpus: float
    num_gpus: float


@dataclass(frozen=True, kw_only=True)
class Share:
    """What Ray keeps for one worker."""

    num_cpus: float
    num_gpus: float

    def __str__(self) -> str:
        return f"{self.num_gpus:g} GPU" if self.num_gpus else f"{self.num_cpus:g} CPUs"


@contextmanager
def joined_cluster(address: str) -> Iterator[RayCluster]:
    """A cluster that runs already; its workers end with the block, and with this process.

    Args:
        address: `host:port`, or `auto` for the cluster that this machine is a node of.

    Raises:
        RayUnavailable: Ray is not installed, or the cluster cannot be joined from here.
    """
    if address != "auto":
        _check_answers(address)
    cluster = RayCluster(address)
    try:
        cluster.join()
        yield cluster
    finally:
        cluster.close()


class RayCluster:
    """A cluster as this process sees it, through its driver.

    Attributes:
        nodes: those that live as it is joined.
    """

    def __init__(self, address: str) -> None:
        self.nodes: tuple[Node, ...] = ()
        self._address = address
        self._workers: list[RayWorker] = []
        self._lock = threading.Lock()
        self._gone: RayUnavailable | None = None
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._listener = threading.Thread(target=self._listen, name="ray", daemon=True)
        self._connection, theirs = Pipe()
        with theirs:
            self._driver = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, json.dumps(sys.path), str(theirs.fileno())],
                env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore"},
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def join(self) -> None:
        """Waits until the driver has joined; see `joined_cluster`."""
        try:
            self._connection.send(self._address)
            if not self._connection.poll(JOIN_SECONDS):
                raise RayUnavailable(
                    f"the Ray cluster {self._address!r} did not let this machine join within "
                    f"{JOIN_SECONDS:.0f} s: 'ray status' says whether it works"
                )
            answer = self._connection.recv()
        except (EOFError, OSError):
            raise RayUnavailable(self._last_words("the process that joins Ray ended")) from None
        if isinstance(answer, str):
            raise RayUnavailable(answer)
        self.nodes = answer
        self._listener.start()

    def start(self, target: str, arguments: Mapping[str, object], share: Share) -> RayWorker:
        """Starts a worker as soon as a node has room for it.

        Args:
            target: `module.function`, called with `tell`, which takes what can be pickled,
                `should_stop`, and the arguments.
            arguments: by name.
            share: what the worker needs of a node.
        """
        with self._lock:
            worker = RayWorker(self, len(self._workers))
            self._workers.append(worker)
            gone = self._gone
        if gone is not None:
            worker.inbox.put(gone)
        self.send(("start", worker.number, target, pickle.dumps(dict(arguments)), share))
        return worker

    def send(self, message: object) -> None:
        """Asks something of the driver; one that is gone hears nothing."""
        with self._lock, suppress(OSError):
            self._connection.send(message)

    def close(self) -> None:
        """Ends the workers, and leaves the cluster."""
        self.send(None)
        try:
            self._driver.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._driver.kill()
            self._driver.wait()
        if self._listener.ident is not None:
            self._listener.join()
        self._connection.close()
        self._log.close()

    def _listen(self) -> None:
        """Hands out what the driver passes on, until it ends."""
        try:
            while True:
                number, message = self._connection.recv()
                self._workers[number].inbox.put(message)
        except (EOFError, OSError):
            with self._lock:
                self._gone = RayUnavailable(self._last_words("the Ray cluster is gone"))
                for worker in self._workers:
                    worker.inbox.put(self._gone)

    def _last_words(self, what: str) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").split("\n")
        words = [line.strip() for line in lines if line.strip()]
        return f"{what}: {_first_sentence(words[-1])}" if words else what


class RayWorker:
    """A worker on some node, from the moment it is asked for.

    Attributes:
        number: of its cluster's, counted from 0.
        inbox: what it has told, as it comes.
    """

    def __init__(self, cluster: RayCluster, number: int) -> None:
        self.number = number
        self.inbox: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()
        self._cluster = cluster

    def receive(self, seconds: float) -> Any:
        """The next thing that it told; None where nothing came for so long.

        Raises:
            WorkerLost: it has ended, and all that it told was received.
            RayUnavailable: the cluster is gone.
        """
        try:
            message = self.inbox.get(timeout=seconds)
        except queue.Empty:
            return None
        if isinstance(message, Exception):
            raise message
        return pickle.loads(message)

    def ask_to_stop(self) -> None:
        """Makes its `should_stop` true."""
        self._cluster.send(("stop", self.number))

    def close(self) -> None:
        """Ends it at once, whatever it does, or waits for; any thread may call this."""
        self._cluster.send(("end", self.number))


def _check_answers(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise RayUnavailable(
            f"no Ray cluster answers at {address} ({error}): start one with 'ray start --head', "
            "and take the address that it prints"
        ) from error


def _first_sentence(line: str) -> str:
    """What a line of Ray's log says first, without its time and place."""
    return _short(re.sub(r"^\[.*?\] (\S+:\d+: )?", "", line).partition(". ")[0])


def _short(words: str) -> str:
    return words if len(words) <= MAX_REASON else f"{words[: MAX_REASON - 1]}…"


# ------------------------------------------------------------------------------- in the driver


def drive(connection_number: int) -> None:
    """What the driver does: joins the cluster, then starts and follows workers as it is asked."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    connection = Connection(connection_number)
    connection.send(_joined(connection.recv()))
    driver = _Driver(connection)
    with suppress(EOFError, OSError):
        while (order := connection.recv()) is not None:
            driver.obey(*order)
    # Ray ends the workers of a driver that is gone; in order, if that is quick.
    threading.Thread(target=driver.leave, daemon=True).start()
    driver.has_left.wait(END_SECONDS / 2)
    os._exit(0)


def _end_with(parent: int) -> None:
    """Ends this process when its parent is gone, also while it joins, which may take minutes."""
    while os.getppid() == parent:
        time.sleep(1.0)
    time.sleep(END_SECONDS)  # it may be leaving in order
    os._exit(1)


def _joined(address: str) -> str | tuple[Node, ...]:
    """The nodes of the cluster that was joined, or why it was not."""
    try:
        # By name: where Ray is missing, a type checker would take infra/ray, our recipes, for it.
        ray = importlib.import_module("ray")
    except ImportError as error:
        return f"Ray is not installed here ({error}): pip install 'stylefarm[ray]'"
    try:
        ray.init(address=address, log_to_driver=False)
    except Exception as error:
        return (
            f"the Ray cluster {address!r} cannot be joined: {_reason(error)} (run on a node of "
            "it; 'ray start' makes this machine one)"
        )
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return tuple(
        Node(
            host=node["NodeManagerHostname"],
            num_cpus=node["Resources"].get("CPU", 0.0),
            num_gpus=node["Resources"].get("GPU", 0.0),
        )
        for node in nodes
    )


class _Driver:
    """The workers of one driver; each has a thread that follows it."""

    def __init__(self, connection: Connection) -> None:
        self.has_left = threading.Event()
        self._ray = importlib.import_module("ray")
        self._connection = connection
        self._sending = threading.Lock()
        self._actors: dict[int, Any] = {}
        self._stopping: set[int] = set()

    def obey(self, order: str, number: int, *rest: Any) -> None:
        if order == "start":
            actor = self._actors[number] = self._actor(*rest)
            threading.Thread(target=self._follow, args=(number, actor), daemon=True).start()
        elif order == "stop":
            self._stopping.add(number)
        elif order == "end":
            self._ray.kill(self._actors[number])

    def leave(self) -> None:
        self._ray.shutdown()
        self.has_left.set()

    def _actor(self, target: str, arguments: bytes, share: Share) -> Any:
        options = {
            "num_cpus": share.num_cpus,
            "num_gpus": share.num_gpus,
            "scheduling_strategy": "SPREAD",
        }
        return self._ray.remote(_Host).options(**options).remote(target, arguments)

    def _follow(self, number: int, actor: Any) -> None:
        """Passes on what one worker tells, until it ends."""
        try:
            self._pass_on(number, actor)
            self._ray.kill(actor)
            end = "it ended by itself"
        except Exception as error:
            end = _reason(error)
        self._send(number, WorkerLost(end))

    def _pass_on(self, number: int, actor: Any) -> None:
        from ray.exceptions import ActorUnavailableError  # pyright: ignore[reportMissingImports]

        num_read, is_over = 0, False
        while not is_over:
            try:
                asked = actor.news.remote(num_read, number in self._stopping)
                news, is_over = self._ray.get(asked)
            except ActorUnavailableError:
                time.sleep(UNREACHABLE_SECONDS)
                continue
            for message in news:
                self._send(number, message)
            num_read += len(news)

    def _send(self, number: int, message: bytes | Exception) -> None:
        with self._sending, suppress(OSError):
            self._connection.send((number, message))


def _reason(error: Exception) -> str:
    """The sentence of Ray's many words that says what has happened."""
    words = str(error)
    if died := re.search(r"(?:its node has died|its worker process has died)", words):
        return died[0]
    lines = [line.strip() for line in words.split("\n") if line.strip()]
    return _short(lines[-1] if lines else type(error).__name__)


# -------------------------------------------------------------------------------- on the nodes


class _Host:
    """The actor: runs a function in a thread, and answers what it has told since."""

    def __init__(self, target: str, arguments: bytes) -> None:
        module, _, name = target.rpartition(".")
        function = getattr(importlib.import_module(module), name)
        self._told: list[bytes] = []
        self._num_forgotten = 0
        self._is_over = False
        self._changed = threading.Condition()
        self._stop = threading.Event()
        threading.Thread(
            target=self._run, args=(function, pickle.loads(arguments)), name=name, daemon=True
        ).start()

    def news(self, num_read: int, stop: bool) -> tuple[list[bytes], bool]:
        """What was told after the first `num_read` messages, and whether that was all."""
        if stop:
            self._stop.set()
        with self._changed:
            del self._told[: num_read - self._num_forgotten]
            self._num_forgotten = num_read
            self._changed.wait_for(lambda: self._told or self._is_over, NEWS_SECONDS)
            self._changed.wait_for(lambda: self._is_over, GATHER_SECONDS)
            return list(self._told), self._is_over

    def _run(self, function: Callable[..., None], arguments: dict[str, Any]) -> None:
        try:
            function(tell=self._tell, should_stop=self._stop.is_set, **arguments)
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()

    def _tell(self, message: object) -> None:
        data = pickle.dumps(message)
        with self._changed:
            self._told.append(data)
            self._changed.notify_all()
