"""How many items fit into a device's memory together?

Invariant: the answer follows from the network, the sizes and the memory that the device has in all,
never from what is free just now. So a job is cut into the same batches every time, and one machine
gives it the same bits.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MAX_BATCH_SIZE = 16
"""Items of a batch: on a CPU, doubling 8 takes 5 % off an item of 256 pixels; no more was tried."""

MAX_BATCH_CELLS = 16 * 64 * 64
"""Latent cells of a batch, so that a step, which nobody can stop, stays short."""

MEMORY_CLASSES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256, 512)
"""GiB that a device is taken to have: the largest of these of which it has nine tenths or more."""

_SHARE = {"cuda": 0.85}
"""The share that a batch and the weights may take; of main memory, half: others use it too."""

_OVER_HELD = 1.7
"""Peak of a step over what the backward pass holds: gradients, references, what is being freed."""


@dataclass(frozen=True)
class CellBytes:
    """What a pass with gradients takes for each latent cell of an item, in bytes.

    Attributes:
        held: until the backward pass.
        features: by the tapped layers' keys and values, of the item or of a reference.
    """

    held: float
    features: float

    def peak(self, batch_size: int, *, cells: int, reference_cells: int) -> int:
        """Bytes that a batch takes beyond the weights, at most.

        Decoding is left out: it goes picture by picture and needs less than a second item.

        Args:
            batch_size: its items.
            cells: latent cells of one.
            reference_cells: latent cells of all references of one.
        """
        of_references = 2 * self.features * max(0, reference_cells - cells)
        return int(batch_size * (_OVER_HELD * self.held * cells + of_references))

    def batch_size(self, num_bytes: float, *, cells: int, reference_cells: int) -> int:
        """The items that a batch may have in so many bytes: a power of two, 1 at least."""
        size = MAX_BATCH_SIZE
        while size > 1 and (
            size * cells > MAX_BATCH_CELLS
            or self.peak(size, cells=cells, reference_cells=reference_cells) > num_bytes
        ):
            size //= 2
        return size


def room(device: torch.device, weight_bytes: int, *, sharers: int = 1) -> float:
    """Bytes that a batch may take on a device, beside the weights.

    Args:
        device: where it is computed.
        weight_bytes: of the networks.
        sharers: processes that share the device's memory evenly.
    """
    of_one = memory_class(total_memory(device)) / sharers
    return _SHARE.get(device.type, 0.5) * of_one - weight_bytes


def memory_class(total_bytes: int) -> int:
    """The memory that a device with so much is taken to have, in bytes.

    Drivers and firmware keep a little of it, by version and by machine, which must not matter.
    """
    gib = total_bytes / 2**30
    known = [one for one in MEMORY_CLASSES if one * 0.9 <= gib]
    return (known[-1] if known else 1) * 2**30


def total_memory(device: torch.device) -> int:
    """Bytes of memory that a device has in all; of a CPU, what this process may use."""
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[1]
    return main_memory()


def main_memory() -> int:
    """Bytes of main memory that this process may use in all: the machine's, or its container's."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # cgroups 2 and 1
        with suppress(OSError, ValueError):  # no container, or no limit
            found.append(int(Path("/sys/fs/cgroup", name).read_text()))
    return min(found)
