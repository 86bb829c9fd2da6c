"""What does one worker work with, and what does it ask its renderer for?

The run says the model and how exactly it computes, a generation may change some of that, and
`compute` says how many items are rendered together and how long a renderer may be silent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ad_lib.model.room import MAX_BATCH_SIZE
from infra.store import Store
from manifests.attempts import Worker
from manifests.commits import RunRecord
from manifests.items import Item
from manifests.job import Compute, Job
from tasks.inputs.devices import devices_for
from tasks.results.publisher import Publisher
from tasks.runs.item_settings import settings_of
from tasks.work.breaker import Breaker
from tasks.work.events import WorkEvent
from tasks.work.queue import ShardQueue
from tasks.work.shard_work import PlannedModel, Renderer, ShardWork

MIN_HANG_SECONDS = 300.0
MAX_COMPILING_SECONDS = 1800.0
"""How long a step may take that compiles a large network for a new size of batch."""
STEPS_UNTIL_HUNG = 10


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """What one worker works with, from its first shard to its last."""

    store: Store
    run: RunRecord
    job: Job
    compute: Compute
    device: str
    worker: Worker
    renderer: Renderer
    queue: ShardQueue
    publisher: Publisher
    breaker: Breaker
    should_stop: Callable[[], bool]
    tell: Callable[[WorkEvent], None]

    def shard_work(
        self,
        changes: Mapping[str, Any],
        *,
        items: Sequence[Item] = (),
        alone: Sequence[str] = (),
        batch_size: int = 1,
        scratch: Path = Path(),
    ) -> ShardWork:
        """What the renderer is asked for; without items, only to load the model.

        Args:
            changes: what the generation of the shard changes.
            items: those that have no outcome yet, in plan order.
            alone: the `item_id`s of those that are tried first, each by itself.
            batch_size: items rendered together at most.
            scratch: a folder for the pictures.
        """
        return ShardWork(
            items=tuple(items),
            alone=tuple(alone),
            job=self.job,
            model=self._model(changes),
            device=self._device(changes),
            batch_size=batch_size,
            memory_sharers=memory_sharers(self.compute, self.device),
            compile=self.compute.compile,
            io_threads=self.compute.io_threads,
            scratch=scratch,
            png_strategy=self.run.png_strategy,
        )

    def _model(self, changes: Mapping[str, Any]) -> PlannedModel:
        """The model of the run; a generation may say another precision."""
        run = self.run
        return PlannedModel(
            model_id=run.model_id,
            revision=run.model_revision,
            config=run.model_config_id,
            controlnet=run.controlnet_id,
            dtype=changes.get("dtype") or run.dtype or self.job.backbone.dtype,
            deterministic=run.deterministic,
        )

    def _device(self, changes: Mapping[str, Any]) -> str:
        """The worker's device, or one of the kind that a generation says."""
        kind = changes.get("device_type")
        if kind is None or self.device.partition(":")[0] == kind:
            return self.device
        return devices_for(kind, "auto", 1)[0]


def most_together(compute: Compute) -> int:
    """Items of a batch at most, before anything is known of memory."""
    return MAX_BATCH_SIZE if compute.batch_size == "auto" else compute.batch_size


def memory_sharers(compute: Compute, device: str) -> int | None:
    """The workers that share a device's memory; None where it does not bound batches.

    Those on a processor share its memory; each accelerator has its own, and one worker.
    """
    if compute.batch_size != "auto":
        return None
    return (compute.workers or 1) if device.partition(":")[0] == "cpu" else 1


def hang_seconds(compute: Compute, items: Sequence[Item], device: str = "cpu") -> float:
    """How long a renderer may show no progress: ten steps of a batch by the estimate, unless given.

    Steps are the settings' `num_inference_steps`. Where networks are compiled a step may take long.
    """
    if compute.hang_seconds is not None:
        return compute.hang_seconds
    seconds = (item.cost_seconds / settings_of(item).num_inference_steps for item in items)
    longest = max(seconds, default=0.0)
    compiles = compute.compile in ("reduce", "max") or (
        compute.compile == "auto" and device.startswith("cuda")
    )
    least = MAX_COMPILING_SECONDS if compiles else MIN_HANG_SECONDS
    return max(least, STEPS_UNTIL_HUNG * most_together(compute) * longest)
