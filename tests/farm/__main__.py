"""A whole studio on this machine for two ticks of a schedule: `make farm`.

A store, a Prefect server on PostgreSQL, two machines, a deployment with a schedule, pictures in a
bucket, one of them late. It looks at what came of it, tells the addresses, and takes everything
down again, however it ends. HOLD=1 leaves it up until Ctrl-C.

    python -m tests.farm [--hold] [--folder runs/farm]
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import os
import shutil
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from tests.farm import checks, nights
from tests.farm.studio import MACHINES, Studio, machines, studio
from tests.postgres_server import why_no_postgres
from tests.s3_server import why_no_server

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PR_SET_PDEATHSIG = 1
STARTED = time.monotonic()


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--hold", action="store_true", help="stay up until Ctrl-C")
    parser.add_argument("--folder", type=Path, default=Path("runs/farm"))
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    if reason := why_no_server() or why_no_postgres() or _take(folder):
        _say(reason)
        return 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # where `make` is killed
    for number in ENDING:
        signal.signal(number, _end)
    _say(f"logs: {folder / 'logs'}")
    try:
        with ExitStack() as stack:
            try:
                made = stack.enter_context(studio(folder, _say))
                _two_nights(made, stack)
                _say("everything is as it should be")
                if asked.hold:
                    _hold(made)
                _say("all services end; HOLD=1 leaves them up")
            except (RuntimeError, AssertionError, OSError) as error:
                _say(f"FAILED: {error}\nall logs: {folder / 'logs'}")
                return 1
        return 0
    except KeyboardInterrupt:
        return 130


def _take(folder: Path) -> str | None:
    """Takes a folder for this process until it ends, and empties it; or says why it may not."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return f"another farm runs in {folder}: wait for its end, or give another with --folder"
    found = list(folder.iterdir())
    if found and folder / "logs" not in found:
        return f"{folder} holds what no farm has left there: give another with --folder"
    for one in found:
        if one.is_dir():
            shutil.rmtree(one, ignore_errors=True)
        else:
            one.unlink()
    return None


def _two_nights(made: Studio, stack: ExitStack) -> None:
    nights.put_pictures(made, "photos", nights.PHOTOS)
    nights.put_pictures(made, "paintings", nights.PAINTINGS)
    _say(f"inputs: s3://{made.bucket}/photos/ and /paintings/; run folder: {made.run_uri}")
    _say(nights.deploy(made, nights.write_job(made)).strip())
    stack.enter_context(machines(made, _say))
    ports = " and ".join(str(made.metrics_port + number) for number in range(len(MACHINES)))
    _say(f"workers' figures while they work: http://127.0.0.1:PORT/metrics, ports {ports}")
    _say("the schedule fires at each full minute")
    first = nights.wait_for_night(made, _say)
    before = checks.first_night(made, _say)

    nights.put_pictures(made, "photos", [nights.LATE])
    _say(f"a late file: s3://{made.bucket}/photos/{nights.LATE}.jpg")
    second = nights.wait_for_night(made, _say)
    checks.second_night(made, before, _say)
    checks.both_machines_worked(made, first + second, _say)
    checks.prefect_is_on_postgresql(made, first + second, _say)
    checks.report_is_fetched(made, second, _say)


def _hold(made: Studio) -> None:
    _say(f"look around, Ctrl-C ends it: . {made.folder / 'environment.sh'}")
    _say(f"  stylefarm status {made.run_uri}; Prefect: {made.pages}")
    while True:
        made.check()
        time.sleep(1)


def _end(number: int, _: FrameType | None) -> None:
    """The first signal ends everything in order; more of them change nothing."""
    for one in ENDING:
        signal.signal(one, signal.SIG_IGN)
    _say("interrupted; everything ends, which takes some seconds")
    raise KeyboardInterrupt


def _say(text: str) -> None:
    indented = text.replace("\n", "\n         ")
    sys.stdout.write(f"{time.monotonic() - STARTED:5.0f} s  {indented}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
