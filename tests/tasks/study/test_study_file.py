from __future__ import annotations

import json

import pytest

from infra.store import LocalStore
from manifests.errors import RunFolderError
from tasks.study.study_file import STUDY_NAME, Study, Trial, find_study, load_study
from tests.tasks.study.studies import small_study, stored_study


def test_a_study_that_is_read_is_the_one_that_was_written(tmp_path):
    store, study = stored_study(tmp_path)
    found = load_study(store)
    assert found == study
    assert found.digest == study.digest
    assert found.to_bytes() == (tmp_path / STUDY_NAME).read_bytes()


def test_a_study_that_was_changed_by_hand_is_refused(tmp_path):
    store, study = stored_study(tmp_path)
    path = tmp_path / STUDY_NAME
    path.write_text(path.read_text().replace('"Test"', '"Text"'))
    with pytest.raises(RunFolderError, match="not as it was written"):
        load_study(store)
    content = json.loads(study.to_bytes())
    del content["checksum"]
    path.write_text(json.dumps(content))
    with pytest.raises(RunFolderError, match="not as it was written"):
        load_study(store)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("schema_version", 2, "schema_version"),
        ("colour", "red", "colour"),
        ("criteria", {}, "criteria of 'style-transfer' are missing"),
        ("cases", [], "cases"),
    ],
)
def test_a_study_with_another_field_is_refused(tmp_path, field, value, said):
    content = json.loads(small_study().to_bytes()) | {field: value}
    (tmp_path / STUDY_NAME).write_text(json.dumps(content))
    with pytest.raises(RunFolderError, match=said):
        load_study(LocalStore(tmp_path))


def with_first_session(*trials: Trial) -> Study:
    study = small_study()
    return Study.model_validate(study.model_dump() | {"sessions": [trials]})


def plain(number: int, left: str, right: str, **fields) -> Trial:
    shown = {"case": "case0", "kind": "plain", "expected": None} | fields
    return Trial(number=number, left=left, right=right, **shown)


def test_trials_show_what_their_case_has():
    with_first_session(plain(0, "ours", "rival"), plain(1, "rival", "ours", kind="repeat"))
    for trials in (
        [plain(0, "ours", "nobody")],
        [plain(0, "ours", "rival", case="case9")],
        [plain(1, "ours", "rival")],
        [plain(0, "ours", "rival"), plain(1, "ours", "rival", kind="repeat")],
        [plain(0, "ours", "rival", kind="repeat")],
    ):
        with pytest.raises(ValueError, match="trial"):
            with_first_session(*trials)
    for fields in ({"kind": "attention"}, {"expected": "left"}):
        with pytest.raises(ValueError, match="attention"):
            plain(0, "ours", "rival", **fields)
    with pytest.raises(ValueError, match="both sides"):
        plain(0, "ours", "ours")


def test_people_beyond_the_last_session_see_the_first_ones_again():
    study = small_study(num_sessions=3)
    assert [study.trials(n) for n in range(6)] == [*study.sessions, *study.sessions]


def test_a_folder_without_a_study_says_how_one_is_made(tmp_path):
    assert find_study(LocalStore(tmp_path)) is None
    with pytest.raises(RunFolderError, match="stylefarm study build"):
        load_study(LocalStore(tmp_path))
