"""One picture from files, without a job; and the tasks that there are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ad_lib.errors import RequestError
from ad_lib.presets import PRESETS, Preset, find_preset
from flows.session import progress_bar
from manifests.job import Output

PICTURES = ("content", "layout", "source_mask", "target_mask", "control")
"""The pictures beside the styles, by role."""


@dataclass(frozen=True, kw_only=True)
class OnePicture:
    """What `stylefarm render` was asked for.

    Attributes:
        output: the file to write.
        styles: the references.
        pictures: the other files, by role.
        backbone: the arguments of `load_backbone`, `dtype` by name.
        size: `N` or `WIDTHxHEIGHT`.
        settings: replaced ones, as YAML.
    """

    output: Path
    styles: list[Path]
    pictures: dict[str, Path]
    preset: str
    prompt: str
    negative_prompt: str | None
    backbone: dict[str, Any]
    size: str | None
    seed: int
    settings: dict[str, str]


def render_one(console: Console, asked: OnePicture) -> None:
    """Renders one picture from files, and tells its figures beside those of doing nothing."""
    from ad_lib import load_backbone
    from ad_lib import render as render_requests

    codec = _codec(asked.output)
    request = _request(asked)
    loaded = load_backbone(**_typed(asked.backbone))
    with progress_bar(console) as progress:
        task = progress.add_task("rendering", total=request.settings.num_inference_steps)
        (result,) = render_requests(
            loaded, [request], on_step_end=lambda items, steps: progress.advance(task)
        )
    from tasks.render import encode_image

    asked.output.parent.mkdir(parents=True, exist_ok=True)
    encoding: Any = {"uri": ".", "codec": codec}
    asked.output.write_bytes(encode_image(result.image, Output(**encoding)))
    told = [f"{escape(str(asked.output))}: {request.width}x{request.height}"]
    if result.style_losses:
        told.append(f"style loss {result.style_losses[0]:.3f} → {result.style_losses[-1]:.3f}")
    console.print(", ".join([*told, f"{result.seconds:.1f} s"]), soft_wrap=True)
    console.print(_figures(request, result.image))


def show_presets(console: Console) -> None:
    """Every task with what it takes and the published numbers."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for preset in PRESETS.values():
        told = f"{preset.summary}\ntakes {_taken(preset)}\n{_numbers(preset)}\n"
        table.add_row(f"[bold]{preset.name}[/]", escape(told))
    console.print(table)
    console.print(
        "Steps are num_inference_steps x num_optimization_steps. Every number is a setting of that "
        "name: under 'settings' in a job, --set KEY=VALUE in 'stylefarm render --preset TASK'.",
    )


def _taken(preset: Preset) -> str:
    parts = [*preset.roles, *(["prompt"] if preset.takes_prompt else [])]
    return ", ".join([*parts, *(f"[{role}]" for role in preset.optional_roles)])


def _numbers(preset: Preset) -> str:
    settings = preset.settings
    parts = [
        f"{preset.size} px",
        f"{settings.num_inference_steps} x {settings.num_optimization_steps} steps",
        f"learning_rate {settings.learning_rate}",
    ]
    if settings.content_weight:
        parts.append(f"content_weight {settings.content_weight}")
    if settings.guidance_scale != 1:
        parts.append(f"guidance_scale {settings.guidance_scale}")
    return ", ".join([*parts, *(["adain"] if settings.adain else [])])


def _request(asked: OnePicture) -> Any:
    from ad_lib import Request

    preset = find_preset(asked.preset)
    images = {role: _open_image(path) for role, path in asked.pictures.items()}
    _check_roles(preset, images)
    shaping = (images.get(role) for role in ("content", "layout", "target_mask", "control"))
    width, height = _parsed_size(asked.size, next(filter(None, shaping), None))
    return Request.preset(
        asked.preset,
        styles=[_open_image(path) for path in asked.styles],
        content=images.get("layout") or images.get("content"),
        source_mask=images.get("source_mask"),
        target_mask=images.get("target_mask"),
        control_image=images.get("control"),
        prompt=asked.prompt,
        negative_prompt=asked.negative_prompt,
        width=width,
        height=height,
        seed=asked.seed,
        **{name: yaml.safe_load(value) for name, value in asked.settings.items()},
    )


def _check_roles(preset: Preset, images: dict[str, Image.Image]) -> None:
    """A layout is the content of its texture; each task knows it by one of the two names."""
    for role in images:
        if role not in preset.all_roles:
            option = f"--{role.replace('_', '-')}"
            raise RequestError(
                f"{preset.name} takes {', '.join(preset.all_roles)}; drop {option}, or choose "
                "another --preset"
            )
    for role in preset.roles:
        if role in PICTURES and role not in images:
            raise RequestError(
                f"{preset.name} needs a {role} image; give --{role.replace('_', '-')} FILE"
            )


def _typed(backbone: dict[str, Any]) -> dict[str, Any]:
    import torch

    dtype = backbone["dtype"]
    return {**backbone, "dtype": None if dtype == "auto" else getattr(torch, dtype)}


def _codec(output: Path) -> str:
    suffix = output.suffix.lower().lstrip(".").replace("jpeg", "jpg")
    if suffix not in ("png", "webp", "jpg"):
        raise RequestError(f"--output must end in .png, .webp or .jpg; got {str(output)!r}")
    return suffix


def _figures(request: Any, image: Image.Image) -> Table:
    from ad_lib.measure import measure_with_controls

    judged = measure_with_controls(
        image,
        styles=request.styles,
        content=request.content,
        reference_size=request.settings.reference_size,
    )
    table = Table("figure", *judged, box=None, pad_edge=False)
    for name in judged["result"]:
        table.add_row(name, *(f"{figures[name]:.4g}" for figures in judged.values()))
    return table


def _open_image(path: Path) -> Image.Image:
    from ad_lib import ImageError, decode_image

    try:
        return decode_image(path.read_bytes())
    except OSError as error:
        raise ImageError(f"{str(path)!r} cannot be read: {error.strerror}") from None
    except ImageError as error:
        raise ImageError(f"{path}: {error}", error.kind) from None


def _parsed_size(size: str | None, shaping: Image.Image | None) -> tuple[int | None, int | None]:
    from ad_lib.images import scaled_size

    if size is None:
        return None, None
    try:
        numbers = [int(number) for number in size.lower().split("x")]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and numbers[0] > 0:
        return scaled_size(*(shaping.size if shaping else (1, 1)), numbers[0])
    if len(numbers) == 2:
        return numbers[0], numbers[1]
    raise RequestError(f"--size takes N or WIDTHxHEIGHT, such as 512 or 640x480; got {size!r}")
