"""A rendering process: what it tells, how it dies, and that it never outlives its parent."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ad_lib.errors import BackboneError
from tasks.inputs.weights import check_model, find_model
from tasks.runs.faults import ChildDied, ChildHung, FreshDeviceNeeded, Stopped, WorkerFault
from tasks.work.child import ChildProcess, InThisProcess, check_in_child
from tasks.work.fork_server import ForkServer, rendering_fork_server
from tests.conftest import TINY_BACKBONE
from tests.tasks.shards import Told, item_id, planted, without

PLANTED = Path(__file__).parents[1] / "faults" / "planted_renderers"


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    """A fork server whose children render nothing, and harm themselves where a picture says so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "PYTHONPATH", os.pathsep.join([str(PLANTED), os.environ.get("PYTHONPATH", "")])
        )
        patch.setenv("STYLEFARM_PLANTED_NOTHING", "1")
        patch.setenv("STYLEFARM_PLANTED_SECONDS", "0.01")
        server = rendering_fork_server()
    yield server
    server.close()


@pytest.fixture
def child(server: ForkServer) -> Iterator[ChildProcess]:
    with ChildProcess(1, server) as child:
        yield child


def test_a_shard_is_rendered_as_in_this_process(tmp_path, child):
    work = planted(tmp_path)
    ready = Told()
    child.render(replace(work, items=()), ready, hang_seconds=60)
    assert ready.phases == ["loading", "rendering"]
    assert ready.begun == []
    told = Told()
    child.render(work, told, hang_seconds=60)
    assert {name for names, _ in told.begun for name in names} == told.outcomes.keys()
    assert {outcome.item for outcome in told.outcomes.values()} == set(work.items)
    assert told.items == pytest.approx(3)
    assert told.phases == ["rendering"], "the model stays warm"
    assert told.load_seconds == 0
    assert max(told.peaks) > 50 << 20, "torch alone takes more"
    assert len(list(work.scratch.iterdir())) == 3


@pytest.mark.parametrize(
    ("fault", "number", "code"),
    [("segfault", signal.SIGSEGV, None), ("exit", None, 3), ("c_loop", None, None)],
)
def test_a_process_that_ends_or_hangs_takes_only_what_it_had_in_hand(
    tmp_path, child, fault, number, code
):
    work, told = planted(tmp_path, fault, num_sound=6), Told()
    with pytest.raises(ChildDied if number or code else ChildHung) as raised:
        child.render(work, told, hang_seconds=1)
    if isinstance(raised.value, ChildDied):
        assert (raised.value.signal, raised.value.exit_code) == (number, code)
    assert item_id(work, fault) in told.in_hand
    again = Told()
    with pytest.raises((ChildDied, ChildHung)):
        child.render(without(work, told, item_id(work, fault)), again, hang_seconds=1)
    assert again.in_hand == {item_id(work, fault)}
    assert again.begun == [((item_id(work, fault),), True)]
    rest = without(work, told)
    healthy = tuple(item for item in rest.items if item.item_id != item_id(work, fault))
    child.render(replace(rest, items=healthy), again, hang_seconds=60)
    assert len(told.outcomes) + len(again.outcomes) == 6


def test_an_exception_of_any_type_anywhere_is_that_items_row(tmp_path, child):
    faults = ("exception", "system_exit", "decode", "measure", "encode")
    work, told = planted(tmp_path, *faults), Told()
    child.render(work, told, hang_seconds=60)
    found = {
        outcome.item.key.split("-style")[0]: outcome.problem for outcome in told.outcomes.values()
    }
    crashed = {key for key, problem in found.items() if problem}
    assert len(crashed) == len(faults)
    assert {problem.error_class for problem in found.values() if problem} == {"crash"}


def test_out_of_memory_is_an_items_own_fault_only_alone_on_a_fresh_device(tmp_path, child):
    work, told = planted(tmp_path, "memory"), Told()
    starved = item_id(work, "memory")
    with pytest.raises(FreshDeviceNeeded) as raised:
        child.render(work, told, hang_seconds=60)
    assert raised.value.item_ids == (starved,)
    assert len(told.outcomes) == 3
    child.render(without(work, told, starved), told, hang_seconds=60)
    assert told.phases.count("loading") == 2
    assert told.outcomes[starved].problem.error_class == "oom"


def test_nothing_is_decoded_before_the_parent_has_noted_it(tmp_path, child):
    work = planted(tmp_path)
    missing: list[int] = []

    def on_begin() -> None:
        time.sleep(0.1)
        missing.append(len(list(work.scratch.iterdir())))

    told = Told(on_begin)
    child.render(replace(work, batch_size=10), told, hang_seconds=60)
    assert missing == [0]


def test_who_asks_to_stop_is_answered_at_a_step(tmp_path, child):
    work = planted(tmp_path)
    told = Told()
    told.on_begin = told.stopping.set
    with pytest.raises(Stopped):
        child.render(work, told, hang_seconds=60)
    child.render(work, Told(), hang_seconds=60)


def test_closing_from_another_thread_stops_what_hangs(tmp_path, child):
    work, told = planted(tmp_path, "hang", num_sound=1), Told()
    told.on_begin = threading.Timer(0.5, child.close).start
    with pytest.raises(Stopped):
        child.render(work, told, hang_seconds=600)


def test_a_model_that_a_child_checks_is_refused_with_the_same_sentence(tmp_path, server):
    check_in_child(server, find_model(str(TINY_BACKBONE)))
    folder = Path(shutil.copytree(TINY_BACKBONE, tmp_path / "model"))
    config = folder / "unet" / "config.json"
    wider = {**json.loads(config.read_text()), "cross_attention_dim": 48}
    config.write_text(json.dumps(wider))
    broken = find_model(str(folder))
    with pytest.raises(BackboneError) as here:
        check_model(broken)
    with pytest.raises(BackboneError) as there:
        check_in_child(server, broken)
    assert str(there.value) == str(here.value)


def test_a_process_that_dies_while_it_checks_a_model_is_a_fault_of_the_machine():
    with (
        ForkServer(["no_such_module"]) as server,
        pytest.raises(WorkerFault, match="no_such_module"),
    ):
        check_in_child(server, find_model(str(TINY_BACKBONE)))


PARENT = """
import pickle, sys, threading
sys.path[:0] = sys.argv[2:]
from tasks.work.child import ChildProcess
class Watch:
    def __getattr__(self, name):
        return lambda *told, **more: print(name, flush=True) if name == "begin" else None
work = pickle.loads(open(sys.argv[1], "rb").read())
render = lambda: ChildProcess().render(work, Watch(), hang_seconds=600)
threading.Thread(target=render).start()
"""


def _descendants(pid: int) -> list[int]:
    lines = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    pairs = [tuple(map(int, line.split())) for line in lines.stdout.splitlines()]
    found, level = [], [pid]
    while level:
        level = [child for child, parent in pairs if parent in level]
        found += level
    return found


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere an endless C call outlives its parent"
)
def test_no_process_outlives_a_killed_parent_even_inside_an_endless_call(tmp_path):
    import pickle

    work = planted(tmp_path / "run", "c_loop", num_sound=0)
    (tmp_path / "work").write_bytes(pickle.dumps(work))
    path = os.pathsep.join([str(PLANTED), os.environ.get("PYTHONPATH", "")])
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "work"), *sys.path],
        env={**os.environ, "PYTHONPATH": path, "STYLEFARM_PLANTED_NOTHING": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout.readline() == "begin\n"
        time.sleep(0.5)
        family = _descendants(parent.pid)
        assert len(family) == 2, "a fork server and a child"
        parent.kill()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in family):
        assert time.monotonic() < deadline, "a process outlives its parent"
        time.sleep(0.1)


def test_in_this_process_it_renders_the_same_way(tmp_path):
    work, told = planted(tmp_path, num_sound=1), Told()
    InThisProcess().render(work, told, hang_seconds=1)
    assert [outcome.problem for outcome in told.outcomes.values()] == [None]
