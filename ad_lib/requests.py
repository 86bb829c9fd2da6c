"""What one image asks for: a frozen value, checked when it is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ad_lib.errors import RequestError
from ad_lib.images import scaled_size
from ad_lib.presets import Settings, find_preset

MIN_SIDE = 64
"""Pixels; below this the U-Net's deepest level has no room for its features."""

MAX_SEED = 2**64 - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """One image to make.

    Attributes:
        task: the preset's name.
        content: the picture whose structure is kept and where the latents start; None starts from
            noise.
        styles: the reference pictures; their tokens are read as one long sequence.
        width, height: pixels of the result, any size from 64 on.
        seed: of the noise, 0..2**64 - 1.
        settings: the task's numbers.

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

    def __post_init__(self) -> None:
        takes_content = find_preset(self.task).takes_content
        if takes_content and self.content is None:
            raise RequestError(f"{self.task} needs a content image; give content=...")
        if not takes_content and self.content is not None:
            raise RequestError(f"{self.task} starts from noise; drop content=...")
        if not self.styles:
            raise RequestError(f"{self.task} needs at least one style image; give styles=[...]")
        if min(self.width, self.height) < MIN_SIDE:
            raise RequestError(
                f"width and height must be at least {MIN_SIDE}; got {self.width}x{self.height}"
            )
        if not 0 <= self.seed <= MAX_SEED:
            raise RequestError(f"seed must lie in 0..2**64-1; got {self.seed}")

    @classmethod
    def preset(
        cls,
        task: str,
        *,
        styles: Sequence[Image.Image],
        content: Image.Image | None = None,
        width: int | None = None,
        height: int | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> Request:
        """A request with the published settings of a task, and any of them replaced by name.

        Without a size the result has the content's proportions (a square without content), its
        shorter side at the preset's 512 pixels; one side alone scales the other.

        Raises:
            RequestError: unknown preset or setting, or parts that do not fit together.
        """
        found = find_preset(task)
        width, height = _result_size(content, width, height, found.size)
        return cls(
            task=task,
            content=content,
            styles=tuple(styles),
            width=width,
            height=height,
            seed=seed,
            settings=found.settings.updated(settings),
        )


def _result_size(
    content: Image.Image | None, width: int | None, height: int | None, shorter: int
) -> tuple[int, int]:
    shape = content.size if content is not None else (1, 1)
    if width is not None and height is not None:
        return width, height
    if width is not None:
        return width, round(width * shape[1] / shape[0])
    if height is not None:
        return round(height * shape[0] / shape[1]), height
    return scaled_size(*shape, shorter)
