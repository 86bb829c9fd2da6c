from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from diffusers.models.controlnets.controlnet import ControlNetModel
from PIL import Image
from typer.core import TyperGroup
from typer.testing import CliRunner

from ad_lib import load_backbone
from ad_lib.pictures.measure import METRIC_NAMES
from ad_lib.presets import PRESETS
from flows.cli import app, main
from tests.audit import audit
from tests.command_line import Cli
from tests.conftest import TINY_BACKBONE
from tests.flows.conftest import Finished, Stylefarm
from tests.flows.jobs import write_job
from tests.flows.test_readme import blocks


def everything_in(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_run_tells_what_it_plans_what_it_does_and_what_came_of_it(finished: Finished):
    answer = finished.answer
    assert (answer.code, answer.err) == (3, "")
    assert "Planned 8 items in 4 shards; 2 cannot be rendered" in answer.out
    assert "rendering: " in answer.out
    assert re.search(r"8/8 items · 4/4 shards · .* · ETA 0:00:00", answer.out)
    assert "starting" not in answer.out.partition("rendering: ")[2]
    assert "6 of 8 items ok · 2 failed · 4 shards" in answer.out
    assert "2 items failed (2 decode): truncated" in answer.out
    assert "than limits.max_failed allows (0)" in answer.out
    assert "without Prefect" not in answer.out


def test_the_process_of_a_run_itself_loads_neither_networks_nor_prefect(
    finished: Finished,
):
    assert "tasks.results.report" in finished.imported
    heavy = {"accelerate", "diffusers", "prefect", "scipy", "tasks.work.render", "torch"}
    assert not heavy & finished.imported


def test_a_run_that_is_complete_is_left_alone(stylefarm: Stylefarm, finished: Finished):
    before = everything_in(finished.run)
    again = stylefarm("run", finished.job)
    assert again.code == 3
    assert "Nothing to do" in again.out
    allowed = stylefarm("run", finished.job, "--set", "limits.max_failed=25%")
    assert allowed.code == 0, "how much may fail judges a run and does not change it"
    for command in ("work", "report"):
        assert stylefarm(command, finished.run).code == 0
    assert everything_in(finished.run) == before


def test_what_is_new_in_the_sources_is_told_by_run_and_made_by_extend(
    stylefarm: Stylefarm, pictures: Path
):
    job = write_job(pictures)
    assert stylefarm("plan", job).code == 0
    shutil.copy(pictures / "style" / "x.png", pictures / "content" / "d.png")
    told = stylefarm("run", job, "--dry-run", "--set", "compute.shard_items=3")
    assert "1 file came (d.png)" in told.out
    assert "compute.shard_items: 3 is not followed" in told.out
    planned = stylefarm("extend", job, "--dry-run")
    assert "Planned 2 new items" in planned.out
    assert not (pictures / "run" / "generations").exists()
    answer = stylefarm("extend", job)
    assert answer.code == 0, answer
    assert "Planned 2 new items" in answer.out
    assert "8 of 8 items ok" in answer.out
    again = stylefarm("extend", job)
    assert (again.code, again.out) == (0, "Nothing is new: every input of the job is planned.")
    retried = stylefarm("retry", "run")
    assert retried.code == 0
    assert "Nothing to try again" in retried.out
    audit(pictures / "run")


def test_what_the_readme_says_about_reading_a_run_works(finished: Finished):
    reading = next(block for block in blocks("python") if "webdataset" in block)
    code = reading.replace("runs/first", str(finished.run))
    read = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert read.stdout.count("(64, 64)") == 6


def test_status_reads_a_finished_run(stylefarm: Stylefarm, finished: Finished):
    answer = stylefarm("status", finished.run)
    assert answer.code == 0
    assert "6 of 8 ok, 2 failed" in answer.out
    assert re.search(r"decode 2 truncated\S*: .*damaged image file", answer.out)
    assert answer.out.endswith("complete")


def test_another_job_in_the_folder_is_refused_with_the_fields_that_differ(
    stylefarm: Stylefarm, pictures: Path
):
    assert stylefarm("plan", write_job(pictures)).code == 0
    answer = stylefarm("run", write_job(pictures), "--set", "settings.content_weight=0.5")
    assert answer.code == 5
    assert "settings.content_weight: the run folder has 0.25, the job says 0.5" in answer.err
    assert not list((pictures / "run").glob("commits/*"))


def test_a_dry_run_checks_everything_and_writes_nothing(stylefarm: Stylefarm, pictures: Path):
    answer = stylefarm("run", write_job(pictures), "--dry-run", "--limit", "3")
    assert answer.code == 0
    assert "Planned 3 items" in answer.out
    assert not (pictures / "run").exists()


def test_status_and_report_read_a_run_that_is_only_planned(stylefarm: Stylefarm, pictures: Path):
    stylefarm("plan", write_job(pictures))
    status = stylefarm("status", "run")
    assert status.code == 0
    assert "0 of 6 ok, 6 pending (0 % done)" in status.out
    assert "nobody works on it: 'stylefarm work " in status.out
    report = stylefarm("report", "run")
    assert report.out.endswith("run/report.html")
    index = json.loads((pictures / "run" / "index.json").read_text())
    assert index["counts"] == {"planned": 6, "ok": 0, "failed": 0, "skipped": 0, "pending": 6}


def test_render_makes_one_picture_and_tells_its_figures_beside_those_of_doing_nothing(
    stylefarm: Stylefarm, pictures: Path
):
    answer = stylefarm(
        *("render", "--content", "content/a.png", "--style", "style/x.png", "-o", "out/a.webp"),
        *("--backbone", TINY_BACKBONE, "--size", "100x72", "--set", "num_inference_steps=2"),
    )
    assert answer.code == 0, answer
    with Image.open(pictures / "out" / "a.webp") as image:
        assert image.size == (100, 72)
    assert "rendering: 2/2 steps · ETA 0:00:00" in answer.out
    assert "figure result identity style copy" in answer.out
    (unchanged,) = re.findall(r"ssim_luma \S+ (\S+) \S+", answer.out)
    assert float(unchanged) == 1.0
    (copied,) = re.findall(r"swd_patch \S+ \S+ (\S+)", answer.out)
    assert float(copied) == 0.0
    assert all(name in answer.out for name in METRIC_NAMES)


SINGLE: dict[str, list[str]] = {
    "texture-masked": ["--source-mask", "mask.png", "--target-mask", "mask.png"],
    "texture-layout": ["--layout", "content/a.png"],
    "style-t2i": ["--prompt", "a cat", "--negative-prompt", "rain", "--dtype", "float32"],
    "texture-sample": [],
    "texture-optimize": [],
    "texture-expand": [
        *("--set", "reference_size=64", "--set", "view_size=8", "--set", "view_stride=8"),
    ],
}


@pytest.mark.parametrize("preset", SINGLE)
def test_every_task_renders_from_files(
    pictures: Path, preset: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(pictures)
    Image.new("RGB", (128, 96), "red").save("mask.png")
    role = PRESETS[preset].reference_role
    arguments = [
        *("render", "--preset", preset, f"--{role}", "style/x.png", "-o", "out.png"),
        *("--backbone", str(TINY_BACKBONE), "--size", "64", "--set", "num_inference_steps=1"),
    ]
    answer = CliRunner().invoke(app, [*arguments, *SINGLE[preset]])
    assert answer.exit_code == 0, answer.output
    with Image.open("out.png") as image:
        assert min(image.size) == 64


def test_render_sees_through_a_controlnet(pictures: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(pictures)
    control = ControlNetModel.from_unet(load_backbone(str(TINY_BACKBONE), device="cpu").unet)
    control.save_pretrained("controlnet")
    arguments = [
        *("render", "--preset", "texture-sample", "--texture", "style/x.png", "-o", "out.png"),
        *("--backbone", str(TINY_BACKBONE), "--size", "64", "--set", "num_inference_steps=1"),
        *("--controlnet", "controlnet", "--control", "content/a.png"),
    ]
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 0, answer.output


def test_presets_lists_every_task_with_what_it_takes():
    answer = CliRunner().invoke(app, ["presets"])
    assert answer.exit_code == 0
    told = " ".join(answer.output.split())
    for preset in PRESETS.values():
        assert f"{preset.name} " in told
        assert f"takes {', '.join(preset.roles)}" in told
    assert "[control]" in told


COMMANDS = typer.main.get_command(app)
assert isinstance(COMMANDS, TyperGroup)
COMMANDS_WITH_THEIR_OWN = COMMANDS.commands | {
    f"{name} {own}": command
    for name, group in COMMANDS.commands.items()
    if isinstance(group, TyperGroup)
    for own, command in group.commands.items()
}


def test_the_verbs_are_these():
    assert set(COMMANDS.commands) == {
        *("run", "plan", "work", "extend", "retry", "stop"),
        *("status", "report", "render", "presets", "failures", "verify", "gc", "bench", "study"),
        *("compare", "estimate", "init"),
        *("deploy", "gpu-limit", "automations"),
    }


@pytest.mark.parametrize("command", COMMANDS_WITH_THEIR_OWN)
def test_every_command_explains_itself_and_its_options(command: str):
    answer = CliRunner().invoke(app, [*command.split(), "--help"])
    assert answer.exit_code == 0
    explanation = COMMANDS_WITH_THEIR_OWN[command].help or ""
    assert explanation
    assert "\n" not in explanation.replace("\n\n", ""), "a paragraph has ends of lines in it"
    for parameter in COMMANDS_WITH_THEIR_OWN[command].params:
        assert getattr(parameter, "help", None), f"{command}: {parameter.name} is not explained"


WRONG = {
    "no such job file": (["run", "no.yaml"], "no.yaml' cannot be read: No such file"),
    "unknown preset": (["run", "job.yaml", "--set", "task=style-transfr"], "did you mean 'style-t"),
    "unknown setting": (
        ["run", "job.yaml", "--set", "settings.learning_rat=1"],
        "unknown setting 'learning_rat'; did you mean 'learning_rate'?",
    ),
    "unknown key": (["run", "job.yaml", "--set", "outputs.size=64"], "did you mean 'output'?"),
    "no such style": (
        ["run", "job.yaml", "--set", "inputs.style=nowhere"],
        "inputs.style: there is no folder",
    ),
    "missing style image": (
        ["run", "job.yaml", "--set", "inputs.style=x.png"],
        "x.png is not there",
    ),
    "no such backbone": (["run", "job.yaml", "--set", "backbone=sd51"], "no backbone 'sd51'"),
    "no run there": (["status", "nowhere"], "is not a run folder"),
    "no run to work on": (["work", "nowhere"], "is not a run folder"),
    "no run to stop": (["stop", "nowhere"], "is not a run folder"),
    "no run to try again": (["retry", "nowhere"], "is not a run folder"),
    "no run to extend": (["extend", "job.yaml"], "holds no run to extend"),
    "size of nothing": (
        [
            *("render", "--content", "content/a.png", "--style", "style/x.png"),
            *("-o", "o.png", "--size", "big"),
        ],
        "--size takes N or WIDTHxHEIGHT",
    ),
    "a style for a texture": (
        ["render", "--style", "style/x.png", "-o", "o.png", "--preset", "texture-sample"],
        "texture-sample takes texture, control; drop --style",
    ),
    "no style": (
        ["render", "--content", "content/a.png", "-o", "o.png"],
        "style-transfer needs a style image; give --style FILE",
    ),
    "unknown output": (["render", "--style", "style/x.png", "-o", "o.xyz"], "must end in .png"),
    "layout of nothing": (
        ["render", "--style", "style/x.png", "-o", "o.png", "--layout", "style/x.png"],
        "style-transfer takes content, style; drop --layout",
    ),
    "no mask": (
        ["render", "--texture", "style/x.png", "-o", "o.png", "--preset", "texture-masked"],
        "texture-masked needs a target_mask image; give --target-mask FILE",
    ),
    "a prompt for nothing": (
        [
            *("render", "--texture", "style/x.png", "-o", "o.png"),
            *("--preset", "texture-sample", "--prompt", "a cat"),
        ],
        "texture-sample takes no prompt; got 'a cat'",
    ),
    "sweep over other inputs": (
        ["run", "job.yaml", "--set", "sweep=[{task: texture-sample}]"],
        "sweep: 'texture-sample' takes texture, but style-transfer takes content and style",
    ),
    "unknown figure": (
        ["run", "job.yaml", "--set", "quality.ssim.min=1"],
        "unknown key 'ssim' in quality; did you mean",
    ),
    "no equals sign": (["run", "job.yaml", "--set", "size"], "--set takes KEY=VALUE"),
    "unknown option": (["run", "job.yaml", "--fast"], "No such option"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_usage_gets_one_sentence_and_exit_code_2(
    pictures: Path, case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    write_job(pictures)
    arguments, sentence = WRONG[case]
    monkeypatch.chdir(pictures)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["stylefarm", *arguments])
    with pytest.raises(SystemExit) as finished:
        main()
    complaint = " ".join(capsys.readouterr().err.split())
    assert finished.value.code == 2
    assert sentence in complaint
    assert "Traceback" not in complaint
    assert not (pictures / "run").exists()


WRONG_RENDERS = {
    "no such image": ({"--style": "no.png"}, "'no.png' cannot be read: No such file"),
    "a folder": ({"--style": "style"}, "cannot be read: Is a directory"),
    "no image": ({"--style": "job.yaml"}, "job.yaml: "),
    "no size": ({"--size": "0"}, "--size takes N or WIDTHxHEIGHT"),
    "half a size": ({"--size": "64x"}, "--size takes N or WIDTHxHEIGHT"),
    "a size with an exponent": ({"--size": "1e9"}, "--size takes N or WIDTHxHEIGHT"),
    "a huge size": ({"--size": "9" * 5000}, "--size takes N or WIDTHxHEIGHT"),
    "a negative seed": ({"--seed": "-1"}, "greater than or equal to 0"),
    "a huge seed": ({"--seed": str(2**64)}, f"less than or equal to {2**64 - 1}"),
    "a task by half its name": ({"--preset": "transfer"}, "did you mean"),
    "no such setting": ({"--set": "step=2"}, "unknown setting 'step'"),
    "a setting that is no number": ({"--set": "learning_rate=no"}, "must be a number above 0"),
    "an output that is a folder": ({"-o": "folder.png"}, "names a folder"),
    "an output below a file": ({"-o": "job.yaml/o.png"}, "cannot be written: "),
}


@pytest.mark.parametrize("case", WRONG_RENDERS)
def test_a_wrong_render_is_one_sentence_and_writes_nothing(
    pictures: Path, case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    write_job(pictures)
    (pictures / "folder.png").mkdir()
    changes, sentence = WRONG_RENDERS[case]
    options = {"--content": "content/a.png", "--style": "style/x.png", "--size": "64"}
    options |= {"-o": "o.png", "--backbone": str(TINY_BACKBONE)} | changes
    arguments = [text for option in options.items() for text in option]
    monkeypatch.chdir(pictures)
    monkeypatch.setattr(sys, "argv", ["stylefarm", "render", *arguments])
    before = set(pictures.rglob("*"))
    with pytest.raises(SystemExit) as finished:
        main()
    complaint = capsys.readouterr().err
    assert finished.value.code == 2
    assert sentence in complaint
    assert complaint.count("\n") == 1
    assert set(pictures.rglob("*")) == before


@pytest.mark.s3
def test_a_bucket_that_does_not_exist_and_wrong_credentials_are_named(
    cli: Cli, pictures: Path, s3_bucket: str
):
    job = write_job(pictures, output={"uri": "s3://no-such-bucket/run", "size": 64})
    answer = cli("run", job)
    assert answer.code == 2
    assert "'no-such-bucket' does not exist" in answer.err

    job = write_job(pictures, output={"uri": f"s3://{s3_bucket}/run", "size": 64})
    answer = cli("run", job, env={"AWS_SECRET_ACCESS_KEY": "wrong"})
    assert answer.code == 2
    assert "credentials" in answer.err
    assert "wrong" not in answer.err


@pytest.mark.s3
def test_a_job_runs_from_bucket_to_bucket(cli: Cli, pictures: Path, s3_bucket: str):
    from infra.store import open_store

    store = open_store(f"s3://{s3_bucket}")
    for path in sorted(pictures.glob("*/*.png")):
        store.put(f"in/{path.relative_to(pictures).as_posix()}", path)
    roles = {role: f"s3://{s3_bucket}/in/{role}" for role in ("content", "style")}
    job = write_job(pictures, inputs=roles, output={"uri": f"s3://{s3_bucket}/run", "size": 64})
    answer = cli("run", job)
    assert answer.code == 0, answer
    for one in open_store(f"s3://{s3_bucket}/run").list():
        path = pictures / "copy" / one.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.get(f"run/{one.key}"))
    audit(pictures / "copy")


def test_sources_that_moved_are_refused_instead_of_being_recorded_as_missing(
    stylefarm: Stylefarm, pictures: Path
):
    run = pictures / "elsewhere"
    assert stylefarm("plan", write_job(pictures), "--output", run).code == 0
    moved = pictures / "moved"
    moved.mkdir()
    for name in ("content", "style", "job.yaml"):
        (pictures / name).rename(moved / name)
    answer = stylefarm("run", moved / "job.yaml", "--output", run)
    assert answer.code == 2
    assert "every file of content is gone" in answer.err
    assert "bring them back" in answer.err
    assert not list(run.glob("commits/*"))
