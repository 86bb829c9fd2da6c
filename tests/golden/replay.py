"""Replays recorded runs of the published method: `python -m tests.golden.replay DIR`.

Does the library compute what the authors' code computes? Everything is read from the folder
(`cases.json`, `cases/`, `unit/`, `models/`, `inputs/`); nothing about a particular set is known
here.

The rule: a figure is held to ten times the deviation that the reference shows against itself where
the set records that, and otherwise to 1e-5; never below 1e-5. If a figure is above this tolerance,
the same computation is repeated on this machine from inputs that are disturbed by Gaussian noise of
1e-6, up to 24 times, and the figure is held to ten times the deviation that this causes. This goes
for features, losses, gradients, noise predictions (`first noise_pred`), latents and pictures alike:
other processors, libraries and numbers of threads round differently, and a guidance scale of 7
multiplies it. A whole run is disturbed by what its first step is off, if that is more than 1e-6.
Whatever is exact, such as timesteps and views, is held to equality.

It runs on one thread; OMP_NUM_THREADS sets another number. Exit code 1 if any figure is above its
tolerance or a recording is not replayed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.golden.cases import CASES
from tests.golden.recordings import Golden, Row
from tests.golden.units import UNITS


def replay(golden: Golden) -> Iterator[Row]:
    """Every unit recording, then every case."""
    for check in UNITS.values():
        yield check(golden)
    for path in sorted((golden.folder / "unit").glob("*.npz")):
        if path.stem not in UNITS:
            yield Row(path.stem, note="nothing here replays it")
    for name, case in golden.cases.items():
        if case["kind"] in CASES:
            yield CASES[case["kind"]](golden, name)
        else:
            yield Row(name, note=f"{case['kind']}: nothing here replays it")


def main(arguments: list[str] | None = None) -> int:
    """Prints a row per recording; 1 if any figure is above its tolerance."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="a golden set")
    golden = Golden(parser.parse_args(arguments).folder)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    failed = 0
    for row in replay(golden):
        sys.stdout.write(f"{row}\n")
        sys.stdout.flush()
        failed += not row.ok
    sys.stdout.write(f"{failed} above tolerance\n" if failed else "all within tolerance\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
