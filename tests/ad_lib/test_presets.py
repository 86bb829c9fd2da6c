"""The published numbers, and what is refused in their place."""

from __future__ import annotations

from collections import Counter
from dataclasses import FrozenInstanceError, fields

import pytest
from PIL import Image

from ad_lib import PRESETS, Request, RequestError, Settings, render
from ad_lib.presets import find_preset


@pytest.mark.parametrize(
    ("name", "content_weight", "roles"),
    [
        ("style-transfer", 0.25, ("content", "style")),
        ("appearance-transfer", 0.2, ("content", "style")),
        ("texture-optimize", 0.0, ("texture",)),
    ],
)
def test_a_preset_carries_the_published_numbers(name, content_weight, roles):
    preset = find_preset(name)
    assert preset.roles == roles
    assert preset.size == 512
    assert preset.settings == Settings(
        num_inference_steps=200,
        num_optimization_steps=1,
        learning_rate=0.05,
        content_weight=content_weight,
        attn_scale=1.0,
        layers=None,
        noise="by_draw" if preset.uses("noise") else "stream",
    )


PUBLISHED = {
    # task: (size, steps, iterations, learning rate, lambda, guidance, AdaIN)
    "style-transfer": (512, 200, 1, 0.05, 0.25, 1, False),
    "appearance-transfer": (512, 200, 1, 0.05, 0.2, 1, False),
    "style-t2i": (1024, 50, 2, 0.015, None, 7, True),
    "style-t2i-sd15": (512, 50, 3, 0.015, None, 7.5, True),
    "texture-optimize": (512, 200, 1, 0.05, 0, 1, False),
    "texture-sample": (512, 50, 3, 0.05, 0, 1, False),
    "texture-masked": (512, 200, 1, 0.05, 0.15, 1, False),
    "texture-layout": (512, 200, 1, 0.05, None, 1, False),
    "texture-expand": (None, 50, 3, 0.05, 0, 1, False),
}
"""The published settings; None where the authors state no number."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_numbers_are_the_presets(name):
    preset = find_preset(name)
    ours = (
        preset.size,
        preset.settings.num_inference_steps,
        preset.settings.num_optimization_steps,
        preset.settings.learning_rate,
        preset.settings.content_weight,
        preset.settings.guidance_scale,
        preset.settings.adain,
    )
    for mine, published in zip(ours, PUBLISHED[name], strict=True):
        assert published in (mine, None)
    assert preset.settings.attn_scale == 1
    assert preset.settings.variant == "reference"
    assert preset.settings.layers is None  # the last six


def gradient(seed: int) -> Image.Image:
    return Image.linear_gradient("L").rotate(90 * seed).resize((64, 64)).convert("RGB")


DRAFTS = {
    "style-transfer-draft": "style-transfer",
    "texture-draft": "texture-sample",
}
"""Presets of ours, and the published one that each is a draft of."""


def test_every_preset_of_the_method_is_published_or_a_draft_of_one():
    ours = {name for name, preset in PRESETS.items() if not preset.is_baseline}
    assert ours == PUBLISHED.keys() | DRAFTS.keys()
    for draft, full in DRAFTS.items():
        ours, theirs = PRESETS[draft], PRESETS[full]
        assert (ours.all_roles, ours.size, ours.algorithm) == (
            theirs.all_roles,
            theirs.size,
            theirs.algorithm,
        )
        assert ours.settings.content_weight == theirs.settings.content_weight


@pytest.mark.parametrize("draft", DRAFTS)
def test_a_draft_takes_at_most_a_quarter_of_the_passes_through_the_network(tiny_backbone, draft):
    passes: Counter[str] = Counter()

    def count(module, inputs):
        name = "with gradients" if inputs[0].requires_grad else "without"
        passes[name] += len(inputs[0])

    def passes_of(task):
        """Of all its steps, from what two of them take."""
        passes.clear()
        pictures = {"content": gradient(1)} if "content" in PRESETS[task].roles else {}
        sizes = {"width": 64, "height": 64, "num_inference_steps": 2}
        request = Request.preset(task, styles=[gradient(2)], **pictures, **sizes)
        render(tiny_backbone, [request], batch_size=1)
        steps = PRESETS[task].settings.num_inference_steps
        return {kind: steps * number / 2 for kind, number in passes.items()}

    handle = tiny_backbone.unet.register_forward_pre_hook(count)
    try:
        of_draft, of_full = passes_of(draft), passes_of(DRAFTS[draft])
    finally:
        handle.remove()
    assert sum(of_draft.values()) <= sum(of_full.values()) / 4
    assert of_draft["with gradients"] <= 1.1 * of_full["with gradients"] / 4


def test_the_sampled_texture_carries_the_published_numbers():
    preset = find_preset("texture-sample")
    assert (preset.roles, preset.size, preset.algorithm) == (("texture",), 512, "sample")
    assert preset.settings == Settings(
        num_inference_steps=50,
        num_optimization_steps=3,
        learning_rate=0.05,
        content_weight=0.0,
        attn_scale=1.0,
        layers=None,
        noise="by_draw",
    )


def test_presets_and_settings_cannot_be_changed():
    with pytest.raises(TypeError):
        PRESETS["mine"] = PRESETS["style-transfer"]
    with pytest.raises(FrozenInstanceError):
        PRESETS["style-transfer"].settings.learning_rate = 1.0


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("num_inference_steps", 0, "a whole number in 1..999"),
        ("num_inference_steps", 1000, "a whole number in 1..999"),
        ("num_inference_steps", 20.0, "a whole number in 1..999"),
        ("num_inference_steps", True, "a whole number in 1..999"),
        ("num_optimization_steps", -1, "a whole number in 0..1000"),
        ("learning_rate", 0.0, "a number above 0"),
        ("learning_rate", float("nan"), "a number above 0"),
        ("learning_rate", float("inf"), "a number above 0"),
        ("learning_rate", "0.05", "a number above 0"),
        ("content_weight", -0.1, "a number at least 0"),
        ("content_weight", float("nan"), "a number at least 0"),
        ("content_weight", float("inf"), "a number at least 0"),
        ("content_weight", None, "a number at least 0"),
        ("content_weight", True, "a number at least 0"),
        ("attn_scale", 0, "a number above 0"),
        ("attn_scale", -1.0, "a number above 0"),
    ],
)
def test_a_refused_number_is_named_with_its_rule_and_value(name, value, rule):
    with pytest.raises(RequestError) as refused:
        Settings(**{name: value})
    assert str(refused.value) == f"{name} must be {rule}; got {value!r}"


@pytest.mark.parametrize(
    ("layers", "rule"),
    [
        ((16, 10), "0 <= start < stop; got [16, 10)"),
        ((3, 3), "0 <= start < stop; got [3, 3)"),
        ((-6, 16), "0 <= start < stop; got [-6, 16)"),
        ((10,), "two numbers [start, stop); got (10,)"),
        (10, "two numbers [start, stop); got 10"),
        ("last", "two numbers [start, stop); got 'last'"),
    ],
)
def test_a_refused_range_of_layers_is_named_with_its_rule_and_value(layers, rule):
    with pytest.raises(RequestError) as refused:
        Settings(layers=layers)
    assert rule in str(refused.value)


HUGE = 10**5000


@pytest.mark.parametrize(
    "wrong",
    [
        {"style_weights": [HUGE]},
        {"style_weights": [1.0] * 100_000 + ["x"]},
        {"learning_rate": HUGE},
        {"learning_rate": 1e39},
        {"content_weight": {"a": HUGE}},
        {"num_inference_steps": HUGE},
        {"layers": [float("inf"), 2]},
        {"layers": [0.5, 2.5]},
        {"layers": [True, 2]},
        {"layers": [HUGE, 2]},
        {"layers": {"a": 1, "b": 2}},
        {"layers": "x" * 10_000},
        {"adain": "yes"},
        {"adain": 1},
        {"seamless": "z"},
        {"seamless": 1},
        {"seamless": [HUGE]},
        {"timesteps": [1]},
        {"timesteps": 1.5},
        {"timesteps": None},
        {"variant": None},
        {"colors": ["content"]},
        {"reference_size": "512"},
        {"view_size": 2**40},
        {"decoder_epochs": -1},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_setting_of_another_kind_or_size_is_refused_in_a_short_sentence(wrong):
    (name,) = wrong
    with pytest.raises(RequestError, match=f"^{name} must ") as refused:
        Settings(**wrong)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(("said", "meant"), [(True, "both"), (False, "none"), ("x", "x")])
def test_seamless_may_be_said_with_true_and_false(said, meant):
    assert Settings(seamless=said) == Settings(seamless=meant)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("steps", "num_inference_steps"),
        ("lr", "learning_rate"),
        ("iterations", "num_optimization_steps"),
        ("cfg", "guidance_scale"),
        ("lambda", "content_weight"),
        ("resolution", "output.size"),
        ("model", "backbone"),
        ("Steps", "num_inference_steps"),
    ],
)
def test_a_setting_of_another_program_is_refused_with_what_is_meant(name, meant):
    with pytest.raises(RequestError, match=f"unknown setting '{name}'; did you mean '{meant}'?"):
        Settings().updated({name: 1})


def test_a_task_of_another_program_is_refused_with_what_is_meant():
    with pytest.raises(RequestError, match="did you mean 'style-t2i'"):
        find_preset("txt2img")


@pytest.mark.parametrize(
    "edge",
    [
        {"num_inference_steps": 1},
        {"num_inference_steps": 999},
        {"num_optimization_steps": 0},
        {"content_weight": 0},
        {"learning_rate": 1e-9},
        {"layers": (0, 1)},
    ],
)
def test_values_at_the_edge_are_accepted(edge):
    assert Settings(**edge) == Settings().updated(edge)


def test_a_list_of_layers_becomes_a_pair():
    assert Settings(layers=[10, 16]) == Settings(layers=(10, 16))


@pytest.mark.parametrize("name", [field.name for field in fields(Settings)])
def test_a_misspelt_setting_names_the_nearest_one(name):
    with pytest.raises(RequestError, match=f"unknown setting '{name}s'; did you mean '{name}'"):
        Settings().updated({f"{name}s": 1})


@pytest.mark.parametrize("name", PRESETS)
def test_a_misspelt_preset_names_the_nearest_one(name):
    misspelt = name.replace("-", "_") if "-" in name else f"{name}s"
    with pytest.raises(RequestError, match=f"unknown preset '{misspelt}'; did you mean '{name}'"):
        find_preset(misspelt)


def test_a_name_like_no_other_lists_all_of_them():
    with pytest.raises(RequestError) as refused:
        find_preset("zzz")
    assert all(name in str(refused.value) for name in PRESETS)


def test_settings_that_are_not_replaced_keep_the_presets_numbers():
    settings = find_preset("style-transfer").settings.updated({"learning_rate": 0.1})
    assert (settings.learning_rate, settings.content_weight) == (0.1, 0.25)
