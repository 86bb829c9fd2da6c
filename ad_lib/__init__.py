"""What is computed: Attention Distillation on frozen diffusion backbones.

    import ad_lib
    backbone = ad_lib.load_backbone("embedded")
    request = ad_lib.Request.preset("style-transfer", content=photo, styles=[painting], seed=7)
    (result,) = ad_lib.render(backbone, [request])

Names are imported when they are first used, so that reading a preset does not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ad_lib.batch import Result, render
    from ad_lib.encoded import EncodedPictures
    from ad_lib.errors import BackboneError, ImageError, NumericsError, RequestError
    from ad_lib.model.backbone import Backbone
    from ad_lib.model.families.stable_diffusion.random_weights import random_controlnet
    from ad_lib.model.loading import load_backbone
    from ad_lib.model.random_weights import random_backbone
    from ad_lib.model.weights import Weights, find_weights
    from ad_lib.pictures.decoding import decode_image
    from ad_lib.pictures.images import fit_image
    from ad_lib.pipeline import AttentionDistillationPipeline
    from ad_lib.presets import PRESETS, Preset
    from ad_lib.requests import Request
    from ad_lib.settings import Settings

_HOME = {
    "Backbone": "model.backbone",
    "load_backbone": "model.loading",
    "Result": "batch",
    "render": "batch",
    "EncodedPictures": "encoded",
    "BackboneError": "errors",
    "ImageError": "errors",
    "NumericsError": "errors",
    "RequestError": "errors",
    "decode_image": "pictures.decoding",
    "fit_image": "pictures.images",
    "AttentionDistillationPipeline": "pipeline",
    "PRESETS": "presets",
    "Preset": "presets",
    "Settings": "settings",
    "random_backbone": "model.random_weights",
    "random_controlnet": "model.families.stable_diffusion.random_weights",
    "Request": "requests",
    "Weights": "model.weights",
    "find_weights": "model.weights",
}

__all__ = [
    "PRESETS",
    "AttentionDistillationPipeline",
    "Backbone",
    "BackboneError",
    "EncodedPictures",
    "ImageError",
    "NumericsError",
    "Preset",
    "Request",
    "RequestError",
    "Result",
    "Settings",
    "Weights",
    "decode_image",
    "find_weights",
    "fit_image",
    "load_backbone",
    "random_backbone",
    "random_controlnet",
    "render",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ad_lib' has no attribute {name!r}")
    return getattr(import_module(f"ad_lib.{_HOME[name]}"), name)
