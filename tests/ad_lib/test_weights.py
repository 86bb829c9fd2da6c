"""Which folders and ids are backbones, and which bytes they are."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from ad_lib import BackboneError, find_weights, load_backbone
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
