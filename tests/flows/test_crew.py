"""Whose end ends whom among the workers of one process; faults that no CPU has are acted."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from flows import crew as crews
from flows.crew import Crew, LocalCrew
from flows.stopping import Stopping
from manifests.job import Compute
from tasks.runs.faults import BreakerTripped, DeviceFault, SourcesGone, StoreTrouble, WorkerFault
from tasks.work.fork_server import ForkServer
from tasks.work.worker import Worked

DEVICES = ("cuda:0", "cuda:1")

PATIENCE_SECONDS = 60.0
"""Until a worker that is not told to stop gives up."""


def until_stopped(should_stop: Callable[[], bool], **_: Any) -> Worked:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not should_stop():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return Worked(num_committed=0, num_lost=0, stopped=True)


def finishing(**_: Any) -> Worked:
    return Worked(num_committed=1, num_lost=0, stopped=False)


def raising(error: Exception) -> Callable[..., Worked]:
    def work(**_: Any) -> Worked:
        raise error

    return work


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Crew]:
    """A crew of two, whose workers do what they are told to by device."""

    def make(first: Callable[..., Worked], second: Callable[..., Worked]) -> Crew:
        acted = dict(zip(DEVICES, (first, second), strict=True))
        monkeypatch.setattr(crews, "work", lambda uri, *, device, **rest: acted[device](**rest))
        return LocalCrew("run", DEVICES, Compute(), server=server, stopping=Stopping())

    with ForkServer([]) as server:
        yield make


def test_a_worker_whose_device_fails_ends_alone(crew: Callable[..., Crew]):
    with crew(raising(DeviceFault("cuda:0 is lost")), finishing) as working:
        assert working.wait() is False
        assert working.num_committed == 1


def test_where_every_worker_has_failed_each_fault_is_told_once(crew: Callable[..., Crew]):
    full = WorkerFault("the scratch disk is full")
    with crew(raising(full), raising(WorkerFault(str(full)))) as working:
        with pytest.raises(WorkerFault) as told:
            working.wait()
        assert str(told.value) == "the scratch disk is full"


@pytest.mark.parametrize("error", [StoreTrouble, SourcesGone, BreakerTripped, ValueError])
def test_what_concerns_the_run_ends_every_worker(crew: Callable[..., Crew], error: type[Exception]):
    with crew(raising(error("for all")), until_stopped) as working:
        with pytest.raises(error, match="for all"):
            working.wait()
        assert not working.is_working()


def test_a_block_that_is_left_stops_its_workers(crew: Callable[..., Crew]):
    with pytest.raises(KeyError), crew(until_stopped, until_stopped) as working:
        raise KeyError
    assert not working.is_working()


@pytest.mark.parametrize(
    ("devices", "num_threads"),
    [(["cpu"], None), (["cpu"] * 2, 3), (["cpu"] * 4, 1), (["cpu"] * 9, 1), (["cuda:0"] * 2, None)],
)
def test_workers_on_a_cpu_divide_its_cores(
    devices: list[str], num_threads: int | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert crews.threads_of_each(devices) == num_threads
