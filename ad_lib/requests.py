"""What is needed to make one picture, and do its parts fit together?

A request is checked when it is built and never changes: one that exists can be rendered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ad_lib.errors import RequestError
from ad_lib.model.families import FAMILIES
from ad_lib.pictures.images import fit_image, fit_mask, scaled_size
from ad_lib.presets import REQUEST_FIELDS, Preset, find_preset
from ad_lib.settings import Settings

MIN_SIDE = 64
"""Pixels; below this the U-Net's deepest level has no room for its features."""

LATENT_CELL = min(family.pixels_per_cell for family in FAMILIES.values())
"""Pixels per latent cell at least; other sizes are padded and cropped back.

What does not fit the larger cells of a backbone, `Backbone.check` refuses.
"""

TOKEN_SIDES = tuple(sorted({side for one in FAMILIES.values() for side in one.pixels_per_token}))
"""Pixels per token of the layers that some family distils."""

MAX_REFERENCE_SIDE = 8192
"""Pixels; scaling a very narrow picture by its shorter side would make the other one longer."""

MAX_SEED = 2**64 - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """One image to make.

    Attributes:
        task: the preset's name.
        styles: the reference pictures; their tokens are read as one long sequence.
        width, height: pixels of the result, any size from 64 on.
        seed: of the noise, 0..2**64 - 1.
        settings: the task's numbers.
        content: the picture (or the layout) whose structure is kept; where optimisation starts.
        source_mask, target_mask: which label each pixel of the texture and of the result has; every
            colour is a label.
        control_image: what a ControlNet sees.
        external: a picture that another program has made of all this, which is shown as it is.
        prompt: what is drawn.
        negative_prompt: what guidance leads away from; None is the model's own default.

    Raises:
        RequestError: the parts do not fit together; the message says what to change.
    """

    task: str
    styles: tuple[Image.Image, ...]
    width: int
    height: int
    seed: int
    settings: Settings
    content: Image.Image | None = None
    source_mask: Image.Image | None = None
    target_mask: Image.Image | None = None
    control_image: Image.Image | None = None
    external: Image.Image | None = None
    prompt: str = ""
    negative_prompt: str | None = None

    def __post_init__(self) -> None:
        preset = find_preset(self.task)
        _check_pictures(self, preset)
        preset.check(self.settings)
        _check_sizes(self)
        if preset.uses("patch_size"):
            _check_patches(self)
        _check_prompt(self, preset)
        _check_combination(self, preset)
        if self.source_mask and self.target_mask:
            _check_masks(self, self.source_mask, self.target_mask)

    @classmethod
    def preset(
        cls,
        task: str,
        *,
        styles: Sequence[Image.Image],
        content: Image.Image | None = None,
        source_mask: Image.Image | None = None,
        target_mask: Image.Image | None = None,
        control_image: Image.Image | None = None,
        external: Image.Image | None = None,
        prompt: str = "",
        negative_prompt: str | None = None,
        width: int | None = None,
        height: int | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> Request:
        """A request with the published settings of a task, and any of them replaced by name.

        Without a size the result has the proportions of the content, of the target mask or of the
        control image (a square without any), its shorter side at the preset's size; one side alone
        scales the other.

        Raises:
            RequestError: unknown preset or setting, or parts that do not fit together.
        """
        found = find_preset(task)
        shaped = next((one for one in (content, target_mask, control_image) if one), None)
        width, height = _result_size(shaped, width, height, found.size)
        return cls(
            task=task,
            styles=tuple(styles),
            content=content,
            source_mask=source_mask,
            target_mask=target_mask,
            control_image=control_image,
            external=external,
            prompt=prompt,
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            seed=seed,
            settings=found.settings_with(settings),
        )


def fit_role(
    role: str, image: Image.Image, width: int, height: int, settings: Settings
) -> Image.Image:
    """A picture as the request's role will use it, for a result of `width` x `height`.

    Fitting twice changes nothing, so a loader may shrink pictures before a request is built.

    Raises:
        RequestError: as `fitted_size`.
    """
    fit = fit_mask if role.endswith("_mask") else fit_image
    fitted_width, fitted_height = fitted_size(role, image.size, (width, height), settings)
    return fit(image, fitted_width, fitted_height)


def fitted_size(
    role: str, size: tuple[int, int], result_size: tuple[int, int], settings: Settings
) -> tuple[int, int]:
    """The (width, height) at which a picture of a role is used.

    Args:
        role: what the picture is for.
        size: its own (width, height), in pixels.
        result_size: that of the result.
        settings: of the request; `reference_size` keeps the proportions of references.

    Raises:
        RequestError: the picture is so narrow that it would be stretched without bound.
    """
    is_reference = role in ("style", "texture", "source_mask")
    if not is_reference or settings.reference_size is None:
        return result_size
    fitted = scaled_size(*size, settings.reference_size)
    if max(fitted) > MAX_REFERENCE_SIDE:
        raise RequestError(
            f"the {role} is {size[0]}x{size[1]} and would be {fitted[0]}x{fitted[1]} at "
            f"reference_size {settings.reference_size}, where sides may have {MAX_REFERENCE_SIDE} "
            "pixels: crop it, or choose a smaller reference_size"
        )
    return fitted


def _check_pictures(request: Request, preset: Preset) -> None:
    needed = {REQUEST_FIELDS[role] for role in preset.roles}
    known = {REQUEST_FIELDS[role] for role in preset.all_roles}
    if not request.styles and "styles" in needed:
        raise RequestError(
            f"{request.task} needs at least one {preset.reference_role} image; give styles=[...]"
        )
    for name in ("content", "source_mask", "target_mask", "control_image", "external"):
        given = getattr(request, name) is not None
        if name in needed and not given:
            raise RequestError(f"{request.task} needs a {name} image; give {name}=...")
        if given and name not in known:
            why = "starts from noise" if name == "content" else f"takes no {name}"
            raise RequestError(f"{request.task} {why}; drop {name}=...")


def _check_sizes(request: Request) -> None:
    if min(request.width, request.height) < MIN_SIDE:
        raise RequestError(
            f"width and height must be at least {MIN_SIDE}; got {request.width}x{request.height}"
        )
    if not 0 <= request.seed <= MAX_SEED:
        raise RequestError(f"seed must lie in 0..2**64-1; got {request.seed}")

    for name, side, axes in (
        ("width", request.width, ("x", "both")),
        ("height", request.height, ("y", "both")),
    ):
        if request.settings.seamless in axes and side % LATENT_CELL:
            raise RequestError(
                f"a picture that is seamless along {axes[0]} needs a {name} divisible by "
                f"{LATENT_CELL}; got {side}: make it {round(side / LATENT_CELL) * LATENT_CELL}"
            )
    for style in request.styles:
        fitted_size("style", style.size, (request.width, request.height), request.settings)


def _check_patches(request: Request) -> None:
    result_size = (request.width, request.height)
    references = [
        fitted_size("style", style.size, result_size, request.settings) for style in request.styles
    ]
    smallest = min(min(size) for size in (result_size, *references))
    if request.settings.patch_size > smallest:
        raise RequestError(
            f"patch_size {request.settings.patch_size} is larger than the smallest side of the "
            f"result and its references, {smallest} pixels: choose a smaller one"
        )


def _check_prompt(request: Request, preset: Preset) -> None:
    if request.external is not None:
        return  # another program has drawn the prompt, if there was any
    if not preset.takes_prompt:
        if request.prompt or request.negative_prompt:
            raise RequestError(
                f"{request.task} takes no prompt; got {request.prompt or request.negative_prompt!r}"
                ": drop it, or use style-t2i"
            )
    elif not request.prompt.strip():
        raise RequestError(f"{request.task} needs a prompt; give prompt='...'")
    elif request.negative_prompt and request.settings.guidance_scale == 1:
        raise RequestError(
            f"guidance_scale 1 ignores the negative prompt {request.negative_prompt!r}; drop it, "
            "or raise guidance_scale"
        )


def _check_combination(request: Request, preset: Preset) -> None:
    settings = request.settings
    weights = settings.style_weights
    if weights is not None and len(weights) != len(request.styles):
        raise RequestError(
            f"style_weights gives {len(weights)} numbers for {len(request.styles)} styles; give "
            "one for each"
        )
    if settings.colors == "content" and request.content is None:
        raise RequestError(
            f"colors='content' needs a content image, and this {request.task} has none; use "
            "colors='style' or 'result'"
        )
    has_content = request.content is not None or request.target_mask is not None
    if not has_content and settings.content_weight != preset.settings.content_weight:
        raise RequestError(
            f"content_weight {settings.content_weight} needs a content image; drop it, or give "
            "content=..."
        )
    scale = settings.controlnet_conditioning_scale
    if request.control_image is None and scale != preset.settings.controlnet_conditioning_scale:
        raise RequestError(
            f"controlnet_conditioning_scale {scale} needs a control_image; drop it, or give one"
        )
    if settings.init == "style" and len(request.styles) != 1:
        raise RequestError(
            f"init='style' starts from one style; got {len(request.styles)}: give one"
        )
    if settings.init == "style" and settings.reference_size is not None:
        raise RequestError(
            "init='style' needs the style at the size of the result; drop reference_size="
            f"{settings.reference_size}"
        )


def _check_masks(request: Request, source: Image.Image, target: Image.Image) -> None:
    from ad_lib.pictures.masks import check_labels  # loads torch

    if len(request.styles) != 1:
        raise RequestError(
            f"{request.task} takes one texture, the one that source_mask labels; got "
            f"{len(request.styles)}"
        )
    if source.size != request.styles[0].size:
        raise RequestError(
            f"source_mask is {source.width}x{source.height} and its texture "
            f"{request.styles[0].width}x{request.styles[0].height}: make them the same size"
        )
    size = (request.width, request.height)
    check_labels(
        fit_role("source_mask", source, *size, request.settings),
        fit_role("target_mask", target, *size, request.settings),
        TOKEN_SIDES,
    )


def _result_size(
    shaped: Image.Image | None, width: int | None, height: int | None, shorter: int
) -> tuple[int, int]:
    shape = shaped.size if shaped is not None else (1, 1)
    if width is not None and height is not None:
        return width, height
    if width is not None:
        return width, round(width * shape[1] / shape[0])
    if height is not None:
        return round(height * shape[0] / shape[1]), height
    return scaled_size(*shape, shorter)
