"""Networks that are read from files lie in memory of their own, as if they were made in memory."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ad_lib import Backbone, load_backbone, random_backbone, random_controlnet
from ad_lib.model.families.stable_diffusion.backbone import StableDiffusion
from ad_lib.model.parts import copy_into_own_memory
from tests.ad_lib.model.original_layout import write_single_file
from tests.conftest import GOLDEN

MODELS = ["tiny-sd", "tiny-sdxl"]


@pytest.fixture(scope="module", params=MODELS)
def loaded(request, tmp_path_factory) -> dict[str, Backbone]:
    """The same weights and ControlNet out of a folder, out of a single file, and in memory."""
    model, files = GOLDEN / "models" / request.param, tmp_path_factory.mktemp("weights")
    write_single_file(model, files / "model.safetensors")
    random_controlnet(load_backbone(str(model), device="cpu")).save_pretrained(files / "control")
    control = {"controlnet": str(files / "control"), "device": "cpu"}
    folder = load_backbone(str(model), **control)
    file = load_backbone(str(files / "model.safetensors"), config=str(model), **control)
    return {"folder": folder, "file": file, "memory": made_in_memory(folder)}


def made_in_memory(backbone: Backbone) -> Backbone:
    """A backbone of the same numbers whose networks were constructed, not read from a file."""

    def made(network: Any) -> Any:
        kind = type(network)
        fresh = getattr(kind, "from_config", kind)(network.config)
        fresh.load_state_dict(network.state_dict())
        return fresh

    second = [made(encoder) for encoder in backbone.text_encoders[1:]]
    return StableDiffusion(
        unet=made(backbone.unet),
        vae=made(backbone.vae),
        text_encoder=made(backbone.text_encoders[0]),
        tokenizer=backbone.tokenizers[0],
        text_encoder_2=second[0] if second else None,
        tokenizer_2=backbone.tokenizers[1] if second else None,
        controlnet=made(backbone.controlnet),
        scheduler=backbone.scheduler,
        weights=backbone.weights,
    )


def networks_of(backbone: Backbone) -> list[nn.Module]:
    controlnet = [backbone.controlnet] if backbone.controlnet is not None else []
    return [backbone.unet, backbone.vae, *backbone.text_encoders, *controlnet]


def tensors_of(*networks: nn.Module) -> Iterator[Tensor]:
    for network in networks:
        yield from network.parameters()
        yield from network.buffers()


def assert_aligned(backbone: Backbone) -> None:
    addresses = [tensor.data_ptr() for tensor in tensors_of(*networks_of(backbone))]
    assert addresses
    assert not any(address % 64 for address in addresses)


@pytest.mark.parametrize("source", ["folder", "file"])
def test_after_loading_every_tensor_starts_at_a_multiple_of_64_bytes(loaded, source):
    assert loaded[source].controlnet is not None
    assert_aligned(loaded[source])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["embedded", str(GOLDEN / "models" / "tiny-sd")])
def test_in_any_dtype_every_tensor_starts_at_a_multiple_of_64_bytes(name, dtype):
    assert_aligned(load_backbone(name, device="cpu", dtype=dtype))


@pytest.mark.parametrize("source", ["folder", "file"])
def test_a_folder_a_file_and_memory_agree_to_the_bit(loaded, source):
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 8, 8, generator=generator)
    images = torch.rand(1, 3, 64, 64, generator=generator)

    def seen(backbone: Backbone) -> list[Tensor]:
        prompt = backbone.encode_prompt("a fox in the snow")
        features = backbone.feature_extractor()(latents, torch.tensor(501))
        return [
            prompt.prompt_embeds,
            backbone.noise_predictor((64, 64), prompt)(latents, torch.tensor(501)),
            backbone.encode(images),
            backbone.decode(latents),
            *(layer.out for layer in features if layer.out is not None),
            *backbone.controlnet(
                latents,
                torch.tensor(501),
                controlnet_cond=images,
                return_dict=False,
                **prompt.conditioning(1, (64, 64)),
            )[0],
        ]

    with torch.no_grad():
        ours, theirs = seen(loaded[source]), seen(loaded["memory"])
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


class Tied(nn.Module):
    """Two layers that share a weight and a buffer that is a view of larger memory."""

    def __init__(self, stored: Tensor) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.first.weight = self.second.weight = nn.Parameter(
            stored[1:10].view(3, 3), requires_grad=False
        )
        self.register_buffer("ids", stored[None, 10:13].expand(2, -1), persistent=False)


def test_a_copied_network_has_the_same_numbers_in_other_memory_and_ties_stay():
    network = Tied(torch.arange(30.0))
    before = deepcopy(network.state_dict()) | {"ids": network.ids.clone()}
    places = {tensor.untyped_storage().data_ptr() for tensor in tensors_of(network)}
    copy_into_own_memory(network)
    after = network.state_dict() | {"ids": network.ids}
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not places & {tensor.untyped_storage().data_ptr() for tensor in tensors_of(network)}
    assert network.first.weight is network.second.weight
    assert not network.first.weight.requires_grad
    assert network.first.bias.requires_grad


def test_tensors_without_memory_are_left_as_they_are():
    with torch.device("meta"):
        network = nn.Linear(3, 3)
    copy_into_own_memory(network)
    assert all(tensor.is_meta for tensor in tensors_of(network))


def test_a_loaded_network_does_not_need_its_file_any_more(tmp_path: Path):
    random_backbone("sd15", tiny=True).save_pretrained(tmp_path)
    backbone = load_backbone(str(tmp_path), device="cpu")
    latents = torch.zeros(1, 4, 8, 8)
    before = backbone.decode(latents)
    for file in tmp_path.rglob("*.safetensors"):
        file.write_bytes(bytes(file.stat().st_size))  # in place, as a copy over the file does
    assert torch.equal(backbone.decode(latents), before)
