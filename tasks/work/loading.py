"""Which pictures of a shard are in memory, and which are on their way there?

Each is fetched, decoded and fitted once, however many items use it, by threads that do nothing
else. Memory: `KEPT_BYTES` of pictures that no batch asks for now, and what the batches at hand ask
for; while files are read and decoded, what `tasks.plans.preflight` and `ad_lib.pictures.decoding`
state.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from PIL import Image

from ad_lib.errors import RequestError
from ad_lib.requests import fitted_size
from manifests.items import Input, Item
from tasks.runs.item_settings import settings_of
from tasks.work.decode import Loaded, load_picture

KEPT_BYTES = 256 << 20
"""Some 250 pictures of 512x512."""

_Use = tuple[object, ...]
"""Says which file a picture is, and how it is fitted: the same for two roles that use it alike."""


class Pictures:
    """The pictures of one shard; asked by one thread.

    Args:
        num_threads: that read and decode.
        max_pixels: larger images are refused.
        kept_bytes: what may stay for batches to come.
    """

    def __init__(self, num_threads: int, *, max_pixels: int, kept_bytes: int = KEPT_BYTES) -> None:
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="loading")
        self._max_pixels, self._kept_bytes = max_pixels, kept_bytes
        self._known: OrderedDict[_Use, Future[Loaded]] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def of(self, items: Iterable[Item]) -> Mapping[Input, Future[Loaded]]:
        """The pictures of a batch, which are loaded from now on unless they are known.

        A future raises StoreError where a store does not answer.
        """
        wanted = {image: item for item in items if item.problem is None for image in item.inputs}
        found = {image: self._picture(image, item) for image, item in wanted.items()}
        self._forget()
        return found

    def _picture(self, image: Input, item: Item) -> Future[Loaded]:
        use = _use(image, item)
        future = self._known.pop(use, None)
        if future is None:
            future = self._pool.submit(load_picture, image, item, self._max_pixels)
        self._known[use] = future
        return future

    def _forget(self) -> None:
        """Leaves pictures that were asked for last; what could not be loaded may be tried again."""
        sizes = {use: _num_bytes(future) for use, future in self._known.items() if future.done()}
        num_bytes = sum(sizes.values())
        for use, size in sizes.items():
            if num_bytes > self._kept_bytes or not size:
                del self._known[use]
                num_bytes -= size


def _use(image: Input, item: Item) -> _Use:
    size = (item.width, item.height)
    if image.width and image.height:
        try:
            settings = settings_of(item)
            size = fitted_size(image.role, (image.width, image.height), size, settings)
        except RequestError:  # loading it will say so
            size = (0, 0)
    is_mask = image.role.endswith("_mask")
    return image.full_uri, image.offset, image.sha256, is_mask, size


def _num_bytes(future: Future[Loaded]) -> int:
    """What a loaded picture takes; Pillow holds four bytes for each pixel of colour."""
    if future.cancelled() or future.exception() is not None:
        return 0
    found = future.result()
    return 4 * found.width * found.height if isinstance(found, Image.Image) else 0
