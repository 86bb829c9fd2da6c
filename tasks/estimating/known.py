"""What will the pending items of a run take, by what is known without rendering anything?

By the run's own commits, else by what this machine measured earlier, else as the job says, else by
the planner's rough estimate; of each bucket the best of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ad_lib.presets import find_preset
from manifests.commits import Commit
from manifests.items import Item
from manifests.plan_table import PlanFile
from manifests.shard_stats import ShardStats
from tasks.estimating.buckets import Bucket, buckets_of
from tasks.estimating.forecast import Basis, Outlook
from tasks.estimating.remembered import Circumstances, Speed, recall
from tasks.plans.costs import num_steps_of
from tasks.runs.item_settings import settings_of
from tasks.runs.run_plan import RunPlan

Plan = PlanFile | RunPlan


@dataclass(frozen=True, kw_only=True)
class RunKind:
    """What the speed of all items of a run depends on.

    Attributes:
        model_revision: of its weights.
        dtype: the precision of its networks.
        hardware: what renders it here; see `remembered.hardware_of`.
        has_given_seconds: whether the job says what an item takes.
    """

    model_revision: str
    dtype: str
    hardware: str
    has_given_seconds: bool = False

    def of(self, task: str, width: int, height: int) -> Circumstances:
        """Of items of a task and a size."""
        return Circumstances(
            model=self.model_revision,
            task=task,
            width=width,
            height=height,
            dtype=self.dtype,
            hardware=self.hardware,
        )


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of the pending items of a run.

    Attributes:
        outlooks: of their buckets.
        load_seconds: that the model took to load, where commits say so.
    """

    outlooks: Sequence[Outlook]
    load_seconds: float


def known_of(
    plan: Plan,
    commits: Mapping[str, Commit],
    kind: RunKind,
    speeds: Sequence[Speed],
) -> Known:
    """What is known of the pending items of a plan.

    Args:
        plan: what is planned.
        commits: of its shards, by shard; those that no longer count may be among them.
        kind: of the run.
        speeds: that this machine remembers.
    """
    pending, finished = buckets_of(plan, commits)
    taken = {key: _taken(bucket, commits) for key, bucket in finished.items()}
    usual = _pace(finished.values(), taken.values())
    outlooks: list[Outlook] = []
    for key, bucket in pending.items():
        if (stats := taken.get(key)) is not None and finished[key].num_sound:
            outlooks.append(_by_commits(plan, bucket, finished[key], stats))
        elif (speed := recall(speeds, kind.of(bucket.task, *bucket.largest))) is not None:
            outlooks.append(_by_speed(plan, bucket, speed))
        else:
            outlooks.append(_by_plan(plan, bucket, usual, kind))
    load_seconds = max((one.stats.load_seconds for one in commits.values()), default=0.0)
    return Known(outlooks=outlooks, load_seconds=load_seconds)


def speed_of(items: Sequence[Item], kind: RunKind, stats: ShardStats) -> Speed | None:
    """The speed that the items of a shard had; None where they took no steps that count.

    Args:
        items: of the shard.
        kind: of the run.
        stats: of its commit.
    """
    sound = [one for one in items if one.problem is None]
    if not sound or not stats.render_seconds or not stats.largest_batch:
        return None
    largest = max(sound, key=lambda one: one.width * one.height)
    steps = num_steps_of(find_preset(largest.task), settings_of(largest))
    area = largest.width * largest.height
    share = sum(one.width * one.height for one in sound) / area  # items of the largest size
    return Speed(
        of=kind.of(largest.task, largest.width, largest.height),
        batch_size=stats.largest_batch,
        seconds_per_step=stats.render_seconds / steps / share,
        peak_memory_bytes=stats.peak_memory_bytes,
        bytes_per_pixel=stats.output_bytes / share / area,
    )


def _taken(bucket: Bucket, commits: Mapping[str, Commit]) -> ShardStats:
    return ShardStats.total(commits[name].stats for name in bucket.shards)


def _pace(finished: Iterable[Bucket], taken: Iterable[ShardStats]) -> float | None:
    """How much longer rendering took than was planned; None where nothing is committed."""
    planned = sum(bucket.cost_seconds for bucket in finished)
    rendered = sum(stats.render_seconds for stats in taken)
    return rendered / planned if planned and rendered else None


def _by_commits(plan: Plan, bucket: Bucket, finished: Bucket, stats: ShardStats) -> Outlook:
    """As long as the items of the bucket took that are committed."""
    held = (stats.device_seconds - stats.load_seconds) / finished.num_items
    return Outlook(
        bucket=bucket,
        basis="commits",
        seconds={stats.render_seconds / finished.num_sound: float(bucket.num_sound)},
        shard_seconds=[held * plan.shards[name].num_items for name in bucket.shards],
        batch_size=stats.largest_batch,
        peak_memory_bytes=stats.peak_memory_bytes,
        output_bytes=stats.output_bytes / finished.num_sound * bucket.num_sound,
    )


def _by_speed(plan: Plan, bucket: Bucket, speed: Speed) -> Outlook:
    """As long as such items took on this machine."""
    steps = num_steps_of(find_preset(bucket.task), bucket.settings)
    seconds = speed.seconds_per_step * steps
    width, height = bucket.largest
    return Outlook(
        bucket=bucket,
        basis="remembered",
        seconds={seconds: float(bucket.num_sound)},
        shard_seconds=[seconds * plan.shards[name].num_items for name in bucket.shards],
        batch_size=speed.batch_size,
        peak_memory_bytes=speed.peak_memory_bytes,
        output_bytes=speed.bytes_per_pixel * width * height * bucket.num_sound,
    )


def _by_plan(plan: Plan, bucket: Bucket, pace: float | None, kind: RunKind) -> Outlook:
    """As long as was planned; where other buckets took longer, so much longer."""
    basis: Basis = "rough" if pace is None else "commits"
    if pace is None and kind.has_given_seconds:
        basis = "job"
    scale = pace or 1.0
    seconds = scale * bucket.cost_seconds / max(1, bucket.num_sound)
    return Outlook(
        bucket=bucket,
        basis=basis,
        seconds={seconds: float(bucket.num_sound)} if bucket.num_sound else {},
        shard_seconds=[scale * plan.shards[name].cost_seconds for name in bucket.shards],
    )
