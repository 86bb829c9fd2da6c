"""What does each entry of a sweep cost? Table 1 of the paper's supplement, for any sweep.

Derived from the rows that count. Seconds are those of synthesis alone: without loading, encoding
and decoding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from ad_lib.presets import PRESETS
from manifests.items import Status
from tasks.runs.committed import Committed
from tasks.runs.item_settings import settings_in
from tasks.runs.run_folder import recorded_job


@dataclass(frozen=True)
class Published:
    """What Table 1 says of a row; None where the number is not at hand."""

    seconds: float | None = None
    memory_bytes: int | None = None


TABLE_1: Mapping[tuple[str, int, int], Published] = {
    ("texture-optimize", 100, 1): Published(),
    ("texture-optimize", 200, 1): Published(),
    ("texture-optimize", 300, 1): Published(),
    ("texture-sample", 50, 1): Published(),
    ("texture-sample", 50, 2): Published(),
    ("texture-sample", 50, 3): Published(),
}
"""The rows of the published table by task, timesteps and iterations at each.

Its numbers were not at hand when this was written: fill them in from the paper's supplement, where
you have it. Nothing here is guessed.
"""


@dataclass(frozen=True)
class Cost:
    """One entry of a sweep.

    Attributes:
        label, task: of the entry.
        num_timesteps, num_iterations: that it visits, and Adam steps at each; None of a task that
            has none, such as a baseline.
        seconds: of synthesis, of each of its pictures.
        memory_bytes: of the accelerator that the largest batch held; None on a CPU.
        published: the row of Table 1 that it repeats; None where it repeats none.
    """

    label: str
    task: str
    num_timesteps: int | None
    num_iterations: int | None
    seconds: tuple[float, ...]
    memory_bytes: int | None
    published: Published | None

    @property
    def median_seconds(self) -> float | None:
        """Of a picture; None where no picture is finished."""
        return median(self.seconds) if self.seconds else None


@dataclass(frozen=True)
class CostTable:
    """The entries in the order of the sweep, and what they were measured on.

    Attributes:
        devices, sizes: of the pictures that were measured, each named once.
        model_id: of the backbone.
        is_compiled: whether the seconds may hold the compilation of a first batch.
    """

    costs: tuple[Cost, ...]
    devices: tuple[str, ...]
    sizes: tuple[str, ...]
    model_id: str
    is_compiled: bool


@dataclass
class _Seen:
    """What was found of one entry."""

    task: str
    params: str
    seconds: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)


def cost_table(committed: Committed) -> CostTable:
    """The seconds and the memory of each entry of a run's sweep; of a run without one, its own.

    Raises:
        RunFolderError: a committed file is damaged.
    """
    run = committed.plan.run
    job = recorded_job(run)
    seen: dict[str, _Seen] = {}
    devices: dict[str, None] = {}
    sizes: dict[str, None] = {}
    for shard in committed.live:
        for row, _ in committed.counting_rows(shard):
            one = seen.setdefault(row["label"], _Seen(row["task"], row["params"]))
            if row["status"] != Status.OK:
                continue
            _add(one, row)
            devices[row["device_name"] or "a device that has no name"] = None
            sizes[_size(row)] = None
    order = [column.label for column in job.columns] or [""]
    order += [label for label in seen if label not in order]
    return CostTable(
        costs=tuple(_cost(label, seen[label]) for label in order if label in seen),
        devices=tuple(devices),
        sizes=tuple(sizes),
        model_id=run.model_id,
        is_compiled=_is_compiled(job.compute.compile, run.device_type),
    )


def _is_compiled(asked: str, device_type: str | None) -> bool:
    return asked != "off" and (asked != "auto" or device_type == "cuda")


def _add(one: _Seen, row: dict[str, Any]) -> None:
    if row["synthesis_seconds"] is not None:
        one.seconds.append(row["synthesis_seconds"])
    if row["peak_memory_bytes"] is not None:
        one.memory.append(row["peak_memory_bytes"])


def _size(row: dict[str, Any]) -> str:
    params = json.loads(row["params"])
    return f"{params['width']}x{params['height']}"


def _cost(label: str, seen: _Seen) -> Cost:
    settings, preset = settings_in(seen.params), PRESETS.get(seen.task)
    steps = settings.num_inference_steps, settings.num_optimization_steps
    has_steps = preset is not None and preset.uses("num_optimization_steps")
    return Cost(
        label=label,
        task=seen.task,
        num_timesteps=steps[0] if has_steps else None,
        num_iterations=steps[1] if has_steps else None,
        seconds=tuple(seen.seconds),
        memory_bytes=max(seen.memory, default=None),
        published=TABLE_1.get((seen.task, *steps)),
    )
