"""Do edges of the style lie in the results, where they lie in the style?

    python -m tests.ad_lib.leaked_edges RUN

A finished run, by entry of its sweep: `edge_f1` between each result and its style, both at the
result's size, beside that between the content and the style (what the pair shares by chance), and
the row's `patch_copy`. It is to judge `patch_copy` by: see docs/LIMITS.md.
"""

from __future__ import annotations

import sys
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from rich.console import Console
from rich.table import Table

from ad_lib import decode_image
from ad_lib.pictures.images import fit_image
from ad_lib.pictures.structure import edge_f1
from ad_lib.pictures.tensors import image_to_tensor

Row = tuple[float, float, float]


def measured(run: Path) -> Iterator[tuple[str, Row]]:
    """Each result's label; what it shares with the style, what the content does, its copies."""
    members: dict[str, bytes] = {}
    for path in run.glob("data/*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                members[member.name] = file.read() if file else b""
    for path in run.glob("metadata/*/*.parquet"):
        for row in pq.read_table(path).to_pylist():
            if row["status"] != "ok":
                continue
            result = decode_image(members[row["outputs"][0]["name"]])
            inputs = {one["role"]: one["uri"] for one in row["inputs"]}
            style, *content = (
                fit_image(decode_image(Path(inputs[role]).read_bytes()), *result.size)
                for role in ("style", "content")
                if role in inputs
            )
            by_chance = _agreement(content[0], style) if content else float("nan")
            yield row["label"], (_agreement(result, style), by_chance, row["patch_copy"])


def _agreement(one: Image.Image, other: Image.Image) -> float:
    return float(edge_f1(image_to_tensor(one), image_to_tensor(other)))


def main() -> None:
    """Prints the table."""
    by_label: dict[str, list[Row]] = defaultdict(list)
    for label, row in measured(Path(sys.argv[1])):
        by_label[label].append(row)
    table = Table("entry", "edges of the style", "the content has", "patch_copy")
    for label, rows in by_label.items():
        table.add_row(label, *(f"{mean:.3f}" for mean in np.mean(rows, 0)))
    Console().print(table)


if __name__ == "__main__":
    main()
