"""`stylefarm render`: one picture from files, with hostile files and options."""

from __future__ import annotations

import random
from pathlib import Path

from tests.faults.fuzz import sound, words
from tests.faults.fuzz.cases import Case
from tests.faults.fuzz.damage import damaged
from tests.faults.fuzz.makers.jobs import SCALARS, SETTINGS, TASKS
from tests.faults.fuzz.makers.pictures import hostile_jpeg, hostile_png, hostile_tiff


def hostile_files(draw: random.Random, folder: Path) -> Case:
    """Content or style is a hostile picture, a folder, or not there."""
    (folder / "style.png").write_bytes(sound.image_bytes("png", "RGB", 9))
    make = draw.choice((hostile_png, hostile_jpeg, hostile_tiff, _damaged, _none))
    name = draw.choice(("c.png", "c.png", "gone.png", "d", "/dev/null"))
    if name == "c.png":
        (folder / name).write_bytes(make(draw))
    elif name == "d":
        (folder / name).mkdir()
    return _case(("--content", name, "--style", "style.png"), "a hostile content")


def hostile_options(draw: random.Random, folder: Path) -> Case:
    """Options of the command with texts and numbers of any kind."""
    (folder / "c.png").write_bytes(sound.image_bytes())
    (folder / "style.png").write_bytes(sound.image_bytes("png", "RGB", 9))
    odd = words.text(draw).replace("\0", "").encode("utf-8", "replace").decode()
    option = draw.choice(
        (
            *(
                ("--preset", draw.choice((*TASKS, odd))),
                ("--size", draw.choice(("0", "-1", "1x1", "9" * 30, odd))),
            ),
            *(("--seed", draw.choice(("-1", "9" * 30, "x", str(2**64)))), ("--prompt", odd)),
            *(("--backbone", odd), ("--controlnet", odd), ("--config", odd), ("--dtype", odd)),
            *(
                ("--negative-prompt", odd),
                ("--output", draw.choice(("o.gif", "o", "", "/dev/full", "c.png/o.png"))),
            ),
            *(("--set", f"{draw.choice(SETTINGS)}={draw.choice(SCALARS)}"), ("--set", odd)),
            *(("--mask", odd), ("--source-mask", "c.png"), ("--layout", "c.png")),
        )
    )
    option = tuple(one.replace("\0", "") for one in option)
    return _case(
        ("--content", "c.png", "--style", "style.png", *option), f"{option[0]} {option[-1]!r}"[:60]
    )


MAKERS = (hostile_files, hostile_options)


def _damaged(draw: random.Random) -> bytes:
    return damaged(draw, sound.any_image(draw)[1])


def _none(draw: random.Random) -> bytes:
    return b""


def _case(arguments: tuple[str, ...], told: str) -> Case:
    fixed = ("render", "--output", "o.png", "--backbone", sound.BACKBONE, "--size", "64")
    steps = ("--set", "num_inference_steps=1", "--set", "num_optimization_steps=1")
    command = tuple(one for one in (*fixed, *steps, *arguments))
    return Case(told=told, command=command, may_write=("o.png",))
