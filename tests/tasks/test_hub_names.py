"""Names of the hub are looked up once for a run: a branch that moves later breaks nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from diffusers.models.controlnets.controlnet import ControlNetModel

from ad_lib.model.weights import HUB_IDS
from manifests.errors import FingerprintMismatch
from tasks.inputs.resolving import resolve_job
from tasks.plans.planning import open_prepared
from tests.ad_lib.model.original_layout import write_single_file
from tests.conftest import TINY_BACKBONE
from tests.tasks.runs import make_job, prepare

OLD, NEW, TAGGED = "1" * 40, "2" * 40, "3" * 40


@pytest.fixture(scope="module")
def hub_cache(tmp_path_factory, tiny_backbone) -> Path:
    """A hub cache with a backbone and a ControlNet, at three commits each."""
    cache = tmp_path_factory.mktemp("hub")
    controlnet = tmp_path_factory.mktemp("controlnet")
    ControlNetModel.from_unet(tiny_backbone.unet).save_pretrained(controlnet)
    for name, files in (("backbone", TINY_BACKBONE), ("control", controlnet)):
        model = cache / f"models--owner--{name}"
        (model / "refs").mkdir(parents=True)
        (model / "refs" / "v1").write_text(TAGGED)
        for commit in (OLD, NEW, TAGGED):
            shutil.copytree(files, model / "snapshots" / commit)
    return cache


@pytest.fixture
def hub(monkeypatch, hub_cache) -> Path:
    """That cache without a network, its branches at the old commits."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub_cache))
    for name in ("backbone", "control"):
        move(hub_cache, name, OLD)
    return hub_cache


def added_commit(hub: Path, commit: str) -> Path:
    """One more commit of the backbone, which its branch leads to."""
    snapshots = hub / "models--owner--backbone" / "snapshots"
    shutil.copytree(snapshots / OLD, snapshots / commit)
    move(hub, "backbone", commit)
    return snapshots / commit


def move(hub: Path, name: str, commit: str) -> None:
    """Lets the branch of a model lead to another commit."""
    (hub / f"models--owner--{name}" / "refs" / "main").write_text(commit)


def controlled(pictures: Path, **backbone: str) -> dict[str, Any]:
    return {
        "task": "style-t2i",
        "inputs": {"style": "style", "control": "content", "prompt": "a house"},
        "backbone": {"name": "owner/backbone", "controlnet": "owner/control", **backbone},
    }


@pytest.mark.parametrize("uri", ["run", "runs/{date}"])
def test_a_branch_that_moved_changes_nothing_in_a_run_that_is_there(pictures, hub, uri):
    job = {**controlled(pictures), "output__uri": uri}
    run = prepare(pictures, **job)
    assert run.run.model_revision == f"{OLD}+{OLD}"
    move(hub, "backbone", NEW)
    move(hub, "control", NEW)
    again = prepare(pictures, **job)
    assert (again.uri, again.run) == (run.uri, run.run)
    assert resolve_job(make_job(**job), str(pictures)).model.revision == f"{OLD}+{OLD}"
    elsewhere = make_job(**{**job, "output__uri": "elsewhere"})
    assert resolve_job(elsewhere, str(pictures)).model.revision == f"{NEW}+{NEW}"


def test_a_run_whose_commits_are_gone_is_not_in_the_way_of_a_new_one(pictures, hub, caplog):
    job = {"backbone": "owner/backbone", "output__uri": "runs/{date}"}
    lost = added_commit(hub, "4" * 40)
    old = prepare(pictures, **job)
    move(hub, "backbone", NEW)
    shutil.rmtree(lost)
    resolved = resolve_job(make_job(**job), str(pictures))
    assert resolved.output_uri == f"{old.uri}-2"
    assert resolved.model.revision == NEW
    assert f"{old.uri} is not gone on with: backbone 'owner/backbone' could not" in caplog.text


def test_a_revision_that_the_job_asks_for_anew_is_looked_up(pictures, hub):
    prepare(pictures, **controlled(pictures))
    for key, found in {
        "revision": f"{TAGGED}+{OLD}",
        "controlnet_revision": f"{OLD}+{TAGGED}",
    }.items():
        asked = resolve_job(make_job(**controlled(pictures, **{key: "v1"})), str(pictures))
        assert asked.model.revision == found
        with pytest.raises(FingerprintMismatch, match="model_revision: the run folder has"):
            open_prepared(asked)


def test_a_named_branch_is_looked_up_once_as_well(pictures, hub):
    job = {"backbone": {"name": "owner/backbone", "revision": "main"}}
    run = prepare(pictures, **job)
    move(hub, "backbone", NEW)
    assert prepare(pictures, **job).run == run.run
    without = resolve_job(make_job(backbone="owner/backbone"), str(pictures))
    assert without.model.revision == OLD


def test_the_commits_of_one_model_say_nothing_of_another(pictures, hub):
    shutil.copytree(hub / "models--owner--backbone", hub / "models--owner--other")
    move(hub, "other", NEW)
    prepare(pictures, backbone="owner/backbone")
    other = resolve_job(make_job(backbone="owner/other"), str(pictures))
    assert other.model.revision == NEW


def test_the_configuration_of_a_single_file_is_looked_up_once(pictures, hub, monkeypatch):
    monkeypatch.setitem(HUB_IDS, "sd15", "owner/backbone")
    file = pictures / "model.safetensors"
    write_single_file(TINY_BACKBONE, file)
    job = {"backbone": str(file)}
    run = prepare(pictures, **job)
    assert run.run.model_config_id == f"owner/backbone@{OLD}"
    newer = added_commit(hub, "5" * 40)
    vocabulary = newer / "tokenizer" / "vocab.json"
    vocabulary.write_text(f"{vocabulary.read_text()}\n")
    assert prepare(pictures, **job).run == run.run
    anew = resolve_job(make_job(**job, output__uri="elsewhere"), str(pictures)).model
    assert anew.config == f"owner/backbone@{newer.name}"
    assert anew.revision != run.run.model_revision
    tagged = {"backbone": {"name": str(file), "config": "owner/backbone@v1"}}
    model = resolve_job(make_job(**tagged), str(pictures)).model
    assert model.config == f"owner/backbone@{TAGGED}"
