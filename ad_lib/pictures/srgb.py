"""How do decoded pixels of any kind become upright 8-bit sRGB?

* They are turned as EXIF, XMP or the container states (`metadata`).
* An embedded colour profile is converted to sRGB. A profile that is damaged, or one of other kinds
  of pixels, is ignored, as browsers do.
* Whole numbers of 16 bits are scaled from 0..65535 to 0..255, grey rounded, colours cut off (as
  Pillow reads them). Grey of 32 bits is taken as 16 bits where its values lie in 0..65535. Refused
  are values outside, and pictures that are not black and whose largest value lies below 4096: they
  hold 8, 10 or 12 bits in 16, and it is not said which.
* Floating-point numbers are refused: nothing says which value is white.
* 1, 2 and 4 bits are scaled to 8. CMYK, YCbCr, LAB and palettes become RGB.
* Transparency is laid over white; a number that means clear in grey of 16 bits is ignored.

Pixels are converted in strips of about a million, so that beside the decoder's own copy there is
one RGB picture at most.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageCms
from PIL.ImageFile import ImageFile as PillowFile

from ad_lib.errors import ImageError
from ad_lib.pictures.metadata import stated_orientation

STRIP_PIXELS = 1 << 20

WIDE_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")
WIDE_WHITE = 65_535
LEAST_WIDE_MAXIMUM = 4096

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture of each EXIF orientation upright."""


class Picture:
    """Decoded pixels, and how they become upright sRGB.

    Raises:
        ImageError: `unsupported`, the numbers have no 8-bit meaning.
    """

    def __init__(self, image: PillowFile, is_wide: bool) -> None:
        self._image = image
        is_turned = image.format == "TIFF"  # by Pillow, when it is loaded
        self._orientation = 1 if is_turned else stated_orientation(image.info)
        _refuse_unknown_white(image, is_wide)
        self._transforms: dict[str, Any] = {}
        profile = image.info.get("icc_profile")
        self._profile = profile if isinstance(profile, bytes) else None

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) once the picture is turned."""
        width, height = self._image.size
        return (height, width) if self._orientation >= 5 else (width, height)

    def upright(self) -> Image.Image:
        """The picture in RGB; its decoded pixels are given up."""
        rgb = Image.new("RGB", self._image.size)
        for top, strip in self._strips():
            rgb.paste(strip, (0, top))
        self._image.close()
        method = _UPRIGHT.get(self._orientation)
        return rgb if method is None else rgb.transpose(method)

    def count_colours(self, most: int) -> int | None:
        """Converts every strip; counts its colours up to so many, and returns None above."""
        colours: set[Any] | None = set()
        for _, strip in self._strips():
            if most and colours is not None:
                found = strip.getcolors(most)
                colours = colours | {colour for _, colour in found} if found else None
                colours = colours if colours is not None and len(colours) <= most else None
        return len(colours) if colours is not None else None

    def _strips(self) -> Iterator[tuple[int, Image.Image]]:
        """Each strip in RGB, and where it begins, from the top as stored."""
        for top, strip in _strips(self._image):
            yield top, self._to_srgb(strip)

    def _to_srgb(self, strip: Image.Image) -> Image.Image:
        colours, alpha = _without_alpha(strip)
        if transform := self._transform(colours.mode):
            colours = transform.apply(colours)
        elif colours.mode in WIDE_MODES:
            colours = _narrow(colours)
        rgb = colours.convert("RGB")
        if alpha is None:
            return rgb
        rgb.putalpha(alpha)
        white = Image.new("RGBA", rgb.size, "white")
        return Image.alpha_composite(white, rgb).convert("RGB")

    def _transform(self, mode: str) -> Any:
        """What converts pixels of a mode from the profile to sRGB, or None."""
        if not self._profile:
            return None
        if mode not in self._transforms:
            self._transforms[mode] = _transform_to_srgb(self._profile, mode)
        return self._transforms[mode]


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    height = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, height):
        yield top, image.crop((0, top, image.width, min(top + height, image.height)))


def _without_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """A picture's colours alone, and its transparency where it has any."""
    if image.mode in WIDE_MODES or not image.has_transparency_data:
        return image.convert("RGB") if image.mode == "P" else image, None
    if image.mode == "La":
        image = image.convert("LA")
    rgba = image.convert("RGBA")
    is_grey = image.mode in ("1", "L", "LA")
    return rgba.getchannel("R") if is_grey else rgba.convert("RGB"), rgba.getchannel("A")


def _transform_to_srgb(profile: bytes, mode: str) -> Any:
    """None where the profile is damaged or is one of other pixels."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(source, srgb, mode, "RGB")
    except Exception:
        return None


def _refuse_unknown_white(image: Image.Image, is_wide: bool) -> None:
    """Refuses numbers of which it is not known which is white; 8 bits are always fine.

    Raises:
        ImageError: numbers outside 0..65535, or so small that they hold fewer than 16 bits.
    """
    if image.mode in WIDE_MODES:
        least, most = _extremes(image)
        if least < 0 or most > WIDE_WHITE:
            raise ImageError(
                f"whole numbers from {least} to {most}, and nothing says which is white: save 8 "
                "bits, or 16 bits from 0 to 65535",
                "unsupported",
            )
    elif is_wide and image.mode in ("RGB", "RGBA"):  # Pillow keeps the upper 8 bits of 16
        extremes = image.getextrema()[:3]
        most = max(int(high) for _, high in extremes) * 256  # type: ignore[misc]
        most += 255 * (most > 0 or image.mode == "RGB")
    else:
        return
    if 0 < most < LEAST_WIDE_MAXIMUM:
        raise ImageError(
            f"no number above {most} of 65535 in its 16 bits, so it would be nearly black, and "
            "nothing says which is white: scale it to 0..65535, or save it with 8 bits",
            "unsupported",
        )


def _extremes(image: Image.Image) -> tuple[int, int]:
    found = [(int(part.min()), int(part.max())) for part in _arrays(image)]
    return min(least for least, _ in found), max(most for _, most in found)


def _arrays(image: Image.Image) -> Iterator[np.ndarray]:
    return (np.asarray(strip) for _, strip in _strips(image))


def _narrow(image: Image.Image) -> Image.Image:
    """Grey of 16 bits in 8, rounded to the nearest."""
    wide = np.asarray(image).astype(np.int64)
    return Image.fromarray(((wide + 128) // 257).astype(np.uint8))
