"""What can this machine do, and what does a piece of work take of it?"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PEAK_SECONDS = 0.4
"""How long the products of one size are repeated; the best of all counts as the peak."""

_PEAK_SIDES = {"cuda": (4096, 8192), "cpu": (1024,)}
"""Of the matrices whose product is the fastest thing that a device does."""

_PACKAGES = ("stylefarm", "torch", "diffusers", "transformers", "numpy", "pillow")

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Spent:
    """What a piece of work took.

    Attributes:
        seconds: by the clock on the wall, until the device had finished.
        cpu_seconds: of all threads of this process.
        memory_bytes: at most; None where nothing tells.
    """

    seconds: float
    cpu_seconds: float
    memory_bytes: int | None


def spent(device: torch.device, work: Callable[[], Any]) -> tuple[Any, Spent]:
    """What a piece of work gives, and what it took."""
    synchronize(device)
    _forget_peak(device)
    started, cpu_started = time.perf_counter(), time.process_time()
    given = work()
    synchronize(device)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    return given, Spent(seconds, cpu_seconds, _peak(device))


def synchronize(device: torch.device) -> None:
    """Waits until the device has finished all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def matrix_product_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of the fastest matrix product, two for each multiply and add.

    The matrices hold random numbers: zeros would draw less power and let the clock rise.
    """
    best = 0.0
    for side in _PEAK_SIDES.get(device.type, _PEAK_SIDES["cpu"]):
        multiply = partial(torch.mm, *torch.randn(2, side, side, device=device, dtype=dtype))
        multiply()  # chooses its kernel
        until = time.perf_counter() + _PEAK_SECONDS
        while time.perf_counter() < until:
            _, took = spent(device, multiply)
            best = max(best, 2 * side**3 / took.seconds)
    return best


def what_memory_means(device: torch.device) -> str:
    """What the figure of the memory counts, in words."""
    if device.type == "cuda":
        return "peak of what PyTorch allocated on the GPU, weights included"
    if _CLEAR.exists():
        return "peak of this whole process's resident memory, weights and libraries included"
    return "not measured on this system"


def described(device: torch.device) -> dict[str, Any]:
    """The machine and the versions, for a document."""
    return {
        "device": device_name(device),
        "device_type": device.type,
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def device_name(device: torch.device) -> str:
    """The device as its maker calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"CPU {torch.backends.cpu.get_cpu_capability()}, {platform.machine()}"
    return device.type


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR.exists():
        try:
            _CLEAR.write_text("5")  # see proc(5): the peak begins anew at what is resident now
        except OSError:
            return


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if not _CLEAR.exists():
        return None
    fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024
