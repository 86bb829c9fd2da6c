"""Runs one command until standard input closes, then ends it with all that it started.

Whoever starts a service holds the other end of that pipe, so that the service ends however its
starter does, SIGKILL included. What the command's own children left behind, in whatever session,
is adopted and ended too.

    python leash.py [--uid N --gid N] [--signal NAME] COMMAND...
"""

from __future__ import annotations

import argparse
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
SECONDS_TO_END = 3.0


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--uid", type=int, help="run as this user")
    parser.add_argument("--gid", type=int, help="and this group")
    parser.add_argument("--signal", default="SIGTERM", help="asks the command to end")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the starter ends the service, when it wants to
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    process = subprocess.Popen(
        asked.command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        user=asked.uid,
        group=asked.gid,
        extra_groups=None if asked.uid is None else [],
    )
    while process.poll() is None and not select.select([sys.stdin], [], [], 0.2)[0]:
        pass
    code = process.poll()
    if code is None:
        process.send_signal(signal.Signals[asked.signal])
        with suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS_TO_END)
    _end_descendants()
    return 0 if code is None else code


def _end_descendants() -> None:
    """Kills until nobody is left; each round also reaps what earlier ones have ended."""
    while left := _descendants(os.getpid()):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        time.sleep(0.02)


def _descendants(pid: int) -> set[int]:
    children: dict[int, set[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            words = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(words[1]), set()).add(int(stat.parent.name))
    found, new = set[int](), {pid}
    while new := set().union(*(children.get(one, set()) for one in new)) - found:
        found |= new
    return found


if __name__ == "__main__":
    sys.exit(main())
