"""Whole recorded runs: what each kind of case is replayed with, and what is compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from ad_lib import Backbone, RequestError
from ad_lib.algorithm.dynamics import Timestep
from ad_lib.algorithm.features import References
from ad_lib.algorithm.guide import noised_start, sample_with_distillation
from ad_lib.algorithm.labels import Regions
from ad_lib.algorithm.multidiffusion import Views, expand_with_distillation
from ad_lib.algorithm.noise import Noise
from ad_lib.algorithm.optimize import optimize_latents
from ad_lib.algorithm.step import Distiller
from ad_lib.algorithm.trace import LossTrace
from ad_lib.model.ddim import DDIM
from ad_lib.model.prompts import PromptEmbeds, joined
from ad_lib.model.seamless import seamless
from ad_lib.model.tuned_decoder import finetune_decoder, using_decoder
from ad_lib.settings import Settings
from tests.golden.recordings import Golden, Row, recorded_regions, tolerance, worst_of_each
from tests.rounding import (
    DISTURBANCE,
    FLOOR,
    Disturb,
    Figure,
    Wanted,
    compare,
    element_wise,
    median,
    relative,
    undisturbed,
    worst,
)

DEFAULTS: dict[str, Any] = {
    "batch_size": 1,
    "num_inference_steps": 200,
    "iters": 1,
    "lr": 0.05,
    "weight": 0.0,
    "attn_scale": 1.0,
    "adain": False,
    "start_time": 999,
    "tiling": False,
    "guidance_scale": 1.0,
    "num_images_per_prompt": 1,
    "prompt": "",
    "negative_prompt": None,
    "init_from_style": False,
}
"""What the reference does with arguments that a case does not list."""

AXES = {"enable": "both", "x_only": "x", "y_only": "y"}
"""The reference's names of seamless axes; every other value of `tiling` is off there."""

Step = Callable[[Disturb], tuple[Tensor, Tensor]]
"""(losses of every Adam step, latents) of a run, or of its first step, from disturbed inputs."""


@dataclass
class Watched:
    """A feature extractor and a denoiser that note what the recording noted.

    The reference's loss is a mean over the batch, ours a sum; Adam's epsilon sees that, so the
    gradient is divided here.

    Attributes:
        gradients: of the latents, before each Adam step.
        noise_preds: after guidance.
    """

    gradients: list[Tensor] = field(default_factory=list)
    noise_preds: list[Tensor] = field(default_factory=list)

    def extractor(self, extract: Any) -> Any:
        def watched(latents: Tensor, t: Tensor, **options: Any) -> Any:
            view = latents.view_as(latents)
            if view.requires_grad:
                view.register_hook(partial(self._mean_gradient, len(latents)))
            return extract(view, t, **options)

        return watched

    def predictor(self, predict: Any) -> Any:
        def watched(latents: Tensor, t: Tensor) -> Tensor:
            self.noise_preds.append(predict(latents, t))
            return self.noise_preds[-1]

        return watched

    def _mean_gradient(self, batch: int, gradient: Tensor) -> Tensor:
        self.gradients.append(gradient / batch)
        return self.gradients[-1]


class Case:
    """One recorded run and the parts of the library that replay it."""

    def __init__(self, golden: Golden, name: str) -> None:
        self.golden = golden
        self.name = name
        self.case = golden.cases[name]
        self.args = DEFAULTS | self.case["args"]
        self.recorded = golden.arrays(f"cases/{name}.npz")
        self.backbone: Backbone = golden.backbone(self.case["model"])
        self.watched = Watched()

    @property
    def batch(self) -> int:
        return self.recorded["init_latents"].shape[0]

    @cached_property
    def style(self) -> References:
        latents = self.recorded["style_latents"]
        return References(latents, [range(len(latents))] * self.batch)

    @cached_property
    def content(self) -> References | None:
        if not self.case.get("content"):
            return None
        return References(self.recorded["content_latents"], [[0]] * self.batch)

    @property
    def tiled(self) -> AbstractContextManager[None]:
        axes: Any = AXES.get(self.args["tiling"], "none")
        return seamless(self.backbone.unet, self.backbone.vae, axes=axes)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the picture, or of a view, in pixels."""
        height, width = (8 * side for side in self.recorded["init_latents"].shape[2:])
        return height, width

    def extractor(self) -> Any:
        prompt = None
        if "null_time_ids" in self.recorded:
            prompt = replace(self.backbone.null_prompt, time_ids=self.recorded["null_time_ids"])
        layers = tuple(self.case["self_layers"])
        extract = self.backbone.feature_extractor(layers, self.image_size, prompt)
        return self.watched.extractor(extract)

    def predictor(self) -> Any:
        prompt, negative = self.prompts()
        scale = self.args["guidance_scale"]
        predict = self.backbone.noise_predictor(self.image_size, prompt, negative, scale)
        return self.watched.predictor(predict)

    def prompts(self) -> tuple[PromptEmbeds, PromptEmbeds]:
        """Positive and negative ones, for every picture of the batch (one for a panorama)."""
        copies = self.args["num_images_per_prompt"]
        texts, negatives = _listed(self.args["prompt"]), _listed(self.args["negative_prompt"])
        negatives = negatives * (len(texts) // len(negatives))
        positive = [self.backbone.encode_prompt(one, self.args.get("prompt_2")) for one in texts]
        negative = [self.backbone.encode_negative_prompt(one) for one in negatives]
        return (
            self._with_sizes(joined([one for one in positive for _ in range(copies)]), ""),
            self._with_sizes(joined([one for one in negative for _ in range(copies)]), "negative_"),
        )

    def _with_sizes(self, prompts: PromptEmbeds, prefix: str) -> PromptEmbeds:
        """SDXL's sizes as the case gives them; negative ones default to the positive ones."""
        if prompts.pooled_prompt_embeds is None:
            return prompts
        asked = prefix if f"{prefix}original_size" in self.args else ""
        size = list(self.image_size)
        ids = [
            *self.args.get(f"{asked}original_size", size),
            *self.args.get(f"{asked}crops_coords_top_left", (0, 0)),
            *self.args.get(f"{asked}target_size", size),
        ]
        return replace(prompts, time_ids=torch.tensor([ids], dtype=torch.float32))

    def distiller(self, regions: Regions | None = None) -> Distiller:
        settings = Settings(
            num_optimization_steps=self.args["iters"],
            learning_rate=self.args["lr"],
            attn_scale=float(self.args["attn_scale"]),
            content_weight=self.args["weight"],
            adain=self.args["adain"],
            start_time=self.args["start_time"],
        )
        return Distiller(self.extractor(), settings, regions)

    def dynamics(self, num_timesteps: int | None = None) -> DDIM:
        """The sampler of the case, or of its first timesteps only."""
        dynamics = self.backbone.dynamics(self.args["num_inference_steps"])
        dynamics.timesteps = dynamics.timesteps[:num_timesteps]
        return dynamics

    def losses(self, trace: LossTrace) -> Tensor:
        return (trace.style + self.args["weight"] * trace.content).mean(1)

    # ------------------------------------------------------------------------ comparing

    def encoding(self) -> Figure:
        """The worst deviation of the encoded inputs, relative to the recorded latents."""
        sizes = self.case
        images = {
            "style_latents": [
                self.golden.image(name, tuple(sizes["style_size"])) for name in self.case["style"]
            ]
        }
        if self.case.get("content"):
            image = self.golden.image(self.case["content"], tuple(sizes["content_size"]))
            images["content_latents"] = [image]
        with self.tiled:
            errors = [
                relative(
                    torch.cat([self.backbone.encode(one) for one in found]), self.recorded[role]
                )
                for role, found in images.items()
            ]
        return Figure("encode", max(errors))

    def timesteps(self) -> Figure:
        ours = torch.tensor([t.number for t in self.dynamics().timesteps])
        return Figure("timesteps", worst(ours, self.recorded["timesteps"]), 0.0)

    def feature_timesteps(self) -> Figure:
        """Those of the steps on which anything is distilled; a panorama lists them per batch."""
        dynamics, start = self.dynamics(), self.args["start_time"]
        ours = [dynamics.after(t).number for t in dynamics.timesteps if t.number < start]
        if "view_batches" in self.case:
            per_step = len(self.case["view_batches"]) // len(dynamics.timesteps)
            ours = [t for t in ours for _ in range(per_step)]
        recorded = self.recorded.get("feature_t", torch.empty(0))
        ours = ours if self.args["iters"] else []
        return Figure("feature_t", float(ours != recorded.tolist()), 0.0)

    def prompt_figures(self) -> Iterator[Figure]:
        for prefix, ours in zip(("", "negative_"), self.prompts(), strict=True):
            for name, embeds in (
                (f"{prefix}prompt_embeds", ours.prompt_embeds),
                (
                    f"{prefix.replace('_', '_pooled_') or 'pooled_'}prompt_embeds",
                    ours.pooled_prompt_embeds,
                ),
            ):
                if name in self.recorded and embeds is not None:
                    scale = max(1.0, float(self.recorded[name].abs().max()))
                    yield Figure("prompts", worst(embeds, self.recorded[name]) / scale, where=name)

    def first_figures(self, first_step: Step) -> tuple[Figure, ...]:
        """The first step, where rounding has had no time to grow.

        Adam's first step moves an element by the learning rate in the direction of a sign, so a few
        elements may end elsewhere; the median holds the others tightly.
        """

        def compute(disturb: Disturb) -> dict[str, Tensor]:
            self.watched = Watched()
            losses, latents = first_step(disturb)
            found = {"first latents": latents, "median of first latents": latents}
            for name, noted in (
                ("first loss", losses),
                ("first gradient", self.watched.gradients),
                ("first noise_pred", self.watched.noise_preds),
            ):
                if len(noted):
                    found[name] = noted[0]
            return found

        latents, case = self.recorded["latents_step"][0], self.case
        wanted = {
            "first latents": Wanted(latents, tolerance(case, "latents_first_max"), worst),
            "median of first latents": Wanted(latents, FLOOR, median),
        }
        if len(self.recorded.get("loss_total", [])):
            loss = self.recorded["loss_total"][0]
            wanted["first loss"] = Wanted(loss, tolerance(case, "loss_rel_first"))
        if "noise_pred" in self.recorded:
            wanted["first noise_pred"] = Wanted(self.recorded["noise_pred"][0])
        if case["kind"] == "optimize" and "grad_iter" in self.recorded:
            wanted["first gradient"] = Wanted(self.recorded["grad_iter"][0])
        return compare(compute, wanted)

    def run_figures(self, run: Step, first: Iterable[Figure]) -> tuple[Figure, ...]:
        """What the whole run is judged by: the losses, the last latents, the picture.

        Args:
            run: the whole run.
            first: the figures of its first step; the run is disturbed by what they are off, if that
                is more than 1e-6.
        """
        name, stride = next(pair for pair in _KEPT_PIXELS.items() if pair[0] in self.recorded)

        def compute(disturb: Disturb) -> dict[str, Tensor]:
            losses, latents = run(disturb)
            image = self.backbone.decode(latents)[..., ::stride, ::stride]
            return {"losses": losses, "last latents": latents, "image": image}

        losses = self.recorded.get("loss_total", torch.empty(0))
        wanted = {
            "losses": Wanted(losses, tolerance(self.case, "loss_rel_max"), element_wise),
            "last latents": Wanted(
                self.recorded["latents_step"][-1],
                tolerance(self.case, "latents_last_max"),
                worst,
            ),
            "image": Wanted(self.recorded[name], tolerance(self.case, "image_max"), worst),
        }
        off = [figure.error for figure in first if figure.name not in _THROUGH_SIGNS]
        return compare(compute, wanted, amount=max(DISTURBANCE, *off))


_KEPT_PIXELS = {"image": 1, "image_sub2": 2, "image_sub4": 4}
"""Arrays of the final picture and the stride at which they keep pixels; a case has one."""

_THROUGH_SIGNS = {"first latents", "first gradient"}
"""Figures that one sign decides; they say nothing about the size of rounding errors."""


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def recorded_noise(recorded: dict[str, Tensor]) -> Noise:
    """The recorded draws of each tag, in order: one for every latent that is noised."""
    draws = {
        name.removeprefix("noise_"): iter(array.flatten(0, -4))
        for name, array in recorded.items()
        if name.startswith("noise_")
    }

    def draw(tag: str, number: int, shape: Sequence[int]) -> Tensor:
        return next(draws[tag]).reshape(tuple(shape))

    return draw


# ---------------------------------------------------------------------------- kinds


def replay_optimize(golden: Golden, name: str) -> Row:
    """Algorithm 1 from the recorded initial latents."""
    case = Case(golden, name)
    recorded, regions = case.recorded, None
    if "source_mask" in recorded and "target_mask" in recorded:
        size = (recorded["init_latents"].shape[2], recorded["init_latents"].shape[3])
        masks = recorded["source_mask"], recorded["target_mask"]
        regions = recorded_regions(*masks, case.batch, size)
    timesteps = case.dynamics().timesteps

    def optimize(timesteps: Sequence[Timestep], disturb: Disturb) -> tuple[Tensor, Tensor]:
        """(losses of every Adam step, latents) after these timesteps."""
        start, content = disturb(recorded["init_latents"]), None
        if case.content:  # the run starts from its content, exactly
            content = replace(case.content, latents=disturb(recorded["content_latents"]))
            start = content.one_per_item()
        latents, trace = optimize_latents(
            case.distiller(regions),
            timesteps,
            start,
            replace(case.style, latents=disturb(recorded["style_latents"])),
            content,
        )
        return case.losses(trace), latents

    figures = (case.encoding(), case.timesteps())
    try:
        if case.content and case.batch > 1:
            copies = _copies_figures(case, optimize, timesteps)
            note = "rounding decides the reference's first step; right is: copies of one item agree"
            return Row(name, (*figures, *copies), steps=len(timesteps), note=note)
        first = case.first_figures(partial(optimize, timesteps[:1]))
    except RequestError as refused:
        return Row(name, (Figure("refused", 0.0, 0.0),), note=f"bug there: {refused}")
    rest = case.run_figures(partial(optimize, timesteps), first)
    return Row(name, (*figures, *first, *rest), steps=len(timesteps))


def _copies_figures(
    case: Case,
    optimize: Callable[[Sequence[Timestep], Disturb], tuple[Tensor, Tensor]],
    timesteps: Sequence[Timestep],
) -> tuple[Figure, ...]:
    """The first loss as it was recorded, and whether equal items of a batch stay equal."""

    def compute(disturb: Disturb) -> dict[str, Tensor]:
        losses, latents = optimize(timesteps, disturb)
        return {"first loss": losses[0], "copies differ": latents}

    def apart(latents: Tensor, others: Tensor) -> float:
        """Between the copies, or between two runs."""
        return worst(latents, others.expand_as(latents))

    _, latents = optimize(timesteps, undisturbed)
    wanted = {
        "first loss": Wanted(
            case.recorded["loss_total"][0], tolerance(case.case, "loss_rel_first")
        ),
        "copies differ": Wanted(latents[:1], FLOOR, apart),
    }
    return compare(compute, wanted)


def replay_sample(golden: Golden, name: str) -> Row:
    """Algorithm 2 from the recorded noise, on Stable Diffusion or SDXL."""
    case = Case(golden, name)
    recorded = case.recorded

    def sample(num_timesteps: int | None, disturb: Disturb) -> tuple[Tensor, Tensor]:
        noise = recorded_noise(recorded)
        style = replace(case.style, latents=disturb(recorded["style_latents"]))
        content = case.content
        latents, trace = sample_with_distillation(
            case.predictor(),
            case.distiller(),
            case.dynamics(num_timesteps),
            disturb(_start(case)),
            style,
            [noise] * case.batch,
            content and replace(content, latents=disturb(recorded["content_latents"])),
        )
        return case.losses(trace), latents

    with case.tiled:
        figures = (case.encoding(), case.timesteps(), case.feature_timesteps())
        first = case.first_figures(partial(sample, 1))
        rest = case.run_figures(partial(sample, None), first)
    prompts = max(case.prompt_figures(), key=lambda figure: figure.error)
    num_steps = len(case.dynamics().timesteps)
    return Row(name, (*figures, prompts, *first, *rest), steps=num_steps)


def _start(case: Case) -> Tensor:
    """z_T: the recorded noise, or the style under the recorded noise."""
    if not case.args["init_from_style"]:
        return case.recorded["noise_init"]
    noise = recorded_noise({"noise_init": case.recorded["noise_init_style"]})
    return noised_start(case.style, case.dynamics(), [noise])


def replay_panorama(golden: Golden, name: str) -> Row:
    """MultiDiffusion from the recorded noise, on the published grid of views."""
    case = Case(golden, name)
    recorded = case.recorded
    views = Views(
        size=case.case["window"],
        stride=case.args["stride"],
        batch_size=case.args["view_batch_size"],
    )

    def expand(num_timesteps: int | None, disturb: Disturb) -> tuple[Tensor, Tensor]:
        latents, trace = expand_with_distillation(
            case.predictor(),
            case.distiller(),
            case.dynamics(num_timesteps),
            disturb(recorded["noise_init"]),
            replace(case.style, latents=disturb(recorded["style_latents"])),
            recorded_noise(recorded),
            views=views,
        )
        return case.losses(trace), latents

    figures = (case.encoding(), case.timesteps(), case.feature_timesteps())
    case.recorded["loss_total"] = _mean_over_views(case)
    first = case.first_figures(partial(expand, 1))
    rest = case.run_figures(partial(expand, None), first)
    return Row(name, (*figures, *first, *rest), steps=len(case.dynamics().timesteps))


def _mean_over_views(case: Case) -> Tensor:
    """The recorded losses, one for each batch of views, as means over all views of a step."""
    steps, iters = case.args["num_inference_steps"], case.args["iters"]
    losses = case.recorded["loss_total"].view(steps, -1, iters)
    sizes = torch.tensor(case.case["view_batches"], dtype=torch.float32).view(steps, -1, 1)
    return ((losses * sizes).sum(1) / sizes.sum(1)).flatten()


def replay_vae_finetune(golden: Golden, name: str) -> Row:
    """Fine-tuning the decoder on one picture."""
    case, recorded = golden.cases[name], golden.arrays(f"cases/{name}.npz")
    vae, args = golden.backbone(case["model"]).vae, case["args"]
    image = golden.image(case["image"], tuple(case["size"]))
    parameters = [array for array in recorded if array.startswith("after__")]

    def compute(disturb: Disturb) -> dict[str, Tensor]:
        example = disturb(image)
        tuned = finetune_decoder(
            vae, example, num_epochs=args["num_epochs"], learning_rate=args["learning_rate"]
        )
        with torch.no_grad():
            latents: Any = vae.encode(2 * example - 1, return_dict=False)[0].mode()
            before = vae.decode(latents, return_dict=False)[0] / 2 + 0.5
            with using_decoder(vae, tuned):
                after = vae.decode(latents, return_dict=False)[0] / 2 + 0.5
        return {
            "encode": latents,
            "before": before,
            "first loss": tuned.losses[0],
            "losses": tuned.losses,
            "after": after,
            **{array: tuned.weights[array.removeprefix("after__")] for array in parameters},
        }

    losses = recorded["loss_total"]
    wanted = {
        "encode": Wanted(recorded["latents"]),
        "before": Wanted(recorded["reconstruction_before"], FLOOR, worst),
        "first loss": Wanted(losses[0]),
        "losses": Wanted(losses, tolerance(case, "loss_rel_max"), element_wise),
        "after": Wanted(recorded["reconstruction_after"], tolerance(case, "image_max"), worst),
        **{
            array: Wanted(recorded[array], 10 * FLOOR, name="parameters", where=array)
            for array in parameters
        },
    }
    return Row(name, worst_of_each(compare(compute, wanted)), steps=len(losses))


CASES: dict[str, Callable[[Golden, str], Row]] = {
    "optimize": replay_optimize,
    "sample": replay_sample,
    "sdxl_sample": replay_sample,
    "panorama": replay_panorama,
    "vae_finetune": replay_vae_finetune,
}
"""How each kind of case is replayed."""
