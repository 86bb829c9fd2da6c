"""The runbook is held to the code: its commands are run in the state that each section is about."""

from __future__ import annotations

import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks.runs.faults import DeviceFault, ScratchFull
from tests.bad_images import write_truncated_jpeg
from tests.conftest import write_pictures
from tests.fault_proxy import Fault, FaultProxy
from tests.flows.conftest import Stylefarm
from tests.flows.jobs import write_job
from tests.s3_server import S3Server
from tests.tasks.runs import prepare, work_here
from tests.tasks.test_overview import ended_worker, pending_of, put_attempt
from tests.tasks.test_worker import Scripted, raises, work_with

RUNBOOK = (Path(__file__).parents[2] / "infra" / "RUNBOOK.md").read_text()

NUMBER = re.compile(r"[0-9]+(?:[.,:][0-9]+)*")


@dataclass(frozen=True)
class Command:
    """A command of the runbook, and what it is said to print; a line "…" stands for any lines."""

    line: str
    printed: tuple[str, ...]


def sections() -> dict[str, str]:
    """The text of each section, by its heading."""
    _, *parts = re.split(r"^## ", RUNBOOK, flags=re.MULTILINE)
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}


def commands(text: str) -> Iterator[Command]:
    """The commands of a section's console blocks, in order."""
    for block in re.findall(r"^ *```console\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE):
        line, printed = "", list[str]()
        for row in map(str.strip, block.splitlines()):
            if row.startswith("$ "):
                if line:
                    yield Command(line, tuple(printed))
                line, printed = row[2:], []
            else:
                printed.append(row)
        yield Command(line, tuple(printed))


def pattern_of(printed: tuple[str, ...]) -> re.Pattern[str]:
    """What folded output must look like: numbers may differ, and "…" is anything."""
    words = " ".join(" ".join(printed).split())
    pieces = [NUMBER.sub("#", piece.strip()) for piece in words.split("…")]
    return re.compile(".*".join(map(re.escape, pieces)), re.DOTALL)


def as_shown(printed: str, folder: Path) -> str:
    """Output in the words of the runbook, folded."""
    told = printed.replace(str(folder), "/srv/farm").replace(socket.gethostname(), "studio-7")
    return NUMBER.sub("#", " ".join(told.split()))


def planned(folder: Path, *, shard_items: int = 2, uri: str = "runs/first") -> Path:
    write_pictures(folder)
    compute = {"shard_items": shard_items, "batch_size": 2, "device": "cpu"}
    return write_job(folder, output={"uri": uri, "size": 64}, compute=compute)


def stands_still(folder: Path, stylefarm: Stylefarm) -> None:
    stylefarm("plan", planned(folder, shard_items=1))
    stylefarm("work", "runs/first", "--max-shards", "1")
    uri = str(folder / "runs" / "first")
    put_attempt(uri, pending_of(uri)[0], worker=ended_worker())


def full_disk(folder: Path, stylefarm: Stylefarm) -> None:
    stylefarm("run", planned(folder))


def failed_night(folder: Path, stylefarm: Stylefarm) -> None:
    job = planned(folder, uri="runs/nightly")
    (folder / "content" / "c.png").unlink()
    write_truncated_jpeg(folder / "content")
    assert stylefarm("run", job).code == 3


def is_replaced(folder: Path) -> None:
    """Somebody replaces the picture that could not be read."""
    shutil.copy(folder / "content" / "a.png", folder / "content" / "truncated.jpg")


def without_workers(folder: Path, stylefarm: Stylefarm) -> None:
    stylefarm("plan", planned(folder))


def half_done(folder: Path, stylefarm: Stylefarm) -> None:
    stylefarm("plan", planned(folder))
    stylefarm("work", "runs/first", "--max-shards", "1")


def damaged(folder: Path, stylefarm: Stylefarm) -> None:
    stylefarm("run", planned(folder))
    min((folder / "runs" / "first" / "data").glob("*.tar")).unlink()


STATES: dict[str, Callable[[Path, Stylefarm], None]] = {
    "A run stands still": stands_still,
    "A disk is full": full_disk,
    "A night fails": failed_night,
    "Add a machine": without_workers,
    "Upgrade in the middle of a run": half_done,
    "Something of a run is lost": damaged,
    "Throw a run away": half_done,
}

MEANWHILE: dict[str, Callable[[Path], None]] = {"stylefarm extend job.yaml": is_replaced}
"""What somebody does by hand just before a command."""


def test_every_section_with_commands_is_tried():
    assert set(STATES) == {name for name, text in sections().items() if list(commands(text))}


@pytest.mark.slow
@pytest.mark.parametrize("section", STATES)
def test_its_commands_print_what_the_runbook_says(
    section: str, tmp_path: Path, stylefarm: Stylefarm
):
    STATES[section](tmp_path, stylefarm)
    for command in commands(sections()[section]):
        MEANWHILE.get(command.line, lambda folder: None)(tmp_path)
        program, *arguments = shlex.split(command.line)
        if program != "stylefarm":
            subprocess.run([program, *arguments], cwd=tmp_path, check=True)
            continue
        answer = stylefarm(*arguments)
        told = as_shown(f"{answer.out} {answer.err}", tmp_path)
        said = " ".join(" ".join(command.printed).split())
        assert pattern_of(command.printed).search(told), f"{command.line}\n{said}\n{told}"
    left = tmp_path / "runs" / "first"
    assert not left.exists() if section == "Throw a run away" else left.parent.exists()


def quoted(section: str) -> list[str]:
    """The lines that a section quotes of a worker's words."""
    (block,) = re.findall(r"^```text\n(.*?)^```$", sections()[section], re.DOTALL | re.MULTILINE)
    return block.splitlines()


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [f"{record.levelname} {record.getMessage()}" for record in caplog.records]


def test_a_lost_device_is_told_as_the_runbook_says(
    caplog: pytest.LogCaptureFixture, pictures: Path
):
    fault = DeviceFault("the device failed: CUDA error: unspecified launch failure")
    with pytest.raises(DeviceFault):
        work_with(prepare(pictures), Scripted(*[raises(fault)] * 3))
    put_off, failed, ended = quoted("A GPU dies")
    assert {put_off, failed} <= set(logged(caplog))
    assert ended == f"WARNING the worker on cuda:1 has ended: {fault}"  # tests/flows/test_crew.py


@pytest.mark.s3
def test_a_store_that_throttles_is_told_as_the_runbook_says(
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    pictures: Path,
    s3_server: S3Server,
    s3_bucket: str,
):
    run = prepare(pictures, output__uri=f"s3://{s3_bucket}/run", limits={"max_items": 2})
    with FaultProxy(s3_server.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        proxy.faults = [Fault("slowdown", method="PUT", path="/data/", first=1)]
        assert work_here(run.uri).num_committed == 1
    (line,) = quoted("The store throttles, or is away")
    assert any(pattern_of((line,)).search(NUMBER.sub("#", one)) for one in logged(caplog)), line


def test_a_full_disk_is_told_as_the_runbook_says():
    (line,) = quoted("A disk is full")
    assert str(ScratchFull("x")) == f"x: {line}"
