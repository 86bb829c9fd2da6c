"""What will a job take, measured on a few items of each of its buckets?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from manifests.items import Item
from manifests.plan_table import PlanFile
from tasks.estimating.batches import batches_of
from tasks.estimating.buckets import Bucket, largest_shard
from tasks.estimating.forecast import Outlook
from tasks.estimating.measuring import Measured, Tried, measure, pictures_of
from tasks.estimating.trial import TrialPlace
from tasks.runs.run_plan import RunPlan
from tasks.work.workplace import most_together

Plan = PlanFile | RunPlan


def outlooks_of(
    place: TrialPlace,
    plan: Plan,
    buckets: Sequence[Bucket],
    num_items: int,
    begin: Callable[[Bucket, int, int], None],
) -> Iterator[Outlook]:
    """Tries a few items of each of the buckets, and tells what all of them will take.

    Args:
        place: what they are tried with.
        plan: what is planned.
        buckets: of what is pending of it.
        num_items: of each bucket, to be rendered to their ends.
        begin: is told which bucket is tried now, its number from 1, and how many there are.

    Raises:
        Stopped, WorkerFault, StoreTrouble, ManifestError, BackboneError: see `trial.try_items`.
    """
    encoded: set[object] = set()
    for number, bucket in enumerate(buckets, start=1):
        if not bucket.num_sound:
            yield Outlook(bucket=bucket, basis="measured", shard_seconds=[0.0] * len(bucket.shards))
            continue
        begin(bucket, number, len(buckets))
        most = most_together(place.resolved.job.compute)
        tried = measure(place, largest_shard(plan, bucket), num_items, most)
        yield _outlook(plan, bucket, tried, encoded)


def _outlook(plan: Plan, bucket: Bucket, tried: Tried, encoded: set[object]) -> Outlook:
    measured = tried.measured
    if measured is None:
        rough = bucket.cost_seconds / max(1, bucket.num_sound)
        return Outlook(
            bucket=bucket,
            basis="rough",
            seconds={rough: float(bucket.num_sound)},
            shard_seconds=[plan.shards[name].cost_seconds for name in bucket.shards],
            tried=tried,
        )
    outlook = Outlook(
        bucket=bucket, basis="measured", batch_size=max(measured.step_seconds), tried=tried
    )
    output_bytes, seconds = 0.0, defaultdict[float, float](float)
    for name in bucket.shards:
        items = plan.items(name)
        of_shard, num_last = 0.0, 0
        starting = _starting_seconds(measured, items, encoded)
        num_sound = sum(one.problem is None for one in items)
        for batch in batches_of(items, measured.most_together):
            area = batch[0].width * batch[0].height
            of_item = measured.seconds_per_item(len(batch), area) + starting / num_sound
            seconds[of_item] += len(batch)
            of_shard += of_item * len(batch)
            output_bytes += (measured.output_bytes or 0.0) * len(batch) * area / measured.area
            num_last = len(batch)
        at_end = measured.overhead_seconds + measured.encode_seconds * num_last
        outlook.shard_seconds.append(of_shard + at_end)
    outlook.seconds = _spread(seconds, measured.spread)
    outlook.peak_memory_bytes = measured.peak_memory_bytes
    outlook.output_bytes = None if measured.output_bytes is None else output_bytes
    return outlook


def _starting_seconds(measured: Measured, items: Sequence[Item], encoded: set[object]) -> float:
    """To encode the pictures of a shard that were not encoded for an earlier one."""
    new = pictures_of(items) - encoded
    encoded |= new
    return measured.start_seconds * len(new)


def _spread(seconds: Mapping[float, float], spread: Sequence[float]) -> dict[float, float]:
    """The seconds of items as far apart as those that were tried; their sum stays as it is."""
    usual = sum(spread) / len(spread)
    found = defaultdict[float, float](float)
    for value, number in seconds.items():
        for ratio in spread:
            found[value * ratio / usual] += number / len(spread)
    return dict(found)
