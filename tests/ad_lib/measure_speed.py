"""What measuring a picture costs: `python -m tests.ad_lib.measure_speed`.

Prints the CPU seconds that one thread takes for the first result of a style and content, and the
median for those that follow. With many results of one style a worker pays the second.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from PIL import Image

from ad_lib.pictures.images import fit_image
from ad_lib.pictures.measure import Judge
from manifests import examples


def main() -> None:
    """Prints both figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512, help="pixels of a side")
    parser.add_argument("--repeat", type=int, default=15, help="times that each is taken")
    options = parser.parse_args()
    torch.set_num_threads(1)
    content, style = (_photo(name, options.size) for name in ("cat", "hokusai_great_wave"))
    result = Image.blend(content, style.rotate(90), 0.4)  # strokes of the style, and no copies
    judge = Judge()
    judge.measure(result, styles=[style], content=content)

    def measure(by: Judge) -> None:
        by.measure(result, styles=[style], content=content)

    first, following = [], []
    for _ in range(options.repeat):
        first.append(_cpu_seconds(lambda: measure(Judge())))
        following.append(_cpu_seconds(lambda: measure(judge)))
    sys.stdout.write(
        f"{options.size}x{options.size}, CPU seconds of one thread, medians of {options.repeat}:\n"
        f"first result of a style and content: {median(first):.3f}\n"
        f"each that follows: {median(following):.3f} (least {min(following):.3f})\n"
    )


def _photo(name: str, side: int) -> Image.Image:
    (path,) = Path(examples.__file__).parent.glob(f"images/*/{name}.jpg")
    return fit_image(Image.open(path).convert("RGB"), side, side)


def _cpu_seconds(act: Callable[[], None]) -> float:
    started = time.process_time()
    act()
    return time.process_time() - started


if __name__ == "__main__":
    main()
