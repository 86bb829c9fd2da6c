"""One `.safetensors` file in the original layout is the same backbone as the diffusers folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ad_lib import BackboneError, find_weights, load_backbone
from tests.ad_lib.model.original_layout import write_single_file
from tests.conftest import GOLDEN, TINY_BACKBONE

FOLDERS = {"sd15": TINY_BACKBONE, "sdxl": GOLDEN / "models" / "tiny-sdxl"}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """A single file of each family."""
    folder = tmp_path_factory.mktemp("files")
    for family, source in FOLDERS.items():
        write_single_file(source, folder / f"{family}.safetensors")
    return {family: folder / f"{family}.safetensors" for family in FOLDERS}


@pytest.fixture
def copy(files, tmp_path):
    """A file of its own, after a function has changed its tensors in place."""

    def changed(family: str, change) -> Path:
        tensors = load_file(files[family])
        change(tensors)
        save_file(tensors, tmp_path / "model.safetensors")
        return tmp_path / "model.safetensors"

    return changed


def load(file: Path, family: str, **options):
    return load_backbone(str(file), config=str(FOLDERS[family]), device="cpu", **options)


def networks(backbone) -> dict[str, torch.nn.Module]:
    encoders = {f"text_encoder {i}": one for i, one in enumerate(backbone.text_encoders)}
    return {"unet": backbone.unet, "vae": backbone.vae} | encoders


def refusal(file: Path | str, **options) -> str:
    with pytest.raises(BackboneError) as refused:
        load_backbone(str(file), device="cpu", **options)
    message = str(refused.value)
    assert "\n" not in message
    return message


PUBLISHED_KEYS = {
    "sd15": {
        "model.diffusion_model.time_embed.0.weight",
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight",
        "model.diffusion_model.input_blocks.9.0.op.weight",
        "model.diffusion_model.middle_block.1.proj_in.weight",
        "model.diffusion_model.output_blocks.2.1.conv.weight",
        "model.diffusion_model.output_blocks.5.2.conv.weight",
        "model.diffusion_model.output_blocks.11.0.skip_connection.weight",
        "first_stage_model.encoder.down.0.downsample.conv.weight",
        "first_stage_model.decoder.mid.attn_1.proj_out.weight",
        "first_stage_model.decoder.up.3.block.2.conv1.weight",
        "first_stage_model.decoder.up.1.block.0.nin_shortcut.weight",
        "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight",
    },
    "sdxl": {
        "model.diffusion_model.label_emb.0.0.weight",
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.1.attn2.to_k.weight",
        "model.diffusion_model.input_blocks.8.1.transformer_blocks.9.ff.net.0.proj.weight",
        "model.diffusion_model.output_blocks.2.2.conv.weight",
        "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight",
        "conditioner.embedders.1.model.positional_embedding",
        "conditioner.embedders.1.model.text_projection",
        "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight",
        "conditioner.embedders.1.model.transformer.resblocks.0.mlp.c_proj.bias",
    },
}


@pytest.mark.parametrize("family", FOLDERS)
def test_the_files_have_the_keys_of_the_published_checkpoints(files, family):
    keys = load_file(files[family]).keys()
    assert keys >= PUBLISHED_KEYS[family]


@pytest.mark.parametrize("family", FOLDERS)
def test_every_tensor_is_that_of_the_folder(files, family):
    ours = networks(load(files[family], family))
    theirs = networks(load_backbone(str(FOLDERS[family]), device="cpu"))
    assert ours.keys() == theirs.keys()
    for name, network in theirs.items():
        expected, got = network.state_dict(), ours[name].state_dict()
        assert expected.keys() == got.keys()
        for key, tensor in expected.items():
            assert torch.equal(got[key], tensor), f"{name} {key}"


@pytest.mark.parametrize("family", FOLDERS)
def test_prompts_noise_and_pictures_are_those_of_the_folder(files, family):
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    seen = []
    for backbone in (
        load(files[family], family),
        load_backbone(str(FOLDERS[family]), device="cpu"),
    ):
        prompt = backbone.encode_prompt("a fox in the snow")
        noise = backbone.noise_predictor((64, 64), prompt)(latents, torch.tensor(501))
        seen.append((noise, backbone.decode(latents), backbone.timesteps(7)))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*seen, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FOLDERS)
def test_the_dtype_holds(files, family, dtype):
    backbone = load(files[family], family, dtype=dtype)
    assert backbone.dtype == dtype
    assert {encoder.dtype for encoder in backbone.text_encoders} == {dtype}
    assert backbone.vae.dtype == (torch.float32 if dtype == torch.float16 else dtype)
    assert not any(one.requires_grad for one in backbone.unet.parameters())


def test_the_scheduler_is_ddim_of_the_configuration(files):
    backbone = load(files["sdxl"], "sdxl")
    assert type(backbone.scheduler).__name__ == "DDIMScheduler"
    config = json.loads((FOLDERS["sdxl"] / "scheduler" / "scheduler_config.json").read_text())
    assert backbone.scheduler.config["beta_end"] == config["beta_end"]


def test_the_revision_is_of_the_bytes_wherever_the_file_lies(files, tmp_path):
    other = shutil.copy(files["sd15"], tmp_path / "other.safetensors")
    ours, theirs = (find_weights(str(f), config=str(TINY_BACKBONE)) for f in (files["sd15"], other))
    assert ours.revision.startswith("sha256:")
    assert ours.revision == theirs.revision
    assert (ours.path, ours.config) == (files["sd15"], TINY_BACKBONE)


def test_the_revision_changes_with_one_weight(files, copy):
    def change(tensors):
        tensors["first_stage_model.quant_conv.bias"][0] += 1

    changed = find_weights(str(copy("sd15", change)), config=str(TINY_BACKBONE))
    assert changed.revision != find_weights(str(files["sd15"]), config=str(TINY_BACKBONE)).revision


def test_the_revision_changes_with_what_the_configuration_decides(files, tmp_path):
    folder = Path(shutil.copytree(TINY_BACKBONE, tmp_path / "config"))
    config = folder / "vae" / "config.json"
    config.write_text(config.read_text().replace("0.18215", "0.2"))
    changed = find_weights(str(files["sd15"]), config=str(folder)).revision
    assert changed != find_weights(str(files["sd15"]), config=str(TINY_BACKBONE)).revision


def test_a_configuration_needs_no_weights_and_they_do_not_count(files, tmp_path):
    folder = Path(shutil.copytree(TINY_BACKBONE, tmp_path / "config"))
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    bare = load_backbone(str(files["sd15"]), config=str(folder), device="cpu").weights
    assert bare.revision == find_weights(str(files["sd15"]), config=str(TINY_BACKBONE)).revision


@pytest.mark.parametrize(
    ("part", "prefix"),
    [
        ("unet", "model.diffusion_model.middle_block.0.in_layers.2."),
        ("vae", "first_stage_model.decoder.mid.attn_1.q."),
        ("text_encoder", "cond_stage_model.transformer.text_model.final_layer_norm."),
    ],
)
def test_what_the_file_lacks_is_refused_not_completed_at_random(copy, part, prefix):
    def drop(tensors):
        for key in [key for key in tensors if key.startswith(prefix)]:
            del tensors[key]

    message = refusal(copy("sd15", drop), config=str(TINY_BACKBONE))
    assert f"the {part} of" in message
    assert "lacks 2 of its weights" in message


@pytest.mark.parametrize("network", ["model.diffusion_model.", "first_stage_model."])
def test_a_file_without_a_network_is_refused(copy, network):
    def drop(tensors):
        for key in [key for key in tensors if key.startswith(network)]:
            del tensors[key]

    assert "model.safetensors" in refusal(copy("sd15", drop), config=str(TINY_BACKBONE))


def test_a_file_of_another_kind_is_refused(tmp_path):
    save_file({"lora_unet_down.weight": torch.zeros(1)}, tmp_path / "lora.safetensors")
    message = refusal(tmp_path / "lora.safetensors")
    assert "not a whole checkpoint of Stable Diffusion 1.5 or SDXL" in message


def test_an_inpainting_model_is_refused(copy):
    def widen(tensors):
        key = "model.diffusion_model.input_blocks.0.0.weight"
        tensors[key] = torch.cat([tensors[key]] * 3, 1)[:, :9].contiguous()

    message = refusal(copy("sd15", widen), config=str(TINY_BACKBONE))
    assert "the unet of" in message
    assert (
        "'conv_in.weight' in the shape (24, 4, 3, 3), but in the file it is (24, 9, 3, 3)"
        in message
    )


def test_a_configuration_of_the_other_family_is_refused(files):
    message = refusal(files["sd15"], config=str(FOLDERS["sdxl"]))
    assert "is a checkpoint of Stable Diffusion 1.5" in message
    assert "is of SDXL" in message


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin"])
def test_pickled_checkpoints_are_refused_and_never_opened(tmp_path, suffix):
    file = tmp_path / f"model{suffix}"
    file.write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    message = refusal(file)
    assert "pickled" in message
    assert "save_pretrained" in message


def test_a_pickle_that_is_called_safetensors_is_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    torch.save({"a": torch.zeros(3)}, file)
    assert "not a sound .safetensors file" in refusal(file)


def test_a_file_cut_short_is_refused(files, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(files["sd15"].read_bytes()[:-1000])
    assert "not a sound .safetensors file" in refusal(file, config=str(TINY_BACKBONE))


def test_a_file_that_is_not_there_is_refused():
    assert "no file" in refusal("folder/model.safetensors")


def test_a_revision_of_a_file_is_refused(files):
    assert "means a hub id" in refusal(files["sd15"], revision="main")


def test_a_config_for_a_folder_is_refused():
    assert "drop config=" in refusal(TINY_BACKBONE, config=str(TINY_BACKBONE))


def test_a_broken_configuration_folder_is_named(files, tmp_path):
    folder = Path(shutil.copytree(TINY_BACKBONE, tmp_path / "config"))
    shutil.rmtree(folder / "tokenizer")
    assert "lacks tokenizer" in refusal(files["sd15"], config=str(folder))


@pytest.mark.parametrize("family", FOLDERS)
def test_without_a_config_the_hub_is_asked_for_the_familys(files, family, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    message = refusal(files[family])
    assert "config '" in message
    assert ("stable-diffusion-xl-base-1.0" in message) == (family == "sdxl")
    assert "local diffusers folder" in message
