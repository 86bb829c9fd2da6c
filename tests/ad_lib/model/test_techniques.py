"""What makes a network faster moves features by rounding at most, and can be switched at will."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ad_lib import load_backbone
from ad_lib.model.techniques import Techniques

PLAIN = Techniques(
    early_exit=False, constant_cross_attention=False, channels_last=False, compile="off"
)


@pytest.mark.parametrize("prompt", [None, "a red fox"])
@pytest.mark.parametrize("batch", [1, 3])
def test_keys_and_values_that_are_computed_once_are_those_of_every_pass(
    tiny_backbone, prompt, batch
):
    latents = torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    said = prompt and tiny_backbone.encode_prompt(prompt)

    def seen(techniques):
        tiny_backbone.techniques = techniques
        return tiny_backbone.feature_extractor(prompt=said)(latents, torch.tensor(500))

    try:
        expected = seen(PLAIN)
        known = seen(replace(PLAIN, constant_cross_attention=True))
    finally:
        tiny_backbone.techniques = Techniques()
    for ours, theirs in zip(known, expected, strict=True):
        for name in ("query", "key", "value", "out"):
            torch.testing.assert_close(
                getattr(ours, name), getattr(theirs, name), rtol=1e-5, atol=1e-6
            )


def test_a_denoiser_hears_its_own_prompt_while_features_are_taken(tiny_backbone):
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    predict = tiny_backbone.noise_predictor((64, 64), tiny_backbone.encode_prompt("a red fox"))
    try:
        tiny_backbone.techniques = PLAIN
        expected = predict(latents, torch.tensor(500))
        tiny_backbone.techniques = replace(PLAIN, constant_cross_attention=True)
        with tiny_backbone.feature_extractor() as extract:
            extract(latents, torch.tensor(500))
            heard = predict(latents, torch.tensor(500))
        torch.testing.assert_close(heard, expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(predict(latents, torch.tensor(500)), expected)
    finally:
        tiny_backbone.techniques = Techniques()


def test_convolutions_lie_channels_last_exactly_while_that_is_switched_on(tiny_backbone):
    weights = [
        module.weight
        for module in tiny_backbone.unet.modules()
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3)
    ]
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def layouts():
        return {weight.is_contiguous(memory_format=torch.channels_last) for weight in weights}

    predict = tiny_backbone.noise_predictor((64, 64))
    try:
        tiny_backbone.techniques = PLAIN
        expected = predict(latents, torch.tensor(500))
        assert layouts() == {False}
        tiny_backbone.techniques = replace(PLAIN, channels_last=True)
        assert layouts() == {True}
        torch.testing.assert_close(
            predict(latents, torch.tensor(500)), expected, rtol=1e-4, atol=1e-5
        )
        tiny_backbone.techniques = PLAIN
        assert layouts() == {False}
    finally:
        tiny_backbone.techniques = Techniques()


def test_a_backbone_whose_convolutions_lie_channels_last_is_saved_and_read(tiny_backbone, tmp_path):
    assert tiny_backbone.techniques.on("cpu").channels_last
    tiny_backbone.save_pretrained(tmp_path)
    again = load_backbone(str(tmp_path), device="cpu")
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    ours, theirs = (one.noise_predictor((64, 64)) for one in (tiny_backbone, again))
    assert torch.equal(ours(latents, torch.tensor(500)), theirs(latents, torch.tensor(500)))


@pytest.mark.parametrize("device_type", ["cpu", "meta", "mps"])
def test_only_cuda_compiles_by_itself(device_type):
    assert Techniques().on(device_type).compile == "off"
    assert Techniques().on("cuda").compile == "auto"
    assert Techniques(compile="reduce").on(device_type).compile == "reduce"


def test_a_compiled_pass_does_not_end_by_an_exception():
    assert Techniques(compile="off").on("cuda").early_exit
    assert not Techniques().on("cuda").early_exit
