"""The command `stylefarm compare`: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from tests.flows.conftest import Stylefarm
from tests.tasks.compared import SWEEP, ComparedRuns
from tests.tasks.runs import files_of


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
