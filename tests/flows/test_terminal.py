"""What commands import, and what reaches a terminal, whatever the terminal is like."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import TINY_BACKBONE
from tests.flows.jobs import write_job

HEAVY = ("boto3", "diffusers", "pandas", "prefect", "pyarrow", "torch", "transformers")

LIST_IMPORTS = """
import sys
from flows.cli import main
try:
    main()
except SystemExit as ended:
    print(ended.code, *(name for name in {heavy} if name in sys.modules))
"""

LIGHT = {
    "the version": (["--version"], 0),
    "the help": (["run", "--help"], 0),
    "the tasks": (["presets"], 0),
    "no command": ([], 2),
    "an unknown command": (["rum"], 2),
    "a missing job file": (["run", "missing.yaml"], 2),
    "a job file that is no YAML": (["run", "broken.yaml"], 2),
    "an unknown key": (["run", "job.yaml", "--set", "limit.max_items=1"], 2),
    "an unknown task": (["run", "job.yaml", "--set", "task=style_transfer"], 2),
    "an unknown setting": (["plan", "job.yaml", "--set", "settings.steps=3"], 2),
    "no run folder": (["status", "nowhere"], 2),
    "a report of no run folder": (["report", "nowhere"], 2),
}


def command(
    arguments: list[str], folder: Path, *, code: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """The command line, or a piece of Python with its arguments, in a process of its own."""
    start = ["-c", code] if code else ["-m", "flows.cli"]
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, *start, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
    )


@pytest.mark.parametrize("case", LIGHT)
def test_what_needs_no_model_imports_no_large_library(pictures: Path, case: str):
    write_job(pictures)
    (pictures / "broken.yaml").write_text("task: [")
    arguments, code = LIGHT[case]
    done = command(arguments, pictures, code=LIST_IMPORTS.format(heavy=HEAVY))
    assert done.stdout.splitlines()[-1].strip() == str(code), done


def test_the_status_of_a_run_imports_no_large_library(pictures: Path):
    assert command(["plan", str(write_job(pictures))], pictures).returncode == 0
    heavy = set(HEAVY) - {"pyarrow"}  # which reads rows, where commits alone do not tell
    done = command(["status", "run"], pictures, code=LIST_IMPORTS.format(heavy=heavy))
    assert "6 pending" in done.stdout
    assert done.stdout.splitlines()[-1] == "0"


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_letters_that_a_terminal_does_not_know_become_escapes(pictures: Path, encoding: str):
    (pictures / "content" / "Ωmega.png").write_bytes(b"no picture")
    job = write_job(pictures)
    done = command(["run", str(job), "--dry-run"], pictures, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done
    assert ("\\u03a9mega.png" in done.stdout) == (encoding != "utf-8")
    for light in (["--help"], ["presets"]):
        assert command(light, pictures, PYTHONIOENCODING=encoding).returncode == 0


def test_what_names_hold_reaches_the_terminal_as_visible_text_of_bounded_length(pictures: Path):
    for number in range(60):
        name = f"\x1b[31m\u202e{number}" + "\N{PILE OF POO}" * 50
        (pictures / "content" / f"{name}.png").write_bytes(b"no picture")
    done = command(["run", str(write_job(pictures)), "--dry-run"], pictures)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout
    assert "\\x1b[31m" in done.stdout
    assert len(done.stdout.encode()) < 10_000
    assert "more problems" in done.stdout

    argument = "\x1b[31ms3://user:hunter2@host/" + "x" * 5000
    for arguments in (
        ["status", argument],
        ["rum" + argument],
        [argument],
        ["run", "--" + argument],
    ):
        wrong = command(arguments, pictures)
        assert wrong.returncode == 2, wrong
        assert "\x1b" not in wrong.stderr
        assert "hunter2" not in wrong.stderr
        assert len(wrong.stderr) < 2500


def test_a_command_whose_reader_has_gone_ends_as_it_would_have(pictures: Path):
    job = write_job(pictures)
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "plan", str(job)],
        cwd=pictures,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=120,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (pictures / "run" / "run.json").exists()


def test_closed_streams_are_no_reason_to_fail(pictures: Path):
    job = write_job(pictures)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for arguments in (f"plan {job}", "status run --json"):
        shell = f"exec {sys.executable} -m flows.cli {arguments} <&- >&- 2>&-"
        done = subprocess.run(["sh", "-c", shell], cwd=pictures, env=environment, timeout=120)
        assert done.returncode == 0
    assert (pictures / "run" / "run.json").exists()


def test_the_whole_chain_of_causes_is_shown_when_asked_for(pictures: Path):
    arguments = ["run", "missing.yaml"]
    told = command(arguments, pictures, STYLEFARM_DEBUG="1")
    assert told.returncode == 2
    assert "FileNotFoundError" in told.stderr
    assert "Traceback" not in command(arguments, pictures).stderr


def test_a_prompt_on_the_embedded_model_is_said_to_be_lost_before_it_is_drawn(pictures: Path):
    job = write_job(
        pictures,
        task="style-t2i-sd15",
        backbone="embedded",
        inputs={"style": "style", "prompt": "a cat"},
    )
    done = command(["run", str(job), "--dry-run"], pictures)
    assert done.returncode == 0, done
    assert "knows next to nothing of words" in done.stdout
    silent = command(["run", str(job), "--dry-run", "--set", f"backbone={TINY_BACKBONE}"], pictures)
    assert silent.returncode == 0, silent
    assert "knows next to nothing" not in silent.stdout


def test_the_picture_of_a_texture_is_asked_for_by_its_role(pictures: Path):
    Image.new("RGB", (96, 96), "red").save(pictures / "red.png")
    arguments = ["render", "--preset", "texture-optimize", "--backbone", str(TINY_BACKBONE)]
    arguments += ["--texture", "red.png", "--size", "64", "--set", "num_inference_steps=1"]
    done = command([*arguments, "-o", "new/o.png"], pictures)
    assert done.returncode == 0, done
    with Image.open(pictures / "new" / "o.png") as image:
        assert image.size == (64, 64)
