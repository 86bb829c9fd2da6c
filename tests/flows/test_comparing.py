"""The command `stylefarm compare`: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from ad_lib.presets import PRESETS
from manifests.examples.pack import IMAGES
from manifests.job import load_job
from tasks.inputs.resolving import resolve_job
from tasks.plans.planning import plan_items
from tasks.results.entries import case_of
from tests.conftest import TINY_BACKBONE
from tests.flows.conftest import Stylefarm
from tests.tasks.compared import SWEEP, ComparedRuns
from tests.tasks.runs import files_of

EXAMPLES = IMAGES.parent


@pytest.fixture
def swept(compared_runs: ComparedRuns, tmp_path: Path) -> Path:
    """The run by a short name in `tmp_path`, where commands are called."""
    (tmp_path / "swept").symlink_to(compared_runs.base / "swept")
    return tmp_path / "swept"


def test_the_table_tells_means_intervals_wins_and_what_is_lacking(
    stylefarm: Stylefarm, swept: Path, compared_runs: ComparedRuns
):
    before = files_of(swept)
    moved = f"moved run={compared_runs.base / compared_runs.moved}"
    answer = stylefarm("compare", "swept", moved)
    assert (answer.code, answer.err) == (0, "")
    for told in (
        "swd_patch: lower is better mean interval vs first vs others",
        *(entry["label"] for entry in SWEEP),
        "moved run",
        "style copy 0.0000 [0.0000, 0.0000] 100% (4:0)",
        "4 of 6 cases are compared: those that every entry has.",
        "moved run lacks 2 of 6 cases: 2 decode.",
        "b + x: decode",
        "10,000 resamples that all rows share, seed 0",
        "different tasks: baseline-adain, style-transfer",
    ):
        assert told in answer.out, told
    assert files_of(swept) == before


@pytest.mark.parametrize("width", [80, 140])
def test_no_line_of_figures_is_wider_than_the_terminal(
    swept: Path,
    width: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    from flows.comparing import ComparisonFiles, compare_runs
    from flows.terminal import Terminal

    monkeypatch.setenv("COLUMNS", str(width))
    compare_runs(Terminal(), [str(swept)], ComparisonFiles(), figures=["swd_patch", "ssim_luma"])
    lines = capsys.readouterr().out.partition("* is the best")[0].splitlines()
    assert sum(line.startswith("style copy ") for line in lines) == 2
    assert all(len(line) <= width for line in lines)


def test_json_is_one_document_and_files_are_written_beside_it(
    stylefarm: Stylefarm, swept: Path, tmp_path: Path
):
    files = [tmp_path / "deep" / name for name in ("t.md", "t.csv", "t.png")]
    options = ["--markdown", files[0], "--csv", files[1], "--plot", files[2]]
    answer = stylefarm("compare", "swept", "--figures", "ssim_luma,seconds", "--json", *options)
    assert answer.code == 0
    assert answer.err.count("Written:") == 3
    document = json.loads(answer.out)
    assert set(document) == {
        *("entries", "num_all_cases", "cases", "interval", "notes", "figures"),
    }
    assert [table["figure"] for table in document["figures"]] == ["ssim_luma", "seconds"]
    assert document["entries"][0]["run"] == str(swept)
    with files[1].open() as file:
        assert {row["figure"] for row in csv.DictReader(file)} == {"ssim_luma", "seconds"}
    assert files[0].read_text().count("| `ssim_luma` |") == 2
    with Image.open(files[2]) as chart:
        assert chart.format == "PNG"


@pytest.mark.parametrize("path", sorted((EXAMPLES / "evaluation").glob("*.yaml")), ids=str)
def test_an_evaluation_has_ours_first_and_every_baseline_of_its_inputs(path: Path):
    job = load_job(path, {"backbone": str(TINY_BACKBONE), "compute.device": "cpu"})
    tasks = [entry.task or job.task for entry in job.sweep_entries]
    assert not PRESETS[tasks[0]].is_baseline
    rivals = {
        name
        for name, preset in PRESETS.items()
        if name.startswith("baseline-") and set(preset.roles) == set(PRESETS[job.task].roles)
    }
    assert {task for task in tasks if PRESETS[task].is_baseline} == rivals
    items = list(plan_items(resolve_job(job, str(path.parent))).iter_items())
    assert all(item.problem is None for item in items)
    cases = {case_of(item) for item in items}
    assert len(cases) >= (6 if job.task == "style-transfer" else 5)
    assert len(items) == len(cases) * len(tasks)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "there is no run 'nowhere'"),
        (["swept#our"], "did you mean 'ours'?"),
        (["swept", "--figures", "ssim"], "did you mean 'ssim_luma'?"),
        (["swept", "--plot", "chart.jpg"], "--plot must end in .png"),
        (["swept", "--markdown", "."], "--markdown names a folder"),
        (["swept", "swept"], "two entries are called"),
        ([], "Missing argument"),
    ],
)
def test_what_cannot_be_compared_ends_with_2_and_a_sentence(
    stylefarm: Stylefarm, swept: Path, arguments: list[str], said: str
):
    answer = stylefarm("compare", *arguments)
    assert answer.code == 2
    assert said in answer.err
    assert answer.out == ""
