"""Sound pictures, tars and jobs, that hostile ones are made from and stand beside."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from tests.bad_images import picture

BACKBONE = str(Path(__file__).parents[2] / "golden" / "public" / "models" / "tiny-sd")
"""Stable Diffusion 1.5's topology with few weights: it renders in a tenth of a second."""

FORMATS = {
    "png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "jpg": ("L", "RGB", "CMYK"),
    "gif": ("L", "P", "RGB"),
    "bmp": ("1", "L", "P", "RGB", "RGBA"),
    "tif": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F", "I;16", "LAB"),
    "webp": ("RGB", "RGBA"),
    "ppm": ("1", "L", "RGB", "I"),
    "avif": ("RGB", "RGBA"),
    "tga": ("1", "L", "RGB", "RGBA"),
    "ico": ("RGB", "RGBA"),
    "jp2": ("L", "RGB", "RGBA"),
    "pcx": ("1", "L", "P", "RGB"),
    "dds": ("L", "RGB", "RGBA"),
    "sgi": ("L", "RGB", "RGBA"),
    "icns": ("RGBA",),
    "eps": ("L", "RGB"),
    "pdf": ("RGB",),
    "qoi": ("RGB", "RGBA"),
    "im": ("L", "RGB", "F"),
    "spider": ("F",),
    "xbm": ("1",),
    "mpo": ("RGB",),
}
"""The modes of pictures that Pillow writes, by format."""

COMMON = ("png", "jpg", "gif", "bmp", "tif", "webp", "ppm", "avif")
"""The formats whose suffixes every tool takes for pictures."""


@lru_cache(maxsize=256)
def image_bytes(suffix: str = "png", mode: str = "RGB", seed: int = 0) -> bytes:
    """A sound picture of 128x96 pixels in that format; of an unknown format a PNG."""
    image = Image.fromarray(picture(seed))
    if mode == "LA":
        image = image.convert("L")
        image.putalpha(128)
    elif mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    elif mode == "LAB":
        image = Image.new("LAB", image.size, (120, 10, 200))
    else:
        image = image.convert(mode)
    names = {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000", "ppm": "PPM"}
    file = io.BytesIO()
    try:
        image.save(file, names.get(suffix, suffix.upper()))
    except (OSError, ValueError, KeyError, AttributeError):
        file = io.BytesIO()
        image.convert("RGB").save(file, "PNG")
    return file.getvalue()


def any_image(draw: random.Random, suffixes: tuple[str, ...] = tuple(FORMATS)) -> tuple[str, bytes]:
    """The suffix and the bytes of a sound picture of any format and mode."""
    suffix = draw.choice(suffixes)
    mode = draw.choice(FORMATS[suffix])
    return suffix, image_bytes(suffix, mode, draw.randrange(4))


def write_images(folder: Path, names: str, first_seed: int = 0) -> None:
    """A folder with a small sound PNG for each letter."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names, first_seed):
        (folder / f"{name}.png").write_bytes(image_bytes("png", "RGB", seed))


def tar_bytes(members: Mapping[str, bytes], **options: Any) -> bytes:
    """A tar of the members, as Python's own writer makes it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", **options) as tar:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return file.getvalue()


def job(**changes: Any) -> dict[str, Any]:
    """A job of 64 pixels and one step; `output__codec` reaches inside `output`."""
    content: dict[str, Any] = {
        "task": "style-transfer",
        "inputs": {"content": "content", "style": "style.png"},
        "output": {"uri": "run", "size": 64},
        "settings": {"num_inference_steps": 1, "num_optimization_steps": 1},
        "backbone": BACKBONE,
        "compute": {"device": "cpu", "io_threads": 2},
    }
    for name, value in changes.items():
        *parents, last = name.split("__")
        place = content
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is None:
            place.pop(last, None)
        else:
            place[last] = value
    return content


def write_job(folder: Path, content: Mapping[str, Any]) -> None:
    """`job.yaml` in the folder."""
    text = yaml.safe_dump(dict(content), allow_unicode=False, width=10_000)
    (folder / "job.yaml").write_text(text)


def write_style_transfer(folder: Path, contents: str = "ab", **changes: Any) -> None:
    """A sound job over `content/` with a picture for each letter, and `style.png`."""
    write_images(folder / "content", contents)
    (folder / "style.png").write_bytes(image_bytes("png", "RGB", 9))
    write_job(folder, job(**changes))
