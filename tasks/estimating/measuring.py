"""What does rendering the items of a bucket take, measured on a few of them as a run would do it?

A run renders batches of up to sixteen, whose items share their references: in them an item takes
half of what it takes alone. So two things are measured. The first steps of a batch of the plan tell
what a step of such a batch takes, and a few items that are rendered to their ends tell what does
not depend on the batch: how many steps there are, decoding, measuring, and what fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from ad_lib.settings import MAX_TIMESTEPS, Settings
from manifests.items import Item
from tasks.estimating.batches import batches_of, usual_batch
from tasks.estimating.stopwatch import Enough, Times
from tasks.estimating.trial import Row, Trial, TrialPlace, try_items
from tasks.runs.item_settings import settings_of

MIN_STEPS, MIN_SECONDS = 3, 6.0
"""So many steps after the first, and so long, are timed of a batch that is not rendered whole;"""

MAX_SECONDS = 30.0
"""after so long, one step is enough."""

QUICK_SECONDS = 20.0
"""A batch whose steps take no longer is rendered whole."""

WHOLE_SECONDS = 600.0
"""Items that would take longer are not rendered to their ends: steps alone tell of them."""


@dataclass(frozen=True)
class FailedItem:
    """An item that was tried and has no picture."""

    key: str
    error_class: str
    error_message: str


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What rendering items of a bucket takes.

    Attributes:
        most_together: items of a batch at most, as the job or the device's memory bounds them.
        step_seconds: of all steps of a batch, by its size: of one that was measured, or two.
        start_seconds: to encode a picture that was not encoded before.
        finish_seconds: of an item, from its last step to its picture.
        area: pixels of the items that were measured.
        tries: renderings of an item, on average; above one where pictures are rejected.
        spread: of items that were rendered whole, what each batch took over their median.
        encode_seconds: of an item, to measure and encode its picture, where that is done of many.
        overhead_seconds: of a shard, besides rendering and encoding.
        output_bytes: of an item; None where none was rendered to its end.
        peak_memory_bytes: None where nobody knows.
    """

    most_together: int
    step_seconds: Mapping[int, float]
    start_seconds: float
    finish_seconds: float
    area: int
    tries: float = 1.0
    spread: Sequence[float] = (1.0,)
    encode_seconds: float = 0.0
    overhead_seconds: float = 0.0
    output_bytes: float | None = None
    peak_memory_bytes: int | None = None

    def seconds_per_item(self, batch_size: int, area: int) -> float:
        """Of an item in a batch of so many, of so many pixels, without encoding its inputs."""
        steps = _between(self.step_seconds, batch_size) / batch_size
        return self.tries * (steps + self.finish_seconds) * area / self.area


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What came of trying items of a bucket.

    Attributes:
        measured: None where not one item could be rendered.
        num_items: that were rendered to their ends.
        failed: those of them that have no picture.
        whole_seconds: that the others would have taken, where that was too long; else None.
    """

    measured: Measured | None
    num_items: int = 0
    failed: Sequence[FailedItem] = ()
    whole_seconds: float | None = None


def measure(place: TrialPlace, items: Sequence[Item], num_items: int, most_together: int) -> Tried:
    """Renders a few items of a bucket, and tells what all of its items will take.

    Args:
        place: what they are rendered with.
        items: of a shard of the bucket, the largest; not all of them are broken.
        num_items: to be rendered to their ends, at least.
        most_together: items of a batch, at most, before memory is looked at.

    Raises:
        Stopped, WorkerFault, StoreTrouble, ManifestError, BackboneError: as `try_items`.
    """
    batch, alike = usual_batch(items, most_together)
    begun = try_items(place, batch, _enough_of(batch))
    if begun.times.num_begun < len(batch):  # the memory has no room for more
        most_together = begun.times.num_begun
        batch = next(iter(batches_of(batch, most_together)))
    if begun.is_whole and len(batch) >= min(num_items, len(alike)):
        measured = _of_whole(begun, batch, most_together)
        return _tried(_with_rest(place, measured, items, len(batch)), begun)
    if (seconds := _expected(begun, batch, num_items)) > WHOLE_SECONDS:
        return Tried(measured=_of_steps(begun, batch, most_together), whole_seconds=seconds)
    whole = try_items(place, _to_finish(batch, alike, num_items))
    return _tried(_of_both(begun, whole, batch, most_together), whole)


def _with_rest(
    place: TrialPlace, measured: Measured | None, items: Sequence[Item], num_items: int
) -> Measured | None:
    """What was measured of a batch of so many, and the steps of the smallest of the shard.

    An item takes longer in a smaller batch: on a processor of two cores 1.4 times in one of 4 what
    it takes in one of 16.
    """
    if measured is None:
        return None
    rest = min(batches_of(items, measured.most_together), key=len)
    if len(rest) == num_items:
        return measured
    less = _of_whole(try_items(place, rest), rest, measured.most_together)
    if less is None:
        return measured
    steps = {size: took * measured.area / less.area for size, took in less.step_seconds.items()}
    return replace(measured, step_seconds=steps | dict(measured.step_seconds))


def _tried(measured: Measured | None, whole: Trial) -> Tried:
    failed = [
        FailedItem(row["key"], row["error_class"], row["error_message"])
        for row in whole.rows
        if row["status"] != "ok"
    ]
    return Tried(measured=measured, num_items=len(whole.rows), failed=failed)


def _enough_of(batch: Sequence[Item]) -> Enough:
    """Whether enough of a batch's steps are timed; the first one warms the device up."""
    first = _first_alike(settings_of(batch[0])) * len(batch)

    def is_enough(times: Times) -> bool:
        stamps = [stamp for stamp in times.stamps[1:] if stamp.items >= first]
        if not stamps:
            return False
        if (_pace(times, len(batch), first / len(batch)) or 0.0) <= QUICK_SECONDS:
            return False
        seconds = stamps[-1].seconds - times.stamps[0].seconds
        return seconds >= (MAX_SECONDS if len(stamps) <= MIN_STEPS else MIN_SECONDS)

    return is_enough


def _first_alike(settings: Settings) -> float:
    """From which share of the steps on they are alike: earlier ones may not distil the style."""
    return 1.0 - settings.start_time / MAX_TIMESTEPS


def _to_finish(batch: Sequence[Item], alike: Sequence[Item], num_items: int) -> list[Item]:
    """The items that are rendered to their ends: some of the batch, or whole batches."""
    if len(batch) > num_items:
        step = len(batch) / num_items
        return [batch[int(place * step)] for place in range(num_items)]
    number = -(-num_items // len(batch)) * len(batch)
    others = [one for one in alike if one not in batch]
    return [*others, *batch][:number]


def _pace(times: Times, num_items: int, first: float, last: float = 1.0) -> float | None:
    """Seconds of all steps of a batch of so many, at the pace of those that were timed.

    Args:
        times: of its steps.
        num_items: in the batch.
        first: the share of the steps before which they are not looked at.
        last: the share of the steps after which they are not looked at.
    """
    seen = [
        stamp
        for stamp in times.stamps
        if first * num_items <= stamp.items <= last * num_items + 1e-6
    ]
    if len(seen) < 2 or seen[-1].items <= seen[0].items:
        return None
    return num_items * (seen[-1].seconds - seen[0].seconds) / (seen[-1].items - seen[0].items)


def _expected(begun: Trial, batch: Sequence[Item], num_items: int) -> float:
    """Seconds that so many items would take to their ends, one after the other at the worst."""
    pace = _pace(begun.times, len(batch), _first_alike(settings_of(batch[0]))) or 0.0
    return pace * min(1.0, num_items / len(batch)) if len(batch) > 1 else pace * num_items


def _start_seconds(begun: Trial, batch: Sequence[Item], pace: float) -> float:
    """Of each picture that had to be encoded before the first step."""
    first = begun.times.stamps[0]
    seconds = first.seconds - begun.times.wait_seconds - pace * first.items / len(batch)
    return max(0.0, seconds) / len(pictures_of(batch))


def pictures_of(items: Iterable[Item]) -> set[object]:
    """The different pictures of items, each as often as it must be encoded."""
    return {
        (image.sha256 or image.full_uri, image.role, one.width, one.height)
        for one in items
        if one.problem is None
        for image in one.inputs
    }


def _of_both(
    begun: Trial, whole: Trial, batch: Sequence[Item], most_together: int
) -> Measured | None:
    """What the steps of a batch and a few whole items tell together."""
    measured = _of_whole(whole, whole.items, most_together)
    settings = settings_of(batch[0])
    pace = _pace(begun.times, len(batch), _first_alike(settings))
    if pace is None or measured is None:
        return measured
    few = max(len(one) for one in batches_of(whole.items, most_together))
    if few == len(batch):  # in batches that are as large
        return measured
    last = 1.0 if settings.early_stopping_patience is None else _share_seen(begun, batch)
    of_few = _pace(whole.times, few, _first_alike(settings), last)
    took = measured.step_seconds[few]
    steps = {few: took, len(batch): took * pace / (of_few or took)}
    start = _start_seconds(begun, batch, pace)
    return replace(measured, step_seconds=steps, start_seconds=start)


def _share_seen(begun: Trial, batch: Sequence[Item]) -> float:
    return begun.times.stamps[-1].items / len(batch)


def _of_whole(trial: Trial, batch: Sequence[Item], most_together: int) -> Measured | None:
    """What items tell that were rendered to their ends."""
    made = [row for row in trial.rows if row["status"] == "ok"]
    if not made or trial.stats is None:
        return None
    tries = fmean(row["retries"] + 1 for row in made)
    seconds = [row["seconds"] / (row["retries"] + 1) for row in made]
    steps = [_synthesis(row) for row in made]
    size = max(len(one) for one in batches_of(batch, most_together))
    encoded = fmean(row["encode_seconds"] or 0.0 for row in made) / trial.num_encoded_at_once
    stats = trial.stats
    worked = (stats.seconds_worked or 0.0) - stats.render_seconds
    usual = median(seconds)
    return Measured(
        most_together=most_together,
        step_seconds={size: size * _typical(steps, trial)},
        start_seconds=0.0,
        finish_seconds=max(0.0, fmean(seconds) - fmean(steps)),
        area=trial.items[0].width * trial.items[0].height,
        tries=tries,
        spread=sorted(one / usual for one in seconds) if usual else (1.0,),
        encode_seconds=encoded,
        overhead_seconds=max(0.0, worked - encoded * min(size, len(batch))),
        output_bytes=fmean(sum(output["bytes"] for output in row["outputs"]) for row in made),
        peak_memory_bytes=stats.peak_memory_bytes,
    )


def _of_steps(begun: Trial, batch: Sequence[Item], most_together: int) -> Measured | None:
    """What the steps of a batch tell alone, whose items would take too long to their ends."""
    pace = _pace(begun.times, len(batch), _first_alike(settings_of(batch[0])))
    if pace is None:
        return None
    return Measured(
        most_together=most_together,
        step_seconds={len(batch): pace},
        start_seconds=_start_seconds(begun, batch, pace),
        finish_seconds=0.0,
        area=batch[0].width * batch[0].height,
    )


def _synthesis(row: Row) -> float:
    """An item's share of its batch's steps; of what another program made, all that it took."""
    found = row["synthesis_seconds"]
    return row["seconds"] if found is None else found


def _typical(steps: Sequence[float], trial: Trial) -> float:
    """Of an item's steps: where all items take as many, what one that nothing held up took."""
    stops_early = settings_of(trial.items[0]).early_stopping_patience is not None
    return fmean(steps) if stops_early else median(steps)


def _between(seconds: Mapping[int, float], batch_size: int) -> float:
    """Seconds of a batch of that size, on the line through those that were measured.

    An item never takes less in a smaller batch, nor a smaller batch more than a larger one.
    """
    (few, of_few), (many, of_many) = min(seconds.items()), max(seconds.items())
    if many == few:
        return of_few * batch_size / few
    slope = max(0.0, of_many - of_few) / (many - few)
    found = of_few + slope * (batch_size - few)
    if batch_size < few:
        return max(found, of_few * batch_size / few)
    return found
