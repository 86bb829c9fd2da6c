"""A shell completes commands, options and tasks, by the protocol that its own script speaks."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ad_lib.presets import PRESETS
from flows.completing import with_shells
from tests.command_line import Cli
from tests.flows.conftest import Stylefarm


def completed(cli: Cli, line: str) -> list[str]:
    """What bash is told for a line that ends where the cursor is."""
    words = line.split(" ")
    answer = cli(
        env={
            "_STYLEFARM_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        }
    )
    assert answer.code == 0, answer
    return answer.out.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("stylefarm re", ["render", "report", "retry"]),
        ("stylefarm render --preset texture-", [p for p in PRESETS if p.startswith("texture-")]),
        ("stylefarm init style-t2i", ["style-t2i", "style-t2i-sd15"]),
        ("stylefarm run --dry", ["--dry-run"]),
        ("stylefarm study se", ["serve"]),
    ],
)
def test_commands_options_and_tasks_are_completed(cli: Cli, line: str, words: list[str]):
    assert sorted(completed(cli, line)) == sorted(words)


@pytest.mark.parametrize(("line", "code"), [("stylefarm ini", 0), ("stylefarm run jo", 1)])
def test_fish_is_told_where_to_complete_files_itself(cli: Cli, line: str, code: int):
    asked = {"_STYLEFARM_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "is-args"}
    assert cli(env={**asked, "_TYPER_COMPLETE_ARGS": line}).code == code


def test_bash_itself_completes_with_the_script_that_is_shown(stylefarm: Stylefarm, tmp_path: Path):
    script = tmp_path / "script"
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "stylefarm").write_text(f'#!/bin/sh\nexec {sys.executable} -m flows.cli "$@"\n')
    (bin_folder / "stylefarm").chmod(0o755)
    root = Path(__file__).parents[2]
    around = {"PATH": f"{bin_folder}:/usr/bin:/bin", "PYTHONPATH": str(root)}
    shown = subprocess.run(
        ["stylefarm", "--show-completion", "bash"],
        **{"env": around, "capture_output": True, "text": True, "check": True},
        executable=bin_folder / "stylefarm",
    )
    script.write_text(shown.stdout)
    asked = (
        f"source {script}; COMP_WORDS=(stylefarm init appear); COMP_CWORD=2; "
        '_stylefarm_completion stylefarm; echo "${COMPREPLY[@]}"'
    )
    bash = shutil.which("bash")
    assert bash
    answer = subprocess.run([bash, "-c", asked], env=around, capture_output=True, text=True)
    assert answer.stdout.strip() == "appearance-transfer", answer


@pytest.mark.parametrize(("shell", "part"), [("zsh", "#compdef stylefarm"), ("fish", "complete")])
def test_other_shells_have_their_scripts(stylefarm: Stylefarm, shell: str, part: str):
    answer = stylefarm("--show-completion", shell)
    assert answer.code == 0
    assert answer.out.startswith(part)


def test_an_unknown_shell_is_refused_with_those_that_are_known(stylefarm: Stylefarm):
    answer = stylefarm("--show-completion", "tcsh")
    assert answer.code == 2
    assert "name the shell, one of bash, zsh, fish" in answer.err


def test_installing_writes_the_script_where_the_shell_reads_it(
    stylefarm: Stylefarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    answer = stylefarm("--install-completion", "bash")
    assert answer.code == 0
    assert "stylefarm" in (tmp_path / ".bashrc").read_text()


def test_a_shell_may_be_left_unnamed():
    assert with_shells(["--show-completion"]) == ["--show-completion", "detected"]
    assert with_shells(["--show-completion", "zsh"]) == ["--show-completion", "zsh"]
    assert with_shells(["run", "job.yaml"]) == ["run", "job.yaml"]
