"""Which device does a name mean, and does this machine have it?"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ad_lib.errors import BackboneError
from ad_lib.model.weight_files import quoted

if TYPE_CHECKING:
    import torch

_DEVICE = re.compile(r"cpu(:0)?|mps(:0)?|cuda(:\d{1,3})?", re.ASCII)


def check_device_name(name: str) -> None:
    """Refuses what is no name of a device, on any machine.

    Args:
        name: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.

    Raises:
        BackboneError: another name.
    """
    if name != "auto" and not _DEVICE.fullmatch(name):
        raise BackboneError(
            f"unknown device {quoted(name)}: give auto, cpu, cuda, cuda:N (N counts from 0) or mps"
        )


def find_device(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA where there is one, else the CPU.

    Raises:
        BackboneError: an unknown name, or a device that this machine does not have.
    """
    import torch

    check_device_name(name)
    has_cuda = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if has_cuda else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not has_cuda:
        raise BackboneError(
            f"there is no device {name!r}: this machine has no CUDA GPU, or this PyTorch "
            f"({torch.__version__}) cannot use it; give cpu or auto"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BackboneError(
            f"there is no device {name!r}: this machine has {torch.cuda.device_count()} CUDA "
            "GPUs, counted from 0"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise BackboneError(f"there is no device {name!r} on this machine; give cpu or auto")
    return device


def device_name(device: torch.device) -> str:
    """What kind of device it is, as its maker names it, or its type."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
