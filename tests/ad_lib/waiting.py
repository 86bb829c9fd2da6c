"""What a step must not do on a device: wait for it, or copy to it and from it."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {
    *("aten::_local_scalar_dense", "aten::nonzero", "aten::_unique2", "aten::unique_dim"),
    *("aten::masked_select", "aten::repeat_interleave.Tensor", "aten::lift_fresh"),
}
"""Operations whose result the host needs, and the one that makes a tensor of Python's numbers."""


class NothingWaits(TorchDispatchMode):
    """Refuses operations that wait or copy between devices, also on a CPU, where they cost nothing.

    Attributes:
        shapes: of the query of every attention that was asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.name().removesuffix(".default")
        assert name not in WAITING, f"{name} waits for the device, or copies to it"
        if "attention" in name:
            self.shapes.append(tuple(args[0].shape))
        result = func(*args, **(kwargs or {}))
        if name in ("aten::_to_copy", "aten::copy_") and isinstance(result, Tensor):
            assert {one.device for one in args if isinstance(one, Tensor)} == {result.device}
        return result
