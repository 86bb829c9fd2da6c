"""How a planned item becomes a request, or why it cannot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from PIL import Image

from ad_lib.errors import RequestError
from ad_lib.presets import REQUEST_FIELDS
from ad_lib.requests import Request, fitted_size
from ad_lib.settings import Settings
from manifests.items import ErrorClass, Input, Item, Problem
from tasks.runs.item_settings import settings_in, settings_of


def request_of(item: Item, pictures: Mapping[Input, Image.Image], seed: int) -> Request:
    """The item as a request.

    Args:
        item: as planned.
        pictures: of its inputs, upright.
        seed: of the noise; a retry has another than the item.

    Raises:
        RequestError: the parts do not fit together.
    """
    return Request(
        task=item.task,
        width=item.width,
        height=item.height,
        seed=seed,
        settings=settings_of(item),
        prompt=item.prompt or "",
        negative_prompt=item.negative_prompt,
        **_fields(item.task, [(image.role, pictures[image]) for image in item.inputs]),
    )


def refusal(
    task: str,
    params: str,
    size: tuple[int, int],
    inputs: Sequence[Input],
    *,
    prompt: str | None,
    negative_prompt: str | None,
) -> Problem | None:
    """Why an item can never be a request, as far as that shows without its pixels."""
    if problem := _unlike_mask(inputs) or _stretched(inputs, settings_in(params)):
        return problem
    return _refusal(
        task,
        params,
        size,
        tuple(image.role for image in inputs),
        bool(prompt and prompt.strip()),
        negative_prompt,
    )


def unsupported(error: RequestError) -> Problem:
    """A refused request as its item's own problem."""
    return Problem(ErrorClass.UNSUPPORTED, " ".join(str(error).split())[:500])


def _fields(task: str, pictures: Sequence[tuple[str, Image.Image]]) -> dict[str, Any]:
    """The pictures under the names that a request has for them."""
    fields: dict[str, Any] = {"styles": ()}
    for role, picture in pictures:
        name = REQUEST_FIELDS[role]
        if name == "styles":
            fields[name] = (*fields[name], picture)
        elif name in fields:
            raise RequestError(f"{task} takes one {role} image; got more: give one in each row")
        else:
            fields[name] = picture
    return fields


def _unlike_mask(inputs: Sequence[Input]) -> Problem | None:
    """Both are cropped to the same size later, so that this shows only here."""
    sizes = {image.role: (image.width, image.height) for image in inputs}
    texture, mask = sizes.get("texture"), sizes.get("source_mask")
    if texture is None or mask is None or texture == mask:
        return None
    found = next(image for image in inputs if image.role == "source_mask")
    return Problem(
        ErrorClass.UNSUPPORTED,
        f"{found.full_uri}: the mask is {mask[0]}x{mask[1]} and its texture "
        f"{texture[0]}x{texture[1]}: make them the same size",
    )


def is_stretched(image: Input, settings: Settings) -> bool:
    """Whether an image is too narrow to be scaled in its own proportions."""
    return _stretched([image], settings) is not None


def _stretched(inputs: Iterable[Input], settings: Settings) -> Problem | None:
    for found in inputs:
        if not found.width or not found.height:
            continue
        try:
            size = (found.width, found.height)
            fitted_size(found.role, size, size, settings)  # the result's own size does not matter
        except RequestError as error:
            return Problem(ErrorClass.UNSUPPORTED, f"{found.full_uri}: {error}")
    return None


@lru_cache(maxsize=4096)
def _refusal(
    task: str,
    params: str,
    size: tuple[int, int],
    roles: tuple[str, ...],
    has_prompt: bool,
    negative_prompt: str | None,
) -> Problem | None:
    """Builds a request of stand-ins; items of a job differ in little that it looks at."""
    stand_in = Image.new("1", (1, 1))
    try:
        Request(
            task=task,
            width=size[0],
            height=size[1],
            seed=0,
            settings=settings_in(params),
            prompt="stand-in" if has_prompt else "",
            negative_prompt=negative_prompt,
            **_fields(task, [(role, stand_in) for role in roles]),
        )
    except RequestError as error:
        return unsupported(error)
    return None
