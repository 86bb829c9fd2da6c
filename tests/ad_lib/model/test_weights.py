"""Which folders and ids are backbones, and which bytes they are."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ad_lib import BackboneError, find_weights, load_backbone
from tests.ad_lib.model.original_layout import write_single_file
from tests.conftest import TINY_BACKBONE

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the tiny backbone that a test may spoil."""
    return Path(shutil.copytree(TINY_BACKBONE, tmp_path / "model"))


def one_line(error) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_diffusers_folder_is_found_with_a_digest_of_its_files(folder):
    weights = find_weights(str(folder))
    assert (weights.model_id, weights.path) == (str(folder), folder)
    assert weights.revision.startswith("sha256:")


def test_the_digest_does_not_depend_on_where_the_folder_lies(folder):
    assert find_weights(str(folder)).revision == find_weights(str(TINY_BACKBONE)).revision


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_the_digest_changes_with_a_single_byte_of_a_weight(folder, part):
    (file,) = (folder / part).glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert find_weights(str(folder)).revision != find_weights(str(TINY_BACKBONE)).revision


def test_the_digest_changes_with_the_schedulers_numbers(folder):
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("0.012", "0.013"))
    assert find_weights(str(folder)).revision != find_weights(str(TINY_BACKBONE)).revision


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_is_named(folder, part):
    shutil.rmtree(folder / part)
    with pytest.raises(BackboneError) as refused:
        find_weights(str(folder))
    message = one_line(refused)
    assert str(folder) in message
    assert message.endswith(f"it lacks {part}")


def test_all_missing_parts_are_named_at_once(tmp_path):
    with pytest.raises(BackboneError, match=", ".join(PARTS)):
        find_weights(str(tmp_path))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_pickled_weights_are_refused_and_never_opened(folder, part):
    (file,) = (folder / part).glob("*.safetensors")
    file.unlink()
    (folder / part / "diffusion_pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(BackboneError) as refused:
        load_backbone(str(folder), device="cpu")
    message = one_line(refused)
    assert f"no safetensors for its {part}" in message
    assert "save_pretrained" in message


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_damaged_weights_are_refused_in_one_sentence(folder, part):
    (file,) = (folder / part).glob("*.safetensors")
    file.write_bytes(b"\0" * 100)
    with pytest.raises(BackboneError) as refused:
        load_backbone(str(folder), device="cpu")
    assert f"the {part} of" in one_line(refused)


@pytest.mark.parametrize(
    ("part", "file"), [("scheduler", "scheduler_config.json"), ("tokenizer", "tokenizer.json")]
)
def test_a_damaged_configuration_is_refused_in_one_sentence(folder, part, file):
    (folder / part / file).write_text("{")
    with pytest.raises(BackboneError) as refused:
        load_backbone(str(folder), device="cpu")
    assert f"the {part} of" in one_line(refused)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_network_with_a_missing_weight_is_refused_not_completed_at_random(folder, part):
    (file,) = (folder / part).glob("*.safetensors")
    tensors = load_file(file)
    name = sorted(tensors)[0]
    del tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(BackboneError) as refused:
        load_backbone(str(folder), device="cpu")
    message = one_line(refused)
    assert f"the {part} of" in message
    assert f"lacks 1 of its weights, such as '{name}'" in message


OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def test_the_names_of_older_versions_load_as_the_same_weights(folder):
    """As the published weights of Stable Diffusion 1.5 have them."""
    file = folder / "text_encoder" / "model.safetensors"
    tensors = {f"text_model.{name}": tensor for name, tensor in load_file(file).items()}
    tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(tensors, file)
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    for name in [name for name in tensors if "mid_block.attentions" in name]:
        old = name
        for new_part, old_part in OLD_ATTENTION.items():
            old = old.replace(new_part, old_part)
        tensors[old] = tensors.pop(name)
    assert any("proj_attn" in name for name in tensors)
    save_file(tensors, file)
    ours, theirs = (load_backbone(str(name), device="cpu") for name in (folder, TINY_BACKBONE))
    for network, expected in (
        (ours.vae, theirs.vae),
        (ours.text_encoders[0], theirs.text_encoders[0]),
    ):
        state = network.state_dict()
        assert all(torch.equal(state[name], t) for name, t in expected.state_dict().items())


def test_a_tokenizer_without_a_vocabulary_is_refused(folder):
    for file in ("tokenizer.json", "vocab.json"):
        (folder / "tokenizer" / file).unlink()
    with pytest.raises(BackboneError, match="has no vocabulary"):
        find_weights(str(folder))


@pytest.mark.parametrize("name", ["nothing", "./nothing", "/no/such/folder", "a/b/c"])
def test_a_name_that_is_nothing_tells_what_can_be_given(name):
    with pytest.raises(BackboneError) as refused:
        find_weights(name)
    message = one_line(refused)
    assert repr(name) in message
    assert all(way in message for way in ("'embedded'", "'sd15'", "hub id", "diffusers folder"))


def test_a_revision_of_a_folder_is_refused():
    with pytest.raises(BackboneError, match="revision 'main' means a hub id"):
        find_weights(str(TINY_BACKBONE), "main")


@pytest.mark.parametrize("name", ["sd15", "nobody/no-such-model"])
def test_a_hub_id_without_a_network_ends_quickly_in_one_sentence(monkeypatch, tmp_path, name):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("diffusers.utils.constants.HF_HUB_OFFLINE", True, raising=False)
    started = time.monotonic()
    with pytest.raises(BackboneError) as refused:
        load_backbone(name, device="cpu")
    message = one_line(refused)
    assert "could not be fetched" in message
    assert "local diffusers folder" in message
    assert time.monotonic() - started < 10


COMMIT, OTHER_COMMIT = "1" * 40, "2" * 40


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Path:
    """A hub cache without a network: one model at two commits, with a branch and a tag."""
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    model = cache / "models--owner--name"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(COMMIT)
    (model / "refs" / "v1.0").write_text(OTHER_COMMIT)
    for commit in (COMMIT, OTHER_COMMIT):
        shutil.copytree(TINY_BACKBONE, model / "snapshots" / commit)
    return model


@pytest.mark.parametrize(
    ("revision", "commit"),
    [(None, COMMIT), ("main", COMMIT), ("v1.0", OTHER_COMMIT), (OTHER_COMMIT, OTHER_COMMIT)],
)
def test_a_branch_or_tag_is_recorded_as_its_commit(hub, revision, commit):
    weights = find_weights("owner/name", revision)
    assert (weights.model_id, weights.revision) == ("owner/name", commit)
    assert weights.path == hub / "snapshots" / commit


def test_the_recorded_commit_loads_the_same_weights_after_the_branch_moved(hub):
    recorded = load_backbone("owner/name", revision="main", device="cpu").weights.revision
    (hub / "refs" / "main").write_text(OTHER_COMMIT)
    again = load_backbone("owner/name", revision=recorded, device="cpu").weights
    assert again.path == hub / "snapshots" / COMMIT
    assert find_weights("owner/name", "main").revision == OTHER_COMMIT


def test_a_revision_that_the_hub_lacks_is_refused(hub):
    with pytest.raises(BackboneError, match="'owner/name' could not be fetched"):
        find_weights("owner/name", "v2.0")


def test_the_configuration_of_a_single_file_can_be_a_hub_id(hub, tmp_path):
    write_single_file(TINY_BACKBONE, tmp_path / "model.safetensors")
    names = ("owner/name", str(TINY_BACKBONE))
    of_hub, of_folder = (find_weights(str(tmp_path / "model.safetensors"), None, n) for n in names)
    assert of_hub.config == hub / "snapshots" / COMMIT
    assert of_hub.revision == of_folder.revision
