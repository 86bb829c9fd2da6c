from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from infra.store import LocalStore
from manifests.errors import ManifestError
from tasks.results.entries import read_entries
from tasks.study.building import Built, build_study
from tasks.study.contests import Wanted
from tasks.study.study_file import STUDY_NAME, load_study
from tasks.study.votes import open_session
from tests.tasks.runs import prepare, render_pending

Build = Callable[..., Built]


@pytest.fixture
def build(compared_runs, tmp_path) -> Build:
    """Build a study of the small runs: two cases of ours, of which each has two competitors."""

    def built(folder: str = "study", **changes: Any) -> Built:
        options: dict[str, Any] = {
            "ours": ["AD=swept#ours"],
            "against": ["AdaIN=swept#adain", "free=swept#ours, no content"],
            "external": [],
            "base": compared_runs.base,
            "num_people": 4,
            "num_repeats": 1,
            "num_attention": 1,
        }
        return build_study(LocalStore(tmp_path / folder), Wanted(**(options | changes)))

    return built


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_inputs_and_seed_give_the_same_bytes(build: Build, tmp_path: Path):
    build("one")
    build("two")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    build("three", seed=1)
    assert files_of(tmp_path / "three") != files_of(tmp_path / "one")
    before = files_of(tmp_path / "one")
    assert build("one").was_there
    assert files_of(tmp_path / "one") == before


def test_the_folder_holds_the_pictures_that_the_study_names_and_no_other(
    build: Build, tmp_path: Path
):
    study = build().study
    assert study == load_study(LocalStore(tmp_path / "study"))
    files = files_of(tmp_path / "study")
    assert set(files) == {STUDY_NAME, *study.pictures}
    for name in study.pictures:
        assert hashlib.sha256(files[name]).hexdigest() in name


def test_a_case_shows_the_results_of_the_runs_and_what_they_were_made_from(
    build: Build, compared_runs, tmp_path: Path
):
    study = build().study
    asked = ["swept#ours", "swept#adain", "swept#ours, no content"]
    entries = read_entries(asked, compared_runs.base)
    assert len(study.cases) == 4
    for case in study.cases:
        run_case = case.id.removeprefix("style-transfer-")
        assert case.task == "style-transfer"
        assert list(case.results)[:3] == ["AD", "AdaIN", "free"]
        for name, entry in zip(["AD", "AdaIN", "free"], entries, strict=True):
            with Image.open(tmp_path / "study" / case.results[name]) as shown:
                expected = entry.picture(run_case).convert("RGB")
                assert np.array_equal(np.asarray(shown), np.asarray(expected))
        assert [shown.caption for shown in case.references] == ["Content", "Style"]
        for shown, reference in zip(case.references, entries[0].references(run_case), strict=True):
            assert reference.picture is not None
            with Image.open(tmp_path / "study" / shown.picture) as picture:
                assert picture.height / picture.width == pytest.approx(
                    reference.picture.height / reference.picture.width, rel=0.03
                )


def test_pictures_tell_nothing_of_the_method_that_made_them(build: Build, tmp_path: Path):
    study = build().study
    for case in study.cases:
        sizes = set()
        for name in case.results.values():
            with Image.open(tmp_path / "study" / name) as picture:
                assert (picture.format, picture.mode, picture.info) == ("PNG", "RGB", {})
                sizes.add(picture.size)
        assert len(sizes) == 1


def test_cases_that_something_lacks_are_told_by_name(build: Build):
    (contest,) = build().contests
    assert len(contest.missing) == 2
    assert all("b-" in told and "no picture of AD; AdaIN; free" in told for told in contest.missing)


def test_a_case_whose_picture_is_gone_is_told_and_not_shown(pictures: Path, tmp_path: Path):
    sweep = [{"label": "one"}, {"label": "two", "style_weights": [2.0]}]
    render_pending(prepare(pictures, task="baseline-adain", settings={}, sweep=sweep))
    (pictures / "style" / "x.png").unlink()
    wanted = Wanted(["run#one"], ["run#two"], [], pictures, num_people=1, num_repeats=0)
    (contest,) = build_study(LocalStore(tmp_path / "study"), wanted).contests
    assert len(contest.cases) == 3
    assert sum("its style x is gone" in told for told in contest.missing) == 3


def test_as_many_cases_are_drawn_as_are_asked_for(build: Build):
    built = build(num_cases=3)
    assert len(built.study.cases) == 3
    assert built.contests[0].num_left_out == 1
    drawn = {
        tuple(
            case.id
            for case in build(
                f"s{n}", num_cases=2, num_attention=0, num_repeats=0, seed=n
            ).study.cases
        )
        for n in range(6)
    }
    assert len(drawn) > 1


def test_a_swept_run_stands_for_all_its_entries_but_ours(build: Build):
    built = build(against=["swept"])
    assert [rival.name for rival in built.contests[0].rivals] == ["ours, no content", "adain"]


def test_all_pairs_are_compared_where_that_is_asked_for(build: Build):
    assert build().num_comparisons == 4 * 2
    assert build("all", all_pairs=True).num_comparisons == 4 * 3


def test_attention_trials_show_ours_beside_noise(build: Build, tmp_path: Path):
    study = build().study
    trials = [t for session in study.sessions for t in session if t.kind == "attention"]
    assert len(trials) == 4
    for trial in trials:
        assert getattr(trial, trial.expected or "") == "AD"
        with Image.open(tmp_path / "study" / study.case(trial).results["decoy"]) as noise:
            assert np.asarray(noise).std() > 50


def test_another_study_or_votes_without_a_study_are_never_written_over(
    build: Build, tmp_path: Path
):
    built = build()
    store = LocalStore(tmp_path / "study")
    open_session(store, built.study)
    before = files_of(tmp_path / "study")
    with pytest.raises(ManifestError, match="holds another study"):
        build(seed=5)
    assert files_of(tmp_path / "study") == before
    assert build().was_there
    (tmp_path / "study" / STUDY_NAME).unlink()
    with pytest.raises(ManifestError, match=r"has sessions/ of a study and no study.json"):
        build()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ours": []}, "nothing is ours"),
        ({"ours": ["AD=nowhere"]}, "there is no run 'nowhere'"),
        ({"ours": ["swept"]}, "has 3 entries, and one is ours"),
        (
            {"ours": ["AD=swept#ours", "AD=swept#ours, no content"]},
            "both ours and both of the task",
        ),
        ({"ours": ["AD=swept#ours", "Ours=swept#adain"]}, "ours has one name in all tasks"),
        ({"against": []}, "has no competitor"),
        ({"against": ["swept#ours"]}, "has no competitor"),
        ({"against": ["AD=swept#adain"]}, "two entries of style-transfer are called 'AD'"),
        ({"against": ["decoy=swept#adain"]}, "is not called 'decoy'"),
        ({"num_cases": 5}, "has 4 cases of which all have a picture"),
        ({"num_trials": 9}, "there are 8 comparisons"),
        ({"num_cases": 1}, "too few cases"),
    ],
)
def test_what_cannot_be_shown_is_told_in_a_sentence_and_nothing_is_written(
    build: Build, tmp_path: Path, changes, said
):
    with pytest.raises(ManifestError, match=said):
        build(**changes)
    assert not files_of(tmp_path / "study")


def write_outside(folder: Path, names: list[str], size: tuple[int, int] = (40, 40)) -> None:
    folder.mkdir()
    for number, name in enumerate(names):
        Image.new("RGB", size, (9 * number, 80, 120)).save(folder / f"{name}.jpg")


def test_pictures_of_another_program_compete_at_the_size_of_ours(build: Build, tmp_path: Path):
    write_outside(tmp_path / "made", ["a-x", "a-y", "c-x"], size=(90, 45))
    built = build(external=[f"StyTR2={tmp_path}/made"])
    (contest,) = built.contests
    assert [rival.name for rival in contest.rivals] == ["AdaIN", "free", "StyTR2"]
    assert len(built.study.cases) == 3
    assert any("c-y" in told and told.endswith("no picture of StyTR2") for told in contest.missing)
    for case in built.study.cases:
        with Image.open(tmp_path / "study" / case.results["AD"]) as ours:
            size = ours.size
        with Image.open(tmp_path / "study" / case.results["StyTR2"]) as outside:
            assert outside.size == size
            colour = outside.getpixel((5, 5))
            assert isinstance(colour, tuple)
            assert abs(colour[1] - 80) < 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nowhere", "--external takes NAME=FOLDER"),
        ("=made", "--external takes NAME=FOLDER"),
        ("Other=nowhere", "nowhere"),
        ("Other=made", "'Other' has no picture of any case"),
        ("Other=empty", "holds no images"),
        ("AD=named", "two entries of style-transfer are called 'AD'"),
    ],
)
def test_a_folder_that_cannot_compete_is_told_in_a_sentence(
    build: Build, compared_runs, tmp_path: Path, text: str, said: str
):
    write_outside(tmp_path / "made", ["other", "names"])
    write_outside(tmp_path / "named", ["a-x"])
    (tmp_path / "empty").mkdir()
    name, equals, folder = text.partition("=")
    if equals:
        text = f"{name}={tmp_path / folder}"
    with pytest.raises(ManifestError, match=said):
        build(external=[text])
    assert not files_of(tmp_path / "study")


def test_several_tasks_are_in_one_study_each_with_its_competitors(pictures: Path, tmp_path: Path):
    sweep = [{"label": "ours"}, {"label": "other", "style_weights": [2.0]}]
    render_pending(prepare(pictures, task="baseline-adain", settings={}, sweep=sweep))
    few = {"num_inference_steps": 1}
    render_pending(
        prepare(
            pictures,
            task="texture-optimize",
            inputs={"texture": "content"},
            settings=few,
            output__uri="textures",
        )
    )
    write_outside(tmp_path / "made", ["a", "b", "c"])
    wanted = Wanted(
        ours=["AD=run#ours", "AD=textures"],
        against=["run"],
        external=[f"texture-optimize:GCD={tmp_path}/made"],
        base=pictures,
        question="criteria",
        num_people=3,
    )
    built = build_study(LocalStore(tmp_path / "study"), wanted)
    assert {one.task: [rival.name for rival in one.rivals] for one in built.contests} == {
        "baseline-adain": ["other"],
        "texture-optimize": ["GCD"],
    }
    study = built.study
    captions = {case.task: [shown.caption for shown in case.references] for case in study.cases}
    assert captions == {
        "baseline-adain": ["Content", "Style"],
        "texture-optimize": ["Texture"],
    }
    assert study.criteria["texture-optimize"][0] == "similarity to the texture image"
    tasks = {study.case(trial).task for trial in study.sessions[0]}
    assert tasks == set(study.criteria)
