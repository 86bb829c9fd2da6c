"""Faults that are planted in the command line, to see that the fuzz harness finds each.

`python -m tests.faults.planted` prints a JSON line for each: its name, and the kinds of fault that
the harness saw.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from tests.faults.fuzz.cases import Case
from tests.faults.fuzz.forking import prepare_to_fork


def raises() -> None:
    raise KeyError("planted")


def says_unexpected() -> None:
    sys.stderr.write("unexpected KeyError\n")
    sys.exit(1)


def hangs_idle() -> None:
    time.sleep(1000)


def hangs_busy() -> None:
    while True:
        pass


def eats_memory() -> None:
    held = [b"x" * (64 << 20) for _ in range(100)]
    time.sleep(len(held))


def ends_by_a_signal() -> None:
    os.abort()


def writes_outside() -> None:
    Path("../neighbour.txt").write_text("x")


def writes_far_outside() -> None:
    with suppress(OSError):
        Path("/nowhere/at/all").write_text("x")


def changes_its_input() -> None:
    Path("input.txt").write_text("changed")


def executes() -> None:
    with suppress(OSError):
        subprocess.run(["gs", "-v"], check=False)


def connects() -> None:
    with socket.socket() as one, suppress(OSError):
        one.settimeout(0.01)
        one.connect(("192.0.2.1", 80))  # an address of nobody, kept for documentation


def prints_escapes() -> None:
    sys.stdout.write("\x1b[31mred\n")


def prints_much() -> None:
    sys.stdout.write("word word\n" * 3000)


def prints_a_long_line() -> None:
    sys.stdout.write("x" * 3000)


def tells_a_password() -> None:
    sys.stdout.write("s3://user:hunter2@bucket\n")


def loses_items() -> None:
    sys.stdout.write("Planned 2 items in 1 shard; 1 cannot be rendered.\n")


def refuses_all_for_one() -> None:
    sys.exit(2)


def is_sound() -> None:
    sys.stdout.write("Planned 3 items in 1 shard; 1 cannot be rendered.\n")


PLANNING = (loses_items, refuses_all_for_one, is_sound)
"""Those whose input has two sound items, which must be planned."""

PLANTED = (
    *(raises, says_unexpected, hangs_idle, hangs_busy, eats_memory, ends_by_a_signal),
    *(writes_outside, writes_far_outside, changes_its_input, executes, connects, prints_escapes),
    *(
        prints_much,
        prints_a_long_line,
        tells_a_password,
        loses_items,
        refuses_all_for_one,
        is_sound,
    ),
)


def _planted(fault: Callable[[], None], draw: random.Random, folder: Path) -> Case:
    """A maker whose process has a command line with that fault."""
    from flows import cli

    (folder / "input.txt").write_text("an input")
    cli.main = fault
    sound = 2 if fault in PLANNING else 0
    return Case(told=fault.__name__, command=("run", "job.yaml", "--dry-run"), sound=sound)


def main() -> None:
    """Runs every planted fault, with limits that are soon reached."""
    prepare_to_fork()
    from tests.faults.fuzz.runner import Harness, Limits, temporary_folder

    limits = Limits(cpu_seconds=2, idle_seconds=2.0, growth=512 << 20)
    with temporary_folder() as folder:
        harness = Harness(Path(folder).resolve(), limits)
        for number, fault in enumerate(PLANTED):
            make = partial(_planted, fault)
            started = harness.start(number, fault.__name__, make, random.Random(number))
            kinds = sorted({one.kind for one in harness.finding(started).faults})
            sys.stdout.write(f"{json.dumps([fault.__name__, kinds])}\n")
            harness.forget(number)


if __name__ == "__main__":
    main()
