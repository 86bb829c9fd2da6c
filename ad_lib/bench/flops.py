"""How many operations does a piece of work take? Two for each multiply and add.

PyTorch's own formulas, summed as the work is done: matrix products, convolutions and attention;
what is elementwise is not counted. The fused attention of CPUs, which has no formula there, counts
as that of GPUs. (Its `FlopCounterMode` follows modules too, and refuses `torch.autograd.grad`.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

_FORMULAS = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
}


class _Counter(TorchDispatchMode):
    """Sums the operations of whatever runs within it."""

    total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = func(*args, **(kwargs or {}))
        formula = _FORMULAS.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=given)
        return given


def counted(work: Callable[[], Any]) -> tuple[Any, int]:
    """What a piece of work gives, and its operations; it must run eagerly."""
    with _Counter() as counter:
        given = work()
    return given, counter.total
