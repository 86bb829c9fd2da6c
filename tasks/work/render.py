"""Renders the items of a shard: a plain function that knows no store of runs and no Prefect.

Every item ends in exactly one outcome, and an item that fails does not affect its neighbours.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from PIL import Image

from ad_lib.batch import Result, peak_memory, render
from ad_lib.errors import RequestError
from ad_lib.model.backbone import Backbone
from ad_lib.model.device_errors import answers, is_device_failure, is_out_of_memory
from ad_lib.pictures.measure import Judge
from ad_lib.requests import Request
from manifests.identity import seed_of
from manifests.items import ErrorClass, Input, Item, Problem
from manifests.outcomes import Outcome
from manifests.quality import Quality
from tasks.runs.environment import device_name, peak_resident_bytes
from tasks.runs.faults import DeviceFault, FreshDeviceNeeded, Stopped
from tasks.runs.requests import request_of, unsupported
from tasks.work.concluding import Conclusions
from tasks.work.decode import Loaded
from tasks.work.encode import Rendered, finished_outcome
from tasks.work.loading import Pictures
from tasks.work.models import ModelCache, free_memory
from tasks.work.problems import problem_of
from tasks.work.room import memory_need
from tasks.work.shard_work import ShardWork, Watch, demand_of

LOOKAHEAD = 2
"""Batches that are fetched and decoded while another batch renders."""

TICK_SECONDS = 0.2
"""So often it is asked whether to stop, while pictures are waited for."""


def render_shard(work: ShardWork, models: ModelCache, watch: Watch) -> None:
    """Renders what a shard still lacks; the encoded pictures become files of `work.scratch`.

    Items of `work.alone` come first, each with nothing else in the pipeline; then the others in
    batches of equal size. Rejected items are rendered again with their next seed.

    Args:
        work: what to render, and where.
        models: of this device.
        watch: told what happens, by one thread at a time.

    Raises:
        Stopped: `watch.should_stop` said so.
        WorkerFault: the machine's fault.
        StoreError: an input's store does not answer.
        BackboneError, RunFolderError: the model is not here, or is not the planned one.
        FreshDeviceNeeded: all other items have their outcomes.
    """
    backbone = _loaded_backbone(work, models, watch)
    watch.phase("rendering")
    shard = _Shard(work, backbone, models, watch)
    try:
        shard.render()
    finally:
        watch.waited(shard.seconds_for_input, shard.seconds_for_output)
    if shard.starved:
        raise FreshDeviceNeeded([item.item_id for item in work.items if item in shard.starved])


def _loaded_backbone(work: ShardWork, models: ModelCache, watch: Watch) -> Backbone:
    if not models.holds(work.model, work.device):
        watch.phase("loading")
    try:
        backbone, seconds = models.backbone(work.model, work.device)
    except Exception as error:
        if is_out_of_memory(error) or is_device_failure(error):
            message = f"the model cannot be loaded onto {work.device}: {error}"
            raise DeviceFault(message.partition("\n")[0][:500]) from error
        raise
    backbone.techniques = replace(backbone.techniques, compile=work.compile)
    watch.loaded(seconds, device_name(str(backbone.device)))
    return backbone


@dataclass(frozen=True, eq=False)
class _Try:
    """An item, the number of its retry, and the seconds that earlier ones took."""

    item: Item
    retry: int
    seconds: float = 0.0

    @property
    def seed(self) -> int:
        return seed_of(self.item.item_id, self.retry) if self.retry else self.item.seed

    @property
    def is_first(self) -> bool:
        return self.retry == self.item.first_retry

    def next(self, seconds: float) -> _Try:
        return _Try(self.item, self.retry + 1, seconds)


class _Shard:
    """The items of a shard on their way through decoding, rendering and encoding.

    Attributes:
        batch_size: items rendered together at most; falls when they do not fit into memory.
        starved: items that ran out of memory on a device that was not fresh and theirs alone.
        seconds_for_input: that nothing was rendered, as pictures were not there yet.
        seconds_for_output: the same, as rendered ones were still measured and encoded.
        judge: measures the pictures; what it knows of styles and contents is kept for the shard.
    """

    def __init__(
        self, work: ShardWork, backbone: Backbone, models: ModelCache, watch: Watch
    ) -> None:
        self.work = work
        self.backbone = backbone
        self.models = models
        self.watch = watch
        self.batch_size = work.batch_size
        self.starved: set[Item] = set()
        self.seconds_for_input = self.seconds_for_output = 0.0
        self.judge = Judge()
        self._telling = threading.Lock()

    def render(self) -> None:
        by_id = {item.item_id: item for item in self.work.items}
        alone = [by_id[item_id] for item_id in self.work.alone]
        max_pixels = self.work.job.limits.max_pixels
        with Pictures(self.work.io_threads, max_pixels=max_pixels) as pictures:
            for item in alone:
                self._render_alone(item, pictures)
            tries = [_first_try(item) for item in self.work.items if item not in alone]
            while tries:
                tries = self._render_round(tries, pictures)

    def _render_alone(self, item: Item, pictures: Pictures) -> None:
        """Renders an item with nothing else in the pipeline, retries included."""
        on_fresh_device = self.models.is_fresh
        one: _Try | None = _first_try(item)
        while one is not None:
            self._begin([one], alone=True)
            images = self._loaded(pictures.of([item]))
            (rendered,) = self._render_batch([one], images)
            one = self._conclude(one, rendered, is_final=on_fresh_device)

    def _render_round(self, tries: Sequence[_Try], pictures: Pictures) -> list[_Try]:
        """Renders every item once, in batches; returns the tries that follow rejections."""
        again: list[_Try | None] = []
        with Conclusions[_Try | None](self.work.io_threads, self._most_waiting()) as conclusions:
            for batch, images in self._loaded_ahead(tries, pictures):
                for one, rendered in zip(batch, self._render_batch(batch, images), strict=True):
                    conclude = partial(self._conclude, one, rendered, is_final=False)
                    with self._waits_for_output():
                        conclusions.add(conclude, _num_bytes(one.item))
                again += conclusions.ended()
            with self._waits_for_output():
                again += conclusions.all()
        return [one for one in again if one is not None]

    def _most_together(self, tries: Sequence[_Try]) -> int:
        """How many of these, which have one size, are rendered together."""
        demand = demand_of(one.item for one in tries)
        if demand is None:
            return self.batch_size
        need = memory_need(self.backbone, demand, self.batch_size, self.work.memory_sharers)
        with self._telling:
            self.watch.needs(need)
        return need.batch_size

    def _most_waiting(self) -> int:
        """How many pictures may wait to be encoded; each is in hand."""
        return 2 * (self.work.io_threads + self.batch_size)

    def _loaded_ahead(
        self, tries: Sequence[_Try], pictures: Pictures
    ) -> Iterator[tuple[Sequence[_Try], Mapping[Input, Loaded]]]:
        """The batches with their pictures, those of a few more batches on their way."""
        waiting: deque[tuple[Sequence[_Try], Mapping[Input, Future[Loaded]]]] = deque()
        for batch in _batches(tries, self._most_together):
            self._begin(batch, alone=False)
            waiting.append((batch, pictures.of([one.item for one in batch])))
            if len(waiting) > LOOKAHEAD:
                first, loading = waiting.popleft()
                yield first, self._loaded(loading)
        for batch, loading in waiting:
            yield batch, self._loaded(loading)

    def _loaded(self, loading: Mapping[Input, Future[Loaded]]) -> dict[Input, Loaded]:
        """The pictures of a batch, once all of them are there."""
        started = time.monotonic()
        while wait(loading.values(), TICK_SECONDS).not_done:
            self._check_stop()
        self.seconds_for_input += time.monotonic() - started
        return {image: future.result() for image, future in loading.items()}

    @contextmanager
    def _waits_for_output(self) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds_for_output += time.monotonic() - started

    def _begin(self, batch: Sequence[_Try], *, alone: bool) -> None:
        self._check_stop()
        with self._telling:
            self.watch.begin([one.item.item_id for one in batch], alone=alone)

    def _render_batch(
        self, batch: Sequence[_Try], images: Mapping[Input, Loaded]
    ) -> list[Rendered | Problem]:
        """What becomes of each item of a batch, in order."""
        asked = {one: _asked(one, images) for one in batch}
        requests = {one: found for one, found in asked.items() if isinstance(found, Request)}
        results: dict[_Try, Result | Problem] = {}
        while len(results) < len(requests):
            rest = [one for one in requests if one not in results]
            chosen = {one: requests[one] for one in rest[: self.batch_size]}
            results |= self._render_together(chosen)
        return [_rendered(asked[one], results.get(one)) for one in batch]

    def _render_together(self, requests: dict[_Try, Request]) -> dict[_Try, Result | Problem]:
        """Renders items together; where that fails, in halves, until the failing item is alone."""
        tries = list(requests)
        advancing = sum(one.is_first for one in tries) / len(tries)
        try:
            results = render(
                self.backbone,
                list(requests.values()),
                batch_size=len(tries),
                on_step_end=lambda count, steps: self._advance(advancing * count / steps),
                encoded=self.models.encoded,
            )
            self.models.is_fresh = False
            self._tell_memory()
            return dict(zip(tries, results, strict=True))
        except Stopped:
            self._tell_memory()
            raise
        except BaseException as error:
            problem = self._problem_of(error)
        free_memory()
        if len(tries) == 1:
            return {tries[0]: problem}
        found: dict[_Try, Result | Problem] = {}
        middle = len(tries) // 2
        for half in (tries[:middle], tries[middle:]):
            found |= self._render_together({one: requests[one] for one in half})
        if _is_out_of_memory(problem) and not any(map(_is_out_of_memory, found.values())):
            self._fitted(len(tries) - middle)
        return found

    def _tell_memory(self) -> None:
        """Tells what a batch held at most so far; a shard's peak is the most that is told."""
        held = peak_memory(self.backbone.device)
        with self._telling:
            self.watch.held(peak_resident_bytes() if held is None else held)

    def _problem_of(self, error: BaseException) -> Problem:
        problem = problem_of(error)
        if isinstance(error, RuntimeError) and not answers(self.backbone.device):
            raise DeviceFault(f"{self.work.device} does not answer: {problem.message}") from error
        return problem

    def _fitted(self, batch_size: int) -> None:
        """A batch that was too large has fitted in parts of this size."""
        self.batch_size = min(self.batch_size, batch_size)
        with self._telling:
            self.watch.fitted(self.batch_size)

    def _advance(self, items: float) -> None:
        self._check_stop()
        with self._telling:
            self.watch.advance(items)

    def _check_stop(self) -> None:
        if self.watch.should_stop():
            raise Stopped("stopped; run the same command again to finish")

    def _conclude(self, one: _Try, rendered: Rendered | Problem, *, is_final: bool) -> _Try | None:
        """Measures, encodes and tells the outcome; of a rejected item, returns the next try.

        Args:
            one: the try.
            rendered: its picture, or its problem.
            is_final: whether running out of memory is the item's own fault.
        """
        outcome = self._outcome(one, rendered)
        problem = outcome.problem
        retries = (self.work.job.quality or Quality()).retries
        if (
            problem is not None
            and problem.error_class == ErrorClass.REJECTED
            and one.retry < one.item.first_retry + retries
        ):
            return one.next(outcome.seconds or one.seconds)
        if _is_out_of_memory(problem) and one.item.problem is None and not is_final:
            self.starved.add(one.item)
            return None
        with self._telling:
            self.watch.finish(outcome)
        return None

    def _outcome(self, one: _Try, rendered: Rendered | Problem) -> Outcome:
        if isinstance(rendered, Problem):
            return Outcome(one.item, problem=rendered, retries=one.retry)
        try:
            outcome = finished_outcome(one.item, rendered, self.work, self.judge)
        except BaseException as error:
            return Outcome(one.item, problem=problem_of(error), retries=one.retry)
        seconds = one.seconds + (outcome.seconds or 0.0)
        return replace(outcome, retries=one.retry, seconds=seconds)


def _first_try(item: Item) -> _Try:
    return _Try(item, item.first_retry)


def _batches(
    tries: Sequence[_Try], most_together: Callable[[Sequence[_Try]], int]
) -> Iterator[Sequence[_Try]]:
    """The tries in batches of pictures of one size, in order otherwise."""
    by_size: dict[tuple[int, int], list[_Try]] = {}
    for one in tries:
        by_size.setdefault((one.item.width, one.item.height), []).append(one)
    for alike in by_size.values():
        size = most_together(alike)
        for start in range(0, len(alike), size):
            yield alike[start : start + size]


def _asked(one: _Try, images: Mapping[Input, Loaded]) -> Request | Problem:
    """The request of an item, or why there is none."""
    if one.item.problem is not None:
        return one.item.problem
    pictures: dict[Input, Image.Image] = {}
    for item_input in one.item.inputs:
        loaded = images[item_input]
        if isinstance(loaded, Problem):
            return loaded
        pictures[item_input] = loaded
    try:
        return request_of(one.item, pictures, one.seed)
    except RequestError as error:
        return unsupported(error)


def _rendered(asked: Request | Problem, result: Result | Problem | None) -> Rendered | Problem:
    if isinstance(asked, Problem):
        return asked
    if result is None or isinstance(result, Problem):
        return result or Problem(ErrorClass.CRASH, "it was not rendered")
    return Rendered(asked, result)


def _num_bytes(item: Item) -> int:
    """What a rendered picture takes; Pillow holds four bytes for each pixel."""
    return 4 * item.width * item.height


def _is_out_of_memory(found: object) -> bool:
    return isinstance(found, Problem) and found.error_class == ErrorClass.OOM
