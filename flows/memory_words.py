"""When is a person warned that pictures need more memory or time than there is, and how?"""

from __future__ import annotations

from collections.abc import Iterable

from tasks.work.shard_work import MemoryNeed

TIGHT = 0.9
"""The share of a device's memory above which a person is warned."""

SLOW_SECONDS = 180.0
"""Of a picture on a CPU; where it takes longer, a person is warned."""


def memory_warning(need: MemoryNeed) -> str | None:
    """A sentence where pictures of a size may not fit into the memory; None where they do.

    It is a warning and no refusal: the need is what is held at most, a machine may swap, another
    worker may have more, and what does not fit after all is a row (`oom`) and no crash of the run.
    """
    there = f"{_gigabytes(need.memory_bytes)} are there ({need.device})"
    size = f"{need.width}x{need.height} pixels"
    if need.item_bytes > TIGHT * need.memory_bytes:
        return (
            f"A picture of {size} takes up to {_gigabytes(need.item_bytes)} of memory and {there}: "
            "it may not fit. A smaller output.size needs less, as its square; or render where "
            "there is more memory, such as on a GPU."
        )
    if need.batch_bytes > TIGHT * need.memory_bytes:
        return (
            f"{need.batch_size} pictures of {size} together take up to "
            f"{_gigabytes(need.batch_bytes)} of memory and {there}: they may not fit. "
            f"compute.batch_size: auto takes {need.fitting} at a time here."
        )
    return None


def memory_warnings(needs: Iterable[MemoryNeed | None]) -> list[str]:
    """The same of many sizes, each sentence once."""
    told = (memory_warning(need) for need in needs if need is not None)
    return list(dict.fromkeys(filter(None, told)))


def slow_warning(width: int, height: int, seconds: float, device_type: str | None) -> str | None:
    """A sentence where a picture takes minutes on a CPU; None where it does not."""
    if device_type != "cpu" or seconds <= SLOW_SECONDS:
        return None
    minutes = f"{seconds / 60:.0f} minutes"
    return (
        f"A picture of {width}x{height} pixels takes about {minutes} on this CPU: a smaller "
        "output.size, a draft task (style-transfer-draft, texture-draft) or a GPU is faster."
    )


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
