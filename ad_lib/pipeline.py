"""Attention Distillation for people who come from diffusers: a front of `render`, nothing more.

pipe = AttentionDistillationPipeline.from_pretrained("owner/name").to("cuda")
image = pipe("a fox", style_image=painting, generator=torch.manual_seed(7)).images[0]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from inspect import signature
from typing import Any, Literal

import numpy as np
import torch
from diffusers.utils.outputs import BaseOutput
from PIL import Image
from torch import Tensor

from ad_lib.batch import Result, render
from ad_lib.errors import RequestError, unknown_name
from ad_lib.model.backbone import Backbone
from ad_lib.model.loading import load_backbone
from ad_lib.pictures.tensors import image_to_tensor
from ad_lib.presets import PRESETS
from ad_lib.requests import MAX_SEED, Request
from ad_lib.settings import Settings

Images = Image.Image | Sequence[Image.Image]


@dataclass
class AttentionDistillationPipelineOutput(BaseOutput):
    """What a call gives.

    Attributes:
        images: PIL images, or (b, height, width, 3) or (b, 3, height, width) in [0, 1].
        results: the same pictures with their losses, seconds and seeds.
    """

    images: list[Image.Image] | np.ndarray | Tensor
    results: list[Result]


class AttentionDistillationPipeline:
    """Every task of a backbone behind one call, with diffusers' names.

    Args:
        backbone: the frozen model, with a ControlNet or without.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str,
        *,
        torch_dtype: torch.dtype = torch.float32,
        revision: str | None = None,
        controlnet: str | None = None,
    ) -> AttentionDistillationPipeline:
        """A pipeline on the CPU from what `load_backbone` knows by name, a hub id or a folder.

        Args:
            pretrained_model_name_or_path: such as `sdxl`, `owner/name` or a diffusers folder.
            torch_dtype: of the networks.
            revision: commit, tag or branch of a hub id.
            controlnet: hub id or folder of a ControlNet for it.

        Raises:
            BackboneError: as `load_backbone`.
        """
        return cls(
            load_backbone(
                str(pretrained_model_name_or_path),
                revision=revision,
                controlnet=controlnet,
                dtype=torch_dtype,
                device="cpu",
            )
        )

    @classmethod
    def from_single_file(
        cls,
        pretrained_model_link_or_path: str,
        *,
        config: str | None = None,
        torch_dtype: torch.dtype = torch.float32,
        controlnet: str | None = None,
    ) -> AttentionDistillationPipeline:
        """A pipeline on the CPU from one `.safetensors` file of the SD1.5 or SDXL family.

        Args:
            pretrained_model_link_or_path: the file, on this machine.
            config: hub id or folder with its configuration and tokenizers.
            torch_dtype: of the networks.
            controlnet: hub id or folder of a ControlNet for it.

        Raises:
            BackboneError: as `load_backbone`.
        """
        return cls(
            load_backbone(
                str(pretrained_model_link_or_path),
                config=config,
                controlnet=controlnet,
                dtype=torch_dtype,
                device="cpu",
            )
        )

    @property
    def device(self) -> torch.device:
        """Where the networks live."""
        return self.backbone.device

    @property
    def dtype(self) -> torch.dtype:
        """The networks' precision."""
        return self.backbone.dtype

    def to(self, device: str | torch.device) -> AttentionDistillationPipeline:
        """The same pipeline with its networks on another device."""
        self.backbone.to(device)
        return self

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        style_image: Images,
        content_image: Image.Image | None = None,
        control_image: Image.Image | None = None,
        source_mask: Image.Image | None = None,
        target_mask: Image.Image | None = None,
        task: str | None = None,
        height: int | None = None,
        width: int | None = None,
        negative_prompt: str | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int | None = None,
        output_type: Literal["pil", "np", "pt"] = "pil",
        **settings: Any,
    ) -> AttentionDistillationPipelineOutput:
        """Renders one picture, or `num_images_per_prompt` of each prompt.

        Args:
            prompt: what is drawn; for the tasks that take one.
            style_image: the reference, or several; a texture's example.
            content_image: the picture (or the layout) whose structure is kept.
            control_image: what the ControlNet sees.
            source_mask: which label each pixel of a masked texture has.
            target_mask: which label each pixel of the result gets.
            task: a preset's name; None is what the other arguments make of it: a masked texture,
                the text-to-image task of the backbone's family, or a style transfer.
            height: of the results, in pixels; None is as in `Request.preset`.
            width: as height.
            negative_prompt: what guidance leads away from.
            num_images_per_prompt: pictures of each prompt.
            generator: gives the seed; its state is neither used nor changed, so that the same
                generator gives the same picture again. Several give one each.
            seed: instead of a generator; 0 unless given. Further pictures count up from it.
            output_type: `pil`, `np` or `pt`.
            settings: any of `Settings`, such as num_inference_steps or guidance_scale.

        Raises:
            RequestError: unknown arguments, or ones that do not fit together.
        """
        _check_names(settings)
        _check_output_type(output_type)
        shared = {
            "styles": _listed(style_image),
            "content": content_image,
            "control_image": control_image,
            "source_mask": source_mask,
            "target_mask": target_mask,
            "negative_prompt": negative_prompt,
            "width": width,
            "height": height,
            **settings,
        }
        prompts = [prompt] if prompt is None or isinstance(prompt, str) else list(prompt)
        texts = [text or "" for text in prompts for _ in range(num_images_per_prompt)]
        seeds = _seeds(generator, seed, len(texts))
        requests = [
            Request.preset(task or self._task(text, shared), prompt=text, seed=own, **shared)
            for text, own in zip(texts, seeds, strict=True)
        ]
        results = render(self.backbone, requests)
        images = _converted([result.image for result in results], output_type)
        return AttentionDistillationPipelineOutput(images=images, results=results)

    def _task(self, prompt: str, given: Mapping[str, Any]) -> str:
        """The task that the arguments leave no doubt about."""
        if given["source_mask"] or given["target_mask"]:
            return "texture-masked"
        if prompt:
            return self.backbone.family.prompt_task
        if given["content"]:
            return "style-transfer"
        textures = ", ".join(name for name in PRESETS if name.startswith("texture"))
        raise RequestError(
            "a style_image alone names no task; give a prompt, a content_image, or task= one of "
            f"{textures}"
        )


def _check_names(settings: Mapping[str, Any]) -> None:
    call = signature(AttentionDistillationPipeline.__call__).parameters
    known = {field.name for field in fields(Settings)} | call.keys() - {"self", "settings"}
    for name in settings.keys() - known:
        if name == "image":
            raise RequestError("image= could be either; say content_image= or control_image=")
        raise RequestError(unknown_name("argument", name, known))


def _listed(images: Images) -> list[Image.Image]:
    listed = [images] if isinstance(images, Image.Image) else list(images)
    for one in listed:
        if not isinstance(one, Image.Image):
            raise RequestError(
                f"style_image must be a PIL image or a list of them; got {type(one).__name__}"
            )
    return listed


def _seeds(generator: Any, seed: int | None, count: int) -> list[int]:
    """One for each picture: counted up from the first, or of one generator each."""
    if generator is not None and seed is not None:
        raise RequestError(f"a generator and seed={seed} both name the noise; give one of them")
    if isinstance(generator, Sequence):
        if len(generator) != count:
            raise RequestError(f"{len(generator)} generators for {count} pictures; give one each")
        return [one.initial_seed() % (MAX_SEED + 1) for one in generator]
    first = generator.initial_seed() if generator is not None else seed or 0
    return [(first + step) % (MAX_SEED + 1) for step in range(count)]


def _check_output_type(output_type: str) -> None:
    if output_type not in ("pil", "np", "pt"):
        raise RequestError(f"output_type must be 'pil', 'np' or 'pt'; got {output_type!r}")


def _converted(images: list[Image.Image], output_type: str) -> Any:
    if output_type == "pil":
        return images
    pixels = torch.cat([image_to_tensor(image) for image in images])
    return pixels if output_type == "pt" else pixels.permute(0, 2, 3, 1).numpy()
