"""Renders one shard: fetch, decode, optimise, encode, commit. A committed shard is not rendered."""

from __future__ import annotations

import hashlib
import io
import random
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image

from ad_lib.backbone import Backbone
from ad_lib.batch import Result, render
from ad_lib.decoding import decoded_image
from ad_lib.errors import ImageError, NumericsError, RequestError
from ad_lib.measure import measure
from ad_lib.metrics import phash
from ad_lib.requests import Request, fit_role
from infra.store import ObjectNotFound, Store, StoreError
from manifests.commits import Commit, RunRecord, ShardStats
from manifests.errors import RunFolderError
from manifests.identity import seed_of
from manifests.items import ErrorClass, Input, Item, Problem
from manifests.job import Compute, Job, Output
from manifests.outcomes import Outcome, OutputFile
from manifests.quality import Quality
from tasks.commit import Attempt, commit_shard, record_failure
from tasks.environment import device_name
from tasks.models import warm_backbone
from tasks.preflight import UNREADABLE, input_bytes
from tasks.progress import Stopped, board
from tasks.requests import request_of, settings_of, unsupported
from tasks.run_folder import find_commit, load_plan, open_run, recorded_job
from tasks.scratch import scratch_folder

RETRY_SECONDS = (5.0, 30.0, 120.0)
"""Waits between the tries of a shard whose store does not answer."""

LOOKAHEAD = 2
"""Batches that are fetched and decoded while another batch renders."""

T = TypeVar("T")
Loaded = Image.Image | Problem


@dataclass(frozen=True)
class Rendered:
    """A picture with what was asked for."""

    request: Request
    result: Result


def render_patiently(run_uri: str, shard: str, compute: dict[str, Any]) -> dict[str, Any]:
    """Renders a shard as `render_shard` does, and tries again where the store did not answer.

    Raises:
        Stopped: somebody asked this process to stop.
        StoreError: the store refuses, or did not answer after the last wait either.
    """
    for seconds in RETRY_SECONDS:
        try:
            return render_shard(run_uri, shard, compute)
        except StoreError as error:
            if not error.transient:
                raise
            board.wait(seconds * random.uniform(1, 1.5))
    return render_shard(run_uri, shard, compute)


def render_shard(run_uri: str, shard: str, compute: dict[str, Any]) -> dict[str, Any]:
    """Renders a shard and commits it; a committed one is returned as it is.

    Args:
        run_uri: the run folder.
        shard: which of its shards.
        compute: batch size, device and threads (`manifests.job.Compute`); they may differ from
            those of the plan.

    Returns:
        The shard's name, its counts, and whether somebody else committed it first.

    Raises:
        Stopped: somebody asked this process to stop.
        StoreError: the store refuses or does not answer.
    """
    board.begin(shard)
    store, run = open_run(run_uri)
    if found := find_commit(store, shard):
        return _summary(found, rendered=False)
    attempt = Attempt(shard, uuid.uuid4().hex)
    try:
        commit, won = _render_and_commit(store, run, attempt, Compute.model_validate(compute))
    except Stopped:
        raise
    except Exception as error:
        with suppress(StoreError, RunFolderError):
            record_failure(store, attempt, traceback.format_exception_only(error)[-1])
        raise
    board.committed(commit.counts.ok, commit.counts.failed)
    return _summary(commit, rendered=won)


def _summary(commit: Commit, *, rendered: bool) -> dict[str, Any]:
    return {"shard": commit.shard, **commit.counts.model_dump(), "rendered": rendered}


def _render_and_commit(
    store: Store, run: RunRecord, attempt: Attempt, compute: Compute
) -> tuple[Commit, bool]:
    job = recorded_job(run)
    items = load_plan(store, run).items(attempt.shard)
    backbone, load_seconds = warm_backbone(
        run.model_id,
        revision=run.model_revision,
        config=run.model_config_id,
        controlnet=run.controlnet_id,
        dtype=job.backbone.dtype,
        device=compute.device,
    )
    with scratch_folder() as scratch:
        shard = ShardWork(backbone, job, compute, scratch)
        outcomes = shard.outcomes(items)
        stats = ShardStats(
            load_seconds=load_seconds,
            render_seconds=sum(outcome.seconds or 0.0 for outcome in outcomes),
            encode_seconds=sum(outcome.encode_seconds or 0.0 for outcome in outcomes),
        )
        device = device_name(str(backbone.device))
        return commit_shard(store, run, attempt, outcomes, shard.scratch, stats, device)


@dataclass(frozen=True)
class ShardWork:
    """Renders the items of a shard; the encoded pictures are files of `scratch`, named by key."""

    backbone: Backbone
    job: Job
    compute: Compute
    scratch: Path

    @property
    def quality(self) -> Quality:
        """The bounds on figures; without bounds every picture is kept."""
        return self.job.quality or Quality()

    def outcomes(self, items: Sequence[Item]) -> list[Outcome]:
        """One outcome per item, in order; rejected items are rendered again with the next seed."""
        found = dict(zip(items, self._attempt(items, retry=0), strict=True))
        for retry in range(1, self.quality.retries + 1):
            rejected = [item for item, outcome in found.items() if _is_rejected(outcome)]
            for item, outcome in zip(rejected, self._attempt(rejected, retry), strict=True):
                found[item] = _after(found[item], outcome)
        return list(found.values())

    def _attempt(self, items: Sequence[Item], retry: int) -> list[Outcome]:
        """Renders every item once, in batches; the next batches are loaded meanwhile."""
        size = self.compute.batch_size
        batches = [items[start : start + size] for start in range(0, len(items), size)]
        with ThreadPoolExecutor(self.compute.io_threads) as pool:
            loaded = _ahead(self._load_batch, batches, pool)
            encoding: list[Future[Outcome]] = []
            for batch, images in zip(batches, loaded, strict=True):
                for item, rendered in self._render_batch(batch, images, retry):
                    encoding.append(pool.submit(self._outcome, item, rendered, retry))
            return [future.result() for future in encoding]

    def _load_batch(self, batch: Sequence[Item]) -> dict[Input, Loaded]:
        """The pictures of a batch, each read once and brought to the size at which it is used."""
        wanted = {image: item for item in batch if item.problem is None for image in item.inputs}
        return {image: self._load(image, item) for image, item in wanted.items()}

    def _load(self, image: Input, item: Item) -> Loaded:
        """A picture at the size at which it is used; memory is shared as in preflight."""
        try:
            with input_bytes(image) as data:
                return self._decoded(image, data, item)
        except (ObjectNotFound, FileNotFoundError):
            message = f"{image.full_uri} was there when it was planned and is gone"
            return Problem(ErrorClass.INPUT_MISSING, message)
        except UNREADABLE as error:
            return Problem(ErrorClass.INPUT_MISSING, str(error))
        except ImageError as error:
            return Problem(ErrorClass(error.kind), f"{image.full_uri}: {error}")
        except RequestError as error:
            return unsupported(error)

    def _decoded(self, image: Input, data: bytes, item: Item) -> Loaded:
        if hashlib.sha256(data).hexdigest() != image.sha256:
            message = f"{image.full_uri} has changed since it was planned; plan a new run"
            return Problem(ErrorClass.INPUT_MISSING, message)
        with decoded_image(data, max_pixels=self.job.limits.max_pixels) as picture:
            return fit_role(image.role, picture, item.width, item.height, settings_of(item))

    def _render_batch(
        self, batch: Sequence[Item], images: dict[Input, Loaded], retry: int
    ) -> Iterator[tuple[Item, Rendered | Problem]]:
        """Each item with its result or its problem; an item that fails does not affect others."""
        asked = {item: _asked(item, images, retry) for item in batch}
        requests = {
            item: request for item, request in asked.items() if isinstance(request, Request)
        }
        results = self._render(requests, counted=retry == 0)
        for item, request in asked.items():
            if isinstance(request, Problem):
                yield item, request
                continue
            result = results[item]
            yield item, result if isinstance(result, Problem) else Rendered(request, result)

    def _render(
        self, requests: dict[Item, Request], *, counted: bool
    ) -> dict[Item, Result | Problem]:
        """Renders items together; where that fails, in halves, until the failing item is alone."""
        if not requests:
            return {}
        items = list(requests)
        try:
            results = render(
                self.backbone,
                list(requests.values()),
                batch_size=len(items),
                on_step_end=lambda count, steps: board.advance(counted * count / steps),
            )
            return dict(zip(items, results, strict=True))
        except Stopped:
            raise
        except (RuntimeError, ArithmeticError, MemoryError, RequestError) as error:
            problem = _render_problem(error)
        if len(items) == 1:
            return {items[0]: problem}
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        found: dict[Item, Result | Problem] = {}
        middle = len(items) // 2
        for half in (items[:middle], items[middle:]):
            found |= self._render({item: requests[item] for item in half}, counted=counted)
        return found

    def _outcome(self, item: Item, rendered: Rendered | Problem, retry: int) -> Outcome:
        """What became of an item: measured, held to the bounds of the job, and encoded."""
        if isinstance(rendered, Problem):
            return Outcome(item, problem=rendered, retries=retry)
        started = time.perf_counter()
        result = rendered.result
        outcome = Outcome(
            item,
            degraded=result.degraded,
            metrics=_figures(rendered),
            phash=phash(result.image),
            retries=retry,
            seconds=result.seconds,
            peak_memory_bytes=result.peak_memory_bytes,
        )
        if reason := self.quality.rejection(outcome.metrics):
            return replace(outcome, problem=Problem(ErrorClass.REJECTED, reason))
        file = self._encoded(item, result.image)
        return replace(outcome, outputs=(file,), encode_seconds=time.perf_counter() - started)

    def _encoded(self, item: Item, image: Image.Image) -> OutputFile:
        name = f"{item.key}.{self.job.output.codec}"
        data = encode_image(image, self.job.output)
        (self.scratch / name).write_bytes(data)
        return OutputFile(name, hashlib.sha256(data).hexdigest(), len(data), *image.size)


def encode_image(image: Image.Image, output: Output) -> bytes:
    """The bytes of an output file; the same picture gives the same bytes."""
    file = io.BytesIO()
    if output.codec == "png":
        image.save(file, "PNG", compress_level=6)
    elif output.codec == "webp":
        lossless = output.quality is None
        image.save(file, "WEBP", lossless=lossless, quality=output.quality or 75, method=4)
    else:
        image.save(file, "JPEG", quality=output.quality or 95, subsampling=0)
    return file.getvalue()


def _ahead(
    function: Callable[[Sequence[Item]], T],
    batches: Iterable[Sequence[Item]],
    pool: ThreadPoolExecutor,
) -> Iterator[T]:
    """The function's results in order, a few of them computed ahead in the pool."""
    waiting: deque[Future[T]] = deque()
    for batch in batches:
        waiting.append(pool.submit(function, batch))
        if len(waiting) > LOOKAHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _asked(item: Item, images: dict[Input, Loaded], retry: int) -> Request | Problem:
    """The request of an item, or why there is none."""
    if item.problem is not None:
        return item.problem
    pictures: dict[Input, Image.Image] = {}
    for item_input in item.inputs:
        loaded = images[item_input]
        if isinstance(loaded, Problem):
            return loaded
        pictures[item_input] = loaded
    try:
        return request_of(item, pictures, seed_of(item.item_id, retry) if retry else item.seed)
    except RequestError as error:
        return unsupported(error)


def _is_rejected(outcome: Outcome) -> bool:
    return outcome.problem is not None and outcome.problem.error_class == ErrorClass.REJECTED


def _after(before: Outcome, retried: Outcome) -> Outcome:
    """The outcome of a retry, with the time that all tries took."""
    return replace(retried, seconds=(before.seconds or 0.0) + (retried.seconds or 0.0))


def _render_problem(error: BaseException) -> Problem:
    message = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "memory" in message.lower():
        return Problem(ErrorClass.OOM, f"out of memory even alone: {message}"[:300])
    if isinstance(error, RequestError):
        return unsupported(error)
    if isinstance(error, NumericsError):
        return Problem(ErrorClass.NUMERICS, message[:300])
    return Problem(ErrorClass.CRASH, f"{type(error).__name__}: {message}"[:300])


def _figures(rendered: Rendered) -> dict[str, float]:
    """The losses at the end of rendering, and what is measured of the picture."""
    request, result = rendered.request, rendered.result
    losses: dict[str, float] = {}
    if result.style_losses:
        losses = {
            "style_loss_first": result.style_losses[0],
            "style_loss": result.style_losses[-1],
            "content_loss": result.content_losses[-1],
        }
    return losses | measure(
        result.image,
        styles=request.styles,
        content=request.content,
        reference_size=request.settings.reference_size,
    )
