"""The drawing command: `python -m training.drawings FOLDER` writes pictures to measure on.

They are of the kind that the model is trained on, each with its caption in a text file beside it,
from seeds above those of the training stream: no training has seen them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data import NUM_SEEDS
from training.procedural import draw


def fresh_drawings(count: int, side: int = 256) -> list[tuple[NDArray[np.uint8], str]]:
    """Pictures (side, side, 3) that no training has seen, with their captions."""
    return [draw(NUM_SEEDS + seed, side) for seed in range(count)]


def main() -> None:
    """Write drawings and captions into a folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where they go; made where it is missing")
    parser.add_argument("--count", type=int, default=32)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for number, (pixels, caption) in enumerate(fresh_drawings(options.count)):
        Image.fromarray(pixels).save(options.folder / f"{number:03}.png")
        (options.folder / f"{number:03}.txt").write_text(f"{caption}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
