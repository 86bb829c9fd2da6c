"""A service ends with whoever started it, with all that it started itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import command_environment
from tests.farm.service import ServiceFailed, service
from tests.flows.running import living, wait_until

STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
if sys.argv[1] == "parent":
    subprocess.run([sys.executable, __file__, "middle"])
elif sys.argv[1] == "middle":
    subprocess.Popen([sys.executable, __file__, "orphan"], start_new_session=True)
    sys.exit()
time.sleep(600)
"""
"""Listens to no SIGTERM, and leaves an orphan in a session of its own."""

STARTER = """
import sys, time
from pathlib import Path
from tests.farm.service import service

with service("stubborn", [sys.executable, sys.argv[1], "parent"], Path(sys.argv[2])):
    time.sleep(600)
"""


@pytest.fixture
def stubborn(tmp_path: Path) -> Path:
    program = tmp_path / "stubborn.py"
    program.write_text(STUBBORN)
    return program


def test_a_service_ends_with_all_that_it_started_when_its_starter_is_killed(
    stubborn: Path, tmp_path: Path
):
    log = tmp_path / "log"
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(stubborn), str(log)], env=command_environment()
    )
    wait_until(lambda: log.exists() and log.read_text().count("\n") == 3)
    parent, _, orphan = (int(word) for word in log.read_text().split())
    assert living(parent)
    assert living(orphan)
    os.kill(starter.pid, signal.SIGKILL)
    starter.wait()
    wait_until(lambda: not living(parent) and not living(orphan))


def test_a_service_that_ends_too_early_is_told_with_its_last_words(tmp_path: Path):
    command = [sys.executable, "-c", "print('no room on this disk'); raise SystemExit(3)"]
    with service("the store", command, tmp_path / "log") as store:
        store.process.wait()
        with pytest.raises(ServiceFailed, match=r"the store has ended with 3(?s:.*)no room"):
            store.check()
