"""One picture from files, without a job: what `stylefarm render` does and prints."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ad_lib.errors import ImageError, RequestError
from ad_lib.presets import Preset, find_preset
from ad_lib.settings import UNSURE
from flows.memory_words import memory_warning, slow_warning
from flows.output_files import check_writable, write_whole
from flows.presets import warn_of_prompts
from flows.progress import PictureProgress
from flows.stopping import Stopping
from flows.terminal import Terminal
from manifests.errors import JobError
from manifests.items import EXTERNAL
from manifests.wording import safe_text
from manifests.yaml_text import parse_value

if TYPE_CHECKING:
    from PIL import Image

    from ad_lib.requests import Request

MAX_SIDE = 8192
"""Pixels; as in a job's `output.size`."""


@dataclass(frozen=True, kw_only=True)
class OnePicture:
    """What `stylefarm render` was asked for.

    Attributes:
        output: the file to write.
        files: the images by role, as the presets name them; a style or texture may be several.
        backbone: the arguments of `load_backbone`, `dtype` by name.
        size: `N` or `WIDTHxHEIGHT`.
        settings: the settings that replace the preset's, values as YAML.
    """

    output: Path
    files: dict[str, list[Path]]
    preset: str
    prompt: str
    negative_prompt: str | None
    backbone: dict[str, Any]
    size: str | None
    seed: int
    settings: dict[str, str]


def render_one(terminal: Terminal, stopping: Stopping, asked: OnePicture) -> None:
    """Renders one picture from files, and prints its figures beside those of doing nothing.

    Raises:
        Stopped: somebody asked to stop; nothing was written.
        RequestError, ImageError, BackboneError: something that was asked for cannot be done;
            nothing was written.
    """
    codec = _codec(asked.output)
    preset = find_preset(asked.preset)
    if preset.name == EXTERNAL:
        raise RequestError(
            f"{EXTERNAL} renders nothing; a job file names folders of pictures of other programs"
        )
    settings = checked_settings(preset, asked.settings)
    _check_roles(preset, asked.files)
    size = _parsed_size(asked.size)
    images = {role: [_open_image(path) for path in paths] for role, paths in asked.files.items()}
    request = _request(asked, preset, settings, images, size)
    check_writable("--output", asked.output)
    warn_of_prompts(terminal, preset, asked.backbone["name"])
    _render(terminal, stopping, asked, request, codec)


def _render(
    terminal: Terminal, stopping: Stopping, asked: OnePicture, request: Request, codec: str
) -> None:
    from ad_lib import load_backbone
    from ad_lib import render as render_requests
    from ad_lib.model.kernels import using_kernels
    from flows.bars import progress_shown
    from manifests.job import Output
    from tasks.runs.faults import Stopped
    from tasks.work.encode import encode_image
    from tasks.work.room import memory_need
    from tasks.work.shard_work import Demand

    progress = PictureProgress()
    device_type = "cpu"
    warn_if_slow = _SlowWarning(terminal, request)

    def on_step_end(num_done: int, num_steps: int) -> None:
        progress.step(num_done, num_steps)
        warn_if_slow(progress, device_type)
        if stopping.asked():
            raise Stopped("")

    with progress_shown(terminal, progress), stopping.step():
        loaded = load_backbone(**_typed(asked.backbone))
        device_type = loaded.device.type
        demand = Demand(
            width=request.width,
            height=request.height,
            kinds=frozenset({(request.settings, len(request.styles))}),
        )
        if warning := memory_warning(memory_need(loaded, demand)):
            terminal.say(warning, "yellow")
        progress.begin()
        with using_kernels(loaded.device.type, deterministic=True):
            (result,) = render_requests(loaded, [request], on_step_end=on_step_end)
    encoding: Any = {"uri": ".", "codec": codec}
    encoded = io.BytesIO()
    encode_image(result.image, Output(**encoding), encoded)
    write_whole(asked.output, encoded.getvalue())
    parts = [f"{asked.output}: {request.width}x{request.height}"]
    if result.style_losses:
        parts.append(f"style loss {result.style_losses[0]:.3f} → {result.style_losses[-1]:.3f}")
    terminal.say(", ".join([*parts, f"{result.seconds:.1f} s"]))
    if result.match_uncertainty is not None:
        _show_matches(terminal, result.match_uncertainty)
    _show_figures(terminal, request, result.image)


class _SlowWarning:
    """Says once how long a picture takes, where that is minutes on a CPU."""

    def __init__(self, terminal: Terminal, request: Request) -> None:
        self._terminal, self._request, self._has_spoken = terminal, request, False

    def __call__(self, progress: PictureProgress, device_type: str) -> None:
        """Called after each step."""
        seconds = progress.expected_seconds
        if self._has_spoken or seconds is None:
            return
        self._has_spoken = True
        size = (self._request.width, self._request.height)
        if warning := slow_warning(*size, seconds, device_type):
            self._terminal.say(warning, "yellow")


def _show_matches(terminal: Terminal, match_uncertainty: float) -> None:
    terminal.say(f"match_uncertainty {match_uncertainty:.2f}")
    if match_uncertainty > UNSURE:
        terminal.say(
            f"That is above {UNSURE}: the picture finds little of its like in the style, so look "
            "for wrong matches. Another style, or a larger content_weight, may help.",
            "yellow",
        )


def checked_settings(preset: Preset, texts: dict[str, str]) -> dict[str, Any]:
    """The settings that replace the preset's, checked.

    Args:
        preset: the task.
        texts: the values as YAML, by name.

    Raises:
        RequestError: a setting that is unknown, out of range or of no use to the task.
    """
    values: dict[str, Any] = {}
    for name, text in texts.items():
        try:
            values[name] = parse_value(text)
        except JobError as error:
            raise RequestError(f"--set {name}: {error}") from error
    preset.settings_with(values)
    return values


def _check_roles(preset: Preset, files: dict[str, list[Path]]) -> None:
    for role in files:
        if role not in preset.all_roles:
            raise RequestError(
                f"{preset.name} takes {', '.join(preset.all_roles)}; drop {_option(role)}, or "
                "choose another --preset"
            )
    for role in preset.roles:
        if role not in files:
            raise RequestError(f"{preset.name} needs a {role} image; give {_option(role)} FILE")


def _option(role: str) -> str:
    return f"--{role.replace('_', '-')}"


def _parsed_size(size: str | None) -> tuple[int, ...]:
    """No number, the shorter side, or width and height."""
    if size is None:
        return ()
    texts = size.lower().split("x")
    digits = [text for text in texts if text.isascii() and text.isdigit() and len(text) <= 5]
    numbers = tuple(int(text) for text in digits)
    if len(numbers) == len(texts) <= 2 and all(0 < number <= MAX_SIDE for number in numbers):
        return numbers
    raise RequestError(
        f"--size takes N or WIDTHxHEIGHT, such as 512 or 640x480, each at most {MAX_SIDE} pixels; "
        f"got {safe_text(size, 100)!r}"
    )


def _codec(output: Path) -> str:
    suffix = output.suffix.lower().lstrip(".").replace("jpeg", "jpg")
    if suffix not in ("png", "webp", "jpg"):
        raise RequestError(f"--output must end in .png, .webp or .jpg; got {str(output)!r}")
    return suffix


def _open_image(path: Path) -> Image.Image:
    from ad_lib import decode_image

    try:
        return decode_image(path.read_bytes())
    except ImageError as error:
        raise ImageError(f"{path}: {error}", error.kind) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"{str(path)!r} cannot be read: {reason}") from error


def _request(
    asked: OnePicture,
    preset: Preset,
    settings: dict[str, Any],
    images: dict[str, list[Image.Image]],
    size: tuple[int, ...],
) -> Request:
    from ad_lib import Request
    from ad_lib.pictures.images import scaled_size

    first = {role: found[0] for role, found in images.items()}
    width = height = None
    if len(size) == 2:
        width, height = size
    elif size:
        shaping = (first.get(role) for role in ("content", "layout", "target_mask", "control"))
        shape = next((image.size for image in shaping if image is not None), (1, 1))
        width, height = scaled_size(*shape, *size)
        if max(width, height) > MAX_SIDE:
            raise RequestError(
                f"--size {size[0]} of an image of {shape[0]}x{shape[1]} makes {width}x{height} "
                f"pixels, more than {MAX_SIDE} on a side; give --size WIDTHxHEIGHT"
            )
    return Request.preset(
        preset.name,
        styles=images[preset.reference_role],
        content=first.get("layout") or first.get("content"),
        source_mask=first.get("source_mask"),
        target_mask=first.get("target_mask"),
        control_image=first.get("control"),
        prompt=asked.prompt,
        negative_prompt=asked.negative_prompt,
        width=width,
        height=height,
        seed=asked.seed,
        **settings,
    )


def _typed(backbone: dict[str, Any]) -> dict[str, Any]:
    import torch

    dtype = backbone["dtype"]
    return {**backbone, "dtype": None if dtype == "auto" else getattr(torch, dtype)}


def _show_figures(terminal: Terminal, request: Request, image: Image.Image) -> None:
    from ad_lib.pictures.measure import measure_with_controls

    judged = measure_with_controls(
        image,
        styles=request.styles,
        content=request.content,
        reference_size=request.settings.reference_size,
    )
    rows = [
        (name, *(f"{figures[name]:.4g}" for figures in judged.values()))
        for name in judged["result"]
    ]
    terminal.say_table(("figure", *judged), rows)
