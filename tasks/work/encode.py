"""What becomes of a rendered picture: it is measured, held to the job's bounds, and encoded."""

from __future__ import annotations

import hashlib
import io
import time
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from ad_lib.batch import Result
from ad_lib.pictures.hashes import phash
from ad_lib.pictures.measure import Judge
from ad_lib.requests import Request
from manifests.items import ErrorClass, Item, Problem
from manifests.job import Job, Output
from manifests.outcomes import Outcome, OutputFile
from manifests.quality import Quality
from tasks.runs.faults import ScratchFull

PNG_LEVEL = 3
"""Of zlib, as Pillow ships it: at 512x512 as small as 6 in half of its time, measured."""


@dataclass(frozen=True)
class Rendered:
    """A picture with what was asked for."""

    request: Request
    result: Result


def finished_outcome(
    item: Item, rendered: Rendered, job: Job, scratch: Path, judge: Judge
) -> Outcome:
    """The outcome of a picture: kept, as a file of `scratch`, or rejected.

    Args:
        item: what was rendered.
        rendered: its picture.
        job: the run's.
        scratch: a folder that exists.
        judge: measures the pictures of the shard, one after the other or in several threads.

    Raises:
        ScratchFull: `scratch` cannot be written.
    """
    started = time.perf_counter()
    result = rendered.result
    outcome = Outcome(
        item,
        degraded=result.degraded,
        metrics=_figures(rendered, judge),
        phash=phash(result.image),
        seconds=result.seconds,
        peak_memory_bytes=result.peak_memory_bytes,
    )
    if reason := (job.quality or Quality()).rejection(outcome.metrics):
        return replace(outcome, problem=Problem(ErrorClass.REJECTED, reason))
    file = _stored(item, result.image, job.output, scratch)
    return replace(outcome, outputs=(file,), encode_seconds=time.perf_counter() - started)


def encode_image(image: Image.Image, output: Output) -> bytes:
    """The bytes of an output file; the same picture gives the same bytes."""
    file = io.BytesIO()
    if output.codec == "png":
        image.save(file, "PNG", compress_level=PNG_LEVEL)
    elif output.codec == "webp":
        lossless = output.quality is None
        image.save(file, "WEBP", lossless=lossless, quality=output.quality or 75, method=4)
    else:
        image.save(file, "JPEG", quality=output.quality or 95, subsampling=0)
    return file.getvalue()


def _stored(item: Item, image: Image.Image, output: Output, scratch: Path) -> OutputFile:
    name = f"{item.key}.{output.codec}"
    data = encode_image(image, output)
    try:
        (scratch / name).write_bytes(data)
    except OSError as error:
        raise ScratchFull(f"{scratch / name} cannot be written ({error.strerror})") from error
    return OutputFile(name, hashlib.sha256(data).hexdigest(), len(data), *image.size)


def _figures(rendered: Rendered, judge: Judge) -> dict[str, float]:
    """The losses at the end of rendering, and what is measured of the picture."""
    request, result = rendered.request, rendered.result
    losses: dict[str, float] = {}
    if result.style_losses:
        losses = {
            "style_loss_first": result.style_losses[0],
            "style_loss": result.style_losses[-1],
            "content_loss": result.content_losses[-1],
        }
    return losses | judge.measure(
        result.image,
        styles=request.styles,
        content=request.content,
        reference_size=request.settings.reference_size,
    )
