"""Runs inputs in processes of their own, a few at a time, each with limits of time and memory."""

from __future__ import annotations

import gc
import importlib
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.faults.fuzz import child, makers, sound_runs
from tests.faults.fuzz.cases import Case, Maker
from tests.faults.fuzz.verdict import Ended, Fault, faults_of


@dataclass(frozen=True)
class Limits:
    """What one input may take.

    Attributes:
        cpu_seconds: of all threads together.
        idle_seconds: without any use of the processor, after which it is taken for hanging.
        seconds: in all.
        growth: bytes of memory more than the process had when the command began.
    """

    cpu_seconds: int = 30
    idle_seconds: float = 30.0
    seconds: float = 300.0
    growth: int = 2 << 30


@dataclass(frozen=True)
class Finding:
    """One input with what became of it."""

    number: int
    maker: str
    case: Case | None
    seconds: float
    faults: tuple[Fault, ...]


@dataclass
class _Running:
    number: int
    maker: str
    process: int
    workplace: Path
    started: float
    stopped: str = ""
    cpu_seconds: float = 0.0
    busy_at: float = 0.0


class Harness:
    """Everything that is made once: imports, sound run folders, programs that leave a mark."""

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self.folder, self.limits = folder, limits or Limits()
        child.write_tools(folder / "bin")
        os.environ["PREFECT_API_URL"] = child.NO_PREFECT  # before Prefect reads its settings
        sound_runs.use(folder / "sound")
        (folder / "sound").mkdir()
        self._import_everything()

    def _import_everything(self) -> None:
        """Imports what a sound run imports, as a first process tells that makes the sound runs.

        This process itself runs nothing: threads and what they hold do not survive a fork.
        """
        told = self.folder / "imported.json"
        process = os.fork()
        if process == 0:
            code = 1
            try:
                os.environ["PREFECT_HOME"] = str(self.folder / "prefect")
                sound_runs.make(sound_runs.home())
                told.write_text(json.dumps(sorted(sys.modules)))
                code = 0
            finally:
                if code:
                    sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
                os._exit(code)
        if os.waitpid(process, 0)[1]:
            raise RuntimeError("the sound runs could not be made; the tests of tasks say why")
        for name in json.loads(told.read_text()):
            with suppress(Exception):
                importlib.import_module(name)
        platform.processor()  # Python asks a program, once
        gc.freeze()  # what is there now is not looked at by every child, and stays shared
        gc.enable()

    def run(
        self, seed: int, numbers: Sequence[int], wanted: str = "", workers: int = 1
    ) -> Iterator[Finding]:
        """Runs the inputs of these numbers; findings come as their processes end."""
        waiting = list(reversed(numbers))
        running: list[_Running] = []
        while waiting or running:
            while waiting and len(running) < workers:
                number = waiting.pop()
                name, maker, draw = chosen(seed, number, wanted)
                running.append(self.start(number, name, maker, draw))
            for one in list(running):
                if ended := self._ended(one):
                    running.remove(one)
                    yield self._finding(one, ended)
            time.sleep(0.01)

    def start(self, number: int, name: str, make: Maker, draw: random.Random) -> _Running:
        """Forks the process of one input."""
        workplace = self.folder / f"{number:06d}"
        shutil.rmtree(workplace, ignore_errors=True)
        workplace.mkdir()
        sys.stdout.flush()
        process = os.fork()
        if process == 0:
            child.live(workplace, make, draw, self.limits.cpu_seconds)
        return _Running(number, name, process, workplace, time.monotonic())

    def finding(self, running: _Running) -> Finding:
        """Waits for one input."""
        while (ended := self._ended(running)) is None:
            time.sleep(0.01)
        return self._finding(running, ended)

    def _ended(self, one: _Running) -> Ended | None:
        """How a process ended; one that is over its limits is killed."""
        found, status, usage = os.wait4(one.process, os.WNOHANG)
        if found == 0:
            self._stop_if_over(one)
            return None
        with suppress(ProcessLookupError):
            os.killpg(one.process, signal.SIGKILL)  # whatever it has left running
        code = os.waitstatus_to_exitcode(status)
        if code in (-signal.SIGXCPU, -signal.SIGKILL) and not one.stopped:
            one.stopped = "hang"
        return Ended(code, one.stopped, usage.ru_maxrss * 1024 - _memory_before(one.workplace))

    def _stop_if_over(self, one: _Running) -> None:
        now, used = time.monotonic(), child.cpu_seconds(one.process)
        if used > one.cpu_seconds or not one.busy_at:
            one.cpu_seconds, one.busy_at = used, now
        idle = now - one.busy_at > self.limits.idle_seconds
        if idle or now - one.started > self.limits.seconds:
            one.stopped = "hang"
        elif child.resident_bytes(one.process) - _memory_before(one.workplace) > self.limits.growth:
            one.stopped = "memory"
        if one.stopped:
            with suppress(ProcessLookupError):
                os.kill(one.process, signal.SIGKILL)

    def _finding(self, one: _Running, ended: Ended) -> Finding:
        case, faults = faults_of(one.workplace, ended, self.limits.growth)
        seconds = time.monotonic() - one.started
        return Finding(one.number, one.maker, case, seconds, tuple(faults))

    def forget(self, number: int, keep: Path | None = None) -> None:
        """Removes what an input left behind, or moves it to the folder `keep`."""
        workplace = self.folder / f"{number:06d}"
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(keep / workplace.name, ignore_errors=True)
            shutil.move(workplace, keep / workplace.name)
        shutil.rmtree(workplace, ignore_errors=True)


def chosen(seed: int, number: int, wanted: str = "") -> tuple[str, Maker, random.Random]:
    """The maker of an input with its name, and the source of chance that it draws from."""
    name = makers.chosen(random.Random(f"{seed}/{number}"), wanted)
    return name, makers.names()[name], random.Random(f"{seed}/{number}/{name}")


def _memory_before(workplace: Path) -> int:
    """The memory that the process had when the command began; 8 TB while it has not."""
    with suppress(OSError, ValueError):
        for line in (workplace / "events").read_text().splitlines():
            kind, what = json.loads(line)
            if kind == "memory before":
                return what
    return 1 << 43


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for a harness, removed at the end."""
    return tempfile.TemporaryDirectory(prefix="stylefarm-fuzz-", ignore_cleanup_errors=True)
