"""When did which step of a batch end? Told by what a rendering process tells anyway.

The renderer is the one that a run has; it is watched, and stopped once enough is known.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from manifests.outcomes import Outcome
from tasks.runs.faults import Stopped
from tasks.work.shard_work import MemoryNeed, Renderer, ShardWork, Watch


class Stamp(NamedTuple):
    """A moment: seconds since the first batch was begun, and how much was rendered by then.

    `items` counts an item in steps, as a fraction.
    """

    seconds: float
    items: float


@dataclass
class Times:
    """What was seen of a shard that was rendered.

    Attributes:
        num_begun: items of its first batch.
        stamps: ends of steps, in order; where steps are short, of some.
        load_seconds: that its model took to load, if it was not there.
        wait_seconds: that nothing was rendered, as pictures were not there yet.
        held_bytes: of memory, at most; None where nothing was told.
    """

    num_begun: int = 0
    stamps: list[Stamp] = field(default_factory=list[Stamp])
    load_seconds: float = 0.0
    wait_seconds: float = 0.0
    held_bytes: int | None = None


Enough = Callable[[Times], bool]
"""Whether so much is known that the rest need not be rendered."""


class TimedRenderer:
    """A renderer whose steps are timed.

    Args:
        renderer: renders.
        clock: seconds that only grow.

    Attributes:
        enough: asked after each step; once it is true, the renderer is stopped.
        times: of the shard that was rendered last.
        load_seconds: that the model took to load.
    """

    def __init__(self, renderer: Renderer, clock: Callable[[], float] = time.monotonic) -> None:
        self._renderer, self._clock = renderer, clock
        self.enough: Enough = lambda times: False
        self.times = Times()
        self.load_seconds = 0.0

    def render(self, work: ShardWork, watch: Watch, *, hang_seconds: float) -> None:
        """Renders a shard; see `Renderer`."""
        self.times = Times()
        timed = _TimedWatch(watch, self.times, self.enough, self._clock)
        try:
            self._renderer.render(work, timed, hang_seconds=hang_seconds)
        except Stopped:
            if watch.should_stop():
                raise
            raise Stopped("the steps that were timed tell enough") from None
        finally:
            self.load_seconds = max(self.load_seconds, self.times.load_seconds)

    def close(self) -> None:
        """Gives the device back."""
        self._renderer.close()


class _TimedWatch:
    """Passes on what a renderer asks and tells, and notes when."""

    def __init__(
        self, watch: Watch, times: Times, enough: Enough, clock: Callable[[], float]
    ) -> None:
        self._watch, self._times, self._enough, self._clock = watch, times, enough, clock
        self._began = 0.0
        self._items = 0.0

    def should_stop(self) -> bool:
        return self._watch.should_stop() or self._enough(self._times)

    def phase(self, name: str) -> None:
        self._watch.phase(name)

    def loaded(self, seconds: float, device_name: str) -> None:
        self._times.load_seconds += seconds
        self._watch.loaded(seconds, device_name)

    def begin(self, item_ids: Sequence[str], *, alone: bool) -> None:
        if not self._times.num_begun:
            self._times.num_begun, self._began = len(item_ids), self._clock()
        self._watch.begin(item_ids, alone=alone)

    def advance(self, items: float) -> None:
        self._items += items
        self._times.stamps.append(Stamp(self._clock() - self._began, self._items))
        self._watch.advance(items)

    def finish(self, outcome: Outcome) -> None:
        self._watch.finish(outcome)

    def waited(self, for_input: float, for_output: float) -> None:
        self._times.wait_seconds += for_input
        self._watch.waited(for_input, for_output)

    def needs(self, need: MemoryNeed) -> None:
        self._watch.needs(need)

    def held(self, num_bytes: int) -> None:
        self._times.held_bytes = max(num_bytes, self._times.held_bytes or 0)
        self._watch.held(num_bytes)

    def fitted(self, batch_size: int) -> None:
        self._watch.fitted(batch_size)

    def tick(self) -> None:
        self._watch.tick()
