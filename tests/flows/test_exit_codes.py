"""The one table of exit codes: the commands end with them, and the README has the same."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

import flows.presets
from flows.cli import app
from flows.exit_codes import ExitCode, explained
from manifests.errors import FingerprintMismatch, JobError
from tasks.runs.faults import (
    BreakerTripped,
    BudgetSpent,
    SourcesGone,
    Stopped,
    StoreTrouble,
    WorkerFault,
)
from tests.flows.conftest import Finished, Stylefarm
from tests.flows.jobs import write_job
from tests.flows.test_readme import README
from tests.tasks.test_worker import Act, Scripted, fails, raises

COMMANDS = typer.main.get_command(app)
assert isinstance(COMMANDS, TyperGroup)


def test_the_readme_has_every_code_and_no_other():
    table = README.partition("## Exit codes")[2].partition("\n\nCtrl-C")[0]
    told = {int(code) for code in re.findall(r"^\| ([0-9]+) \|", table, re.MULTILINE)}
    assert told == {code.value for code in ExitCode}


def test_the_help_has_every_code_and_the_table_names_only_commands(stylefarm: Stylefarm):
    told = stylefarm("--help").out
    for code in ExitCode:
        assert f"{code.value} {code.meaning}" in told
        assert set(code.verbs) <= set(COMMANDS.commands)


ERRORS: list[tuple[Exception, ExitCode]] = [
    (JobError("x"), ExitCode.UNUSABLE),
    (SourcesGone("x"), ExitCode.UNUSABLE),
    (OSError("x"), ExitCode.UNUSABLE),
    (MemoryError(), ExitCode.UNUSABLE),
    (WorkerFault("x"), ExitCode.INCOMPLETE),
    (StoreTrouble("x"), ExitCode.INCOMPLETE),
    (Stopped("x"), ExitCode.INCOMPLETE),
    (FingerprintMismatch("x", []), ExitCode.OTHER_JOB),
    (BreakerTripped("x"), ExitCode.ENDED_EARLY),
    (BudgetSpent("x"), ExitCode.ENDED_EARLY),
    (LookupError("x"), ExitCode.BUG),
]


@pytest.mark.parametrize(("error", "code"), ERRORS)
def test_each_kind_of_error_has_its_exit_code(error: Exception, code: ExitCode):
    assert explained(error)[1] is code


def test_what_ended_a_command_names_no_secret_of_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:hunter2-hunter2@host")
    for error in (OSError("b'user:hunter2-hunter2'"), LookupError("http://user:pw@host")):
        assert "***" in explained(error)[0]
        assert "hunter2" not in explained(error)[0]
        assert "pw" not in explained(error)[0]


@pytest.mark.usefixtures("no_fork_server")
def test_commands_end_with_the_codes_of_a_finished_run(stylefarm: Stylefarm, finished: Finished):
    allowing = ("--set", "limits.max_failed=2")
    assert stylefarm("status", finished.run).code == ExitCode.COMPLETE
    assert stylefarm("run", finished.job, *allowing).code == ExitCode.COMPLETE
    assert stylefarm("run", finished.job).code == ExitCode.FAILED_ITEMS
    assert stylefarm("retry", "nowhere").code == ExitCode.UNUSABLE
    other = stylefarm("plan", finished.job, "--set", "settings.content_weight=0.5")
    assert other.code == ExitCode.OTHER_JOB


def test_a_fault_of_ours_says_so_and_how_more_is_told(
    stylefarm: Stylefarm, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(flows.presets, "show_presets", lambda *_, **__: {}["planted"])
    answer = stylefarm("presets")
    assert answer.code == ExitCode.BUG
    assert answer.err.startswith("error: unexpected KeyError: 'planted' (set STYLEFARM_DEBUG=1")


def works_with(act: Act, monkeypatch: pytest.MonkeyPatch) -> None:
    """The renderer of the next command does this in place of rendering."""
    monkeypatch.setattr("flows.crew.ChildProcess", lambda *_: nullcontext(Scripted(act, act, act)))


ENDS: dict[str, tuple[Act, ExitCode]] = {
    "it was stopped": (raises(Stopped("stopped")), ExitCode.INCOMPLETE),
    "its device is lost": (raises(WorkerFault("the device is lost")), ExitCode.INCOMPLETE),
    "too many items fail": (fails, ExitCode.ENDED_EARLY),
}


@pytest.mark.usefixtures("no_fork_server")
@pytest.mark.parametrize("case", ENDS)
def test_a_worker_ends_with_the_code_of_what_ended_it(
    stylefarm: Stylefarm, pictures: Path, case: str, monkeypatch: pytest.MonkeyPatch
):
    act, code = ENDS[case]
    job = write_job(pictures, variants=10, compute={"shard_items": 60, "device": "cpu"})
    works_with(act, monkeypatch)
    assert stylefarm("plan", job).code == ExitCode.COMPLETE
    answer = stylefarm("work", "run")
    assert answer.code == code, answer
