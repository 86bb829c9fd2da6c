"""Real small runs to compare, made once for all tests that read them and change nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

SWEEP = [
    {"label": "ours", "num_inference_steps": 2},
    {"label": "ours, no content", "num_inference_steps": 2, "content_weight": 0.0},
    {"label": "adain", "task": "baseline-adain"},
]


@dataclass(frozen=True)
class ComparedRuns:
    """Runs over the same pictures; of each a content is broken, so that a third of it fails.

    Attributes:
        base: the folder of pictures and runs; relative paths start here.
        swept: three entries, of four pictures and two failed items each.
        moved: one picture of each case, without a sweep; its files are called otherwise.
    """

    base: Path
    swept: str = "swept"
    moved: str = "elsewhere/moved"


@pytest.fixture(scope="session")
def compared_runs(tmp_path_factory: pytest.TempPathFactory) -> ComparedRuns:
    """See `ComparedRuns`."""
    from tests.conftest import write_pictures  # which imports this module
    from tests.tasks.runs import prepare, render_pending

    runs = ComparedRuns(write_pictures(tmp_path_factory.mktemp("compared")))
    (runs.base / "content" / "b.png").write_bytes(b"")
    render_pending(prepare(runs.base, settings={}, sweep=SWEEP, output__uri=runs.swept))
    elsewhere = runs.base / "elsewhere"
    for role in ("content", "style"):
        (elsewhere / role).mkdir(parents=True)
        for picture in (runs.base / role).iterdir():
            (elsewhere / role / f"other-{picture.name}").write_bytes(picture.read_bytes())
    render_pending(prepare(elsewhere, output__uri="moved", seed=7))
    return runs
