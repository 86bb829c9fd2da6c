"""Shards for tests of rendering: sound pictures, and pictures that mean a fault."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from manifests.outcomes import Outcome
from tasks.runs.run_folder import load_plan, open_run, recorded_job
from tasks.work.shard_work import MemoryNeed, PlannedModel, ShardWork
from tests.bad_images import picture
from tests.faults.planted_renderers.sitecustomize import FAULTS
from tests.tasks.runs import prepare


class Told:
    """A watch that writes down what it is told."""

    def __init__(self, on_begin: Callable[[], None] = lambda: None) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self.begun: list[tuple[tuple[str, ...], bool]] = []
        self.phases: list[str] = []
        self.items = 0.0
        self.fits: list[int] = []
        self.peaks: list[int] = []
        self.needed: list[MemoryNeed] = []
        self.ticks = 0
        self.stopping = threading.Event()
        self.on_begin = on_begin

    def should_stop(self) -> bool:
        return self.stopping.is_set()

    def phase(self, name: str) -> None:
        self.phases.append(name)

    def loaded(self, seconds: float, device_name: str) -> None:
        self.load_seconds = seconds

    def begin(self, item_ids: Sequence[str], *, alone: bool) -> None:
        self.begun.append((tuple(item_ids), alone))
        self.on_begin()

    def advance(self, items: float) -> None:
        self.items += items

    def finish(self, outcome: Outcome) -> None:
        assert outcome.item.item_id not in self.outcomes, "finished twice"
        self.outcomes[outcome.item.item_id] = outcome

    def waited(self, for_input: float, for_output: float) -> None:
        self.waits = (for_input, for_output)

    def needs(self, need: MemoryNeed) -> None:
        self.needed.append(need)

    def held(self, num_bytes: int) -> None:
        self.peaks.append(num_bytes)

    def fitted(self, batch_size: int) -> None:
        self.fits.append(batch_size)

    def tick(self) -> None:
        self.ticks += 1

    @property
    def in_hand(self) -> set[str]:
        return {name for names, _ in self.begun for name in names} - self.outcomes.keys()


def planted(base: Path, *faults: str, num_sound: int = 3, **changes: Any) -> ShardWork:
    """A shard of sound pictures, and one for each fault."""
    (base / "content").mkdir(parents=True)
    (base / "style").mkdir()
    (base / "scratch").mkdir()
    Image.fromarray(picture(seed=1)).save(base / "style" / "x.png")
    for number in range(num_sound):
        Image.fromarray(picture(seed=number)).save(base / "content" / f"sound{number}.png")
    for fault in faults:
        colour = (255, 0, 8 + 16 * FAULTS.index(fault))
        Image.new("RGB", (96, 128), colour).save(
            base / "content" / f"{fault.replace('_', '-')}.png"
        )
    planned = prepare(base, compute={"device": "cpu", "shard_items": 100}, **changes)
    store, run = open_run(planned.uri)
    plan = load_plan(store, run)
    return ShardWork(
        items=tuple(plan.items("00000")),
        job=recorded_job(run),
        model=PlannedModel(model_id=run.model_id, revision=run.model_revision, dtype="float32"),
        device="cpu",
        batch_size=2,
        io_threads=2,
        scratch=base / "scratch",
        png_strategy=run.png_strategy,
    )


def item_id(work: ShardWork, name: str) -> str:
    (found,) = [item.item_id for item in work.items if item.key.startswith(name.replace("_", "-"))]
    return found


def without(work: ShardWork, told: Told, *alone: str) -> ShardWork:
    """What is left to do."""
    rest = tuple(item for item in work.items if item.item_id not in told.outcomes)
    return replace(work, items=rest, alone=alone)
