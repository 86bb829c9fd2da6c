"""Which other methods may ours be compared with?

Each reads like its paper, in a file of its own, and runs as a task. Invariant: nothing of the
method imports from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor

from ad_lib.baselines.adain import restyled_by_adain
from ad_lib.baselines.external import shown_as_given
from ad_lib.baselines.gpdm import textured_by_gpdm
from ad_lib.baselines.quilting import textured_by_quilting
from ad_lib.baselines.styleid import restyled_by_injection
from ad_lib.baselines.swd import textured_by_swd
from ad_lib.inputs import BatchInputs
from ad_lib.presets import Baseline

Compare = Callable[[BatchInputs, Callable[[int, int], None]], Tensor]
"""Makes a batch's pictures, (b, 3, height, width) in [0, 1]; tells how many steps are done."""

BASELINES: Mapping[Baseline, Compare] = MappingProxyType(
    {
        "adain": restyled_by_adain,
        "external": shown_as_given,
        "gpdm": textured_by_gpdm,
        "quilting": textured_by_quilting,
        "styleid": restyled_by_injection,
        "swd": textured_by_swd,
    }
)
