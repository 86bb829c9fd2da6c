"""Replays recorded runs of the published method: `python -m tests.golden.replay DIR`.

Does the library compute what the authors' code computes? Everything is read from the folder
(`cases.json`, `cases/`, `unit/`, `models/`, `inputs/`); nothing about a particular set is known
here. A figure is held to ten times the deviation that the reference shows against itself, and
never below 1e-5. Exit code 1 if any figure is above its tolerance.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ad_lib import Backbone, RequestError, Settings, load_backbone
from ad_lib.features import AttentionFeatures, References
from ad_lib.guide import previous_timestep, sample_with_distillation
from ad_lib.images import image_to_tensor
from ad_lib.losses import attention_distillation_loss, content_loss, distilled_attention
from ad_lib.noise import Noise
from ad_lib.optimize import optimize_latents

FLOOR = 1e-5
"""The tightest tolerance: what float32 keeps over a few network passes."""

DEFAULTS = {
    "batch_size": 1,
    "num_inference_steps": 200,
    "iters": 1,
    "lr": 0.05,
    "weight": 0.0,
    "attn_scale": 1.0,
}
"""What the reference does with arguments that a case does not list."""


@dataclass(frozen=True)
class Figure:
    """One number that was compared."""

    name: str
    error: float
    tolerance: float = FLOOR
    where: str = ""

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance  # False for NaN

    def __str__(self) -> str:
        relation = "<=" if self.ok else f"({self.where}) >" if self.where else ">"
        return f"{self.name} {self.error:.1e} {relation} {self.tolerance:.1e}"


@dataclass(frozen=True)
class Row:
    """What became of one recording; without figures it was not replayed."""

    name: str
    figures: tuple[Figure, ...] = ()
    steps: int | None = None
    note: str = ""

    @property
    def ok(self) -> bool:
        return all(figure.ok for figure in self.figures)

    def __str__(self) -> str:
        verdict = ("ok" if self.ok else "FAIL") if self.figures else "--"
        steps = "" if self.steps is None else str(self.steps)
        parts = [str(figure) for figure in self.figures] + ([self.note] if self.note else [])
        return f"{verdict:4} {self.name:22} {steps:>3}  {' | '.join(parts)}"


@dataclass(frozen=True)
class Golden:
    """A folder of recordings."""

    folder: Path

    @property
    def cases(self) -> dict[str, Any]:
        return self._json("cases.json")["cases"]

    @property
    def unit(self) -> dict[str, Any]:
        return self._json("unit/unit.json")

    def arrays(self, path: str) -> dict[str, Tensor]:
        with np.load(self.folder / path) as stored:
            return {name: torch.from_numpy(stored[name]) for name in stored.files}

    def image(self, name: str, size: tuple[int, int] | None = None) -> Tensor:
        """(1, 3, H, W), resized as the reference does it (bicubic, proportions not kept)."""
        image = Image.open(self.folder / "inputs" / name).convert("RGB")
        if size is not None and image.size != size:
            image = image.resize(size, Image.Resampling.BICUBIC)
        return image_to_tensor(image)

    def families(self) -> list[str]:
        """Of the models that the set holds: `sd`, `sdxl`."""
        return sorted(path.name.removeprefix("tiny-") for path in self.folder.glob("models/tiny-*"))

    def backbone(self, model: str) -> Backbone:
        return _backbone(self.folder / "models" / model)

    def _json(self, path: str) -> dict[str, Any]:
        return json.loads((self.folder / path).read_text(encoding="utf-8"))


@cache
def _backbone(folder: Path) -> Backbone:
    return load_backbone(str(folder), device="cpu", dtype=torch.float32)


# ---------------------------------------------------------------------------- cases


def replay_optimize(golden: Golden, name: str) -> Row:
    """Algorithm 1 from the recorded initial latents."""
    case = golden.cases[name]
    if case["source_mask"] and case["target_mask"]:
        return Row(name, note="masks: not replayed yet")
    args = DEFAULTS | case["args"]
    recorded = golden.arrays(f"cases/{name}.npz")
    backbone = golden.backbone(case["model"])
    batch = args["batch_size"]
    num_styles = len(case["style"])
    style = References(recorded["style_latents"], torch.arange(num_styles).expand(batch, -1))
    content = None
    if case["content"]:
        content = References(recorded["content_latents"], torch.zeros(batch, 1, dtype=torch.long))

    extract = backbone.feature_extractor(tuple(case["self_layers"]))

    def extract_with_mean_gradient(latents: Tensor, t: Tensor, **options: Any) -> Any:
        """The reference's loss is a mean over the batch, ours a sum; Adam's epsilon sees that."""
        view = latents.view_as(latents)
        if view.requires_grad:
            view.register_hook(lambda gradient: gradient / batch)
        return extract(view, t, **options)

    def optimize(timesteps: Tensor, disturb: Disturb) -> tuple[Tensor, Tensor]:
        start, kept = disturb(recorded["init_latents"]), None
        if content:  # the run starts from its content, exactly
            kept = replace(content, latents=disturb(content.latents))
            start = kept.per_item().flatten(0, 1)
        latents, trace = optimize_latents(
            extract_with_mean_gradient,
            timesteps,
            start,
            replace(style, latents=disturb(style.latents)),
            kept,
            num_optimization_steps=args["iters"],
            learning_rate=args["lr"],
            content_weight=args["weight"],
            attn_scale=args["attn_scale"],
        )
        return latents, (trace.style + args["weight"] * trace.content).mean(1)

    def run(disturb: Disturb) -> Run:
        latents, losses = optimize(timesteps, disturb)
        return Run(losses, latents, backbone.decode(latents))

    timesteps = backbone.timesteps(args["num_inference_steps"])
    first_latents, first_losses = optimize(timesteps[:1], undisturbed)
    figures = [
        Figure("encode", _encoding_error(golden, backbone, case, recorded)),
        Figure("timesteps", _worst(timesteps, recorded["timesteps"]), 0.0),
    ]
    first = _first_figures(case, recorded, first_losses, first_latents)
    if content and batch > 1:
        note = "ill-conditioned in the reference: only its first loss is compared"
        return Row(name, (*figures, first[0]), steps=1, note=note)
    ours = run(undisturbed)
    return Row(
        name,
        (*figures, *first, *_run_figures(case, recorded, ours, first, run)),
        steps=len(timesteps),
    )


def replay_sample(golden: Golden, name: str) -> Row:
    """Algorithm 2 from the recorded noise."""
    case = golden.cases[name]
    args = DEFAULTS | case["args"]
    unlike = [
        feature
        for feature, used in {
            "prompts": any(args["prompt"]) or args["guidance_scale"] > 1,
            "AdaIN": args["adain"],
            "tiling": args["tiling"],
            "content": case.get("content"),
            "several images": args["num_images_per_prompt"] > 1,
            "start_time": args["start_time"] < 999,
        }.items()
        if used
    ]
    if unlike:
        return Row(name, note=f"{', '.join(unlike)}: not replayed yet")
    recorded = golden.arrays(f"cases/{name}.npz")
    backbone = golden.backbone(case["model"])
    timesteps = backbone.timesteps(args["num_inference_steps"])
    style = References(recorded["style_latents"], torch.arange(len(case["style"]))[None])
    after_step: list[Tensor] = []

    def predict_noise(latents: Tensor, t: Tensor) -> Tensor:
        after_step.append(latents)
        return backbone.noise_predictor()(latents, t)

    def run(disturb: Disturb) -> Run:
        after_step.clear()
        latents, trace = sample_with_distillation(
            predict_noise,
            backbone.feature_extractor(tuple(case["self_layers"])),
            backbone.scheduler,
            disturb(recorded["init_latents"]),
            replace(style, latents=disturb(style.latents)),
            [recorded_noise(recorded)],
            num_optimization_steps=args["iters"],
            learning_rate=args["lr"],
            attn_scale=args["attn_scale"],
        )
        return Run(trace.style.mean(1), latents, backbone.decode(latents))

    ours = run(undisturbed)
    first = _first_figures(case, recorded, ours.losses, after_step[1])
    feature_t = [int(previous_timestep(backbone.scheduler, t)) for t in timesteps]
    return Row(
        name,
        (
            Figure("encode", _encoding_error(golden, backbone, case, recorded)),
            Figure("timesteps", _worst(timesteps, recorded["timesteps"]), 0.0),
            Figure("feature_t", _worst(torch.tensor(feature_t), recorded["feature_t"]), 0.0),
            *first,
            *_run_figures(case, recorded, ours, first, run),
        ),
        steps=len(timesteps),
    )


def recorded_noise(recorded: dict[str, Tensor]) -> Noise:
    """The recorded draws of each tag, in order."""
    draws = {
        name.removeprefix("noise_"): iter(array)
        for name, array in recorded.items()
        if name.startswith("noise_")
    }

    def draw(tag: str, shape: Sequence[int]) -> Tensor:
        return next(draws[tag]).reshape(tuple(shape))

    return draw


CASES: dict[str, Callable[[Golden, str], Row]] = {
    "optimize": replay_optimize,
    "sample": replay_sample,
}
"""How each kind of case is replayed."""


Disturb = Callable[[Tensor], Tensor]
"""What is done to the latents that a run starts from."""


@dataclass(frozen=True)
class Run:
    """What a whole run gives: the loss of every Adam step, the last latents, their picture."""

    losses: Tensor
    latents: Tensor
    image: Tensor

    def errors(self, losses: Tensor, latents: Tensor, image: Tensor) -> dict[str, float]:
        """The worst deviations, by the name of the recorded sensitivity that judges them."""
        return {
            "loss_rel_max": float(((self.losses - losses) / losses).abs().max()),
            "latents_last_max": _worst(self.latents, latents),
            "image_max": _worst(self.image, image),
        }


def undisturbed(latents: Tensor) -> Tensor:
    """The recorded latents."""
    return latents


def disturbed(seed: int, amount: float) -> Disturb:
    """The latents moved by Gaussian noise, as the recording did to learn a case's sensitivity."""
    generator = torch.Generator().manual_seed(seed)

    def disturb(latents: Tensor) -> Tensor:
        return latents + amount * torch.randn(latents.shape, generator=generator)

    return disturb


def _first_figures(
    case: dict[str, Any], recorded: dict[str, Tensor], losses: Tensor, latents: Tensor
) -> tuple[Figure, Figure]:
    """The first step, where rounding has had no time to grow."""
    loss_error = _relative(losses[0], recorded["loss_total"][0])
    latents_error = _worst(latents, recorded["latents_step"][0])
    return (
        Figure("first loss", loss_error, _tolerance(case, "loss_rel_first")),
        Figure("first latents", latents_error, _tolerance(case, "latents_first_max")),
    )


def _run_figures(
    case: dict[str, Any],
    recorded: dict[str, Tensor],
    ours: Run,
    first: Sequence[Figure],
    run_again: Callable[[Disturb], Run],
) -> Iterator[Figure]:
    """What the whole run is judged by: the losses, the last latents, the picture.

    L1 takes signs: a difference of 1e-7 that another processor rounds to the other side of zero
    changes a gradient by a whole term, and no recording can say which processor does. So where a
    run leaves the recorded tolerance, it is disturbed here as the recording was, by 1e-6 or by what
    its first step, which is held tightly, is off; and it is granted ten times what that does.
    """
    stride = next(s for name, s in _KEPT_PIXELS.items() if name in recorded)
    image = next(recorded[name] for name in _KEPT_PIXELS if name in recorded)
    shown = replace(ours, image=ours.image[..., ::stride, ::stride])
    errors = shown.errors(recorded["loss_total"], recorded["latents_step"][-1], image)
    tolerances = {figure: _tolerance(case, figure) for figure in errors}
    amount = max(1e-6, *(figure.error for figure in first))
    for seed in range(NUM_PROBES):
        if all(error <= tolerances[figure] for figure, error in errors.items()):
            break
        other = run_again(disturbed(seed, amount)).errors(ours.losses, ours.latents, ours.image)
        for figure, deviation in other.items():
            tolerances[figure] = max(tolerances[figure], 10 * deviation)
    for figure, error in errors.items():
        yield Figure(_FIGURE_NAMES[figure], error, tolerances[figure])


NUM_PROBES = 24
"""Disturbed runs, at most, that measure a case's sensitivity on this machine."""

_KEPT_PIXELS = {"image": 1, "image_sub2": 2, "image_sub4": 4}
"""Arrays of the final picture and the stride at which they keep pixels; a case has one."""

_FIGURE_NAMES = {
    "loss_rel_max": "losses",
    "latents_last_max": "last latents",
    "image_max": "image",
}


def _encoding_error(
    golden: Golden, backbone: Backbone, case: dict[str, Any], recorded: dict[str, Tensor]
) -> float:
    """The worst deviation of the encoded inputs, relative to the recorded latents."""
    images = {"style_latents": [golden.image(n, tuple(case["style_size"])) for n in case["style"]]}
    if case.get("content"):
        size = tuple(case["content_size"])
        images["content_latents"] = [golden.image(case["content"], size)]
    return max(
        _relative(torch.cat([backbone.encode(image) for image in found]), recorded[role])
        for role, found in images.items()
    )


def _tolerance(case: dict[str, Any], figure: str) -> float:
    return max(FLOOR, 10 * max(probe[figure] for probe in case["sensitivity"].values()))


def _worst(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        raise ValueError(f"shapes differ: {tuple(ours.shape)} and {tuple(theirs.shape)}")
    return float((ours - theirs).abs().max())


def _relative(ours: Tensor, theirs: Tensor) -> float:
    """The worst deviation over the largest recorded magnitude."""
    return _worst(ours, theirs) / float(theirs.abs().max())


# ---------------------------------------------------------------------------- units


def check_layers(golden: Golden) -> Row:
    """Self-attention layers in execution order."""
    figures = []
    for family in golden.families():
        backbone = golden.backbone(f"tiny-{family}")
        names = {module: name for name, module in backbone.unet.named_modules()}
        ours = [names[layer] for layer in backbone.layers]
        recorded = golden.unit[f"{family}_self_attention_layers_in_order"]
        differing = sum(a != b for a, b in zip(ours, recorded, strict=True))
        figures.append(Figure(f"{family} names in other order", differing, 0.0))
    return Row("layers", tuple(figures))


def check_features(golden: Golden) -> Row:
    """Query, key, value and output of latents and style, the content's query, the target."""
    inputs, recorded = golden.arrays("unit/losses_sd.npz"), golden.arrays("unit/features_sd.npz")
    layers = sorted(int(name.rsplit("_", 1)[1]) for name in recorded if name.startswith("z_q_"))
    extract = golden.backbone("tiny-sd").feature_extractor((layers[0], layers[-1] + 1))
    seen = {
        "z": extract(inputs["z"], inputs["t"]),
        "s": extract(inputs["style_latents"][:1], inputs["t"]),
        "c": extract(inputs["content_latents"], inputs["t"]),
    }
    figures = []
    for index, layer in enumerate(layers):
        computed = {
            f"{whose}_{short}": getattr(features[index], name)
            for whose, features in seen.items()
            for short, name in (("q", "query"), ("k", "key"), ("v", "value"), ("out", "out"))
        }
        computed["target_out"] = distilled_attention(seen["z"][index], seen["s"][index])
        for name, ours in computed.items():
            if f"{name}_{layer}" in recorded:
                error = _relative(ours, recorded[f"{name}_{layer}"])
                figures.append(Figure(name, error, where=f"layer {layer}"))
    return Row("features_sd", _worst_of_each(figures))


def check_losses_raw(golden: Golden) -> Row:
    """Both losses and their gradients on random tensors, without any network."""
    recorded = golden.arrays("unit/losses_raw.npz")
    figures, skipped = [], []
    for tag, expected in golden.unit["losses_raw"].items():
        if expected["masked"]:
            skipped.append(tag)
        else:
            figures += _raw_figures(tag, expected, recorded)
    return Row("losses_raw", _worst_of_each(figures), note=_not_yet(skipped))


def _raw_figures(
    tag: str, expected: dict[str, Any], recorded: dict[str, Tensor]
) -> Iterator[Figure]:
    num_layers = sum(name.startswith(f"{tag}_q_") for name in recorded)

    def layers(name: str) -> list[Tensor]:
        return [recorded[f"{tag}_{name}_{layer}"] for layer in range(num_layers)]

    def for_batch(tokens: Tensor) -> Tensor:
        """(s, heads, n, d) of all styles as one sequence, for every item."""
        one = tokens.transpose(0, 1).flatten(1, 2)[None]
        return one.expand(batch, -1, -1, -1)

    batch = layers("q")[0].shape[0]
    queries = [query.clone().requires_grad_() for query in layers("q")]
    outs = [out.clone().requires_grad_() for out in layers("out")]
    unused = [torch.zeros(0)] * num_layers
    current = list(map(AttentionFeatures, queries, unused, unused, outs))
    keys, values = map(for_batch, layers("ks")), map(for_batch, layers("vs"))
    style = list(map(AttentionFeatures, unused, keys, values, unused))
    contents = [query.expand(batch, -1, -1, -1) for query in layers("qc")]
    content = list(map(AttentionFeatures, contents, unused, unused, unused))

    scale = float(expected["scale"])
    ad = attention_distillation_loss(current, style, attn_scale=scale).mean()
    kept = content_loss(current, content).mean()
    leaks = torch.autograd.grad(ad, queries, retain_graph=True, allow_unused=True)
    targets = [
        distilled_attention(mine, theirs, scale)
        for mine, theirs in zip(current, style, strict=True)
    ]
    grad_out = torch.autograd.grad(ad, outs)
    grad_query = torch.autograd.grad(kept, queries)

    def figure(name: str, error: float, tolerance: float = FLOOR) -> Figure:
        return Figure(name, error, tolerance, where=tag)

    yield figure("ad", _relative(ad.detach(), torch.tensor(expected["ad_loss"])))
    yield figure("content", _relative(kept.detach(), torch.tensor(expected["content_loss"])))
    yield figure("target", _worst_pair(targets, layers("target")))
    yield figure("d ad/d out", _worst_pair(grad_out, layers("grad_out")))
    yield figure("d content/d q", _worst_pair(grad_query, layers("grad_q_content")))
    yield figure("d ad/d q", sum(leak is not None for leak in leaks), 0.0)


def check_losses_sd(golden: Golden) -> Row:
    """Both losses and their gradients with respect to latents, through the U-Net."""
    recorded = golden.arrays("unit/losses_sd.npz")
    figures, skipped = [], []
    for variant, expected in golden.unit["losses_sd"].items():
        if expected["masks"]:
            skipped.append(variant)
        else:
            figures += _network_figures(golden, variant, expected, recorded)
    return Row("losses_sd", _worst_of_each(figures), note=_not_yet(skipped))


def _network_figures(
    golden: Golden, variant: str, expected: dict[str, Any], recorded: dict[str, Tensor]
) -> Iterator[Figure]:
    extract = golden.backbone("tiny-sd").feature_extractor(tuple(expected["layers"]))
    t = recorded["t"]
    latents = recorded[expected["z"]].clone().requires_grad_()
    batch = latents.shape[0]
    style_latents = {
        "first": recorded["style_latents"][:1],
        "multi": recorded["style_latents"],
        "small": recorded["style_latents_small"],
    }[expected["style"]]
    style = References(style_latents, torch.arange(len(style_latents)).expand(batch, -1))
    content = References(recorded["content_latents"], torch.zeros(batch, 1, dtype=torch.long))

    current = extract(latents, t)
    ad = attention_distillation_loss(
        current, style.features(extract, t), attn_scale=float(expected["scale"])
    ).mean()
    kept = content_loss(current, content.features(extract, t)).mean()
    for name, loss in {"ad": ad, "content": kept, "total25": ad + 0.25 * kept}.items():
        (gradient,) = torch.autograd.grad(loss, latents, retain_graph=True)
        error = _relative(gradient, recorded[f"grad_{name}__{variant}"])
        yield Figure(f"gradient of {name}", error, where=variant)
        if f"{name}_loss" in expected:
            error = _relative(loss.detach(), torch.tensor(expected[f"{name}_loss"]))
            yield Figure(name, error, where=variant)


def check_vae(golden: Golden) -> Row:
    """Encoding and decoding; some of the decoded values need clamping."""
    recorded = golden.arrays("unit/vae.npz")
    figures = []
    for family in golden.families():
        backbone = golden.backbone(f"tiny-{family}")
        encoded = backbone.encode(golden.image("style_small.png"))
        decoded = backbone.decode(recorded[f"{family}_decode_in"])
        figures += [
            Figure(f"{family} encode", _relative(encoded, recorded[f"{family}_latents"])),
            Figure(f"{family} decode", _worst(decoded, recorded[f"{family}_decode_out"])),
        ]
    return Row("vae", tuple(figures))


def check_text(golden: Golden) -> Row:
    """Embeddings of prompts; the empty one conditions every feature pass."""
    recorded = golden.arrays("unit/text.npz")
    figures = []
    for family in golden.families():
        for index, prompt in enumerate(golden.unit["text"]["prompts"]):
            ours = golden.backbone(f"tiny-{family}").encode_prompt(prompt)
            name = "prompts" if prompt else "empty prompt"
            error = _relative(ours.prompt_embeds, recorded[f"{family}_embeds_{index}"])
            figures.append(Figure(f"{family} {name}", error, where=prompt))
            if ours.pooled_prompt_embeds is not None:
                error = _relative(ours.pooled_prompt_embeds, recorded[f"{family}_pooled_{index}"])
                figures.append(Figure(f"{family} pooled", error, where=prompt))
    return Row("text", _worst_of_each(figures))


def check_features_sdxl(golden: Golden) -> Row:
    """SDXL's features, loss and gradient under its null prompt, pooled vector and time ids."""
    if "sdxl" not in golden.families():
        return Row("features_sdxl", note="this set holds no tiny-sdxl")
    backbone, recorded = golden.backbone("tiny-sdxl"), golden.arrays("unit/features_sdxl.npz")
    layers = sorted(int(name.rsplit("_", 1)[1]) for name in recorded if name.startswith("z_q_"))
    height, width = recorded["time_ids"][0, :2].int().tolist()
    extract = backbone.feature_extractor((layers[0], layers[-1] + 1), (height, width))
    latents = recorded["z"].clone().requires_grad_()
    current = extract(latents, recorded["t"])
    style = References(recorded["style_latents"], torch.zeros(1, 1, dtype=torch.long))
    references = style.features(extract, recorded["t"])
    loss = attention_distillation_loss(current, references).sum()
    (gradient,) = torch.autograd.grad(loss, latents)
    null = backbone.null_prompt
    assert null.pooled_prompt_embeds is not None, "SDXL has a pooled prompt"
    figures = [
        Figure("null", _relative(null.prompt_embeds, recorded["null_embeds"])),
        Figure("pooled", _relative(null.pooled_prompt_embeds, recorded["null_pooled_embeds"])),
        Figure("ad", _relative(loss.detach(), recorded["ad_loss"])),
        Figure("gradient", _relative(gradient, recorded["grad_ad"])),
    ]
    for layer, mine, theirs in zip(layers, current, references, strict=True):
        assert mine.out is not None, "the latents' pass keeps its output"
        for name, ours in (
            ("z_q", mine.query.detach()),
            ("z_out", mine.out.detach()),
            ("s_k", theirs.key),
            ("s_v", theirs.value),
        ):
            error = _relative(ours, recorded[f"{name}_{layer}"])
            figures.append(Figure(name, error, where=f"layer {layer}"))
    return Row("features_sdxl", _worst_of_each(figures))


def check_schedule(golden: Golden) -> Row:
    """Timesteps for every recorded number of steps; 1000 steps, which crash there, are refused."""
    backbone = golden.backbone("tiny-sd")
    differing, refused = 0, []
    for steps, recorded in golden.unit["schedule"].items():
        try:
            settings = Settings(num_inference_steps=int(steps))
        except RequestError:
            refused.append(steps)
            continue
        ours = backbone.timesteps(settings.num_inference_steps).tolist()
        differing += not _same_list(ours, recorded["timesteps"])
    alphas = golden.unit["alphas_cumprod"]
    ours = backbone.scheduler.alphas_cumprod[[int(t) for t in alphas]]
    return Row(
        "schedule",
        (
            Figure("lists that differ", differing, 0.0),
            Figure("refused but not 1000", sum(steps != "1000" for steps in refused), 0.0),
            Figure("alphas_cumprod", _relative(ours, torch.tensor(list(alphas.values())))),
        ),
        note=f"refused: {', '.join(refused) or 'none'}",
    )


UNITS: dict[str, Callable[[Golden], Row]] = {
    "layers": check_layers,
    "schedule": check_schedule,
    "text": check_text,
    "vae": check_vae,
    "features_sd": check_features,
    "features_sdxl": check_features_sdxl,
    "losses_raw": check_losses_raw,
    "losses_sd": check_losses_sd,
}
"""How each unit recording is checked; `layers` and `schedule` stand in unit.json."""


def _same_list(ours: list[int], recorded: list[Any]) -> bool:
    """Long lists are recorded as [first few, last few]."""
    if recorded and isinstance(recorded[0], list):
        head, tail = recorded
        return ours[: len(head)] == head and ours[-len(tail) :] == tail
    return ours == recorded


def _worst_pair(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> float:
    return max(_relative(a, b) for a, b in zip(ours, theirs, strict=True))


def _worst_of_each(figures: Iterable[Figure]) -> tuple[Figure, ...]:
    """Of several figures with the same name, that with the largest error."""
    worst: dict[str, Figure] = {}
    for figure in figures:
        if figure.name not in worst or not figure.error <= worst[figure.name].error:
            worst[figure.name] = figure
    return tuple(worst.values())


def _not_yet(names: list[str]) -> str:
    return f"not replayed yet: {', '.join(names)}" if names else ""


# ---------------------------------------------------------------------------- all


def replay(golden: Golden) -> Iterator[Row]:
    """Every unit recording, then every case."""
    for check in UNITS.values():
        yield check(golden)
    for path in sorted((golden.folder / "unit").glob("*.npz")):
        if path.stem not in UNITS:
            yield Row(path.stem, note="not replayed yet")
    for name, case in golden.cases.items():
        if case["kind"] in CASES:
            yield CASES[case["kind"]](golden, name)
        else:
            yield Row(name, note=f"{case['kind']}: not replayed yet")


def main(arguments: list[str] | None = None) -> int:
    """Prints a row per recording; 1 if any figure is above its tolerance."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="a golden set")
    golden = Golden(parser.parse_args(arguments).folder)
    torch.set_num_threads(1)
    failed = 0
    for row in replay(golden):
        sys.stdout.write(f"{row}\n")
        sys.stdout.flush()
        failed += not row.ok
    sys.stdout.write(f"{failed} above tolerance\n" if failed else "all within tolerance\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
