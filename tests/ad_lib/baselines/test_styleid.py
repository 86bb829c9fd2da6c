"""StyleID: its parts against its paper, and that it leaves the network as it was found."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ad_lib import Backbone, RequestError, Settings, render
from ad_lib.algorithm.features import AttentionFeatures, References
from ad_lib.algorithm.guide import denoised
from ad_lib.algorithm.noise import seeded_noise
from ad_lib.baselines.styleid import (
    initial_latents,
    injected,
    inverted,
    restyled_by_injection,
    styled,
)
from ad_lib.inputs import BatchInputs
from ad_lib.model.families import FAMILIES
from ad_lib.presets import find_preset
from tests.ad_lib.requests_of_every_task import photo, request
from tests.ad_lib.test_every_family import tiny
from tests.rounding import FLOOR, Wanted, assert_equal_up_to_rounding, worst

TASK = "baseline-styleid"
SIZE = (64, 72)
PLAIN = Settings(query_preservation=1.0, attention_temperature=1.0)


def test_it_has_the_published_numbers():
    preset = find_preset(TASK)
    assert preset.roles == ("content", "style")
    assert preset.size == 512
    settings = preset.settings
    assert settings.num_inference_steps == 50
    assert (settings.query_preservation, settings.attention_temperature) == (0.75, 1.5)
    assert settings.layers is None


@cache
def latents_of(seed: int, size: tuple[int, int] = SIZE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, *(side // 8 for side in size), generator=generator)


def ours(seeds) -> References:
    return References([latents_of(seed) for seed in seeds], [[row] for row in range(len(seeds))])


def setup(backbone: Backbone, num_steps: int) -> SimpleNamespace:
    return SimpleNamespace(
        predict=backbone.noise_predictor(SIZE),
        dynamics=backbone.dynamics(num_steps, SIZE),
        extract=backbone.feature_extractor(None, SIZE),
    )


# ---------------------------------------------------------------------------- inversion


def returned(backbone: Backbone, num_steps: int) -> float:
    """How far inversion and the plain reverse process lead from the latents, relative to them."""
    parts, clean = setup(backbone, num_steps), latents_of(1)[None]
    with torch.no_grad():
        trajectory = inverted(parts.predict, parts.dynamics, ours([1]))
    latents = trajectory[0].one_per_item()
    for t in parts.dynamics.timesteps:
        latents = denoised(parts.predict, parts.dynamics, latents, t)
    return float((latents - clean).abs().mean() / clean.abs().mean())


def test_inversion_and_the_plain_reverse_process_return_the_content_better_with_more_steps(
    tiny_backbone,
):
    coarse, fine = (returned(tiny_backbone, steps) for steps in (2, 16))
    assert fine < coarse / 2
    assert fine < 0.25


@torch.no_grad()
def test_the_trajectory_has_the_latents_of_every_timestep_from_much_noise_to_little(tiny_backbone):
    parts = setup(tiny_backbone, 4)
    trajectory = inverted(parts.predict, parts.dynamics, ours([1, 2]))
    assert len(trajectory) == 4
    below = ours([1, 2]).one_per_item()
    for t, found in zip(reversed(parts.dynamics.timesteps), reversed(trajectory), strict=True):
        noise = parts.predict(below, t.tensor)
        expected = parts.dynamics.step_back(noise, t, below)
        torch.testing.assert_close(found.one_per_item(), expected)
        below = expected


# ---------------------------------------------------------------------------- attention


def features(seed: int, tokens: int = 6) -> AttentionFeatures:
    generator = torch.Generator().manual_seed(seed)
    query, key, value = torch.randn(3, 2, 3, tokens, 5, generator=generator)
    return AttentionFeatures(query, key, value, None)


@pytest.mark.parametrize("gamma", [0.0, 0.75, 1.0])
def test_the_query_is_mixed_and_keys_and_values_are_the_styles(gamma):
    own, content, style = features(1), features(2), features(3, tokens=9)
    settings = Settings(query_preservation=gamma, attention_temperature=1.0)
    used = styled(own, content=content, style=style, settings=settings)
    expected = gamma * content.query + (1 - gamma) * own.query
    torch.testing.assert_close(used.query, expected)
    assert used.key is style.key
    assert used.value is style.value


@torch.no_grad()
@pytest.mark.parametrize("weights", [None, [1.0, 3.0]])
def test_a_layer_gives_an_explicit_softmax_over_the_styles_tokens_at_the_temperature(
    tiny_backbone, weights
):
    """Held against the modules' own projections, seen from outside."""
    parts, gamma, tau = setup(tiny_backbone, 4), 0.6, 2.5
    settings = Settings(query_preservation=gamma, attention_temperature=tau)
    t = parts.dynamics.timesteps[1]
    content = ours([2]).features(parts.extract, t.tensor)
    styles = References([latents_of(3, (64, 64)), latents_of(4, (64, 128))], [[0, 1]], weights)
    style = styles.features(parts.extract, t.tensor)
    layers = tiny_backbone.layers[10:]
    seen: dict[Any, dict[str, torch.Tensor]] = {layer: {} for layer in layers}
    hooks = [
        hook
        for layer in layers
        for hook in (
            layer.to_q.register_forward_hook(
                lambda module, inputs, out, layer=layer: seen[layer].update(query=out)
            ),
            layer.to_out[0].register_forward_hook(
                lambda module, inputs, out, layer=layer: seen[layer].update(out=inputs[0])
            ),
        )
    ]
    inject = [
        lambda own, place=place: styled(
            own, content=content[place], style=style[place], settings=settings
        )
        for place in range(6)
    ]
    try:
        with parts.extract.injecting(inject):
            parts.predict(latents_of(1)[None], t.tensor)
    finally:
        for hook in hooks:
            hook.remove()
    for place, layer in enumerate(layers):
        own = seen[layer]["query"].unflatten(-1, (layer.heads, -1)).transpose(1, 2)
        query = gamma * content[place].query + (1 - gamma) * own
        logits = tau * query @ style[place].key.mT / query.shape[-1] ** 0.5
        shares = logits.exp()
        if weights:  # a style of weight 3 is as if it were listed three times
            of_first = logits.shape[-1] // 3
            shares[..., :of_first] *= weights[0]
            shares[..., of_first:] *= weights[1]
        out = shares / shares.sum(-1, keepdim=True) @ style[place].value
        expected = out.transpose(1, 2).flatten(2)
        torch.testing.assert_close(seen[layer]["out"], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_chosen_layers_are_injected_and_all_before_them_untouched(tiny_backbone):
    t, latents = tiny_backbone.timesteps(4)[1], latents_of(1)[None]
    predict = tiny_backbone.noise_predictor(SIZE)
    outputs: dict[int, list[torch.Tensor]] = {}
    hooks = [
        layer.register_forward_hook(
            lambda module, inputs, out, number=number: outputs.setdefault(number, []).append(out)
        )
        for number, layer in enumerate(tiny_backbone.layers)
    ]
    reached = []

    def nothing_but(place):
        def inject(own: AttentionFeatures) -> AttentionFeatures:
            reached.append(place)
            return AttentionFeatures(own.query, own.key, torch.zeros_like(own.value), None)

        return inject

    try:
        plain = predict(latents, t)
        with tiny_backbone.feature_extractor((12, 14)).injecting(
            [nothing_but(12), nothing_but(13)]
        ):
            changed = predict(latents, t)
    finally:
        for hook in hooks:
            hook.remove()
    assert reached == [12, 13]
    assert [n for n, (one, other) in outputs.items() if torch.equal(one, other)] == [*range(12)]
    assert not torch.equal(plain, changed)
    assert torch.equal(predict(latents, t), plain)


def test_what_attends_are_the_last_six_of_the_decoders_nine_layers(tiny_backbone):
    """The paper's 7th to 12th block of a decoder of 12, of which the first three have none."""
    names = {module: name for name, module in tiny_backbone.unet.named_modules()}
    with tiny_backbone.feature_extractor() as extract:
        mine = {type(layer.processor) for layer in tiny_backbone.layers[10:]}
        theirs = {type(layer.processor) for layer in tiny_backbone.layers[:10]}
        assert not mine & theirs
        assert extract is not None
    blocks = [names[layer].split(".attentions.") for layer in tiny_backbone.layers[10:]]
    # three blocks on each of the four levels
    numbers = [3 * int(level[-1]) + int(rest[0]) + 1 for level, rest in blocks]
    assert numbers == [7, 8, 9, 10, 11, 12]


# ---------------------------------------------------------------------------- the whole


def test_the_first_latents_have_the_statistics_of_the_inverted_style():
    content, style = ours([1, 2]), ours([3, 4])
    latents = initial_latents(content, style)
    for item in range(2):
        theirs = style.latents[item]
        torch.testing.assert_close(latents[item].mean((1, 2)), theirs.mean((1, 2)))
        torch.testing.assert_close(latents[item].std((1, 2)), theirs.std((1, 2)))
        own, base = latents[item], content.latents[item]
        whitened = [
            (one - one.mean((1, 2), True)) / one.std((1, 2), keepdim=True) for one in (own, base)
        ]
        torch.testing.assert_close(*whitened, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def redrawn(
    backbone: Backbone, num_steps: int, style: int, settings: Settings = PLAIN
) -> torch.Tensor:
    """The first content as it is drawn anew in a style."""
    parts = setup(backbone, num_steps)
    return injected(
        parts.predict,
        parts.extract,
        parts.dynamics,
        inverted(parts.predict, parts.dynamics, ours([1])),
        inverted(parts.predict, parts.dynamics, ours([style])),
        settings,
    )


@torch.no_grad()
def test_a_content_that_is_its_own_style_takes_the_plain_step(tiny_backbone):
    """With all of its query and at the network's own temperature nothing else is attended to."""
    parts = setup(tiny_backbone, 1)
    (start,) = inverted(parts.predict, parts.dynamics, ours([1]))
    (t,) = parts.dynamics.timesteps
    plain = denoised(parts.predict, parts.dynamics, start.one_per_item(), t)
    torch.testing.assert_close(redrawn(tiny_backbone, 1, 1), plain, atol=1e-4, rtol=1e-4)
    for other in (replace(PLAIN, attention_temperature=2.0), replace(PLAIN, query_preservation=0)):
        same = torch.allclose(redrawn(tiny_backbone, 1, 1, other), plain, atol=1e-3)
        assert same == (other.attention_temperature == 1)
    assert not torch.allclose(redrawn(tiny_backbone, 1, 2), plain, atol=1e-1)


def test_a_content_that_is_its_own_style_comes_back_better_with_more_steps(tiny_backbone):
    clean = latents_of(1)
    coarse, fine, other = (
        float((redrawn(tiny_backbone, steps, style) - clean).abs().mean() / clean.abs().mean())
        for steps, style in ((2, 1), (6, 1), (2, 2))
    )
    assert fine < 0.8 * coarse
    assert coarse < 0.8 * other


class Literal:
    """StyleID written out on plain diffusers: its processor, with an explicit softmax."""

    def __init__(self, backbone: Backbone, gamma: float, tau: float, num_steps: int) -> None:
        self.unet: Any = backbone.denoiser
        self.embeds = backbone.null_prompt.prompt_embeds
        self.gamma, self.tau = gamma, tau
        self.kept = backbone.scheduler.alphas_cumprod
        self.levels = [1 + 1000 // num_steps * step for step in range(num_steps)]  # rising
        self.tokens: dict[Any, Any] = {}
        self.given: dict[Any, Any] = {}

    def noise(self, latents, t, given=None):
        """The noise in latents, and query, key and value of every self-attention layer."""
        self.tokens, self.given = {}, given or {}
        own = dict(self.unet.attn_processors)
        self.unet.set_attn_processor(
            {name: self if "attn1" in name else processor for name, processor in own.items()}
        )
        try:
            found = self.unet(latents, torch.tensor(t), encoder_hidden_states=self.embeds)
        finally:
            self.unet.set_attn_processor(own)
        return found.sample, self.tokens

    def __call__(self, attn, hidden_states, **others):
        query, key, value = self.tokens[attn] = [
            project(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for project in (attn.to_q, attn.to_k, attn.to_v)
        ]
        scale = query.shape[-1] ** -0.5
        if attn in self.given:
            of_content, key, value = self.given[attn]
            query = self.gamma * of_content + (1 - self.gamma) * query
            scale *= self.tau
        out = (scale * query @ key.mT).softmax(-1) @ value
        return attn.to_out[0](out.transpose(1, 2).flatten(2))

    def moved(self, latents, noise, start, stop):
        """DDIM from one level to another, in either direction."""
        start, stop = (self.kept[max(level, 0)] for level in (start, stop))
        clean = (latents - (1 - start).sqrt() * noise) / start.sqrt()
        return stop.sqrt() * clean + (1 - stop).sqrt() * noise

    def inverted(self, latents):
        trajectory = []
        for below, t in zip([0, *self.levels], self.levels, strict=False):
            noise, _ = self.noise(latents, t)
            latents = self.moved(latents, noise, below, t)
            trajectory.append(latents)
        return trajectory

    def with_statistics(self, content, style):
        of_content, of_style = (
            (one.mean((2, 3), keepdim=True), one.std((2, 3), keepdim=True))
            for one in (content, style)
        )
        return (content - of_content[0]) / of_content[1] * of_style[1] + of_style[0]

    def restyled(self, content, style, layers):
        contents, styles = self.inverted(content), self.inverted(style)
        latents = self.with_statistics(contents[-1], styles[-1])
        for below, t, content_t, style_t in reversed(
            [*zip([0, *self.levels], self.levels, contents, styles, strict=False)]
        ):
            _, of_content = self.noise(content_t, t)
            _, of_style = self.noise(style_t, t)
            given = {layer: (of_content[layer][0], *of_style[layer][1:]) for layer in layers}
            noise, _ = self.noise(latents, t, given)
            latents = self.moved(latents, noise, t, below)
        return latents


@torch.no_grad()
def test_the_whole_is_the_paper_written_out_on_plain_diffusers(tiny_backbone):
    gamma, tau, num_steps = 0.6, 2.5, 3
    settings = Settings(query_preservation=gamma, attention_temperature=tau)
    literal = Literal(tiny_backbone, gamma, tau, num_steps)
    content, style = latents_of(1)[None], latents_of(2, (64, 128))[None]
    expected = literal.restyled(content, style, tiny_backbone.layers[10:])
    parts = setup(tiny_backbone, num_steps)

    def computed(disturb):
        return {
            "latents": injected(
                parts.predict,
                parts.extract,
                parts.dynamics,
                inverted(parts.predict, parts.dynamics, References([disturb(content[0])], [[0]])),
                inverted(parts.predict, parts.dynamics, References([disturb(style[0])], [[0]])),
                settings,
            )
        }

    assert_equal_up_to_rounding(computed, {"latents": Wanted(expected)})


def pixels(backbone: Backbone, *requests) -> list[np.ndarray]:
    return [np.asarray(one.image, float) for one in render(backbone, requests)]


@pytest.fixture(scope="module")
def plain_picture(tiny_backbone) -> np.ndarray:
    return pixels(tiny_backbone, request(TASK))[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"query_preservation": 0.0},
        {"attention_temperature": 3.0},
        {"layers": (7, 12)},
        {"reference_size": 128},
        {"styles": [photo(50), photo(51)]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_each_setting_changes_the_picture(tiny_backbone, plain_picture, changes):
    one = request(TASK)
    styles = changes.pop("styles", one.styles)
    changed = replace(one, styles=tuple(styles), settings=replace(one.settings, **changes))
    (other,) = pixels(tiny_backbone, changed)
    assert np.abs(plain_picture - other).max() > 1


def test_style_and_content_are_not_the_same_to_it(tiny_backbone, plain_picture):
    one = request(TASK)
    swapped = replace(one, content=one.styles[0], styles=(one.content,))
    (other,) = pixels(tiny_backbone, swapped)
    assert np.abs(plain_picture - other).mean() > 1


def test_no_noise_is_drawn_so_that_the_seed_changes_nothing(tiny_backbone, plain_picture):
    (other,) = pixels(tiny_backbone, replace(request(TASK), seed=99))
    assert np.array_equal(plain_picture, other)


def test_a_style_of_weight_zero_leaves_the_other_alone(tiny_backbone, plain_picture):
    one = request(TASK)
    both = replace(
        one,
        styles=(*one.styles, photo(51)),
        settings=replace(one.settings, style_weights=(1.0, 0.0)),
    )
    (other,) = pixels(tiny_backbone, both)
    assert np.abs(plain_picture - other).max() <= 1


def test_an_item_is_the_same_alone_and_in_a_batch(tiny_backbone):
    requests = [request(TASK, seed, style=50 + seed % 2) for seed in range(3)]
    together = restyled_by_injection(
        BatchInputs(tiny_backbone, requests, [seeded_noise(0)] * 3), lambda done, total: None
    )

    def alone(disturb):
        inputs = BatchInputs(tiny_backbone, requests[1:2], [seeded_noise(0)])
        for name in ("content", "style"):
            references = getattr(inputs, name)
            inputs.__dict__[name] = References(
                [disturb(one) for one in references.latents], references.index
            )
        return {"picture": restyled_by_injection(inputs, lambda done, total: None)}

    assert_equal_up_to_rounding(alone, {"picture": Wanted(together[1:2], FLOOR, worst)})


# ---------------------------------------------------------------------------- its manners


def test_every_step_of_the_three_phases_is_told(tiny_backbone):
    told = []
    requests = [request(TASK, seed, num_inference_steps=3) for seed in (1, 2)]
    render(tiny_backbone, requests, on_step_end=lambda *progress: told.append(progress))
    assert told == [(2, 9)] * 9


def test_the_network_is_left_as_it_was_found_also_after_a_stop(tiny_backbone):
    ad = request("style-transfer")
    before = render(tiny_backbone, [ad])[0].image.tobytes()
    processors = dict(tiny_backbone.unet.attn_processors)
    num_told = 0

    def stop(*progress):
        nonlocal num_told
        num_told += 1
        if num_told == 5:  # while the picture is drawn
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render(tiny_backbone, [request(TASK)], on_step_end=stop)
    assert tiny_backbone.unet.attn_processors == processors
    assert render(tiny_backbone, [ad])[0].image.tobytes() == before


def test_nothing_stays_injected_after_an_error_in_a_layer(tiny_backbone):
    predict, t = tiny_backbone.noise_predictor(SIZE), tiny_backbone.timesteps(4)[1]

    def refuse(own: AttentionFeatures) -> AttentionFeatures:
        raise ZeroDivisionError

    with torch.no_grad(), tiny_backbone.feature_extractor() as extract:
        before = predict(latents_of(1)[None], t)
        with pytest.raises(ZeroDivisionError), extract.injecting([refuse] * 6):
            predict(latents_of(1)[None], t)
        assert torch.equal(predict(latents_of(1)[None], t), before)


def test_sdxl_can_do_it():
    (result,) = render(tiny("sdxl"), [request(TASK)])
    assert np.asarray(result.image).std() > 0


def test_a_model_whose_words_and_pictures_attend_together_is_refused_in_a_sentence():
    with pytest.raises(RequestError, match=r"baseline-styleid puts .* load a model with a U-Net"):
        render(tiny("flux2"), [request(TASK)])
    refused = [name for name, one in FAMILIES.items() if one.has_joint_attention]
    assert refused == ["flux2"]


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("query_preservation", 1.1, "query_preservation is a share and must be at most 1; got 1.1"),
        ("query_preservation", -0.1, "query_preservation must be a number at least 0; got -0.1"),
        ("attention_temperature", 0, "attention_temperature must be a number above 0; got 0"),
        ("seamless", "x", "baseline-styleid does not use seamless"),
        ("num_optimization_steps", 2, "baseline-styleid does not use num_optimization_steps"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting, value, message):
    with pytest.raises(RequestError, match=message):
        request(TASK, **{setting: value})
