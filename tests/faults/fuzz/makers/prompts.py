"""Prompts: of any length and letters, in jobs, in text files and in tables."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tests.faults.fuzz import sound, words
from tests.faults.fuzz.cases import Case, run_command
from tests.faults.fuzz.damage import damaged


def in_jobs(draw: random.Random, folder: Path) -> Case:
    """Prompts that a job lists."""
    prompts = [words.text(draw) for _ in range(draw.choice((1, 1, 2, 3)))]
    inputs: dict[str, object] = {"style": "style.png", "prompt": prompts}
    if draw.random() < 0.3:
        inputs["negative_prompt"] = words.text(draw)
    return _case(draw, folder, inputs, f"prompts {prompts!r}"[:60])


def in_text_files(draw: random.Random, folder: Path) -> Case:
    """Files of prompts, in other encodings, with other line ends, very long, or damaged."""
    lines = [words.text(draw) for _ in range(draw.choice((0, 1, 5)))] + ["a house"]
    data = draw.choice(
        (
            *(
                "\n".join(lines).encode("utf-8", "surrogatepass"),
                "\r".join(lines).encode("utf-16", "replace"),
            ),
            *(
                b"",
                b"\n\n",
                b"\0" * 50,
                b"a house\n" * 5000,
                b"a" * 10**6,
                b"\xff\xfe",
                b"\xef\xbb\xbfa",
            ),
            *(
                b"\n".join(b"house %d" % n for n in range(200)),
                damaged(draw, b"a house\nby the sea\n" * 9),
            ),
        )
    )
    (folder / "p.txt").write_bytes(data)
    return _case(draw, folder, {"style": "style.png", "prompt": "p.txt"}, "a file of prompts")


def in_tables(draw: random.Random, folder: Path) -> Case:
    """Prompts in the rows of a table; the other rows have sound ones."""
    odd = words.value(draw)
    rows = [{"style": "style.png", "prompt": one} for one in ("a house", odd, "a tree")]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return _case(draw, folder, {"table": "t.jsonl"}, f"prompt {odd!r}"[:60], sound_items=2)


MAKERS = (in_jobs, in_text_files, in_tables)


def _case(
    draw: random.Random,
    folder: Path,
    inputs: dict[str, object],
    told: str,
    sound_items: int = 0,
) -> Case:
    (folder / "style.png").write_bytes(sound.image_bytes())
    backbone = draw.choice((sound.BACKBONE, sound.BACKBONE, "embedded"))
    sound.write_job(folder, sound.job(task="style-t2i-sd15", inputs=inputs, backbone=backbone))
    renders = 0.25 if backbone != "embedded" else 0.05
    return Case(told=told, sound=sound_items, **run_command(draw, renders=renders))
