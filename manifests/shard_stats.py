"""What did a shard take, and what do the figures of several add up to?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from manifests.records import Count, Record, Seconds


class ShardStats(Record):
    """Figures of a shard that add up over shards.

    What None stands for is not known, as in commits of earlier versions; sums are of what is known.

    Attributes:
        render_seconds: of its items, each one's share of its batches; retries included.
        encode_seconds: that its items took to be measured and encoded, many at a time.
        load_seconds: that loading the model took.
        seconds_wait_for_input: that nothing was rendered, as pictures were not fetched and decoded.
        seconds_wait_for_output: the same, as rendered ones were still measured and encoded, or the
            shard before was still on its way to the run folder.
        seconds_worked: of one worker, from taking the shard to where the next one may be taken;
            loading the model again meanwhile is not in it.
        seconds_upload: that its files took to the run folder; the next shard renders meanwhile.
        largest_batch: items that were begun together, at most; of several shards, the most.
        peak_memory_bytes: what rendering held at most: of the accelerator's memory, or, on a CPU,
            of main memory; of several shards, the most.
        output_bytes: of the pictures.
        errors: how many items failed, by error class.
    """

    render_seconds: Seconds = 0.0
    encode_seconds: Seconds = 0.0
    load_seconds: Seconds = 0.0
    seconds_wait_for_input: Seconds | None = None
    seconds_wait_for_output: Seconds | None = None
    seconds_worked: Seconds | None = None
    seconds_upload: Seconds | None = None
    largest_batch: Count | None = None
    peak_memory_bytes: Count | None = None
    output_bytes: Count = 0
    errors: dict[Annotated[str, Field(pattern=r"^[a-z_]{1,40}$")], Count] = Field(
        default_factory=dict[str, int]
    )

    def __add__(self, other: ShardStats) -> ShardStats:
        return ShardStats.total((self, other))

    @classmethod
    def total(cls, stats: Iterable[ShardStats]) -> ShardStats:
        """The sum of the figures of shards."""
        known = list(stats)
        errors = Counter[str]()
        for one in known:
            errors.update(one.errors)
        seconds = {
            name: _sum(getattr(one, name) for one in known)
            for name in cls.model_fields
            if "seconds" in name
        }
        return cls(
            **{name: value for name, value in seconds.items() if value is not None},
            largest_batch=_most(one.largest_batch for one in known),
            peak_memory_bytes=_most(one.peak_memory_bytes for one in known),
            output_bytes=sum(one.output_bytes for one in known),
            errors=dict(+errors),
        )

    @property
    def device_seconds(self) -> float:
        """That workers held their devices: what a run is charged for."""
        worked = self.seconds_worked
        return self.load_seconds + (
            self.render_seconds + self.encode_seconds if worked is None else worked
        )

    @property
    def seconds_by_phase(self) -> dict[str, float]:
        """What the seconds of workers went into; 0.0 where nobody knows.

        Many items are encoded at a time, and a shard is uploaded while the next one renders: the
        sum may be more than the time that passed.
        """
        return {
            "load": self.load_seconds,
            "wait_for_input": self.seconds_wait_for_input or 0.0,
            "render": self.render_seconds,
            "wait_for_output": self.seconds_wait_for_output or 0.0,
            "encode": self.encode_seconds,
            "upload": self.seconds_upload or 0.0,
        }

    @property
    def share_waited(self) -> float | None:
        """The share of its time that a worker waited for inputs, 0..1; None where nobody knows."""
        if not self.seconds_worked or self.seconds_wait_for_input is None:
            return None
        return min(1.0, self.seconds_wait_for_input / self.seconds_worked)


def _most(values: Iterable[int | None]) -> int | None:
    """The most of what is known; None where nothing is."""
    return max((value for value in values if value is not None), default=None)


def _sum(values: Iterable[float | None]) -> float | None:
    """The sum of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
