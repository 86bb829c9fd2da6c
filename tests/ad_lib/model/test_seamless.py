"""Networks under `seamless` do not know where a picture begins, and afterwards know it again."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ad_lib.model.seamless import seamless, wrap_around, wrapped_axes
from tests.rounding import Wanted, compare

TIMESTEP = torch.tensor(501)
STRIDE = 8  # latent cells per cell of the U-Net's deepest level
WRAPS = {"none": (), "x": (3,), "y": (2,), "both": (2, 3)}


@pytest.fixture
def latents():
    return torch.randn(1, 4, 24, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def noise_pred(tiny_backbone):
    unet = tiny_backbone.unet
    shape = (1, 77, unet.config["cross_attention_dim"])
    embeds = torch.randn(shape, generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def predict(latents):
        return unet(latents, TIMESTEP, encoder_hidden_states=embeds).sample

    return predict


def follows_a_roll(network, latents, axis, factor=1) -> bool:
    """Whether rolled latents give the rolled output, up to rounding."""
    (figure,) = compare(
        lambda disturb: {"rolled": network(disturb(latents).roll(STRIDE, axis))},
        {"rolled": Wanted(network(latents).roll(factor * STRIDE, axis))},
    )
    return figure.ok


@pytest.mark.parametrize("axes", WRAPS)
def test_the_noise_follows_rolled_latents_along_wrapped_axes_only(
    tiny_backbone, noise_pred, latents, axes
):
    with seamless(tiny_backbone.unet, axes=axes):
        follows = [axis for axis in (2, 3) if follows_a_roll(noise_pred, latents, axis)]
    assert tuple(follows) == WRAPS[axes]


@pytest.mark.parametrize("axes", WRAPS)
def test_the_picture_follows_rolled_latents_along_wrapped_axes_only(tiny_backbone, latents, axes):
    with seamless(tiny_backbone.vae, axes=axes):
        decode = tiny_backbone.decode
        follows = [axis for axis in (2, 3) if follows_a_roll(decode, latents, axis, factor=8)]
    assert tuple(follows) == WRAPS[axes]


def everything_about(network: nn.Module) -> dict:
    """Every attribute of every module, hooks too."""
    return {
        name: {key: value if key == "padding" else repr(value) for key, value in vars(one).items()}
        for name, one in network.named_modules()
    }


def test_afterwards_the_network_is_the_same_to_the_bit(tiny_backbone, noise_pred, latents):
    unet, vae = tiny_backbone.unet, tiny_backbone.vae
    before = everything_about(unet), everything_about(vae), noise_pred(latents)
    with seamless(unet, vae, axes="both"):
        assert everything_about(unet) != before[0]
        assert everything_about(vae) != before[1]
        noise_pred(latents)
    assert (everything_about(unet), everything_about(vae)) == before[:2]
    assert torch.equal(noise_pred(latents), before[2])


def test_an_exception_leaves_nothing_behind(tiny_backbone):
    before = everything_about(tiny_backbone.unet)
    with (
        pytest.raises(KeyError),
        seamless(tiny_backbone.unet, axes="both"),
        seamless(tiny_backbone.unet, axes="x"),
    ):
        raise KeyError
    assert everything_about(tiny_backbone.unet) == before


def test_none_changes_nothing(tiny_backbone):
    before = everything_about(tiny_backbone.unet)
    with seamless(tiny_backbone.unet, axes="none"):
        assert everything_about(tiny_backbone.unet) == before


@pytest.mark.parametrize(
    ("outer", "inner"), [("x", "y"), ("y", "x"), ("both", "x"), ("both", "both"), ("none", "both")]
)
def test_nested_contexts_wrap_along_the_axes_of_either(tiny_backbone, latents, outer, inner):
    vae = tiny_backbone.vae
    with seamless(vae, axes="both"):
        expected = tiny_backbone.decode(latents)
    with seamless(vae, axes=outer):
        alone = tiny_backbone.decode(latents)
        with seamless(vae, vae, axes=inner):
            assert torch.allclose(tiny_backbone.decode(latents), expected, atol=1e-5)
        assert torch.equal(tiny_backbone.decode(latents), alone)


@pytest.mark.parametrize(("axes", "mode"), [("x", "wrap x"), ("y", "wrap y"), ("both", "wrap")])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_is_that_of_the_padded_picture(axes, mode, stride):
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 5, (3, 5), stride, padding=(1, 2))
    pixels = torch.randn(2, 3, 9, 8)
    rows, columns = wrapped_axes(axes)
    padded = F.pad(pixels, (0, 0, 1, 1), mode="circular" if rows else "constant")
    padded = F.pad(padded, (2, 2, 0, 0), mode="circular" if columns else "constant")
    expected = F.conv2d(padded, convolution.weight, convolution.bias, stride)
    with seamless(convolution, axes=axes):
        assert torch.allclose(convolution(pixels), expected, atol=1e-5)


def test_gradients_come_around_the_border():
    convolution = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    nn.init.ones_(convolution.weight)
    pixels = torch.zeros(1, 1, 4, 4, requires_grad=True)
    with seamless(convolution, axes="x"):
        convolution(pixels)[0, 0, 1, 0].backward()
    # Rows 0..2 of the columns 3 (from beyond the border), 0 and 1.
    expected = torch.tensor([[1.0, 1, 0, 1]] * 3 + [[0.0] * 4])
    assert torch.equal(pixels.grad[0, 0], expected)


def test_convolutions_that_do_not_pad_are_left_alone(tiny_backbone):
    with seamless(tiny_backbone.vae, axes="both"):
        unpadded = [
            one
            for one in tiny_backbone.vae.modules()
            if isinstance(one, nn.Conv2d) and not one._forward_pre_hooks
        ]
    halving = [block.downsamplers[0].conv for block in tiny_backbone.vae.encoder.down_blocks[:-1]]
    assert set(halving) < set(unpadded)
    assert all(one.kernel_size == (1, 1) or one in halving for one in unpadded)


def test_compiled_networks_wrap_too(request):
    if request.config.getoption("--shapes"):
        pytest.skip("compiled code cannot be checked for shapes")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.SiLU())
    compiled = torch.compile(network, backend="eager")
    pixels = torch.randn(1, 3, 8, 8)
    before = compiled(pixels)
    with seamless(network, axes="both"):
        assert torch.equal(compiled(pixels), network(pixels))
        assert not torch.equal(compiled(pixels), before)
    assert torch.equal(compiled(pixels), before)


def test_wrapping_keeps_channels_last():
    pixels = torch.randn(2, 8, 6, 6).to(memory_format=torch.channels_last)
    wrapped = wrap_around(pixels, 1, 2)
    assert wrapped.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(wrapped, F.pad(pixels, (2, 2, 1, 1), mode="circular"))


@pytest.mark.parametrize("options", [{"padding": "same"}, {"padding_mode": "reflect"}])
def test_other_padding_is_refused_and_nothing_changed(options):
    network = nn.Sequential(
        nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, **({"padding": 1} | options))
    )
    before = everything_about(network)
    with (
        pytest.raises(ValueError, match="seamless needs convolutions that pad a number of zeros"),
        seamless(network, axes="x"),
    ):
        pass
    assert everything_about(network) == before
