"""Replays recorded runs of the published method: `python -m tests.golden.replay DIR`.

Does the library compute what the authors' code computes? Everything is read from the folder
(`cases.json`, `cases/`, `unit/`, `models/`, `inputs/`); nothing about a particular set is known
here. A figure is held to ten times the deviation that the reference shows against itself, and
never below 1e-5. Exit code 1 if any figure is above its tolerance or a recording is not replayed.
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
