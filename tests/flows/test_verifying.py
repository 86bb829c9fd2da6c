"""`stylefarm verify` and `stylefarm failures` as a user calls them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of the finished run: 8 items in 4 shards, of which 2 have failed."""
    shutil.copytree(finished.run, tmp_path / "run")
    return tmp_path / "run"


def test_a_sound_run_is_told_so(stylefarm, run):
    answer = stylefarm("verify", run)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("Sound: 4 shards, ")
    document = json.loads(stylefarm("verify", run, "--json").out)
    assert (document["sound"], document["findings"], document["shards"]) == (True, [], 4)


def test_damage_is_named_then_planned_then_no_damage_any_more(stylefarm, run):
    tar = min(run.glob("data/*.tar"))
    tar.write_bytes(tar.read_bytes()[:-1])
    name, shard = tar.relative_to(run).as_posix(), tar.name.partition("-")[0]
    assert "stylefarm verify" in stylefarm("report", run).err
    dry = stylefarm("verify", run, "--dry-run", "--json")
    assert dry.code == 4
    document = json.loads(dry.out)
    (found,) = document["findings"]
    assert (found["name"], found["shard"], found["remedy"]) == (name, shard, "repair")
    assert (document["sound"], document["planned"]) == (False, [])
    assert not (run / "generations").exists()
    answer = stylefarm("verify", run)
    assert answer.code == 4
    assert f"{name} is damaged" in answer.out
    assert f"'stylefarm work {run}'" in answer.out
    assert (run / "generations" / "0001.json").exists()
    assert stylefarm("verify", run).code == 0
    assert json.loads(stylefarm("verify", run, "--json").out)["pending_shards"] >= 1


def test_what_nobody_can_mend_ends_with_2(stylefarm, run):
    (plan,) = run.glob("plan/*.parquet")
    plan.unlink()
    answer = stylefarm("verify", run)
    assert answer.code == 2
    assert f"{plan.relative_to(run)} is missing" in answer.out
    assert "Restore" in answer.out


def test_failures_are_listed_with_their_keys_and_sentences(stylefarm, run):
    answer = stylefarm("failures", run)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.endswith("2 items failed (2 decode).")
    document = json.loads(stylefarm("failures", run, "--class", "decode,oom", "--json").out)
    assert document["by_class"] == {"decode": 2}
    assert len(document["failures"]) == 2
    for row in document["failures"]:
        assert row["key"] in answer.out
        assert row["error_message"].split(":")[-1].strip() in answer.out
        assert {one["role"] for one in row["inputs"]} == {"content", "style"}


def test_failures_of_other_classes_are_none_and_unknown_classes_are_refused(stylefarm, run):
    assert (
        stylefarm("failures", run, "--class", "oom").out == "No item has failed with these classes."
    )
    assert json.loads(stylefarm("failures", run, "--class", "oom", "--json").out)["failures"] == []
    answer = stylefarm("failures", run, "--class", "omm")
    assert answer.code == 2
    assert "did you mean 'oom'" in answer.err
