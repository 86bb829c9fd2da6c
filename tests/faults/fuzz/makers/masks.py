"""Masks: of other sizes, with very many labels, in odd modes, damaged or missing."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
from PIL import Image

from tests.faults.fuzz import sound
from tests.faults.fuzz.cases import Case, run_command
from tests.faults.fuzz.damage import damaged
from tests.faults.fuzz.makers.pictures import flat_png, hostile_png


def one_odd_target(draw: random.Random, folder: Path) -> Case:
    """Sound target masks beside an odd one."""
    _write(draw, folder)
    (folder / "targets" / "odd.png").write_bytes(_odd_mask(draw))
    return Case(told="an odd target mask", sound=2, **run_command(draw))


def odd_source(draw: random.Random, folder: Path) -> Case:
    """The texture's own mask is odd, so that there may be nothing to render."""
    _write(draw, folder)
    (folder / "sources" / "t.png").write_bytes(_odd_mask(draw))
    return Case(told="an odd source mask", **run_command(draw))


def odd_texture(draw: random.Random, folder: Path) -> Case:
    """The texture is of another size than its mask, or odd itself."""
    _write(draw, folder)
    (folder / "textures" / "t.png").write_bytes(_odd_mask(draw))
    return Case(told="an odd texture", **run_command(draw))


MAKERS = (one_odd_target, one_odd_target, odd_source, odd_texture)


def _write(draw: random.Random, folder: Path) -> None:
    for name in ("textures", "sources", "targets"):
        (folder / name).mkdir()
    (folder / "textures" / "t.png").write_bytes(sound.image_bytes())
    (folder / "sources" / "t.png").write_bytes(_labels((96, 128), 3, 0))
    for number in range(2):
        (folder / "targets" / f"m{number}.png").write_bytes(_labels((64, 64), 3, number))
    inputs = {"texture": "textures", "source_mask": "sources", "target_mask": "targets"}
    sound.write_job(folder, sound.job(task="texture-masked", inputs=inputs))


def _labels(shape: tuple[int, int], count: int, seed: int) -> bytes:
    """A mask with so many labels, in stripes."""
    colours = np.arange(count)[np.arange(shape[1]) * count // shape[1]] * (255 // max(1, count - 1))
    grey = np.broadcast_to(np.roll(colours, seed * 7), shape).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.dstack([grey] * 3)).save(file, "PNG")
    return file.getvalue()


def _odd_mask(draw: random.Random) -> bytes:
    kind = draw.randrange(8)
    if kind == 0:
        return damaged(draw, _labels((96, 128), 3, 0))
    if kind == 1:
        noise = np.random.default_rng(draw.randrange(99)).integers(0, 256, (96, 128, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).save(file, draw.choice(("PNG", "JPEG", "WEBP")))
        return file.getvalue()
    if kind == 2:
        return _labels(draw.choice(((1, 1), (96, 127), (4000, 3), (64, 8192))), 2, 0)
    if kind == 3:
        return flat_png(draw, *draw.choice(((1, 20_000), (9459, 9459), (128, 96), (20_000, 1))))
    if kind == 4:
        return hostile_png(draw)
    if kind == 5:
        return _labels((96, 128), draw.choice((1, 2, 4, 64, 128)), 0)
    return sound.any_image(draw)[1]
