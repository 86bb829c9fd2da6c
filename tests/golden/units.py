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
from ad_lib.features import AttentionFeatures, References
from ad_lib.guide import adain, previous_timestep
from ad_lib.images import fit_image
from ad_lib.losses import attention_distillation_loss, content_loss, distilled_attention
from ad_lib.multidiffusion import Views
from tests.golden.recordings import (
    FLOOR,
    Figure,
    Golden,
    Row,
    recorded_regions,
    relative,
    worst,
    worst_of_each,
    worst_pair,
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
                error = relative(ours, recorded[f"{name}_{layer}"])
                figures.append(Figure(name, error, where=f"layer {layer}"))
    return Row("features_sd", worst_of_each(figures))


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

    regions = None
    if expected["masked"]:
        side = math.isqrt(max(query.shape[2] for query in queries))
        masks = recorded[f"{tag}_source_mask"], recorded[f"{tag}_target_mask"]
        regions = recorded_regions(*masks, batch, (side, side))
    attend = partial(distilled_attention, attn_scale=float(expected["scale"]), regions=regions)
    ad = attention_distillation_loss(current, style, attend).mean()
    kept = content_loss(current, content).mean()
    leaks = torch.autograd.grad(ad, queries, retain_graph=True, allow_unused=True)
    targets = [attend(mine, theirs) for mine, theirs in zip(current, style, strict=True)]
    grad_out = torch.autograd.grad(ad, outs)
    grad_query = torch.autograd.grad(kept, queries)

    def figure(name: str, error: float, tolerance: float = FLOOR) -> Figure:
        return Figure(name, error, tolerance, where=tag)

    yield figure("ad", relative(ad.detach(), torch.tensor(expected["ad_loss"])))
    yield figure("content", relative(kept.detach(), torch.tensor(expected["content_loss"])))
    yield figure("target", worst_pair(targets, layers("target")))
    yield figure("d ad/d out", worst_pair(grad_out, layers("grad_out")))
    yield figure("d content/d q", worst_pair(grad_query, layers("grad_q_content")))
    yield figure("d ad/d q", sum(leak is not None for leak in leaks), 0.0)


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
    style = References(style_latents, [range(len(style_latents))] * batch)
    content = References(recorded["content_latents"], [[0]] * batch)
    regions = None
    if expected["masks"]:
        masks = recorded["source_mask"], recorded["target_mask"]
        regions = recorded_regions(*masks, batch, (latents.shape[2], latents.shape[3]))
    attend = partial(distilled_attention, attn_scale=float(expected["scale"]), regions=regions)

    current, style_features = extract(latents, t), style.features(extract, t)
    ad = attention_distillation_loss(current, style_features, attend).mean()
    if regions:
        for layer, mine, theirs in zip(
            range(*expected["layers"]), current, style_features, strict=True
        ):
            error = relative(attend(mine, theirs), recorded[f"mask_target_out_{layer}"])
            yield Figure("masked target", error, where=f"layer {layer}")
    kept = content_loss(current, content.features(extract, t)).mean()
    for name, loss in {"ad": ad, "content": kept, "total25": ad + 0.25 * kept}.items():
        (gradient,) = torch.autograd.grad(loss, latents, retain_graph=True)
        error = relative(gradient, recorded[f"grad_{name}__{variant}"])
        yield Figure(f"gradient of {name}", error, where=variant)
        if f"{name}_loss" in expected:
            error = relative(loss.detach(), torch.tensor(expected[f"{name}_loss"]))
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
            Figure(f"{family} encode", relative(encoded, recorded[f"{family}_latents"])),
            Figure(f"{family} decode", worst(decoded, recorded[f"{family}_decode_out"])),
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
    latents = recorded["z"].clone().requires_grad_()
    current = extract(latents, recorded["t"])
    style = References(recorded["style_latents"], [[0]])
    references = style.features(extract, recorded["t"])
    loss = attention_distillation_loss(current, references).sum()
    (gradient,) = torch.autograd.grad(loss, latents)
    null = backbone.null_prompt
    assert null.pooled_prompt_embeds is not None, "SDXL has a pooled prompt"
    figures = [
        Figure("null", relative(null.prompt_embeds, recorded["null_embeds"])),
        Figure("pooled", relative(null.pooled_prompt_embeds, recorded["null_pooled_embeds"])),
        Figure("ad", relative(loss.detach(), recorded["ad_loss"])),
        Figure("gradient", relative(gradient, recorded["grad_ad"])),
    ]
    for layer, mine, theirs in zip(layers, current, references, strict=True):
        assert mine.out is not None, "the latents' pass keeps its output"
        for name, ours in (
            ("z_q", mine.query.detach()),
            ("z_out", mine.out.detach()),
            ("s_k", theirs.key),
            ("s_v", theirs.value),
        ):
            error = relative(ours, recorded[f"{name}_{layer}"])
            figures.append(Figure(name, error, where=f"layer {layer}"))
    return Row("features_sdxl", worst_of_each(figures))


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
        timesteps = backbone.timesteps(settings.num_inference_steps)
        features = [int(previous_timestep(backbone.scheduler, t)) for t in timesteps]
        differing += not _same_list(timesteps.tolist(), recorded["timesteps"])
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
        ours = [
            [int(edge) for axis in view for edge in (axis[0], axis[-1] + 1)]
            for view in Views(size=window, stride=grid["stride"]).at(height, width)
        ]
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
