"""Does every input exist and decode? One sentence per problem, before anything is rendered.

Memory: the files that are in memory at the same time, over all threads, share `FILE_BYTES`, and
their pixels share what `ad_lib.pictures.decoding` states; a larger file or picture waits until it
is alone. No picture is kept. So the peak does not depend on the number of threads or of pictures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ad_lib.errors import ImageError
from ad_lib.pictures.decoding import inspect_image
from ad_lib.pictures.images import MAX_LABELS
from ad_lib.pictures.memory import MemoryBudget
from infra.store import BucketNotFound, ObjectNotFound, ObjectUnreadable, UriError
from manifests.items import ErrorClass, Input, Problem
from tasks.inputs.sources import read_input

FILE_BYTES = 512 << 20
"""What all threads together hold of files, unless one file alone is larger."""

USUAL_FILE_BYTES = 16 << 20
"""Reserved for a file whose size is not known before it is read."""

UNREADABLE = (ObjectNotFound, ObjectUnreadable, BucketNotFound, UriError)
"""What a store raises where one image cannot be read; other errors are the store's own."""

MAX_COUNTED_COLOURS = 1 << 16

_files = MemoryBudget(FILE_BYTES)


def inspect_inputs(
    inputs: Iterable[Input],
    *,
    max_pixels: int,
    num_threads: int,
    on_inspected: Callable[[Input], None] = lambda inspected: None,
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

    def inspect(listed: Input) -> Input:
        inspected = inspect_input(listed, max_pixels=max_pixels)
        on_inspected(inspected)
        return inspected

    with ThreadPoolExecutor(num_threads) as pool:
        return dict(zip(distinct, pool.map(inspect, distinct), strict=True))


def inspect_input(listed: Input, *, max_pixels: int) -> Input:
    """One input with its hash and size, or with its problem."""
    if listed.problem is not None:
        return listed
    try:
        with input_bytes(listed) as data:
            return _inspected(listed, data, max_pixels)
    except UNREADABLE as error:
        return listed.broken(ErrorClass.INPUT_MISSING, str(error))


@contextmanager
def input_bytes(image: Input) -> Iterator[bytes]:
    """The bytes of an image, for a `with` block that holds their share of memory.

    Raises:
        ObjectNotFound, FileNotFoundError: the image is not there.
        StoreError: the store refuses or does not answer.
    """
    with _files.reserved(_expected_bytes(image)):
        yield read_input(image)


def _expected_bytes(image: Input) -> int:
    if image.num_bytes is not None:
        return image.num_bytes
    try:
        return Path(image.uri).stat().st_size
    except (OSError, ValueError):  # on S3, or not there
        return USUAL_FILE_BYTES


def _inspected(listed: Input, data: bytes, max_pixels: int) -> Input:
    seen = replace(listed, sha256=hashlib.sha256(data).hexdigest(), num_bytes=len(data))
    is_mask = listed.role.endswith("_mask")
    try:
        facts = inspect_image(
            data, max_pixels=max_pixels, max_colours=MAX_COUNTED_COLOURS if is_mask else 0
        )
    except ImageError as error:
        return seen.broken(ErrorClass(error.kind), f"{listed.full_uri}: {error}")
    if is_mask and (problem := _too_many_labels(listed, facts.num_colours)):
        return replace(seen, problem=problem)
    return replace(seen, width=facts.width, height=facts.height)


def _too_many_labels(mask: Input, num_colours: int | None) -> Problem | None:
    if num_colours is not None and num_colours <= MAX_LABELS:
        return None
    count = num_colours or f"more than {MAX_COUNTED_COLOURS}"
    return Problem(
        ErrorClass.UNSUPPORTED,
        f"{mask.full_uri}: the mask has {count} colours, and each is a label (at most "
        f"{MAX_LABELS}): save it as PNG with flat colours; JPEG and soft edges smear labels",
    )
