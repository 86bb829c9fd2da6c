"""How fast was this machine when it rendered such items last?

A small file in the user's cache folder, written after commits: figures, and which weights, task,
size, precision and hardware they are of; no names, paths or words of a job. It is a convenience: a
file that is damaged or cannot be written is as good as none, and nothing depends on it.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from manifests.records import Count, Record, Seconds, Words
from tasks.runs.environment import num_cores

logger = logging.getLogger(__name__)

MAX_SPEEDS = 400
"""Entries that are kept, the newest."""

MAX_BYTES = 1 << 20

Side = Annotated[int, Field(ge=1)]


class Circumstances(Record):
    """What the speed of an item depends on, besides its number of steps.

    Attributes:
        model: the revision of the weights.
        task: the preset's name.
        width, height: pixels.
        dtype: the precision of the networks.
        hardware: what renders, and with how many threads on a CPU.
    """

    model: Words
    task: Words
    width: Side
    height: Side
    dtype: Words
    hardware: Words


class Speed(Record):
    """How fast items were.

    Attributes:
        of: what items.
        batch_size: that were rendered together, at most.
        seconds_per_step: of one item, all that rendering took divided by its steps.
        peak_memory_bytes: None where nobody knows.
        bytes_per_pixel: of a picture.
    """

    of: Circumstances
    batch_size: Count
    seconds_per_step: Seconds
    peak_memory_bytes: Count | None = None
    bytes_per_pixel: Seconds = 0.0


class _File(Record):
    speeds: list[Speed] = Field(default_factory=list[Speed])


def speeds_path() -> Path:
    """Where speeds are remembered: `XDG_CACHE_HOME`, or `~/.cache`, with `stylefarm/` in it."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "stylefarm" / "speeds.json"


def remembered() -> list[Speed]:
    """What is remembered, the newest last; nothing where the file is absent or damaged."""
    with suppress(OSError, RuntimeError, ValidationError, ValueError):
        path = speeds_path()
        if path.stat().st_size <= MAX_BYTES:
            return _File.model_validate_json(path.read_bytes()).speeds
    return []


def remember(speed: Speed) -> None:
    """Takes note of a speed; the last one of the same circumstances and batch is forgotten.

    Of two processes that do so at once, one may lose its note.
    """
    same = (speed.of, speed.batch_size)
    others = [one for one in remembered() if (one.of, one.batch_size) != same]
    kept = [*others, speed][-MAX_SPEEDS:]
    text = json.dumps(_File(speeds=kept).model_dump(mode="json"), separators=(",", ":"))
    try:
        path = speeds_path()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".speeds-") as folder:
            new = Path(folder, path.name)
            new.write_text(text)
            new.replace(path)
    except (OSError, RuntimeError) as error:
        logger.info("how fast this machine is will not be remembered: %s", error)


def recall(speeds: Sequence[Speed], wanted: Circumstances) -> Speed | None:
    """The newest speed of such items, or of the nearest other size, scaled by its pixels.

    Args:
        speeds: that are remembered, the newest last.
        wanted: what items.
    """
    same_but_size = [
        one
        for one in speeds
        if one.of.model_copy(update={"width": wanted.width, "height": wanted.height}) == wanted
    ]
    if not same_but_size:
        return None
    area = wanted.width * wanted.height

    def distance(speed: Speed) -> float:
        ratio = speed.of.width * speed.of.height / area
        return max(ratio, 1 / ratio)

    nearest = min(reversed(same_but_size), key=distance)
    scale = area / (nearest.of.width * nearest.of.height)
    peak = nearest.peak_memory_bytes if scale == 1 else None
    scaled = {"seconds_per_step": nearest.seconds_per_step * scale, "peak_memory_bytes": peak}
    return nearest.model_copy(update=scaled)


def hardware_of(device_type: str, num_threads: int | None) -> str:
    """What a device of this machine is called, without touching it.

    Args:
        device_type: its kind.
        num_threads: of a worker on a CPU; None is all cores.
    """
    if device_type == "cpu":
        given = os.environ.get("OMP_NUM_THREADS", "")
        usual = int(given) if given.isdecimal() else num_cores()
        return f"{_cpu_name()} x {num_threads or usual}"
    return _gpu_name() if device_type == "cuda" else device_type


def _cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()[:100]
    return platform.processor() or platform.machine() or "cpu"


def _gpu_name() -> str:
    """As the driver has it; PyTorch would have to begin with CUDA in this process to say so."""
    with suppress(OSError):
        for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
            for line in file.read_text().splitlines():
                if line.startswith("Model"):
                    return line.partition(":")[2].strip()[:100]
    return "cuda"
