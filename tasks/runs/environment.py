"""What this process runs on: versions, host and device, as rows and records state them."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import socket
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

_DISTRIBUTIONS = ("stylefarm", "torch", "diffusers", "transformers", "pillow")


@cache
def versions() -> dict[str, str]:
    """The versions that can change pixels."""
    found = {name: importlib.metadata.version(name) for name in _DISTRIBUTIONS}
    return {**found, "python": platform.python_version()}


def kernels(device_type: str | None, *, deterministic: bool) -> dict[str, str]:
    """What PyTorch was told of its kernels, in words; nothing where nothing can be chosen.

    Args:
        device_type: the kind of device; None for a run of the first layout, which does not say.
        deterministic: as the run was planned.
    """
    from ad_lib.model.kernels import kernels_for

    chosen = kernels_for(device_type or "cpu", deterministic=deterministic)
    return {} if chosen is None else {"kernels": str(chosen)}


def worker_name() -> str:
    """Host and process, to find a worker by."""
    return f"{socket.gethostname()}:{os.getpid()}"


@cache
def device_name(device: str) -> str:
    """What the device is called, such as `NVIDIA H200`."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def num_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def num_oom_kills() -> int | None:
    """How many processes the kernel has killed for want of memory; None where it does not say."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            name, _, number = line.partition(" ")
            if name == "oom_kill":
                return int(number)
    return None


def peak_resident_bytes() -> int:
    """The main memory that this process held at most, since `forget_peak_resident`."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def resident_bytes() -> int:
    """The main memory that this process holds now; at most, where the system does not say."""
    with suppress(OSError, ValueError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return peak_resident_bytes()


def forget_peak_resident() -> None:
    """Begins to measure anew; where the kernel does not let it, the peak is of the whole life."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_bytes(b"5")
