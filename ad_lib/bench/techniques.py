"""The rows of a measurement: what makes rendering faster, added one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from ad_lib.errors import RequestError, unknown_name
from ad_lib.model.backbone import Backbone
from ad_lib.model.techniques import Techniques

LITERAL = "literal"


@dataclass(frozen=True, kw_only=True)
class Technique:
    """One thing that is done differently than in the row above.

    Attributes:
        name: as it is asked for.
        summary: what is done.
        switches: of `Techniques`, what changes.
        is_batched: whether pictures run together.
        shares: whether a batch holds each of its references once.
        is_compiled: whether the step runs as one compiled graph; such a row is no eager code.
        deterministic: whether only kernels that repeat their results are taken; None is what
            PyTorch takes by itself.
        lacks: why the row cannot be had on a kind of device.
    """

    name: str
    summary: str
    switches: Mapping[str, Any] = field(default_factory=dict)
    is_batched: bool = True
    shares: bool = True
    is_compiled: bool = False
    deterministic: bool | None = True
    lacks: Mapping[str, str] = field(default_factory=dict)


_ONLY_ON_CUDA = {"cpu": "not on a CPU", "mps": "not on MPS"}

TECHNIQUES = (
    Technique(
        name=LITERAL,
        summary="the published loop, one picture at a time: three passes a step through the whole "
        "network, nothing shared, losses read at every step",
        is_batched=False,
        shares=False,
        deterministic=None,
    ),
    Technique(
        name="batch",
        summary="pictures run together, each with references of its own; losses stay on the device",
        shares=False,
    ),
    Technique(
        name="shared-references",
        summary="a batch encodes and looks at each distinct style and content once",
    ),
    Technique(
        name="early-exit",
        summary="passes for features stop behind the last layer that is read",
        switches={"early_exit": True},
    ),
    Technique(
        name="constant-cross-attention",
        summary="keys and values of the empty prompt are computed once",
        switches={"constant_cross_attention": True},
    ),
    Technique(
        name="channels-last",
        summary="the network's memory is laid out as convolutions like it",
        switches={"channels_last": True},
    ),
    Technique(
        name="compiled",
        summary="the optimisation step and the denoiser are compiled graphs",
        switches={"compile": "auto", "cuda_graphs": False},
        is_compiled=True,
        lacks=_ONLY_ON_CUDA,
    ),
    Technique(
        name="captured",
        summary="which are launched as CUDA graphs",
        switches={"cuda_graphs": True},
        is_compiled=True,
        lacks=_ONLY_ON_CUDA,
    ),
    Technique(
        name="fast-kernels",
        summary="kernels that do not repeat their results, TF32 and cuDNN's attention are allowed",
        is_compiled=True,
        deterministic=False,
        lacks=_ONLY_ON_CUDA,
    ),
)
"""In the order in which they are added. Each row keeps what the rows above it switched on."""

_PLAIN: Mapping[str, Any] = {
    "early_exit": False,
    "constant_cross_attention": False,
    "channels_last": False,
    "compile": "off",
    "cuda_graphs": None,
}
"""`Techniques` with nothing switched on."""


def chosen(names: Sequence[str] | None) -> list[Technique]:
    """The techniques of these names, in the order of the table; None is all.

    Raises:
        RequestError: there is none of a name; the nearest one is given.
    """
    known = [one.name for one in TECHNIQUES]
    for name in names or ():
        if name not in known:
            raise RequestError(unknown_name("technique", name, known))
    return [one for one in TECHNIQUES if not names or one.name in names]


def why_not(technique: Technique, backbone: Backbone) -> str:
    """Why a row cannot be had; empty where it can."""
    if technique.name == LITERAL and not isinstance(backbone.denoiser, UNet2DConditionModel):
        return "published for U-Nets alone"
    return technique.lacks.get(backbone.device.type, "")


def switched_on(techniques: Iterable[Technique]) -> Techniques:
    """The network's techniques when these have been added, in order."""
    switches = dict(_PLAIN)
    for technique in techniques:
        switches |= technique.switches
    return Techniques(**switches)
