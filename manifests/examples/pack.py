"""Packs the example pictures into WebDataset shards, as a dataset's user would have them.

python -m manifests.examples.pack runs/demo-shards
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

IMAGES = Path(__file__).parent / "images"
COLOURFUL_TEXTURES = ("galaxies.jpg", "palm_leaves.jpg")
SAMPLES_PER_SHARD = 3


def pack(folder: Path) -> list[Path]:
    """Writes `content-00N.tar` and `style-00N.tar`; styles are paintings and textures."""
    folder.mkdir(parents=True, exist_ok=True)
    textures = [IMAGES / "texture" / name for name in COLOURFUL_TEXTURES]
    sources = {
        "content": sorted((IMAGES / "content").glob("*.jpg")),
        "style": [*sorted((IMAGES / "style").glob("*.jpg")), *textures],
    }
    return [path for role, images in sources.items() for path in _write(folder, role, images)]


def _write(folder: Path, role: str, images: list[Path]) -> Iterator[Path]:
    facts = _facts()
    for number, start in enumerate(range(0, len(images), SAMPLES_PER_SHARD)):
        path = folder / f"{role}-{number:03d}.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for image in images[start : start + SAMPLES_PER_SHARD]:
                name = f"{image.parent.name}/{image.name}"
                about = json.dumps(facts[name], sort_keys=True).encode()
                _add(tar, [(image.name, image.read_bytes()), (f"{image.stem}.json", about)])
        yield path


def _add(tar: tarfile.TarFile, members: Iterable[tuple[str, bytes]]) -> None:
    for name, data in members:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))


def _facts() -> dict[str, dict[str, str]]:
    """Title, author, source and licence of every picture, by file."""
    with (IMAGES / "sources.csv").open(newline="", encoding="utf-8") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    pack(parser.parse_args().folder)
