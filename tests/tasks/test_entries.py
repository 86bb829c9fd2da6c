"""What is asked to be compared, and which cases it has in common."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from manifests.errors import ManifestError, RunFolderError
from tasks.results.entries import common_cases, read_entries
from tests.tasks.compared import SWEEP
from tests.tasks.runs import prepare

OLD_RUNS = Path(__file__).parents[1] / "old_runs"
LABELS = [entry["label"] for entry in SWEEP]


def names(asked: list[str], base: Path) -> list[str]:
    return [entry.name for entry in read_entries(asked, base)]


def test_a_swept_run_stands_for_its_entries_in_the_order_of_the_job(compared_runs):
    entries = read_entries(["swept"], compared_runs.base)
    assert [entry.name for entry in entries] == LABELS
    assert [entry.task for entry in entries] == ["style-transfer"] * 2 + ["baseline-adain"]
    for entry in entries:
        assert {row["label"] for row in entry.rows.values()} == {entry.name}
        assert len(entry.rows) == len(entry.items) == 6
        assert sum(row["status"] == "ok" for row in entry.rows.values()) == 4
        assert entry.num_pending == 0


def test_an_entry_is_asked_for_by_its_label_or_as_keys_have_it_and_named_at_will(compared_runs):
    assert names(["swept#ours, no content"], compared_runs.base) == [LABELS[1]]
    assert names(["swept#ours-no-content"], compared_runs.base) == [LABELS[1]]
    asked = ["mine=swept#ours", f"a b={compared_runs.base}/swept#adain", "elsewhere/moved"]
    assert names(asked, compared_runs.base) == ["mine", "a b", "moved"]


def test_a_case_is_the_same_whatever_its_files_are_called_and_whatever_is_done_with_it(
    compared_runs,
):
    *swept, moved = read_entries(["swept", "elsewhere/moved"], compared_runs.base)
    assert [set(entry.items) for entry in swept] == [set(moved.items)] * 3
    common = common_cases([moved, *swept])
    assert len(common) == 4
    keys = [moved.rows[case]["key"] for case in common]
    assert keys == sorted(keys)
    for case in common:
        assert len(case) == 16
        hashes = [
            [one["sha256"] for one in entry.rows[case]["inputs"]] for entry in (*swept, moved)
        ]
        assert all(found == hashes[0] for found in hashes)


def test_another_variant_and_another_style_are_other_cases(compared_runs, tmp_path):
    shutil.copytree(compared_runs.base / "style", tmp_path / "style")
    shutil.copytree(compared_runs.base / "content", tmp_path / "content")
    prepare(tmp_path, variants=2)
    (twice,) = read_entries(["run"], tmp_path)
    (once,) = read_entries(["swept#ours"], compared_runs.base)
    assert len(twice.items) == 12 == twice.num_pending
    assert set(once.items) < set(twice.items)
    assert {twice.items[case].variant for case in once.items} == {0}


def test_the_picture_is_the_member_of_the_tar_and_the_references_are_those_of_the_row(
    compared_runs,
):
    (entry,) = read_entries(["swept#adain"], compared_runs.base)
    case = common_cases([entry])[0]
    row = entry.rows[case]
    tars = sorted((compared_runs.base / "swept/data").glob(f"{row['shard']}-*.tar"))
    with tarfile.open(tars[0]) as tar:
        member = tar.extractfile(row["outputs"][0]["name"])
        assert member is not None
        expected = Image.open(member).convert("RGB")
    assert entry.picture(case).tobytes() == expected.tobytes()
    assert max(entry.picture(case, (16, 16)).size) == 16
    found = entry.references(case)
    assert [(one.role, one.key) for one in found] == [
        (one["role"], one["key"]) for one in row["inputs"]
    ]
    for reference, told in zip(found, row["inputs"], strict=True):
        assert hashlib.sha256(Path(told["uri"]).read_bytes()).hexdigest() == told["sha256"]
        assert reference.picture is not None
        assert reference.picture.size == (told["width"], told["height"])


def test_a_reference_that_is_gone_or_another_now_has_no_picture(compared_runs, tmp_path):
    shutil.copytree(compared_runs.base, tmp_path, dirs_exist_ok=True)
    prepare(tmp_path, output__uri="planned", inputs={"content": "content/a.png", "style": "style"})
    (entry,) = read_entries(["planned"], tmp_path)
    (tmp_path / "style" / "x.png").unlink()
    (tmp_path / "style" / "y.png").write_bytes((tmp_path / "content" / "a.png").read_bytes())
    for case in entry.items:
        content, style = entry.references(case)
        assert content.picture is not None
        assert style.picture is None


def test_a_case_without_a_picture_says_why(compared_runs):
    (entry,) = read_entries(["swept#ours"], compared_runs.base)
    failed = next(case for case, row in entry.rows.items() if row["status"] == "failed")
    with pytest.raises(RunFolderError, match=r"ours has no picture of b-.* \(it is failed\)"):
        entry.picture(failed)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["nowhere"], "there is no run 'nowhere'"),
        (["mine=nowhere#x"], "there is no run 'nowhere'"),
        (["hf:model#x"], "there is no run 'hf:model'"),
        (["swept#our"], "did you mean 'ours'"),
        (["elsewhere/moved#ours"], "has no sweep"),
        (["mine=swept"], "names 3 entries of a sweep alike"),
        (["swept", "swept#ours"], "two entries are called '.*swept#ours'"),
        (["x=swept#ours", "x=swept#adain"], "two entries are called 'x'"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence_with_the_remedy(compared_runs, asked, said):
    with pytest.raises(ManifestError, match=said) as raised:
        read_entries(asked, compared_runs.base)
    assert "\n" not in str(raised.value)


def test_a_path_that_exists_as_written_wins_over_names_and_labels(compared_runs, tmp_path):
    for odd in ("a=b#ours", "a=b", "swept#ours"):
        shutil.copytree(compared_runs.base / "elsewhere/moved", tmp_path / odd)
    shutil.copytree(compared_runs.base / "swept", tmp_path / "b")
    assert names(["a=b#ours"], tmp_path) == ["a=b#ours"]
    assert names(["swept#ours"], tmp_path) == ["swept#ours"]
    shutil.rmtree(tmp_path / "a=b#ours")
    with pytest.raises(ManifestError, match="has no sweep"):
        read_entries(["a=b#ours"], tmp_path)
    shutil.rmtree(tmp_path / "a=b")
    (found,) = read_entries(["a=b#ours"], tmp_path)
    assert (found.name, found.label, found.run_uri) == ("a", "ours", f"{tmp_path}/b")


def test_entries_that_would_be_called_alike_are_told_apart_by_their_runs(compared_runs, tmp_path):
    for folder in ("one", "two", "deep/two"):
        shutil.copytree(compared_runs.base / "swept", tmp_path / folder)
    assert names(["one#ours", "two#ours", "two#adain"], tmp_path) == [
        "one#ours",
        "two#ours",
        "adain",
    ]
    assert names(["two#ours", "deep/two#ours"], tmp_path) == [
        f"{tmp_path}/two#ours",
        f"{tmp_path}/deep/two#ours",
    ]


def test_only_what_is_committed_has_rows(compared_runs, tmp_path):
    shutil.copytree(compared_runs.base / "style", tmp_path / "style")
    shutil.copytree(compared_runs.base / "content", tmp_path / "content")
    prepare(tmp_path, settings={}, sweep=SWEEP[1:])
    entries = read_entries(["run"], tmp_path)
    assert [(entry.num_pending, dict(entry.rows)) for entry in entries] == [(6, {})] * 2
    assert common_cases(entries) == []


@pytest.mark.parametrize(
    "run", ["complete/run", "half/run", "second/complete/run", "third/half/run"]
)
def test_runs_of_earlier_versions_are_entries(run):
    (entry,) = read_entries([run], OLD_RUNS)
    assert entry.name == "run"
    assert entry.label == ""
    assert len(entry.rows) + entry.num_pending == len(entry.items)
    done = common_cases([entry])
    assert done
    for case in done:
        assert entry.rows[case]["match_uncertainty"] is None
        assert entry.picture(case).size == (entry.items[case].width, entry.items[case].height)
