"""Does every input exist and decode? One sentence per problem, before anything is rendered."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from ad_lib.decoding import inspect_image
from ad_lib.errors import ImageError
from infra.store import ObjectNotFound
from manifests.items import ErrorClass, Input
from tasks.sources import read_input


def inspect_inputs(
    inputs: Iterable[Input],
    *,
    max_pixels: int,
    num_threads: int,
    on_inspected: Callable[[Input], None] = lambda one: None,
) -> dict[Input, Input]:
    """Reads and decodes every distinct input once.

    Args:
        inputs: as the sources list them; one may be listed many times.
        max_pixels: larger images are refused.
        num_threads: images read at the same time.
        on_inspected: told each result as it comes.

    Returns:
        For each input the same one with its hash and size, or with its problem.

    Raises:
        StoreError: the store refuses or does not answer (an image that is missing is a problem of
            that image).
    """
    distinct = list(dict.fromkeys(inputs))

    def inspect(one: Input) -> Input:
        found = inspect_input(one, max_pixels=max_pixels)
        on_inspected(found)
        return found

    with ThreadPoolExecutor(num_threads) as pool:
        return dict(zip(distinct, pool.map(inspect, distinct), strict=True))


def inspect_input(one: Input, *, max_pixels: int) -> Input:
    """One input with its hash and size, or with its problem."""
    if one.problem is not None:
        return one
    try:
        data = read_input(one)
    except (ObjectNotFound, FileNotFoundError):
        return one.broken(ErrorClass.INPUT_MISSING, f"{one.full_uri} is not there")
    seen = replace(one, sha256=hashlib.sha256(data).hexdigest(), num_bytes=len(data))
    try:
        image = inspect_image(data, max_pixels=max_pixels)
    except ImageError as error:
        return seen.broken(ErrorClass(error.kind), f"{one.full_uri}: {error}")
    return replace(seen, width=image.width, height=image.height)
