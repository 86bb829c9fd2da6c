"""Commands that are launched as processes of their own, and killed at moments of chance."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.drill.scene import Scene

SOUND_CODES = (0, 3, 4)
"""Of a command that nobody killed: done, with failed items, or stopped and to be run again."""
CODES_WITH_A_BAD_STORE = (*SOUND_CODES, 2)

SHORTEST_LIFE, LONGEST_LIFE = 0.1, 2.5
"""As multiples of the time in which a command of its kind has done something when undisturbed."""

SECONDS_TO_STOP = 60.0
SECONDS_TO_VANISH = 20.0


@dataclass
class Launch:
    """A command that runs.

    Attributes:
        seconds: in which such a command does something when nobody disturbs it.
        ends_at: when something happens to it, on `time.monotonic`; infinite where nothing does.
        killed_by: what has happened to it.
    """

    number: int
    command: tuple[str, ...]
    process: subprocess.Popen[bytes]
    log: Path
    seconds: float
    ends_at: float
    chance: random.Random
    killed_by: str = ""

    def live_on(self) -> None:
        """Draws when the next thing happens to it."""
        life = self.chance.uniform(SHORTEST_LIFE, LONGEST_LIFE) * self.seconds
        self.ends_at = time.monotonic() + life

    @property
    def group(self) -> set[int]:
        """The living processes that it started, itself among them."""
        return _session(self.process.pid)


@dataclass
class Launcher:
    """Launches commands, does them harm, and remembers when each process was seen to be gone.

    Attributes:
        kills: how many signals it has sent.
        died_at: by process id, on the clock of the machine (`time.time`).
        complaints: what must not happen even to a command that is killed.
    """

    scene: Scene
    seed: int
    kills: int = 0
    launched: int = 0
    living: list[Launch] = field(default_factory=list)
    died_at: dict[int, float] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    sessions: set[int] = field(default_factory=set)

    def launch(self, *command: str, seconds: float = math.inf) -> Launch:
        """Starts a `stylefarm` command, whose life is of chance where `seconds` are finite."""
        self.launched += 1
        chance = random.Random(f"{self.seed}-{self.launched}")
        log = self.scene.folder / f"launch-{self.launched:03d}.txt"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", *command],
                env=self.scene.environment,
                cwd=self.scene.folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        one = Launch(self.launched, command, process, log, seconds, math.inf, chance)
        one.live_on()
        self.living.append(one)
        self.sessions.add(process.pid)
        return one

    def look_around(self) -> list[Launch]:
        """Does what is due to every living command; returns those that have ended."""
        for one in self.living:
            if one.process.poll() is None and time.monotonic() >= one.ends_at:
                self._strike(one)
        ended = [one for one in self.living if one.process.poll() is not None]
        for one in ended:
            self._bury(one)
        return ended

    def run(self, *command: str, codes: tuple[int, ...] = SOUND_CODES) -> float:
        """Runs a command to its end, undisturbed; the seconds that it took."""
        started = time.monotonic()
        one = self.launch(*command)
        one.process.wait()
        self._bury(one, codes)
        return time.monotonic() - started

    def _strike(self, one: Launch) -> None:
        """Kills one of a command's processes, or all, or asks it to stop."""
        if one.killed_by == "SIGTERM":
            self.complaints.append(f"{_told(one)} did not stop within {SECONDS_TO_STOP:.0f} s")
        drawn = one.chance.random() if one.killed_by != "SIGTERM" else 1.0
        children = sorted(one.group - {one.process.pid})
        one.live_on()
        if drawn < 0.35 and children:
            one.killed_by = "SIGKILL of a child"
            self._send(one.chance.choice(children), signal.SIGKILL)
        elif drawn < 0.55:
            one.killed_by = "SIGTERM"
            one.ends_at = time.monotonic() + SECONDS_TO_STOP
            self._send(one.process.pid, signal.SIGTERM)
        elif drawn < 0.8:
            one.killed_by = "SIGKILL"
            self._send(one.process.pid, signal.SIGKILL)
        else:
            one.killed_by = "SIGKILL of all"
            self.kills += 1
            with suppress(ProcessLookupError):
                os.killpg(one.process.pid, signal.SIGKILL)

    def _send(self, process: int, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(process, number)
            self.kills += 1

    def _bury(self, one: Launch, codes: tuple[int, ...] = CODES_WITH_A_BAD_STORE) -> None:
        one.process.wait()
        self.died_at[one.process.pid] = time.time()
        self.living.remove(one)
        said = one.log.read_text(errors="replace")
        code = one.process.returncode
        if one.killed_by == "SIGTERM":
            codes = (*codes, -signal.SIGTERM)  # as Python starts and ends it answers no signal
        if code not in codes and "SIGKILL" not in one.killed_by:
            self.complaints.append(f"{_told(one)} ended with {code}: {said[-500:]}")
        if "Traceback (most recent call last)" in said:
            self.complaints.append(f"{_told(one)} showed a traceback: {said[-1500:]}")

    def wait_for_orphans(self) -> None:
        """Every process of a killed command must end by itself."""
        deadline = time.monotonic() + SECONDS_TO_VANISH
        while left := set().union(*map(_session, self.sessions)):
            if time.monotonic() > deadline:
                self.complaints.append(f"{len(left)} processes outlived their parents")
                for process in left:
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
                return
            time.sleep(0.1)

    def end_all(self) -> None:
        """Kills what still runs; what is done when the drill itself is stopped."""
        for session in self.sessions:
            for process in _session(session):
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)


def _told(one: Launch) -> str:
    return f"launch {one.number} ({' '.join(one.command)[:60]}, {one.killed_by or 'not killed'})"


def _session(leader: int) -> set[int]:
    """The living processes of a session; zombies do not count."""
    found: set[int] = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError, ValueError):
            fields = entry.read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader and fields[0] not in "ZX":
                found.add(int(entry.parent.name))
    return found
