"""What does one worker tell Prometheus of itself?

Its figures are put together from what it tells (`tasks.work.events`), so that nothing which renders
knows of them. Items count as soon as they have their outcome; seconds, memory and money when their
shard is committed: these are the sum of the worker's commits, figure by figure. Every figure names
its run: the next run's worker answers at the same port, and whose figures these were is known after
both have ended.
"""

from __future__ import annotations

import threading
import time
from collections import Counter as Tally
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from manifests.items import ErrorClass
from manifests.shard_stats import ShardStats
from tasks.runs.environment import versions
from tasks.work.events import (
    Began,
    Committed,
    CommittedElsewhere,
    ItemDone,
    Pending,
    Phase,
    Restarted,
    WorkEvent,
)


class WorkerMetrics(Collector):
    """The figures of one worker, from its start to its end; any thread may tell and read.

    Args:
        run_uri: the run folder.
        price_per_hour: of the worker's machine; where it is None no money is told.

    Attributes:
        registry: holds these figures and no others.
        last_told: when the worker told something last, by the clock of `time.monotonic`.
    """

    def __init__(self, run_uri: str, price_per_hour: float | None = None) -> None:
        self.registry = CollectorRegistry()
        self._run_uri, self._price = run_uri, price_per_hour
        self._lock = threading.Lock()
        self.last_told = time.monotonic()
        self._began: Began | None = None
        # By error class; None is ok. From 0 on: Prometheus counts what is above a first figure.
        self._items = Tally[str | None](dict.fromkeys([None, *map(str, ErrorClass)], 0))
        self._uncommitted: dict[str | None, Tally[str | None]] = {}  # the same, of each shard
        self._shards = Tally[str](committed=0, lost=0)
        self._storing: set[str] = set()
        self._stats = ShardStats()
        self._pending: Pending | None = None
        self._num_restarts = 0
        self.registry.register(self)

    def tell(self, event: WorkEvent) -> None:
        """Takes in what the worker tells."""
        with self._lock:
            self.last_told = time.monotonic()
            if isinstance(event, Began):
                self._began = event
            elif isinstance(event, ItemDone):
                self._items[event.error_class] += 1
                self._uncommitted.setdefault(event.shard, Tally())[event.error_class] += 1
            elif isinstance(event, Pending):
                self._pending = event
            elif isinstance(event, Restarted):
                self._num_restarts += 1
            elif isinstance(event, Phase) and event.name == "committing" and event.shard:
                self._storing.add(event.shard)
            elif isinstance(event, Committed):
                self._add(event)
            elif isinstance(event, CommittedElsewhere):
                self._shards["lost"] += event.shard in self._storing
                self._forget(event.shard)

    def collect(self) -> Iterator[Metric]:
        """The figures as they are now, for Prometheus."""
        with self._lock:
            families = [*self._counted(), *self._committed(), *self._run()]
        for family in families:
            family.samples = [
                sample._replace(labels={"run": self._run_uri, **sample.labels})
                for sample in family.samples
            ]
            yield family

    def _add(self, event: Committed) -> None:
        """Adds what a commit says; its items are counted, but for those of an earlier worker."""
        all_items = Tally[str | None](event.stats.errors)
        all_items[None] = event.counts.ok
        self._items.update(all_items - self._uncommitted.get(event.shard, Tally()))
        self._stats += event.stats
        self._shards["committed"] += 1
        self._forget(event.shard)

    def _forget(self, shard: str) -> None:
        self._storing.discard(shard)
        self._uncommitted.pop(shard, None)

    def _counted(self) -> Iterator[Metric]:
        failures = {name: number for name, number in self._items.items() if name is not None}
        items = {"ok": self._items[None], "failed": sum(failures.values())}
        told = "Items that have their outcome, whether their shard is committed or not."
        yield _counter("items", told, items, "status")
        told = "Items that failed, by error class."
        yield _counter("item_failures", told, failures, "error_class")
        told = "Shards that were rendered: committed, or lost to a worker that was faster."
        yield _counter("shards", told, self._shards, "outcome")
        told = "Rendering processes that ended and were replaced."
        yield CounterMetricFamily("stylefarm_restarts", told, self._num_restarts)

    def _committed(self) -> Iterator[Metric]:
        stats = self._stats
        told = "Seconds of committed shards, by what they went into."
        yield _counter("phase_seconds", told, stats.seconds_by_phase, "phase")
        told = "Seconds that the device was held for committed shards: what the run is charged for."
        yield CounterMetricFamily("stylefarm_device_seconds", told, stats.device_seconds)
        if self._price is not None:
            told = "The device's hours at compute.price_per_hour, in the money of that price."
            cost = stats.device_seconds / 3600 * self._price
            yield CounterMetricFamily("stylefarm_cost", told, cost)
        told = "Bytes of the pictures of committed shards."
        yield CounterMetricFamily("stylefarm_output_bytes", told, stats.output_bytes)
        if stats.peak_memory_bytes is not None:
            told = "What rendering a committed shard held at most: of the accelerator, or of a CPU."
            yield GaugeMetricFamily("stylefarm_peak_memory_bytes", told, stats.peak_memory_bytes)

    def _run(self) -> Iterator[Metric]:
        if self._pending is not None:
            told = "Shards of the run that had no commit when the worker looked last."
            yield GaugeMetricFamily("stylefarm_pending_shards", told, self._pending.shards)
            told = "Items in these shards."
            yield GaugeMetricFamily("stylefarm_pending_items", told, self._pending.items)
        if (began := self._began) is not None:
            labels = {
                "worker": began.worker,
                "host": began.host,
                "device": began.device,
                "version": versions()["stylefarm"],
            }
            info = GaugeMetricFamily("stylefarm_worker_info", "Always 1.", labels=list(labels))
            info.add_metric(list(labels.values()), 1)
            yield info


def _counter(name: str, told: str, numbers: Mapping[str, float], label: str) -> Metric:
    """A counter with a value for each of the label's values."""
    family = CounterMetricFamily(f"stylefarm_{name}", told, labels=[label])
    for value, number in numbers.items():
        family.add_metric([value], number)
    return family
