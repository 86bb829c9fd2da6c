"""Places: URIs of every kind, and files that are none: pipes, devices, loops, links, odd names."""

from __future__ import annotations

import os
import random
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.faults.fuzz import sound, words
from tests.faults.fuzz.cases import Case, run_command


def uris(draw: random.Random, folder: Path) -> Case:
    """Every key of a job that names a place, with a text of any kind in it."""
    sound.write_style_transfer(folder, "ab")
    place = draw.choice(("content", "style", "table", "backbone", "controlnet", "config", "prompt"))
    named = words.text(draw)
    changes: dict[str, Any] = {f"inputs__{place}": named}
    if place == "table":
        changes = {"inputs": {"table": draw.choice((named, named + ".csv", named + ".parquet"))}}
    elif place in ("controlnet", "config"):
        changes = {"backbone": {"name": sound.BACKBONE, place: named}}
    elif place == "backbone":
        changes = {"backbone": draw.choice((named, named + ".safetensors"))}
    elif place == "prompt":
        changes = {
            "task": "style-t2i",
            "inputs": {"style": "style.png", "prompt": [named + ".txt"]},
        }
    sound.write_job(folder, sound.job(**changes))
    return Case(told=f"{place}: {named!r}"[:60], command=("run", "job.yaml", "--dry-run"))


def output_uris(draw: random.Random, folder: Path) -> Case:
    """Run folders that cannot be, checked without writing."""
    named = words.text(draw)
    sound.write_style_transfer(folder, "ab", output__uri=named)
    return Case(told=f"output: {named!r}"[:60], command=("run", "job.yaml", "--dry-run"))


def outputs_taken(draw: random.Random, folder: Path) -> Case:
    """A run folder whose place holds something else."""
    sound.write_style_transfer(folder, "ab")
    place = folder / "run"
    kind = draw.choice(("file", "link", "loop", "pipe", "inputs", "below a file", "stray"))
    if kind == "file":
        place.write_bytes(b"x")
    elif kind == "link":
        place.symlink_to(draw.choice(("/dev/null", "/dev/full", "nowhere", "style.png")))
    elif kind == "loop":
        place.symlink_to("run")
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "inputs":
        sound.write_job(folder, sound.job(output__uri="content"))
        return Case(told="the run folder is the input", command=("run", "job.yaml", "--dry-run"))
    elif kind == "below a file":
        sound.write_job(folder, sound.job(output__uri="style.png/run"))
    else:
        for name in draw.sample(
            ("run.json", "plan", "commits", "data", "index.json", "attempts"), 2
        ):
            (place / name).mkdir(parents=True)
    return Case(told=f"the run folder is a {kind}", **run_command(draw))


def odd_files(draw: random.Random, folder: Path) -> Case:
    """A folder of sound pictures and of things that are not files, or have odd names."""
    sound.write_style_transfer(folder, "ab")
    kinds = [draw.choice(_ODD_FILES) for _ in range(draw.choice((1, 1, 2, 3)))]
    for number, kind in enumerate(kinds):
        with suppress(OSError):
            kind(draw, folder / "content", number)
    told = ", ".join(kind.__name__.strip("_") for kind in kinds)
    return Case(told=told, sound=2, **run_command(draw))


def odd_job_files(draw: random.Random, folder: Path) -> Case:
    """A job file, table or list of prompts that is no file, or has no end."""
    sound.write_style_transfer(folder, "ab")
    which = draw.choice(("job.yaml", "t.csv", "p.txt", "s.tar", "model.safetensors"))
    if which == "t.csv":
        sound.write_job(folder, sound.job(inputs={"table": which}))
    elif which == "p.txt":
        sound.write_job(
            folder, sound.job(task="style-t2i", inputs={"style": "style.png", "prompt": which})
        )
    elif which == "s.tar":
        sound.write_job(folder, sound.job(inputs__content=which))
    elif which == "model.safetensors":
        sound.write_job(folder, sound.job(backbone=f"./{which}"))
    place = folder / which
    place.unlink(missing_ok=True)
    kind = draw.choice(
        ("pipe", "folder", "zero", "loop", "nowhere", "sparse", "socket", "gone", "proc")
    )
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "sparse":
        with place.open("wb") as file:
            file.truncate(draw.choice((10**8, 10**10)))
    elif kind == "socket":
        _socket(draw, folder, 0, which)
    elif kind != "gone":
        targets = {
            "zero": "/dev/zero",
            "loop": which,
            "nowhere": "nowhere",
            "proc": "/proc/self/mem",
        }
        place.symlink_to(targets[kind])
    return Case(told=f"{which} is a {kind}", **run_command(draw))


def odd_run_uris(draw: random.Random, folder: Path) -> Case:
    """`status` and `report` of what is no run folder."""
    sound.write_images(folder / "content", "a")
    named = draw.choice(
        (words.text(draw).replace("\0", ""), "content", "content/a.png", "/dev/null", "gone")
    )
    named = named.encode("utf-8", "replace").decode()
    command = (draw.choice(("status", "report")), "--", named)
    return Case(told=f"{command[0]} {named!r}"[:60], command=command)


MAKERS = (
    uris,
    uris,
    uris,
    output_uris,
    outputs_taken,
    odd_files,
    odd_files,
    odd_job_files,
    odd_run_uris,
)


def _pipe(draw: random.Random, folder: Path, number: int) -> None:
    os.mkfifo(folder / f"pipe{number}.png")


def _socket(draw: random.Random, folder: Path, number: int, name: str = "") -> None:
    here = Path.cwd()
    os.chdir(folder)
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(name or f"socket{number}.png")
    finally:
        os.chdir(here)


def _link(draw: random.Random, folder: Path, number: int) -> None:
    targets = (
        *(
            "nowhere.png",
            "/nowhere/x.png",
            f"link{number}.png",
            "a.png",
            "..",
            ".",
            "/dev/null",
        ),
        *(
            "/dev/zero",
            "/dev/random",
            "/dev/full",
            "/dev/stdin",
            "/dev/tty",
            "/proc/self/mem",
            "/proc/kmsg",
        ),
        *("/proc/self/environ", "/etc/shadow", "../style.png", "../../secret.png", "x" * 255),
    )
    (folder / f"link{number}{draw.choice(('.png', '.png', '', '.tar'))}").symlink_to(
        draw.choice(targets)
    )


def _loop(draw: random.Random, folder: Path, number: int) -> None:
    (folder / f"loop{number}").symlink_to(draw.choice((".", "..", "nowhere")))


def _folder(draw: random.Random, folder: Path, number: int) -> None:
    (folder / f"folder{number}.png").mkdir()
    (folder / f"folder{number}.png" / "c.png").write_bytes(sound.image_bytes("png", "RGB", 3))


def _deep(draw: random.Random, folder: Path, number: int) -> None:
    place = folder
    for _ in range(draw.choice((20, 100))):
        place = place / draw.choice(("d", "d", "d" * 30))
        place.mkdir(exist_ok=True)
    (place / "deep.png").write_bytes(sound.image_bytes())


def _odd_name(draw: random.Random, folder: Path, number: int) -> None:
    names = (
        *(
            b"\xff\xfe.png",
            b"\x1b[31mred.png",
            b"a\nb.png",
            b"\xe2\x80\xae.png",
            b"n" * 251 + b".png",
        ),
        *(
            b" .png",
            b"..png",
            b"a.png.png",
            b"[bold].png",
            b"{a,b}.png",
            b"*.png",
            b"\x80\x81.jpg",
            b"~.png",
        ),
        *(
            "写真.png".encode(),
            "e\u0301.png".encode(),
            "\u00e9.png".encode(),
            b"A.png",
            b"-rf.png",
            b"capital.PNG",
        ),
        *(
            b"con.png",
            b"\\x.png",
            b"%41.png",
            b"#.png",
            b"?.png",
            b"a b.png",
            b"\x7f.png",
            b"\xc2\x85.png",
        ),
    )
    (folder / os.fsdecode(draw.choice(names))).write_bytes(sound.image_bytes("png", "RGB", number))


def _sparse(draw: random.Random, folder: Path, number: int) -> None:
    with (folder / f"sparse{number}.png").open("wb") as file:
        file.write(sound.image_bytes()[: draw.choice((0, 30, 10**6))])
        file.truncate(draw.choice((10**8, 10**10, 10**12)))


def _many(draw: random.Random, folder: Path, number: int) -> None:
    for one in range(draw.choice((50, 300))):
        (folder / f"many{number}-{one}.png").write_bytes(b"")


def _other_files(draw: random.Random, folder: Path, number: int) -> None:
    for name in (
        "notes.txt",
        "Thumbs.db",
        ".DS_Store",
        ".hidden.png",
        "x.heic",
        "x.svg",
        "x.json",
        "x.png~",
    ):
        (folder / name).write_bytes(draw.randbytes(20))


_ODD_FILES = (
    *(_pipe, _socket, _link, _link, _link, _loop, _folder, _deep, _odd_name, _odd_name, _sparse),
    *(_many, _other_files),
)
