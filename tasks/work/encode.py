"""What becomes of a rendered picture: it is measured, held to the job's bounds, and encoded."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from ad_lib.batch import Result
from ad_lib.pictures.hashes import phash
from ad_lib.pictures.measure import Judge
from ad_lib.requests import Request
from manifests.items import EXTERNAL, ErrorClass, Item, Problem
from manifests.job import Output
from manifests.outcomes import Outcome, OutputFile
from manifests.quality import Quality
from tasks.runs.faults import ScratchFull
from tasks.work.shard_work import ShardWork


@dataclass(frozen=True)
class Rendered:
    """A picture with what was asked for."""

    request: Request
    result: Result


def finished_outcome(item: Item, rendered: Rendered, work: ShardWork, judge: Judge) -> Outcome:
    """The outcome of a picture: kept, as a file of `work.scratch`, or rejected.

    Args:
        item: what was rendered.
        rendered: its picture.
        work: what is rendered of the shard.
        judge: measures the pictures of the shard, one after the other or in several threads.

    Raises:
        ScratchFull: `work.scratch` cannot be written.
    """
    started = time.perf_counter()
    result = rendered.result
    is_given = item.task == EXTERNAL  # what another program took is not known
    outcome = Outcome(
        item,
        degraded=result.degraded,
        metrics=_figures(rendered, judge),
        phash=phash(result.image),
        seconds=result.seconds,
        synthesis_seconds=None if is_given else result.synthesis_seconds,
        peak_memory_bytes=None if is_given else result.peak_memory_bytes,
    )
    if reason := (work.job.quality or Quality()).rejection(outcome.metrics):
        return replace(outcome, problem=Problem(ErrorClass.REJECTED, reason))
    file = _stored(item, result.image, work)
    return replace(outcome, outputs=(file,), encode_seconds=time.perf_counter() - started)


def encode_image(
    image: Image.Image,
    output: Output,
    file: Any,
    png_strategy: Literal["default", "rle"] = "rle",
) -> None:
    """Writes into an open binary file, a PNG band by band; the same picture gives the same bytes.

    Pixels that a network made hardly ever repeat exactly. So `rle` does not search for repetitions:
    it takes a fifth of the time of `default`, and as many bytes (a photo takes a tenth more).
    """
    if output.codec == "png":
        strategy = {"compress_type": Image.RLE} if png_strategy == "rle" else {}
        image.save(file, "PNG", compress_level=6, **strategy)
    elif output.codec == "webp":
        lossless = output.quality is None
        image.save(file, "WEBP", lossless=lossless, quality=output.quality or 75, method=4)
    else:
        image.save(file, "JPEG", quality=output.quality or 95, subsampling=0)


def _stored(item: Item, image: Image.Image, work: ShardWork) -> OutputFile:
    path = work.scratch / f"{item.key}.{work.job.output.codec}"
    with _HashedFile(path) as file:
        encode_image(image, work.job.output, file, work.png_strategy)
    return OutputFile(path.name, file.sha256.hexdigest(), file.num_bytes, *image.size)


class _HashedFile(io.RawIOBase):
    """A new file that is hashed while it is written; Pillow writes it piece by piece.

    Raises:
        ScratchFull: the disk refuses; what else goes wrong is the picture's.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self.sha256, self.num_bytes = hashlib.sha256(), 0
        with self._refusals():
            self._file = path.open("wb")

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any, /) -> int:
        """Hashes and writes."""
        with self._refusals():
            written = self._file.write(data)
        self.sha256.update(data)
        self.num_bytes += written
        return written

    def close(self) -> None:
        """Closes the file."""
        if not self.closed:
            with self._refusals():
                self._file.close()
        super().close()

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ScratchFull(f"{self._path} cannot be written ({error.strerror})") from error


def _figures(rendered: Rendered, judge: Judge) -> dict[str, float]:
    """What rendering tells at its end, and what is measured of the picture."""
    request, result = rendered.request, rendered.result
    told: dict[str, float] = {}
    if result.match_uncertainty is not None:
        told["match_uncertainty"] = result.match_uncertainty
    if result.style_losses:
        told |= {
            "style_loss_first": result.style_losses[0],
            "style_loss": result.style_losses[-1],
            "content_loss": result.content_losses[-1],
        }
    return told | judge.measure(
        result.image,
        styles=request.styles,
        content=request.content,
        reference_size=request.settings.reference_size,
    )
