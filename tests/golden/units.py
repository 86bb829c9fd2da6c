"""The unit-level recordings: layers, schedules, text, autoencoder, features, losses, views."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ad_lib import RequestError, Settings
from ad_lib.algorithm.adain import adain
from ad_lib.algorithm.features import AttentionFeatures, References
from ad_lib.algorithm.losses import attention_distillation_loss, content_loss, distilled_attention
from ad_lib.algorithm.multidiffusion import Views
from ad_lib.pictures.images import fit_image
from tests.golden.recordings import Golden, Row, recorded_regions, worst_of_each
from tests.rounding import (
    FLOOR,
    Disturb,
    Figure,
    Wanted,
    compare,
    mean_relative,
    relative,
    undisturbed,
    worst,
)


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

    def compute(disturb: Disturb) -> dict[str, Tensor]:
        seen = {
            "z": extract(disturb(inputs["z"]), inputs["t"]),
            "s": extract(disturb(inputs["style_latents"][:1]), inputs["t"]),
            "c": extract(disturb(inputs["content_latents"]), inputs["t"]),
        }
        found = {}
        for index, layer in enumerate(layers):
            for whose, features in seen.items():
                for short, name in (("q", "query"), ("k", "key"), ("v", "value"), ("out", "out")):
                    found[f"{whose}_{short}_{layer}"] = getattr(features[index], name)
            target = distilled_attention(seen["z"][index], seen["s"][index])
            found[f"target_out_{layer}"] = target
        return found

    wanted = {}
    for array, tensor in recorded.items():
        name, _, layer = array.rpartition("_")
        wanted[array] = Wanted(tensor, name=name, where=f"layer {layer}")
    return Row("features_sd", worst_of_each(compare(compute, wanted)))


def check_losses_raw(golden: Golden) -> Row:
    """Both losses and their gradients on random tensors, without any network."""
    recorded = golden.arrays("unit/losses_raw.npz")
    figures = [
        figure
        for tag, expected in golden.unit["losses_raw"].items()
        for figure in _raw_figures(tag, expected, recorded)
    ]
    return Row("losses_raw", worst_of_each(figures))


def _raw_figures(
    tag: str, expected: dict[str, Any], recorded: dict[str, Tensor]
) -> Iterator[Figure]:
    num_layers = sum(name.startswith(f"{tag}_q_") for name in recorded)
    batch = recorded[f"{tag}_q_0"].shape[0]
    regions = None
    if expected["masked"]:
        side = math.isqrt(max(recorded[f"{tag}_q_{i}"].shape[2] for i in range(num_layers)))
        masks = recorded[f"{tag}_source_mask"], recorded[f"{tag}_target_mask"]
        regions = recorded_regions(*masks, batch, (side, side))
    attend = partial(distilled_attention, attn_scale=float(expected["scale"]), regions=regions)

    def layers(name: str) -> list[Tensor]:
        return [recorded[f"{tag}_{name}_{layer}"] for layer in range(num_layers)]

    def for_batch(tokens: Tensor) -> Tensor:
        """(s, heads, n, d) of all styles as one sequence, for every item."""
        sequence = tokens.transpose(0, 1).flatten(1, 2)[None]
        return sequence.expand(batch, -1, -1, -1)

    def losses(disturb: Disturb) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor, list[Tensor]]:
        """Queries, outs, both losses and the targets, with their graphs."""
        queries = [disturb(query).clone().requires_grad_() for query in layers("q")]
        outs = [disturb(out).clone().requires_grad_() for out in layers("out")]
        unused = [torch.zeros(0)] * num_layers
        current = list(map(AttentionFeatures, queries, unused, unused, outs))
        keys, values = map(for_batch, layers("ks")), map(for_batch, layers("vs"))
        style = list(map(AttentionFeatures, unused, keys, values, unused))
        contents = [query.expand(batch, -1, -1, -1) for query in layers("qc")]
        content = list(map(AttentionFeatures, contents, unused, unused, unused))
        ad = attention_distillation_loss(current, style, attend).mean()
        targets = [attend(mine, theirs) for mine, theirs in zip(current, style, strict=True)]
        return queries, outs, ad, content_loss(current, content).mean(), targets

    def compute(disturb: Disturb) -> dict[str, Tensor]:
        queries, outs, ad, kept, targets = losses(disturb)
        found = {"ad": ad.detach(), "content": kept.detach()}
        for name, tensors in (
            ("target", targets),
            ("grad_out", torch.autograd.grad(ad, outs)),
            ("grad_q_content", torch.autograd.grad(kept, queries)),
        ):
            for layer, tensor in enumerate(tensors):
                found[f"{name}_{layer}"] = tensor.detach()
        return found

    wanted = {
        "ad": Wanted(torch.tensor(expected["ad_loss"]), where=tag),
        "content": Wanted(torch.tensor(expected["content_loss"]), where=tag),
    }
    for array, name, deviation in (
        ("target", "target", relative),
        # Signs over a number: every element that rounding turns is off by the whole of it.
        ("grad_out", "d ad/d out", mean_relative),
        ("grad_q_content", "d content/d q", mean_relative),
    ):
        for layer, tensor in enumerate(layers(array)):
            wanted[f"{array}_{layer}"] = Wanted(tensor, FLOOR, deviation, name, where=tag)
    yield from compare(compute, wanted)

    queries, _, ad, _, _ = losses(undisturbed)
    leaks = torch.autograd.grad(ad, queries, allow_unused=True)
    yield Figure("d ad/d q", sum(leak is not None for leak in leaks), 0.0, where=tag)


def check_losses_sd(golden: Golden) -> Row:
    """Both losses and their gradients with respect to latents, through the U-Net."""
    recorded = golden.arrays("unit/losses_sd.npz")
    figures = [
        figure
        for variant, expected in golden.unit["losses_sd"].items()
        for figure in _network_figures(golden, variant, expected, recorded)
    ]
    return Row("losses_sd", worst_of_each(figures))


def _network_figures(
    golden: Golden, variant: str, expected: dict[str, Any], recorded: dict[str, Tensor]
) -> tuple[Figure, ...]:
    extract = golden.backbone("tiny-sd").feature_extractor(tuple(expected["layers"]))
    t, start = recorded["t"], recorded[expected["z"]]
    style_latents = {
        "first": recorded["style_latents"][:1],
        "multi": recorded["style_latents"],
        "small": recorded["style_latents_small"],
    }[expected["style"]]
    batch = start.shape[0]
    regions = None
    if expected["masks"]:
        masks = recorded["source_mask"], recorded["target_mask"]
        regions = recorded_regions(*masks, batch, (start.shape[2], start.shape[3]))
    attend = partial(distilled_attention, attn_scale=float(expected["scale"]), regions=regions)

    def compute(disturb: Disturb) -> dict[str, Tensor]:
        latents = disturb(start).clone().requires_grad_()
        style = References(disturb(style_latents), [range(len(style_latents))] * batch)
        content = References(disturb(recorded["content_latents"]), [[0]] * batch)
        current, style_features = extract(latents, t), style.features(extract, t)
        ad = attention_distillation_loss(current, style_features, attend).mean()
        kept = content_loss(current, content.features(extract, t)).mean()
        found = {}
        for name, loss in {"ad": ad, "content": kept, "total25": ad + 0.25 * kept}.items():
            found[name] = loss.detach()
            (found[f"grad_{name}"],) = torch.autograd.grad(loss, latents, retain_graph=True)
        layers = range(*expected["layers"])
        for layer, mine, theirs in zip(layers, current, style_features, strict=True):
            found[f"mask_target_out_{layer}"] = attend(mine, theirs).detach()
        return found

    wanted = {}
    for name in ("ad", "content", "total25"):
        gradient = recorded[f"grad_{name}__{variant}"]
        wanted[f"grad_{name}"] = Wanted(gradient, name=f"gradient of {name}", where=variant)
        if f"{name}_loss" in expected:
            wanted[name] = Wanted(torch.tensor(expected[f"{name}_loss"]), where=variant)
    if regions:
        for layer in range(*expected["layers"]):
            array = f"mask_target_out_{layer}"
            where = f"layer {layer}"
            wanted[array] = Wanted(recorded[array], name="masked target", where=where)
    return compare(compute, wanted)


def check_vae(golden: Golden) -> Row:
    """Encoding and decoding; some of the decoded values need clamping."""
    recorded = golden.arrays("unit/vae.npz")
    image = golden.image("style_small.png")
    figures: list[Figure] = []
    for family in golden.families():
        backbone = golden.backbone(f"tiny-{family}")

        def compute(disturb: Disturb, backbone=backbone, family=family) -> dict[str, Tensor]:
            return {
                "encode": backbone.encode(disturb(image)),
                "decode": backbone.decode(disturb(recorded[f"{family}_decode_in"])),
            }

        wanted = {
            "encode": Wanted(recorded[f"{family}_latents"], name=f"{family} encode"),
            "decode": Wanted(
                recorded[f"{family}_decode_out"], deviation=worst, name=f"{family} decode"
            ),
        }
        figures += compare(compute, wanted)
    return Row("vae", tuple(figures))


def check_text(golden: Golden) -> Row:
    """Embeddings of prompts; the empty one conditions every feature pass."""
    recorded = golden.arrays("unit/text.npz")
    figures = []
    for family in golden.families():
        for index, prompt in enumerate(golden.unit["text"]["prompts"]):
            ours = golden.backbone(f"tiny-{family}").encode_prompt(prompt)
            name = "prompts" if prompt else "empty prompt"
            error = relative(ours.prompt_embeds, recorded[f"{family}_embeds_{index}"])
            figures.append(Figure(f"{family} {name}", error, where=prompt))
            if ours.pooled_prompt_embeds is not None:
                error = relative(ours.pooled_prompt_embeds, recorded[f"{family}_pooled_{index}"])
                figures.append(Figure(f"{family} pooled", error, where=prompt))
    return Row("text", worst_of_each(figures))


def check_features_sdxl(golden: Golden) -> Row:
    """SDXL's features, loss and gradient under its null prompt, pooled vector and time ids."""
    backbone, recorded = golden.backbone("tiny-sdxl"), golden.arrays("unit/features_sdxl.npz")
    layers = sorted(int(name.rsplit("_", 1)[1]) for name in recorded if name.startswith("z_q_"))
    height, width = recorded["time_ids"][0, :2].int().tolist()
    extract = backbone.feature_extractor((layers[0], layers[-1] + 1), (height, width))
    null = backbone.null_prompt
    assert null.pooled_prompt_embeds is not None, "SDXL has a pooled prompt"
    pooled = null.pooled_prompt_embeds

    def compute(disturb: Disturb) -> dict[str, Tensor]:
        latents = disturb(recorded["z"]).clone().requires_grad_()
        current = extract(latents, recorded["t"])
        style = References(disturb(recorded["style_latents"]), [[0]])
        references = style.features(extract, recorded["t"])
        loss = attention_distillation_loss(current, references).sum()
        (gradient,) = torch.autograd.grad(loss, latents)
        found = {
            "null_embeds": null.prompt_embeds,
            "null_pooled_embeds": pooled,
            "ad_loss": loss.detach(),
            "grad_ad": gradient,
        }
        for layer, mine, theirs in zip(layers, current, references, strict=True):
            assert mine.out is not None, "the latents' pass keeps its output"
            found[f"z_q_{layer}"] = mine.query.detach()
            found[f"z_out_{layer}"] = mine.out.detach()
            found[f"s_k_{layer}"], found[f"s_v_{layer}"] = theirs.key, theirs.value
        return found

    wanted = {}
    for array in ("null_embeds", "null_pooled_embeds", "ad_loss", "grad_ad"):
        wanted[array] = Wanted(recorded[array])
    for layer in layers:
        for name in ("z_q", "z_out", "s_k", "s_v"):
            tensor = recorded[f"{name}_{layer}"]
            wanted[f"{name}_{layer}"] = Wanted(tensor, name=name, where=f"layer {layer}")
    return Row("features_sdxl", worst_of_each(compare(compute, wanted)))


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
        dynamics = backbone.dynamics(settings.num_inference_steps)
        timesteps = [t.number for t in dynamics.timesteps]
        features = [dynamics.after(t).number for t in dynamics.timesteps]
        differing += not _same_list(timesteps, recorded["timesteps"])
        differing += not _same_list(features, recorded["feature_timesteps"])
    alphas = golden.unit["alphas_cumprod"]
    ours = backbone.scheduler.alphas_cumprod[[int(t) for t in alphas]]
    return Row(
        "schedule",
        (
            Figure("lists that differ", differing, 0.0),
            Figure("refused but not 1000", sum(steps != "1000" for steps in refused), 0.0),
            Figure("alphas_cumprod", relative(ours, torch.tensor(list(alphas.values())))),
        ),
        note=f"refused: {', '.join(refused) or 'none'}",
    )


def check_views(golden: Golden) -> Row:
    """MultiDiffusion's grids; where a side is shorter than a window, theirs start below zero."""
    differing, wrong, bugs = 0, 0, []
    for grid in golden.unit["views_h0_h1_w0_w1"]:
        height, width, window = grid["height_px"] // 8, grid["width_px"] // 8, grid["window"]
        views = Views(size=window, stride=grid["stride"])
        rows, columns = views.shape(height, width)
        ours = [[top, top + rows, left, left + columns] for top, left in views.at(height, width)]
        if min(height, width) < window:
            bugs.append(f"{grid['height_px']}x{grid['width_px']}")
            covered = {(row, column) for a, b, c, d in ours for row in (a, b) for column in (c, d)}
            corners = {(row, column) for row in (0, height) for column in (0, width)}
            wrong += not corners <= covered
        else:
            differing += ours != grid["views"]
    return Row(
        "views",
        (
            Figure("grids that differ", differing, 0.0),
            Figure("small pictures that are not covered", wrong, 0.0),
        ),
        note=f"bug there, covered here: windows larger than {', '.join(bugs)}" if bugs else "",
    )


def check_adain(golden: Golden) -> Row:
    """Channel statistics of one style, of several pooled, and of latents without variance."""
    recorded = golden.arrays("unit/adain.npz")
    figures = []
    for tag in sorted(name.removesuffix("_out") for name in recorded if name.endswith("_out")):
        source, target = recorded[f"{tag}_source"], recorded[f"{tag}_target"]
        ours = adain(source, References(target, [range(len(target))] * len(source)))
        figures.append(Figure("adain", relative(ours, recorded[f"{tag}_out"]), where=tag))
    return Row("adain", worst_of_each(figures))


def check_loader(golden: Golden) -> Row:
    """Resized pictures; where the reference squashes one, its proportions are kept instead."""
    recorded = golden.arrays("unit/loader.npz")
    figures, squashed = [], []
    for name, entry in golden.unit["loader_note_value_is_uint8_div_255"].items():
        height, width = recorded[name].shape[-2:]
        image = Image.open(golden.folder / "inputs" / entry["file"]).convert(entry["mode"])
        ours = np.atleast_3d(np.asarray(fit_image(image, width, height))).transpose(2, 0, 1)
        if image.width * height == image.height * width:
            error = np.abs(ours.astype(int) - recorded[name][0].numpy().astype(int)).max()
            figures.append(Figure("levels of 255", float(error), 0.0, where=name))
        else:
            squashed.append(name)
            figures.append(Figure("cropped, not squashed", _off_crop(image, ours), 1.0, name))
    return Row("loader", worst_of_each(figures), note=f"squashed there: {', '.join(squashed)}")


def _off_crop(image: Image.Image, ours: np.ndarray) -> float:
    """The mean difference, in levels of 255, to the largest centred box of the right shape."""
    height, width = ours.shape[1:]
    scale = max(width / image.width, height / image.height)
    left, top = (image.width - width / scale) / 2, (image.height - height / scale) / 2
    box = (left, top, left + width / scale, top + height / scale)
    crop = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
    theirs = np.atleast_3d(np.asarray(crop, np.float64)).transpose(2, 0, 1)
    return float(np.abs(theirs - ours).mean())


UNITS: dict[str, Callable[[Golden], Row]] = {
    "layers": check_layers,
    "schedule": check_schedule,
    "text": check_text,
    "vae": check_vae,
    "features_sd": check_features,
    "features_sdxl": check_features_sdxl,
    "losses_raw": check_losses_raw,
    "losses_sd": check_losses_sd,
    "adain": check_adain,
    "loader": check_loader,
    "views": check_views,
}
"""How each unit recording is checked; some of them stand in unit.json alone."""


def _same_list(ours: list[int], recorded: list[Any]) -> bool:
    """Long lists are recorded as [first few, last few]."""
    if recorded and isinstance(recorded[0], list):
        head, tail = recorded
        return ours[: len(head)] == head and ours[-len(tail) :] == tail
    return ours == recorded
