"""How files become RGB pictures of the right size, and tensors, and back.

Invariant: nothing is squashed. A picture is scaled with its proportions kept, then cropped at
the centre; what does not divide by the autoencoder's factor is padded and cropped back.
"""

from __future__ import annotations

import io
import math
import warnings

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from ad_lib.errors import ImageError

MAX_PIXELS = 89_478_485
"""Pillow's own limit: above it a file is taken for a decompression bomb."""

WIDE_MODES = ("I;16", "I;16L", "I;16B", "I;16N")


DAMAGE = (OSError, SyntaxError, ValueError, EOFError, LookupError, MemoryError, RuntimeError)
"""What Pillow's decoders raise on bytes that are not what they claim to be."""

_COLOURS = {"LA": "L", "P": "RGB", "PA": "RGB", "RGBA": "RGB"}
"""The mode of a picture's colours alone, where its own mode holds more."""


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An upright 8-bit sRGB picture from the bytes of an image file.

    EXIF rotation is applied, an embedded colour profile is converted to sRGB, 16-bit grey is
    scaled to 8 bits, CMYK and palettes become RGB, and transparency is laid over white.

    Args:
        data: the file's bytes, in any format that Pillow reads; of an animation the first frame.
        max_pixels: refuse larger pictures, before their pixels are decoded.

    Raises:
        ImageError: the bytes are empty, damaged or cut off (`decode`), or too large or of a mode
            that has no 8-bit meaning (`unsupported`).
    """
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _decode(data, max_pixels)
        except ImageError:
            raise
        except UnidentifiedImageError:
            raise ImageError(f"not an image that Pillow can read ({len(data)} bytes)") from None
        except Image.DecompressionBombError as error:
            raise ImageError(_too_large(str(error), max_pixels), "unsupported") from None
        except DAMAGE as error:
            raise ImageError(f"damaged image file: {error}") from None


def fit_image(image: Image.Image, width: int, height: int) -> Image.Image:
    """The picture at exactly that size: scaled to cover it (bicubic), cropped at the centre."""
    if image.size == (width, height):
        return image
    return ImageOps.fit(image, (width, height), method=Image.Resampling.BICUBIC)


def fit_mask(mask: Image.Image, width: int, height: int) -> Image.Image:
    """A label map at exactly that size, cropped like its picture; no new colours appear."""
    if mask.size == (width, height):
        return mask
    return ImageOps.fit(mask.convert("RGB"), (width, height), method=Image.Resampling.NEAREST)


def scaled_size(width: int, height: int, shorter: int) -> tuple[int, int]:
    """(width, height) with the same proportions and the shorter side given, in pixels."""
    scale = shorter / min(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def image_to_tensor(image: Image.Image) -> Tensor:
    """(1, 3, H, W) in [0, 1], float32."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255.0
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def tensor_to_image(pixels: Tensor) -> Image.Image:
    """The picture of a (3, H, W) tensor in [0, 1], rounded to 8 bits."""
    rounded = (pixels.float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(rounded.permute(1, 2, 0).cpu().numpy())


def pad_to_multiple(pixels: Tensor, factor: int) -> Tensor:
    """Pads (B, 3, H, W) to multiples of `factor`, right and bottom, by repeating the edge."""
    height, width = pixels.shape[-2:]
    right = math.ceil(width / factor) * factor - width
    bottom = math.ceil(height / factor) * factor - height
    return F.pad(pixels, (0, right, 0, bottom), mode="replicate")


def _decode(data: bytes, max_pixels: int) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    if image.width * image.height > max_pixels:
        raise ImageError(_too_large(f"{image.width}x{image.height}", max_pixels), "unsupported")
    image.load()
    image = ImageOps.exif_transpose(image)
    if "icc_profile" in image.info:
        image = _to_srgb(image, image.info["icc_profile"])
    if image.mode in WIDE_MODES or image.mode == "I":
        image = _wide_to_8_bit(image)
    if image.mode == "F":
        raise ImageError(
            "floating-point pixels have no stated range: save 8 or 16 bits", "unsupported"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _wide_to_8_bit(image: Image.Image) -> Image.Image:
    wide = np.asarray(image).astype(np.int64)
    return Image.fromarray(np.clip((wide + 128) // 257, 0, 255).astype(np.uint8))


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    colours = image.convert(_COLOURS.get(image.mode, image.mode))
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(colours, source, srgb, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return image  # a damaged profile, or one of other pixels, is ignored, as browsers do
    assert converted is not None, "only a conversion in place returns nothing"
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def _too_large(size: str, max_pixels: int) -> str:
    return f"picture too large to decode safely ({size}; the limit is {max_pixels} pixels)"
