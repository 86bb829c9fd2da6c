"""Who renders: a process of its own, which may die or hang, or this process.

The parent asks and listens; the child renders, and asks the parent before it begins with items. No
message is lost when a child dies: what it told is read to its end first.
"""

from __future__ import annotations

import os
import pickle
import queue
import threading
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from manifests.outcomes import Outcome
from tasks.runs.environment import forget_peak_resident
from tasks.runs.faults import ChildDied, ChildHung, FreshDeviceNeeded, Stopped, WorkerFault
from tasks.work.fork_server import ForkedChild, ForkServer, rendering_fork_server
from tasks.work.shard_work import MemoryNeed, ShardWork, Watch

if TYPE_CHECKING:
    from tasks.inputs.weights import FoundModel
    from tasks.work.models import ModelCache

LOADING_SECONDS = 1800.0
"""How long a model may take to load, where `hang_seconds` is less."""

STOP_SECONDS = 10.0
"""How long a child may take to stop at a step before it is killed."""

TICK_SECONDS = 0.25
TELL_SECONDS = 0.1
"""How often progress is told at most."""


def check_in_child(server: ForkServer, model: FoundModel) -> None:
    """Checks the weights of a run as `inputs.weights.check_model` does, and loads no torch here.

    Raises:
        BackboneError: weights that do not fit their configuration, or networks that do not fit
            each other.
        WorkerFault: the process that checked them is gone.
    """
    child = server.fork("tasks.work.child.answer_check")
    try:
        child.connection.send(model)
        error = child.connection.recv()
    except (EOFError, OSError):
        child.poll(STOP_SECONDS)
        words = child.last_words() or server.last_words()
        raise WorkerFault(f"the process that checks the model has ended: {words}") from None
    finally:
        child.close()
    if error is not None:
        raise error


class InThisProcess:
    """Renders in this process, for tests and notebooks; a crash or a hang is this process's."""

    def __init__(self) -> None:
        self._models: ModelCache | None = None

    def render(self, work: ShardWork, watch: Watch, *, hang_seconds: float) -> None:
        """Renders a shard; see `Renderer`. Nobody watches whether it hangs."""
        from tasks.work.models import ModelCache
        from tasks.work.render import render_shard

        self._models = self._models or ModelCache()
        try:
            render_shard(work, self._models, watch)
        except (FreshDeviceNeeded, WorkerFault):
            self.close()
            raise

    def close(self) -> None:
        """Gives the device back."""
        if self._models is not None:
            self._models.clear()


class ChildProcess:
    """Renders in a process of its own, whose model stays warm from shard to shard.

    It is started again after it has died, and ends when this process does, whatever it is doing.

    Args:
        num_threads: of the processor that rendering may use; None is PyTorch's own choice.
        server: shared with others, and closed by whoever made it; None starts one now.
    """

    def __init__(self, num_threads: int | None = None, server: ForkServer | None = None) -> None:
        self._num_threads = num_threads
        self._shared = server
        self._own = rendering_fork_server() if server is None else None
        self._child: ForkedChild | None = None
        self._rendering = threading.Lock()

    def __enter__(self) -> ChildProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def render(self, work: ShardWork, watch: Watch, *, hang_seconds: float) -> None:
        """Renders a shard in the child; see `Renderer`."""
        with self._rendering:
            child = self._child = self._child or self._forked()
            try:
                _Listener(child, watch, hang_seconds).follow((work, self._num_threads))
            except Stopped:
                if child.poll(0):
                    self._end_child()
                raise
            except BaseException:
                self._end_child()
                raise

    def close(self) -> None:
        """Ends the child at once, and its server; any thread may call this.

        A shard that another thread renders here meanwhile is stopped.
        """
        if child := self._child:
            child.kill()
        with self._rendering:
            self._end_child()
            if self._own is not None:
                self._own.close()
                self._own = None

    def _forked(self) -> ForkedChild:
        if self._shared is not None:
            return self._shared.fork("tasks.work.child.serve_parent")
        self._own = self._own or rendering_fork_server()
        return self._own.fork("tasks.work.child.serve_parent")

    def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.close()


class _Listener:
    """The parent's side of one shard: passes on what the child tells, and watches that it does."""

    def __init__(self, child: ForkedChild, watch: Watch, hang_seconds: float) -> None:
        self.child = child
        self.watch = watch
        self.hang_seconds = hang_seconds
        self.is_loading = True
        self.silent_seconds = 0.0
        self.stop_asked: float | None = None

    def follow(self, asked: tuple[ShardWork, int | None]) -> None:
        """Sends what is asked, and returns or raises as the child's rendering did."""
        self.child.forget_words()
        try:
            self._send(asked)
            while True:
                name, arguments = self._next_message()
                if name == "ended":
                    break
                self._pass_on(name, arguments)
        except (EOFError, OSError):
            raise self._death() from None
        (error,) = arguments
        if error is not None:
            raise error

    def _pass_on(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name == "begin":
            item_ids, alone = arguments
            self.watch.begin(item_ids, alone=alone)
            self._send("go")
        else:
            if name == "phase":
                self.is_loading = arguments == ("loading",)
            getattr(self.watch, name)(*arguments)

    def _next_message(self) -> tuple[str, tuple[Any, ...]]:
        """The child's next message; time passes meanwhile.

        Raises:
            EOFError, OSError: the child is gone.
            ChildHung: it has told nothing for too long.
            Stopped: it did not stop in time, and was killed.
        """
        while True:
            self._ask_to_stop()
            started = time.monotonic()
            ready = wait([self.child.connection], TICK_SECONDS)
            # A process that was suspended finds that much time has passed: it does not count.
            waited = min(time.monotonic() - started, 4 * TICK_SECONDS)
            self.watch.tick()
            if ready:
                self.silent_seconds = 0.0
                return self.child.connection.recv()
            if self.child.poll(0):
                raise EOFError
            self.silent_seconds += waited
            limit = max(self.hang_seconds, LOADING_SECONDS if self.is_loading else 0.0)
            if self.silent_seconds > limit:
                raise ChildHung(limit)

    def _ask_to_stop(self) -> None:
        if self.stop_asked is None and self.watch.should_stop():
            self.stop_asked = time.monotonic()
            self._send("stop")
        if self.stop_asked is not None and time.monotonic() - self.stop_asked > STOP_SECONDS:
            self.child.kill()
            self.child.poll(STOP_SECONDS)
            raise Stopped("stopped; run the same command again to finish")

    def _send(self, message: object) -> None:
        self.child.connection.send(message)

    def _death(self) -> Exception:
        """How the child ended; nobody's fault where it was asked to stop, or was closed."""
        self.child.poll(STOP_SECONDS)
        if self.child.is_killed or self.stop_asked is not None or self.watch.should_stop():
            return Stopped("stopped; run the same command again to finish")
        code, words = self.child.exit_code, self.child.last_words()
        if code is not None and code < 0:
            return ChildDied(-code, None, words)
        return ChildDied(None, code, words)


# ------------------------------------------------------------------------- in the child


class _Parent:
    """The child's side: what rendering asks and tells goes to the parent."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._answers: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._items = 0.0
        self._told = 0.0
        self.asked: queue.SimpleQueue[tuple[ShardWork, int | None]] = queue.SimpleQueue()

    def listen(self) -> None:
        """Takes what the parent says; ends this process when the parent is gone."""
        try:
            while True:
                message = self._connection.recv()
                if message == "stop":
                    self._stop.set()
                elif message == "go":
                    self._answers.put(None)
                else:
                    self._stop.clear()
                    self.asked.put(message)
        finally:
            os._exit(0)

    def should_stop(self) -> bool:
        return self._stop.is_set()

    def phase(self, name: str) -> None:
        self._tell("phase", name)

    def loaded(self, seconds: float, device_name: str) -> None:
        self._tell("loaded", seconds, device_name)

    def begin(self, item_ids: Sequence[str], *, alone: bool) -> None:
        self._tell("begin", tuple(item_ids), alone)
        self._answers.get()

    def advance(self, items: float) -> None:
        """Small steps are told together."""
        self._items += items
        if time.monotonic() - self._told > TELL_SECONDS:
            self._told = time.monotonic()
            self._tell("advance", self._items)
            self._items = 0.0

    def finish(self, outcome: Outcome) -> None:
        self._tell("finish", outcome)

    def waited(self, for_input: float, for_output: float) -> None:
        self._tell("waited", for_input, for_output)

    def needs(self, need: MemoryNeed) -> None:
        self._tell("needs", need)

    def held(self, num_bytes: int) -> None:
        self._tell("held", num_bytes)

    def fitted(self, batch_size: int) -> None:
        self._tell("fitted", batch_size)

    def tick(self) -> None:
        """The parent's own."""

    def ended(self, error: BaseException | None) -> None:
        if self._items:
            self._tell("advance", self._items)
            self._items = 0.0
        self._tell("ended", error)

    def _tell(self, name: str, *arguments: object) -> None:
        with self._lock:
            self._connection.send((name, arguments))


def serve_parent(connection: Connection) -> None:
    """What the child does: renders shard after shard as its parent asks."""
    import torch

    from tasks.work.models import ModelCache
    from tasks.work.render import render_shard

    parent, models = _Parent(connection), ModelCache()
    threading.Thread(target=parent.listen, name="parent", daemon=True).start()
    while True:
        work, num_threads = parent.asked.get()
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        forget_peak_resident()
        try:
            render_shard(work, models, parent)
        except BaseException as error:
            parent.ended(portable(error))
        else:
            parent.ended(None)


def answer_check(connection: Connection) -> None:
    """What a child does that checks weights: tells its parent what is wrong with them, if anything.

    It ends with its server, which ends with the parent.
    """
    from tasks.inputs.weights import check_model

    try:
        check_model(connection.recv())
    except BaseException as error:
        connection.send(portable(error))
    else:
        connection.send(None)


def portable(error: BaseException) -> BaseException:
    """The error, if it survives the way to the parent, with the place where it was raised."""
    error.add_note("raised in another process:\n" + "".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
