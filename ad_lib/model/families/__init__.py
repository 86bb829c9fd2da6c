"""Which families of models are there?

A family is added by a package beside this file and one line here; `ad_lib/README.md` says how.
Importing this module loads neither torch nor diffusers.
"""

from collections.abc import Mapping

from ad_lib.model.families.family import Family
from ad_lib.model.families.flux2 import FLUX2
from ad_lib.model.families.stable_diffusion import SD15, SDXL

FAMILIES: Mapping[str, Family] = {
    SD15.name: SD15,
    SDXL.name: SDXL,
    FLUX2.name: FLUX2,
}
"""By name. A folder is of the first that owns the configuration of its denoiser."""
