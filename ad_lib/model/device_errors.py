"""Did a device run out of memory, or did it fail?

Only the types of exceptions, and a few exact sentences of PyTorch, are taken as an answer.
"""

from __future__ import annotations

import torch

_OUT_OF_MEMORY_CODE = 2
"""cudaErrorMemoryAllocation, where CUDA itself and not PyTorch's allocator was refused."""

_UNTYPED_OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "MPS backend out of memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the device or on the host.

    PyTorch has a type for this on CUDA only: its allocators for the CPU and for MPS raise a bare
    RuntimeError. So their own sentences are recognised here, exactly, and no other words anywhere.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, torch.AcceleratorError):
        return getattr(error, "error_code", None) == _OUT_OF_MEMORY_CODE
    if type(error) is RuntimeError:
        first_line = str(error).partition("\n")[0]
        return any(sentence in first_line for sentence in _UNTYPED_OUT_OF_MEMORY)
    return False


def is_device_failure(error: BaseException) -> bool:
    """Whether the device failed otherwise than by running out of memory."""
    if is_out_of_memory(error):
        return False
    return isinstance(error, torch.AcceleratorError | torch.cuda.CudaError)


def answers(device: torch.device) -> bool:
    """Whether a device still computes; after a failure that stays, each call to it fails.

    The libraries of CUDA (cuBLAS, cuDNN) raise a bare RuntimeError, so that a failure of theirs
    shows here and not by its type.
    """
    try:
        return float(torch.ones(8, device=device).sum()) == 8.0
    except RuntimeError as error:
        return is_out_of_memory(error)
