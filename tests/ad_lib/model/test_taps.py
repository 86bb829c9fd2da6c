"""What is read out of a frozen U-Net, and that it is left as it was found."""

from __future__ import annotations

import pytest
import torch

from ad_lib.errors import RequestError
from ad_lib.model.backbone import Backbone
from ad_lib.model.families.stable_diffusion.self_attention import self_attention_layers
from ad_lib.model.prompts import PromptEmbeds
from tests.rounding import assert_equal_up_to_rounding

TIMESTEP = torch.tensor(501)


@pytest.fixture
def latents():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def names_of(backbone: Backbone, layers) -> list[str]:
    names = {module: name for name, module in backbone.unet.named_modules()}
    return [names[layer] for layer in layers]


class Hooks:
    """Writes down which modules run, and what goes in and out of them."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.outputs: dict[str, torch.Tensor] = {}
        self.inputs: dict[str, torch.Tensor] = {}
        self._handles = []

    def watch(self, name, module) -> None:
        def hook(_module, inputs, output):
            self.ran.append(name)
            self.outputs[name], self.inputs[name] = output, inputs[0]

        self._handles.append(module.register_forward_hook(hook))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


@pytest.fixture
def hooks():
    hooks = Hooks()
    yield hooks
    hooks.remove()


def run_whole(backbone, latents):
    embeds = backbone.null_prompt.prompt_embeds.expand(len(latents), -1, -1)
    return backbone.unet(latents, TIMESTEP, encoder_hidden_states=embeds).sample


def test_layers_are_counted_as_they_are_executed(tiny_backbone, latents, hooks):
    for name, module in tiny_backbone.unet.named_modules():
        if name.endswith("attn1"):
            hooks.watch(name, module)
    with torch.no_grad():
        run_whole(tiny_backbone, latents)
    assert names_of(tiny_backbone, self_attention_layers(tiny_backbone.unet)) == hooks.ran


def test_the_default_is_the_last_six_of_sixteen_layers(tiny_backbone, latents):
    assert len(tiny_backbone.layers) == 16
    default = tiny_backbone.feature_extractor()(latents, TIMESTEP)
    last_six = tiny_backbone.feature_extractor((10, 16))(latents, TIMESTEP)
    assert len(default) == 6
    assert all(torch.equal(a.query, b.query) for a, b in zip(default, last_six, strict=True))


def test_layers_that_the_network_lacks_are_refused(tiny_backbone):
    with pytest.raises(RequestError, match=r"0\.\.16, this U-Net has 16 .*\[64, 70\)"):
        tiny_backbone.feature_extractor((64, 70))


@pytest.mark.parametrize("layers", [(10, 16), (7, 13), (0, 1)])
def test_features_are_what_plain_diffusers_computes(tiny_backbone, latents, hooks, layers):
    chosen = tiny_backbone.layers[slice(*layers)]
    for index, layer in enumerate(chosen):
        for name in ("to_q", "to_k", "to_v"):
            hooks.watch(f"{index}.{name}", getattr(layer, name))
        hooks.watch(f"{index}.to_out", layer.to_out[0])
    with torch.no_grad():
        run_whole(tiny_backbone, latents)
    expected = hooks.outputs | {
        name: tokens for name, tokens in hooks.inputs.items() if name.endswith("to_out")
    }

    def merged(heads):
        return heads.transpose(1, 2).flatten(2)

    for index, seen in enumerate(tiny_backbone.feature_extractor(layers)(latents, TIMESTEP)):
        assert seen.query.shape[:2] == (2, chosen[index].heads)
        parts = {"to_q": seen.query, "to_k": seen.key, "to_v": seen.value, "to_out": seen.out}
        for name, ours in parts.items():
            torch.testing.assert_close(merged(ours), expected[f"{index}.{name}"])


def test_the_network_is_left_as_it_was_found(tiny_backbone, latents):
    processors = dict(tiny_backbone.unet.attn_processors)
    with torch.no_grad():
        before = run_whole(tiny_backbone, latents)
        tiny_backbone.feature_extractor()(latents, TIMESTEP)
        assert tiny_backbone.unet.attn_processors == processors
        assert torch.equal(run_whole(tiny_backbone, latents), before)


def test_the_network_is_left_as_it_was_found_after_an_exception(tiny_backbone, latents):
    processors = dict(tiny_backbone.unet.attn_processors)
    wrong_width = PromptEmbeds(torch.zeros(1, 77, 5))
    with pytest.raises(RuntimeError):
        tiny_backbone.feature_extractor(prompt=wrong_width)(latents, TIMESTEP)
    assert tiny_backbone.unet.attn_processors == processors


@pytest.mark.parametrize(
    ("layers", "last_block", "behind"),
    [
        ((10, 16), "up_blocks.3", ["conv_norm_out", "conv_out"]),
        ((7, 13), "up_blocks.2.attentions.2", ["up_blocks.3.resnets.0", "conv_out"]),
        ((0, 7), "mid_block.attentions.0", ["mid_block.resnets.1", "up_blocks.0.resnets.0"]),
    ],
)
def test_nothing_behind_the_last_layer_is_run(
    tiny_backbone, latents, hooks, layers, last_block, behind
):
    before = ["conv_in", "down_blocks.0.resnets.0"]
    last = tiny_backbone.layers[layers[1] - 1]
    assert last_block in names_of(tiny_backbone, [last])[0]
    for name in before + behind:
        hooks.watch(name, tiny_backbone.unet.get_submodule(name))
    hooks.watch("out of last", last.to_out[0])
    tiny_backbone.feature_extractor(layers)(latents, TIMESTEP)
    assert hooks.ran == before


def test_a_pass_for_projections_leaves_out_the_last_output_only(tiny_backbone, latents):
    extract = tiny_backbone.feature_extractor()
    whole = extract(latents, TIMESTEP)
    short = extract(latents, TIMESTEP, projections_only=True)
    assert short[-1].out is None
    for mine, theirs in zip(short, whole, strict=True):
        for name in ("query", "key", "value"):
            assert torch.equal(getattr(mine, name), getattr(theirs, name))


def test_while_the_taps_stay_in_it_the_network_computes_what_it_always_does(tiny_backbone, latents):
    processors = dict(tiny_backbone.unet.attn_processors)
    with torch.no_grad():
        before = run_whole(tiny_backbone, latents)
        apart = tiny_backbone.feature_extractor()(latents, TIMESTEP)
        with tiny_backbone.feature_extractor() as extract:
            together = extract(latents, TIMESTEP)
            assert torch.equal(run_whole(tiny_backbone, latents), before)
            again = extract(latents, TIMESTEP)
    for one, *others in zip(apart, together, again, strict=True):
        assert all(torch.equal(one.out, other.out) for other in others)
    assert tiny_backbone.unet.attn_processors == processors


def test_gradients_reach_the_latents_and_no_parameter(tiny_backbone, latents):
    latents.requires_grad_()
    features = tiny_backbone.feature_extractor()(latents, TIMESTEP)
    sum(f.out.abs().mean() for f in features).backward()
    assert (latents.grad != 0).all()
    networks = (tiny_backbone.unet, tiny_backbone.vae, *tiny_backbone.text_encoders)
    assert not any(p.requires_grad or p.grad is not None for n in networks for p in n.parameters())


def test_the_features_of_a_batch_are_those_of_its_items(tiny_backbone, latents):
    extract = tiny_backbone.feature_extractor()

    def outputs(latents):
        return {str(n): layer.out for n, layer in enumerate(extract(latents, TIMESTEP))}

    together = outputs(latents)
    for row in range(2):
        assert_equal_up_to_rounding(
            lambda disturb, row=row: outputs(disturb(latents[row, None])),
            {name: out[row, None] for name, out in together.items()},
        )
