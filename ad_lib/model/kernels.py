"""Which kernels compute on a GPU: those that give the same bits every time, or the fastest ones?

Everything that PyTorch lets a program choose is chosen here and nowhere else. Invariant: after
`using_kernels` the process's choices are as they were before. On a CPU there is nothing to choose.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

logger = logging.getLogger(__name__)

Attention = Literal["cudnn", "flash", "efficient", "math"]

CUBLAS_WORKSPACES = (":4096:8", ":16:8")
"""The values of CUBLAS_WORKSPACE_CONFIG with which cuBLAS repeats its results."""


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """What PyTorch is told before a GPU computes.

    Attributes:
        deterministic: only kernels that repeat their results; where there is none, it raises.
        float32_matmul: precision of products of float32 matrices: `highest` is float32, `high`
            takes TF32, with 10 bits of mantissa.
        cudnn_tf32: whether cuDNN's convolutions of float32 take TF32.
        cudnn_benchmark: whether cuDNN tries its algorithms on each new shape and keeps the fastest,
            which may be another one on another day.
        attention: the kernels for attention that may be taken, the preferred one first.
    """

    deterministic: bool
    float32_matmul: Literal["highest", "high"]
    cudnn_tf32: bool
    cudnn_benchmark: bool
    attention: tuple[Attention, ...]

    def __str__(self) -> str:
        """The choices in words, as records of what was rendered hold them."""
        return ", ".join(
            [
                "deterministic" if self.deterministic else "fast",
                f"float32 products {self.float32_matmul}",
                f"cudnn tf32 {_on(self.cudnn_tf32)}",
                f"cudnn benchmark {_on(self.cudnn_benchmark)}",
                f"attention {' '.join(self.attention)}",
            ]
        )


DETERMINISTIC = Kernels(
    deterministic=True,
    float32_matmul="highest",
    cudnn_tf32=False,
    cudnn_benchmark=False,
    attention=("flash", "efficient", "math"),
)
"""cuDNN's attention is left out: its backward pass has no form that repeats its results."""

FAST = Kernels(
    deterministic=False,
    float32_matmul="high",
    cudnn_tf32=True,
    cudnn_benchmark=True,
    attention=("cudnn", "flash", "efficient", "math"),
)


def kernels_for(device_type: str, *, deterministic: bool) -> Kernels | None:
    """What is chosen on a kind of device; None where there is nothing to choose.

    Args:
        device_type: `cpu`, `cuda` or `mps`.
        deterministic: the same bits on the same GPU for the same batch, at some price.
    """
    if device_type != "cuda":
        return None
    return DETERMINISTIC if deterministic else FAST


@contextmanager
def using_kernels(device_type: str, *, deterministic: bool) -> Iterator[Kernels | None]:
    """Within it this process computes with the kernels that are chosen for a kind of device.

    It is entered before the device computes anything: cuBLAS takes its workspace only once.

    Args:
        device_type: `cpu`, `cuda` or `mps`.
        deterministic: as in `kernels_for`.
    """
    chosen = kernels_for(device_type, deterministic=deterministic)
    with ExitStack() as restoring:
        if chosen is not None:
            logger.info("kernels of this process: %s", chosen)
            _choose(chosen, restoring)
        yield chosen


def _choose(chosen: Kernels, restoring: ExitStack) -> None:
    """Sets everything, and notes how it was."""
    import torch
    from torch.backends import cudnn
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils import deterministic

    restoring.callback(
        torch.use_deterministic_algorithms,
        torch.are_deterministic_algorithms_enabled(),
        warn_only=torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(chosen.deterministic)
    restoring.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
    torch.set_float32_matmul_precision(chosen.float32_matmul)
    for place, name, value in (
        (cudnn, "allow_tf32", chosen.cudnn_tf32),
        (cudnn, "benchmark", chosen.cudnn_benchmark),
        (cudnn, "deterministic", chosen.deterministic),
        (deterministic, "fill_uninitialized_memory", False),  # it costs, and nothing is read there
    ):
        restoring.callback(setattr, place, name, getattr(place, name))
        setattr(place, name, value)
    backends = {
        "cudnn": SDPBackend.CUDNN_ATTENTION,
        "flash": SDPBackend.FLASH_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "math": SDPBackend.MATH,
    }
    preferred = [backends[name] for name in chosen.attention]
    restoring.enter_context(sdpa_kernel(preferred, set_priority=True))
    if chosen.deterministic and os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in CUBLAS_WORKSPACES:
        restoring.callback(_set_variable, os.environ.get("CUBLAS_WORKSPACE_CONFIG"))
        _set_variable(CUBLAS_WORKSPACES[0])


def _set_variable(value: str | None) -> None:
    if value is None:
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    else:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = value


def _on(choice: bool) -> str:
    return "on" if choice else "off"
