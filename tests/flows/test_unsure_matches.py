"""Wrong matches are told before a run, after a picture, and by every row."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from manifests.items import Input, Item
from manifests.quality import Bounds, Quality
from tasks.work.fork_server import ForkServer
from tasks.work.predicting import (
    MOST_PAIRS,
    Asked,
    Match,
    Predicted,
    pairs_of,
    predict_in_child,
    unsure,
)
from tasks.work.shard_work import PlannedModel
from tests.conftest import TINY_BACKBONE
from tests.flows.conftest import Finished, Stylefarm
from tests.flows.jobs import write_job

ITEM = Item("0" * 32, "a", 1, "style-transfer", "{}", 0, 64, 64, (), 1.0)


def given(role: str, name: str) -> Input:
    return Input(role=role, uri=f"/{name}.png", key=name)


def test_a_dry_run_tells_which_pairs_look_unsure_and_the_memory_that_pictures_take(
    stylefarm: Stylefarm, pictures: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("flows.planning.UNSURE", 1e-6)
    answer = stylefarm("run", write_job(pictures), "--dry-run", "--json")
    assert answer.code == 0, answer
    told = json.loads(answer.out)
    matches = told["matches"]
    assert 0 < len(matches) <= MOST_PAIRS
    assert all(0 < one["match_uncertainty"] <= 1 for one in matches)
    assert f"{matches[0]['key']}: match_uncertainty {matches[0]['match_uncertainty']:.2f}" in (
        answer.err
    )
    assert f"Looked at the matches of {len(matches)} pairs" in answer.err
    assert told["estimate"]["buckets"][0]["peak_memory_bytes"] > 10**8
    assert "the most that a batch may take" in answer.err
    assert "it may not fit" not in answer.err
    assert not (pictures / "run").exists()


def test_of_textures_no_matches_are_told_but_where_memory_is_short(
    stylefarm: Stylefarm, pictures: Path, monkeypatch: pytest.MonkeyPatch
):
    assert "matches" not in stylefarm("plan", write_job(pictures)).out
    textures = write_job(pictures, task="texture-optimize", inputs={"texture": "style"})
    monkeypatch.setattr("flows.memory_words.TIGHT", 1e-6)
    told = stylefarm("run", textures, "--dry-run", "--set", "output.uri=t").out
    assert "Looked at" not in told
    assert "A picture of 64x64 pixels takes up to" in told
    assert "it may not fit" in told


def test_few_pairs_stand_for_a_large_plan_each_pair_once():
    contents, styles = ([given(role, f"{role}{n}") for n in range(10)] for role in "cs")
    pairs = [(content, style) for content in contents for style in styles]
    items = [replace(ITEM, inputs=pair) for pair in pairs for _ in range(2)]
    chosen = [item.inputs for item in pairs_of(items)]
    assert len(chosen) == len(set(chosen)) == MOST_PAIRS
    assert [item.inputs for item in pairs_of(items[:6])] == pairs[:3]
    assert pairs_of(replace(item, task="texture-sample") for item in items) == []
    assert pairs_of([]) == []


def test_what_cannot_be_looked_at_fails_no_plan(shared_server: ForkServer):
    model = PlannedModel(model_id=str(TINY_BACKBONE), revision="another", dtype="float32")
    asked = Asked(pairs=(ITEM,), model=model, device="cpu", max_pixels=10**6)
    assert predict_in_child(shared_server, asked) == Predicted()


def test_the_least_sure_pair_comes_first():
    figures = {"a": 0.3, "b": 0.1, "c": 0.5}
    found = [Match(key=key, match_uncertainty=at) for key, at in figures.items()]
    assert [one.key for one in unsure(found, 0.2)] == ["c", "a"]


def test_render_says_the_figure_and_warns_above_the_bound(
    stylefarm: Stylefarm, pictures: Path, monkeypatch: pytest.MonkeyPatch
):
    words = (
        *("render", "--content", "content/a.png", "--style", "style/x.png", "-o", "a.png"),
        *("--backbone", TINY_BACKBONE, "--size", "64", "--set", "num_inference_steps=1"),
    )
    for bound, warns in ((0.0, True), (1.0, False)):
        monkeypatch.setattr("flows.single.UNSURE", bound)
        told = stylefarm(*words).out
        assert "match_uncertainty 0." in told
        assert ("look for wrong matches" in told) == warns


def test_every_row_has_it_and_a_bound_rejects_by_it(finished: Finished):
    rows = [
        row
        for path in (finished.run / "metadata").glob("*/*.parquet")
        for row in pq.read_table(path, columns=["status", "match_uncertainty"]).to_pylist()
    ]
    figures = [row["match_uncertainty"] for row in rows if row["status"] == "ok"]
    assert figures
    assert all(0 < figure <= 1 for figure in figures)
    assert {row["match_uncertainty"] for row in rows if row["status"] == "failed"} == {None}
    quality = Quality(match_uncertainty=Bounds(max=0.2))
    assert quality.rejection({"match_uncertainty": 0.25}) == "match_uncertainty is 0.25, above 0.2"
    assert quality.rejection({"match_uncertainty": 0.15}) is None
    assert quality.rejection({}) is None  # a baseline's picture
