"""The command `stylefarm bench`: rows, documents, comparisons, pictures and refusals."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from typer.core import TyperGroup

from ad_lib.bench.techniques import TECHNIQUES
from flows.bench_suite import SUITES
from flows.cli import app
from flows.exit_codes import ExitCode
from tests.command_line import Answer, run_command
from tests.flows.conftest import Stylefarm

SMALL = (
    *("bench", "--backbone", "sd15-tiny", "--size", "64", "--steps", "1"),
    *("--batch", "2", "--repeats", "1", "--device", "cpu"),
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Answer, Path]:
    """A small measurement with every technique: what it said, and its folder."""
    folder = tmp_path_factory.mktemp("bench")
    answer = run_command(*SMALL, "--json", "new.json", "--plot", "new.png", folder=folder)
    return answer, folder


@pytest.fixture
def document(measured: tuple[Answer, Path]) -> dict[str, Any]:
    return json.loads((measured[1] / "new.json").read_text())


def write(document: dict[str, Any], path: Path) -> Path:
    path.write_text(json.dumps(document))
    return path


def test_every_technique_has_a_row_with_figures_or_a_reason(
    measured: tuple[Answer, Path], document: dict[str, Any]
):
    answer, _ = measured
    assert answer.code == ExitCode.COMPLETE, answer
    rows = document["rows"]
    assert [row["technique"] for row in rows] == [one.name for one in TECHNIQUES]
    for row in rows:
        assert row["technique"] in answer.out
        assert bool(row["seconds"]) != bool(row["note"])
    reasons = {row["technique"]: row["note"] for row in rows if row["note"]}
    assert reasons == dict.fromkeys(["compiled", "captured", "fast-kernels"], "not on a CPU")


def test_the_rows_of_a_document_say_what_was_measured_where(document: dict[str, Any]):
    assert document["machine"]["device_type"] == "cpu"
    assert document["machine"]["versions"]["torch"]
    assert document["settings"][0]["backbone"] == "sd15-tiny"
    for row in document["rows"]:
        assert (row["task"], row["size"], row["dtype"]) == ("style-transfer", 64, "float32")
        if row["seconds"]:
            assert row["images_per_second"] == pytest.approx(1 / row["median_seconds"])
            assert row["tflops"] == pytest.approx(row["flops"] / row["median_seconds"] / 1e12)
            assert row["share_of_peak"] == pytest.approx(row["tflops"] * 1e12 / row["peak_flops"])
            assert row["loss_difference"] < 1e-4
            assert row["first_mean_difference"] < 1e-3


def test_the_rows_are_drawn(measured: tuple[Answer, Path]):
    with Image.open(measured[1] / "new.png") as picture:
        assert picture.width > 1000
        assert len(picture.convert("RGB").getcolors(100_000) or []) > 5


@pytest.mark.parametrize(
    ("factor", "code", "verdict"),
    [
        (1.0, ExitCode.COMPLETE, "same"),
        (3.0, ExitCode.FAILED_ITEMS, "slower, beyond 10%"),
        (0.3, ExitCode.COMPLETE, "faster"),
    ],
)
def test_what_got_slower_than_an_earlier_measurement_is_told_and_ends_with_a_code(
    stylefarm: Stylefarm,
    tmp_path: Path,
    document: dict[str, Any],
    factor: float,
    code: ExitCode,
    verdict: str,
):
    slower = copy.deepcopy(document)
    slower["rows"][0]["seconds"] = [factor * one for one in slower["rows"][0]["seconds"]]
    old, new = write(document, tmp_path / "old.json"), write(slower, tmp_path / "new.json")
    answer = stylefarm("bench", "--from", new, "--compare", old)
    assert answer.code == code, answer
    assert verdict in answer.out


def test_what_lies_within_the_noise_of_the_turns_is_the_same(
    stylefarm: Stylefarm, tmp_path: Path, document: dict[str, Any]
):
    noisy = copy.deepcopy(document)
    for row, seconds in ((document["rows"][0], [1.0, 1.5]), (noisy["rows"][0], [1.4, 1.7])):
        row["seconds"] = seconds
    old, new = write(document, tmp_path / "old.json"), write(noisy, tmp_path / "new.json")
    answer = stylefarm("bench", "--from", new, "--compare", old)
    assert answer.code == ExitCode.COMPLETE
    assert "slower" not in answer.out


def test_a_document_goes_to_standard_output_alone(
    stylefarm: Stylefarm, tmp_path: Path, document: dict[str, Any]
):
    answer = stylefarm("bench", "--from", write(document, tmp_path / "new.json"), "--json", "-")
    assert json.loads(answer.out) == document
    assert "literal" in answer.err


REFUSED = {
    ("--size", "0"): "--size takes whole numbers from 1 to 8192",
    ("--size", "32"): "must be at least 64",
    ("--batch", "1,x"): "--batch takes whole numbers",
    ("--grid", "4"): "--grid takes CONTENTSxSTYLES",
    ("--grid", "4x4", "--styles", "2"): "give either --grid or --contents and --styles",
    ("--task", "style-transfr"): "style-transfer",
    ("--techniques", "compield"): "compiled",
    ("--backbone", "sd14-random"): "sd15",
    ("--device", "gpu"): "unknown device 'gpu'",
    ("--steps", "1000"): "less than or equal to 999",
    ("--set", "adain=true"): "does not use adain",
    ("--set", "num_inference_steps=3"): "--steps",
    ("--plot", "rows.jpg"): "--plot must end in .png",
    ("--json", "."): "--json names a folder",
    ("--compare", "nothing.json"): "--compare 'nothing.json' cannot be read",
    ("--from", "list.json"): "does not hold rows",
    ("--from", "broken.json"): "is no JSON document",
    ("--tolerance", "-1"): "--tolerance",
}


@pytest.mark.parametrize("options", REFUSED)
def test_a_bad_option_gets_one_sentence(
    stylefarm: Stylefarm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.json").write_text('{"rows": [1]}')
    (tmp_path / "broken.json").write_text('{"rows": ')
    answer = stylefarm(*SMALL, *options)
    assert answer.code == ExitCode.UNUSABLE, answer
    assert REFUSED[options] in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("tiny", [False, True])
@pytest.mark.parametrize("suite", SUITES)
def test_every_part_of_a_suite_is_a_command(suite: str, tiny: bool):
    commands = typer.main.get_command(app)
    assert isinstance(commands, TyperGroup)
    bench = commands.commands["bench"]
    assert sum(part.share for part in SUITES[suite]) == pytest.approx(1)
    for part in SUITES[suite]:
        bench.make_context("bench", part.arguments(tiny=tiny))
        named = set(part.options.get("techniques", "literal").split(","))
        assert named <= {one.name for one in TECHNIQUES}
