"""Entries side by side: means, intervals, wins, controls, and what has to be told beside them."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ad_lib.pictures.measure import METRIC_NAMES, measure, measure_with_controls
from infra.store import open_store
from manifests.errors import JobError, ManifestError
from manifests.examples.pack import IMAGES
from manifests.quality import METRIC_COLUMNS, RENDER_COLUMNS
from manifests.schema import METADATA_SCHEMA
from tasks.comparing.comparison import Comparison, compare
from tasks.comparing.comparison_chart import BEST, CONTROL, ENTRY, draw_comparison
from tasks.comparing.documents import CSV_COLUMNS, csv_of, document_of, markdown_of
from tasks.comparing.figures import DIRECTIONS, FIGURES, Direction, known_figures
from tasks.comparing.statistics import (
    BLOCK,
    Wins,
    estimates,
    num_resamples,
    paired_wins,
    resampled_means,
)
from tasks.results.entries import Entry, read_entries
from tests.tasks.compared import SWEEP, ComparedRuns
from tests.tasks.runs import files_of, prepare, render_pending

LABELS = [entry["label"] for entry in SWEEP]


@pytest.fixture(scope="session")
def entries(compared_runs: ComparedRuns) -> list[Entry]:
    return read_entries(["swept"], compared_runs.base)


@pytest.fixture(scope="session")
def comparison(entries: list[Entry]) -> Comparison:
    return compare(entries)


def changed(entry: Entry, **columns: Any) -> Entry:
    """The entry with other values in its ok rows; a function is given the old one."""
    return replace(
        entry,
        rows={
            case: {**row, **(columns if row["status"] == "ok" else {})}
            for case, row in entry.rows.items()
        },
    )


def only(entry: Entry, *cases: str, name: str | None = None) -> Entry:
    """The entry with these of its cases alone."""
    rows = {case: entry.rows[case] for case in cases}
    items = {case: entry.items[case] for case in cases}
    return replace(entry, name=name or entry.name, rows=rows, items=items)


def ok_cases(entry: Entry) -> list[str]:
    return [case for case, row in entry.rows.items() if row["status"] == "ok"]


def test_every_figure_of_a_row_has_a_direction_and_is_a_column():
    cost = {"seconds", "synthesis_seconds", "peak_memory_bytes"}
    assert set(DIRECTIONS) == {*RENDER_COLUMNS, *METRIC_COLUMNS, *cost}
    assert {figure.name for figure in FIGURES} == set(DIRECTIONS) <= set(METADATA_SCHEMA.names)


def test_the_directions_are_those_of_the_measures():
    """A copy of the style is best in likeness to it, worst in copying; the content likewise."""
    paths = (IMAGES / "style/hokusai_great_wave.jpg", IMAGES / "content/cat.jpg")
    style, content = (Image.open(path).convert("RGB").resize((128, 128)) for path in paths)
    noise = Image.effect_noise((128, 128), 90).convert("RGB")
    found = {
        name: measure(shown, styles=[style], content=content)
        for name, shown in (("style", style), ("content", content), ("noise", noise))
    }
    best = {"swd_patch": "style", "gram_raw": "style", "color_emd": "style"}
    best |= {"chroma_gain": "style", "ssim_luma": "content", "edge_f1": "content"}
    for figure, winner in best.items():
        bad = {name: DIRECTIONS[figure].badness(row[figure]) for name, row in found.items()}
        assert min(bad, key=lambda name: bad[name]) == winner, figure
    assert DIRECTIONS["patch_copy"].badness(found["style"]["patch_copy"]) > 0.9


@pytest.mark.parametrize("num_cases", [2, 7, 301])
def test_the_interval_is_the_percentile_bootstrap_over_cases_with_the_stated_seed(num_cases):
    values = np.random.default_rng(5).normal(size=(num_cases, 2))
    drawn = np.random.default_rng(0).integers(num_cases, size=(10_000, num_cases))
    assert num_cases * 10_000 > BLOCK or num_cases < 300, "one of them is drawn in several blocks"
    for column, found in zip(values.T, estimates(list(values.T)), strict=True):
        assert found is not None
        means = column[drawn].mean(axis=1)
        assert [found.mean, found.low, found.high] == pytest.approx(
            [column.mean(), *np.quantile(means, [0.025, 0.975])], abs=1e-12
        )
        assert found.num_cases == num_cases


def test_many_cases_draw_fewer_resamples_and_never_fewer_than_a_thousand():
    assert [num_resamples(number) for number in (1, 10_000, 20_000, 10**9)] == [
        10_000,
        10_000,
        5_000,
        1_000,
    ]


def test_intervals_hold_the_true_mean_about_as_often_as_they_say():
    samples = np.random.default_rng(1).exponential(size=(40, 400))
    ends = [found for found in estimates(list(samples.T)) if found]
    covered = [found.low <= 1.0 <= found.high for found in ends if found.low and found.high]
    assert len(covered) == 400
    assert 0.87 < np.mean(covered) < 0.98


def test_entries_share_resamples_so_that_a_constant_difference_has_no_width():
    values = np.random.default_rng(2).normal(size=6)
    column, shifted, difference = estimates([values, values + 1, (values + 1) - values])
    assert column
    assert shifted
    assert difference
    assert column.low is not None
    assert column.high is not None
    assert shifted.low == pytest.approx(column.low + 1)
    assert column.high - column.low > 0.1
    assert difference.low == pytest.approx(1)
    assert difference.high == pytest.approx(1)
    first, second = resampled_means(np.stack([values, values + 1], axis=1)).T
    assert second == pytest.approx(first + 1)


def test_one_case_has_a_mean_and_no_interval_and_none_has_nothing():
    one, none = estimates([np.array([np.nan, 3.0]), np.array([np.nan, np.nan])])
    assert one is not None
    assert (one.num_cases, one.mean, one.low, one.high) == (1, 3.0, None, None)
    assert none is None


def test_a_win_is_a_better_value_and_a_tie_is_half_of_one():
    ours, theirs = np.array([1.0, 2, 3, np.nan, 0.5]), np.array([2.0, 2, 1, 0, np.inf])
    assert paired_wins(ours, theirs, Direction.LOWER) == Wins(1, 1, 1)
    assert paired_wins(ours, theirs, Direction.HIGHER) == Wins(1, 1, 1)
    near, far = np.array([0.75, 1.5, 1.0]), np.array([1.5, 0.5, 1.125])
    assert paired_wins(near, far, Direction.NEAREST_TO_ONE) == Wins(2, 1, 0)
    assert paired_wins(ours, theirs, Direction.NONE) is None
    assert paired_wins(ours, np.full(5, np.nan), Direction.LOWER) is None
    assert Wins(2, 1, 1).share == 0.625


def test_shares_of_two_entries_add_up_to_one(comparison):
    for table in comparison.tables:
        rows = {row.name: row for row in table.rows}
        for row in table.rows:
            for other, wins in row.wins.items():
                back = rows[other].wins[row.name]
                assert wins.share + back.share == pytest.approx(1)
                assert (wins.wins, wins.ties) == (back.losses, back.ties)


def rows_by_case(run: Path) -> dict[str, dict[tuple[str, ...], dict[str, Any]]]:
    """The rows of `data/` by label and by the hashes of their inputs, read with pyarrow alone."""
    found: dict[str, dict[tuple[str, ...], dict[str, Any]]] = {}
    for path in (run / "data").glob("*.parquet"):
        for row in pq.read_table(path).to_pylist():
            case = tuple(f"{one['role']} {one['sha256']}" for one in row["inputs"])
            found.setdefault(row["label"], {})[case] = row
    return found


def better(name: str, ours: float, theirs: float) -> bool:
    if name in ("ssim_luma", "edge_f1"):
        return ours > theirs
    if name in ("chroma_gain", "seam_ratio_x", "seam_ratio_y"):
        return abs(ours - 1) < abs(theirs - 1)
    return ours < theirs


def test_every_number_can_be_recomputed_from_the_rows(comparison, compared_runs):
    document = json.loads(json.dumps(document_of(comparison), allow_nan=False))
    found = rows_by_case(compared_runs.base / "swept")
    oks = [{case for case, row in of.items() if row["status"] == "ok"} for of in found.values()]
    common = sorted(set.intersection(*oks), key=lambda case: found[LABELS[0]][case]["key"])
    assert document["num_all_cases"] == 6
    assert len(document["cases"]) == len(common) == 4
    drawn = np.random.default_rng(0).integers(4, size=(10_000, 4))
    told = {table["figure"]: table for table in document["figures"]}
    assert set(told) >= {"style_loss", *METRIC_NAMES, "seconds", "synthesis_seconds"}
    for name, table in told.items():
        columns = {
            label: np.array([found[label][case][name] for case in common], dtype=float)
            for label in LABELS
        }
        rows = {row["name"]: row for row in table["rows"]}
        assert list(rows) == [*LABELS, "identity", "style copy"]
        for label, values in columns.items():
            row = rows[label]
            if np.isnan(values).all():
                assert row["mean"] is None
                continue
            means = values[drawn].mean(axis=1)
            expected = [values.mean(), *np.quantile(means, [0.025, 0.975])]
            assert [row["mean"], row["low"], row["high"]] == pytest.approx(expected, rel=1e-9)
            first = columns[LABELS[0]]
            if label != LABELS[0] and not np.isnan(first).any():
                apart = (values - first)[drawn].mean(axis=1)
                expected = [(values - first).mean(), *np.quantile(apart, [0.025, 0.975])]
                ends = [row[f"difference{end}"] for end in ("", "_low", "_high")]
                assert ends == pytest.approx(expected, abs=1e-9)
            for other, wins in row["wins"].items():
                if other in columns:
                    pairs = list(zip(values, columns[other], strict=True))
                    assert wins["wins"] == sum(better(name, a, b) for a, b in pairs)
                    assert wins["losses"] == sum(better(name, b, a) for a, b in pairs)
                    share = (wins["wins"] + wins["ties"] / 2) / len(common)
                    assert wins["share"] == pytest.approx(share)
        assert (rows[LABELS[0]]["wins"] == {}) == (DIRECTIONS[name] is Direction.NONE)


def test_the_controls_are_measured_as_a_result_is(comparison, entries):
    first = entries[0]
    expected: dict[str, list[dict[str, float]]] = {"identity": [], "style copy": []}
    for case in comparison.cases:
        content, style = first.references(case)
        assert content.picture
        assert style.picture
        measured = measure_with_controls(
            first.picture(case), styles=[style.picture], content=content.picture
        )
        for name, of_control in expected.items():
            of_control.append(measured[name])
    for table in comparison.tables:
        for row in table.rows:
            if row.is_control and table.figure.name in METRIC_NAMES:
                values = [figures[table.figure.name] for figures in expected[row.name]]
                assert row.estimate is not None
                assert row.estimate.mean == pytest.approx(np.mean(values), abs=1e-6)
            elif row.is_control:
                assert row.estimate is None


def test_cases_that_are_lacking_are_told_by_name_with_the_reason(comparison, entries):
    for entry in entries:
        lacking = comparison.lacking[entry.name]
        assert sorted(one.name for one in lacking) == ["b + x", "b + y"]
        assert {one.why for one in lacking} == {"decode"}
        assert all("the file is empty" in one.message for one in lacking)
    first, second, _ = entries
    cases = ok_cases(first)
    pending = replace(second, rows={case: second.rows[case] for case in cases[1:]})
    other = only(entries[2], *cases[2:])
    found = compare([first, pending, other])
    assert list(found.cases) == [case for case in comparison.cases if case in cases[2:]]
    assert "pending" in {one.why for one in found.lacking[pending.name]}
    assert {one.why for one in found.lacking[other.name]} == {"not planned"}
    assert any("is incomplete: 3 of 6 items are pending" in note for note in found.notes)
    assert "2 of 6 cases are compared" in markdown_of(found)


def test_an_entry_without_a_single_picture_is_left_out_and_told(entries, comparison):
    first, second, third = entries
    failed = {
        case: {**row, "status": "failed", "error_class": "input_missing"}
        for case, row in second.rows.items()
    }
    found = compare([first, replace(second, rows=failed), third])
    assert [entry.name for entry in found.entries] == [first.name, third.name]
    assert found.cases == comparison.cases
    assert any(f"{second.name} has no picture of any case" in note for note in found.notes)
    assert all(second.name not in {row.name for row in table.rows} for table in found.tables)
    assert len(found.lacking[second.name]) == found.num_all_cases


def test_nothing_in_common_is_one_sentence_that_says_who_lacks_what(entries):
    cases = ok_cases(entries[0])
    failed = [case for case in entries[0].rows if case not in cases]
    with pytest.raises(ManifestError, match=r"ours lacks 2 of 2 \(2 decode\)") as raised:
        compare([only(entries[0], *failed)])
    assert "\n" not in str(raised.value)
    apart = [only(entries[0], cases[0]), only(entries[2], cases[1])]
    with pytest.raises(ManifestError, match="no case is ok in every entry, of the tasks"):
        compare(apart)


def test_all_that_have_the_best_mean_are_the_best(entries):
    for values, best in (((0.0, 0.0, 0.1), LABELS[:2]), ((0.3, 0.2, 0.3), [LABELS[1]])):
        pairs = zip(entries, values, strict=True)
        found = compare([changed(entry, patch_copy=value) for entry, value in pairs])
        (table,) = [table for table in found.tables if table.figure.name == "patch_copy"]
        assert table.best() == set(best)
    same = compare([changed(entry, patch_copy=0.5, ssim_luma=None) for entry in entries])
    assert not next(t.best() for t in same.tables if t.figure.name == "patch_copy")
    assert "ssim_luma" not in {table.figure.name for table in same.tables}


def test_one_entry_alone_stands_beside_the_controls(entries):
    found = compare([entries[0]])
    for table in found.tables:
        assert [row.name for row in table.rows] == ["ours", "identity", "style copy"]
        assert not table.best()
        assert table.share_against_others(table.rows[0]) is None
    assert "| figure | identity | style copy |" in markdown_of(found)


def test_one_case_alone_has_no_interval(entries):
    case = ok_cases(entries[0])[0]
    found = compare([only(entry, case) for entry in entries])
    for row in (row for table in found.tables for row in table.rows if row.estimate):
        assert row.estimate
        assert row.estimate.low is None
    assert "Of one case there are no intervals." in markdown_of(found)
    assert draw_comparison(found).width > 1000


def test_a_figure_is_compared_over_the_cases_that_all_have_which_have_it_at_all(entries):
    cases = ok_cases(entries[0])
    rows = {**entries[1].rows, cases[0]: {**entries[1].rows[cases[0]], "swd_patch": None}}
    rows[cases[1]] = {**rows[cases[1]], "swd_patch": float("inf")}
    found = compare(
        [entries[0], replace(entries[1], rows=rows), changed(entries[2], swd_patch=None)]
    )
    (table,) = [table for table in found.tables if table.figure.name == "swd_patch"]
    numbers = [row.estimate.num_cases if row.estimate else 0 for row in table.rows]
    assert numbers == [2, 2, 0, 2, 2]
    assert any(note.startswith("swd_patch is compared over 2 of 4 cases") for note in found.notes)
    json.dumps(document_of(found), allow_nan=False)


def test_differences_between_entries_are_told(entries):
    bigger = replace(
        entries[1],
        rows={
            case: {**row, "outputs": [{**one, "width": 80} for one in row["outputs"]]}
            for case, row in changed(entries[1], model_id="other", device_name="gpu").rows.items()
        },
    )
    notes = " ".join(compare([entries[0], bigger, entries[2]]).notes)
    assert "different sizes in 4 of 4 cases" in notes
    assert "different tasks: baseline-adain, style-transfer" in notes
    assert "different models: " in notes
    assert "different devices: " in notes


def test_variants_are_cases_of_their_own_and_that_is_told(entries):
    case = ok_cases(entries[0])[0]
    items = {case: replace(entries[0].items[case], variant=5)}
    found = compare([replace(only(entries[0], case), items=items)])
    assert any("Variants of the same inputs" in note for note in found.notes)
    assert [name.rpartition(", ")[2] for name in found.cases.values()] == ["variant 5"]


def test_without_its_sources_the_controls_are_missing_and_that_is_told(compared_runs, tmp_path):
    shutil.copytree(compared_runs.base, tmp_path, dirs_exist_ok=True)
    (entry,) = read_entries(["swept#ours"], tmp_path)
    moved = {
        case: replace(
            item,
            inputs=tuple(
                replace(one, uri=one.uri.replace(str(compared_runs.base), str(tmp_path)))
                for one in item.inputs
            ),
        )
        for case, item in entry.items.items()
    }
    (tmp_path / "style" / "x.png").unlink()
    found = compare([replace(entry, items=moved)])
    assert "identity and style copy lack 2 of 4 cases, of which a source is gone" in found.notes[0]
    (swd,) = [table for table in found.tables if table.figure.name == "swd_patch"]
    assert [row.estimate.num_cases for row in swd.rows if row.estimate] == [4, 2, 2]
    shutil.rmtree(tmp_path / "content")
    found = compare([replace(entry, items=moved)])
    assert [row.name for row in found.tables[0].rows] == ["ours"]


def test_a_folder_of_pictures_is_an_entry_beside_ours_whose_cost_is_not_known(
    entries, compared_runs, tmp_path
):
    for role in ("content", "style"):
        shutil.copytree(compared_runs.base / role, tmp_path / role)
    (tmp_path / "other").mkdir()
    for style in "xy":
        shutil.copy(tmp_path / "style" / "y.png", tmp_path / "other" / f"a-{style}.png")
    inputs = {"content": "content/a.png", "style": "style"}
    render_pending(prepare(tmp_path, inputs=inputs, external={"theirs": "other"}))
    ours, theirs = read_entries(["run"], tmp_path)
    assert (ours.name, theirs.name, theirs.task) == ("run", "theirs", "external")
    assert [entry.name for entry in read_entries(["ours=run#", "run#theirs"], tmp_path)] == [
        "ours",
        "theirs",
    ]
    assert list(theirs.items) == list(ours.items)
    assert set(ours.items) < set(entries[0].items)
    roles = {one.role for case in theirs.items for one in theirs.references(case)}
    assert roles == {"content", "style"}
    found = compare([ours, theirs, entries[2]])
    assert sorted(found.cases.values()) == ["a + x", "a + y"]
    rows = {
        table.figure.name: {row.name: row.estimate for row in table.rows} for table in found.tables
    }
    assert rows["seconds"]["theirs"] is None
    assert rows["seconds"]["run"] is not None
    swd = {case: theirs.rows[case]["swd_patch"] for case in theirs.rows}
    assert sorted(value > 0.01 for value in swd.values()) == [False, True], "one is a copy"


def test_what_cannot_be_compared_is_refused(entries):
    with pytest.raises(ManifestError, match="too many"):
        compare(entries * 40)
    with pytest.raises(ManifestError, match="cannot be called 'identity'"):
        compare([replace(entries[0], name="identity")])
    with pytest.raises(JobError, match=r"no such figure; did you mean 'swd_patch'\?"):
        known_figures(["swd_patches"])
    assert [one.name for one in known_figures(["ssim_luma", "swd_patch"])] == [
        "swd_patch",
        "ssim_luma",
    ]


def test_the_csv_has_a_line_for_each_figure_and_row(comparison):
    rows = list(csv.DictReader(io.StringIO(csv_of(comparison))))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert len(rows) == sum(len(table.rows) for table in comparison.tables)
    found = {(row["figure"], row["row"]): row for row in rows}
    for table in comparison.tables:
        for row in table.rows:
            written = found[table.figure.name, row.name]
            if row.estimate is not None:
                assert float(written["mean"]) == row.estimate.mean
            wins = row.wins.get(LABELS[0])
            assert written["ties"] == (str(wins.ties) if wins else "")


def test_markdown_stays_a_table_whatever_an_entry_is_called(entries):
    hostile = "a|b <script>\n| c"
    found = compare([replace(entries[0], name=hostile), *entries[1:]])
    text = markdown_of(found)
    assert "<script>" not in text
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    directed = [one for one in found.tables if one.figure.direction is not Direction.NONE]
    assert [len(lines) - 2 for lines in tables] == [len(found.tables), len(directed)]
    for lines in tables:
        numbers = {line.replace("\\|", "").count("|") for line in lines}
        assert len(numbers) == 1


def test_the_chart_has_a_panel_for_each_figure_with_the_best_and_the_controls_marked(comparison):
    chart = draw_comparison(comparison)
    colours = {colour for _, colour in chart.getcolors(1 << 20) or []}
    for name in (ENTRY, BEST, CONTROL):
        assert tuple(bytes.fromhex(name[1:])) in colours
    half = draw_comparison(replace(comparison, tables=comparison.tables[:2]))
    assert half.height < chart.height / 3


@pytest.mark.s3
def test_runs_on_s3_are_compared_alike(comparison, compared_runs, s3_bucket):
    store = open_store(f"s3://{s3_bucket}/runs/swept")
    for name, data in files_of(compared_runs.base / "swept").items():
        store.put(name, data)
    found = document_of(compare(read_entries([f"s3://{s3_bucket}/runs/swept"], Path("/"))))
    expected = document_of(comparison)
    assert {entry.pop("run") for entry in found["entries"]} == {f"s3://{s3_bucket}/runs/swept"}
    assert [entry.pop("run") for entry in expected["entries"]]
    assert found == expected


def test_a_run_that_is_only_planned_has_nothing_to_compare(compared_runs, tmp_path):
    for role in ("content", "style"):
        shutil.copytree(compared_runs.base / role, tmp_path / role)
    prepare(tmp_path)
    with pytest.raises(ManifestError, match=r"run lacks 6 of 6 \(6 pending\)"):
        compare(read_entries(["run"], tmp_path))
