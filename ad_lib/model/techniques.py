"""How is a network made to run faster?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Compile = Literal["auto", "off", "reduce", "max"]


@dataclass(frozen=True, kw_only=True)
class Techniques:
    """What may be done to a frozen network; each changes a picture by rounding at most.

    A backbone follows the techniques that it has when a render begins.

    Attributes:
        early_exit: feature passes stop behind the last layer that the loss reads. A compiled pass
            does so by itself: what nobody reads is not in its graph.
        constant_cross_attention: keys and values of the prompt that conditions the feature passes
            are computed once a render; None is where it pays, on CUDA.
        channels_last: the networks' memory is laid out as convolutions like it; None is where it
            pays, on CUDA and on a CPU.
        compile: the optimisation step and the denoiser as compiled graphs. `auto` does so on CUDA,
            `reduce` everywhere and with CUDA graphs, which spare a small batch the launching of
            single kernels, `max` tries several kernels for each product and keeps the fastest.
        cuda_graphs: whether compiled graphs are launched as CUDA graphs; None is what `compile`
            says: always for `reduce`, for small batches otherwise.
    """

    early_exit: bool = True
    constant_cross_attention: bool | None = None
    channels_last: bool | None = None
    compile: Compile = "auto"
    cuda_graphs: bool | None = None

    def on(self, device_type: str) -> Techniques:
        """The same with every choice made, for a kind of device: `cpu`, `cuda`, `mps`, `meta`."""
        on_cuda = device_type == "cuda"
        compile_ = "off" if self.compile == "auto" and not on_cuda else self.compile
        return replace(
            self,
            early_exit=self.early_exit and compile_ == "off",
            constant_cross_attention=_chosen(self.constant_cross_attention, on_cuda),
            channels_last=_chosen(self.channels_last, device_type in ("cuda", "cpu")),
            compile=compile_,
        )


def _chosen(value: bool | None, default: bool) -> bool:
    return default if value is None else value
