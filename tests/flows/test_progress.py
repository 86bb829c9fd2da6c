"""How far a run is said to be, and where it is said."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from flows.bars import progress_shown
from flows.logs import configure_logging
from flows.progress import PictureProgress, RunProgress
from flows.terminal import Terminal
from manifests.commits import Counts
from tasks.work.events import Committed, CommittedElsewhere, ItemDone, Phase, Progress

SHARDS = {"00000": 4, "00001": 4, "00002": 2}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def committed(worker: str, shard: str) -> Committed:
    counts = Counts(planned=SHARDS[shard], ok=SHARDS[shard])
    return Committed(worker=worker, shard=shard, counts=counts, seconds=1.0)


def test_progress_moves_within_an_item_and_never_beyond_the_shard():
    progress = RunProgress(SHARDS)
    progress.tell(Phase(worker="a", name="rendering", shard="00000"))
    seen = [progress.read().done]
    for _ in range(30):  # retries render an item more than once
        progress.tell(Progress(worker="a", items=0.2))
        seen.append(progress.read().done)
    assert seen == sorted(seen)
    assert seen[1] == pytest.approx(0.2)
    assert seen[-1] == 4
    progress.tell(committed("a", "00000"))
    assert progress.read().done == 4


def test_items_that_fail_without_a_step_count_as_done():
    progress = RunProgress(SHARDS)
    progress.tell(Phase(worker="a", name="rendering", shard="00002"))
    progress.tell(ItemDone(worker="a", key="x", error_class="decode"))
    assert progress.read().done == 1
    assert "1 failed" in progress.read().figures


def test_shards_that_were_committed_before_or_elsewhere_count_once():
    progress = RunProgress(SHARDS, ["00000"])
    progress.tell(CommittedElsewhere(worker="a", shard="00001"))
    progress.tell(CommittedElsewhere(worker="b", shard="00001"))
    progress.tell(CommittedElsewhere(worker="b", shard="00000"))
    assert progress.read().done == 8
    assert progress.read().figures == "8/10 items · 2/3 shards"
    assert progress.num_shards_left == 1


def test_two_workers_on_the_same_shard_do_not_count_it_twice():
    progress = RunProgress(SHARDS)
    for worker in "ab":
        progress.tell(Phase(worker=worker, name="rendering", shard="00002"))
        progress.tell(Progress(worker=worker, items=2.0))
    assert progress.read().done == 2


PHASES: dict[str, tuple[list[str], str]] = {
    "nobody yet": ([], "starting workers"),
    "alone": (["loading"], "loading"),
    "alike": (["rendering", "rendering"], "rendering"),
    "at the end": (["waiting"], "waiting for other workers"),
    "differing": (["loading", "rendering", "rendering"], "2 rendering, 1 loading"),
}


@pytest.mark.parametrize("case", PHASES)
def test_the_phase_is_what_the_workers_do(case: str):
    names, shown = PHASES[case]
    progress = RunProgress(SHARDS)
    for number, name in enumerate(names):
        progress.tell(Phase(worker=str(number), name=name))
    assert progress.read().phase == shown
    progress.publish()
    assert progress.read().phase == "publishing"


def test_the_time_left_follows_from_what_was_done_since_the_first_step():
    clock = Clock()
    progress = RunProgress(SHARDS, ["00000"], clock)
    assert progress.read().seconds_left is None
    clock.now = 100.0  # loading
    progress.tell(Phase(worker="a", name="rendering", shard="00001"))
    progress.tell(Progress(worker="a", items=0.0))
    clock.now = 120.0
    progress.tell(Progress(worker="a", items=2.0))
    assert progress.read().seconds_left == pytest.approx(40.0)
    assert progress.read().eta == "0:00:40"


def test_workers_may_tell_at_the_same_time():
    progress = RunProgress({"00000": 8000})
    progress.tell(Phase(worker="a", name="rendering", shard="00000"))

    def tell() -> None:
        for _ in range(1000):
            progress.tell(ItemDone(worker="a", key="x"))

    threads = [threading.Thread(target=tell) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert progress.read().done == 8000


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], tuple[Terminal, io.StringIO]]:
    """A terminal, or a file in its place, and what reaches it."""

    def make(is_terminal: bool) -> tuple[Terminal, io.StringIO]:
        terminal, file = Terminal(), io.StringIO()
        monkeypatch.setattr(terminal.console, "_force_terminal", is_terminal)
        monkeypatch.setattr(terminal.console, "_file", file)
        return terminal, file

    return make


def test_without_a_terminal_lines_have_a_time_and_the_time_left(printed: Any):
    terminal, file = printed(False)
    configure_logging(terminal)
    progress = RunProgress(SHARDS)
    with progress_shown(terminal, progress):
        for shard in SHARDS:
            progress.tell(Phase(worker="a", name="rendering", shard=shard))
            progress.tell(committed("a", shard))
    lines = file.getvalue().splitlines()
    assert 1 <= len(lines) < 5
    for line in lines:
        assert line[:4].isdecimal()
        assert "ETA" in line
    assert "10/10 items · 3/3 shards" in lines[-1]


def test_one_picture_tells_its_loading_and_its_steps(printed: Any):
    terminal, file = printed(False)
    configure_logging(terminal)
    progress = PictureProgress()
    assert progress.read().phase == "loading"
    with progress_shown(terminal, progress):
        progress.begin()
        for _ in range(3):
            progress.step(1, 3)
    assert "rendering: 3/3 steps · ETA 0:00:00" in file.getvalue()


@pytest.mark.parametrize(
    ("is_terminal", "verbosity", "levels"),
    [(True, 0, "W"), (True, 1, "IW"), (True, 2, "DIW"), (False, 0, "IW"), (False, 1, "DIW")],
)
def test_a_terminal_is_quiet_unless_it_is_asked_for_more(
    printed: Any, is_terminal: bool, verbosity: int, levels: str
):
    terminal, file = printed(is_terminal)
    configure_logging(terminal, verbosity)
    logger = logging.getLogger("tasks.anything")
    logger.debug("D\x1b[31m")
    logger.info("I")
    logger.warning("W")
    logging.getLogger("somebody.else").warning("E")
    told = [line.split(" ", 4) for line in file.getvalue().splitlines()]
    assert "".join(words[-1][0] for words in told) == levels
