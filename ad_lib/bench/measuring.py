"""How fast is each way of rendering? A row per technique, measured beside each other.

Every row makes the same pictures. The rows take turns, so that what slows the machine down for a
while slows them all; what is told is the median of the turns. Loading and compiling are not
counted; encoding the pictures and decoding the results is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ad_lib.bench.flops import counted
from ad_lib.bench.machine import Spent, described, matrix_product_peak, spent, what_memory_means
from ad_lib.bench.techniques import Technique, chosen, switched_on, why_not
from ad_lib.bench.ways import InBatches, Rendered, Way, literally
from ad_lib.bench.workload import Workload
from ad_lib.model.backbone import Backbone
from ad_lib.model.device_errors import is_out_of_memory
from ad_lib.model.kernels import using_kernels
from ad_lib.model.techniques import Techniques
from ad_lib.requests import Request

logger = logging.getLogger(__name__)

OUT_OF_MEMORY = "out of memory"
NO_TIME_LEFT = "no time left"


@dataclass(kw_only=True)
class Row:
    """One way of rendering one workload, and what it took.

    Attributes:
        technique: what was added last.
        backbone: the model's name.
        task: the preset.
        size: pixels of each side.
        batch_size: pictures that ran together; of `texture-expand` views.
        num_pictures: in one turn.
        num_steps: of the sampler.
        dtype: of the networks.
        deterministic: whether the kernels give the same bits every time; None is as PyTorch chooses
            by itself.
        note: why there are no figures, if so.
        seconds: for each turn, per picture, by the clock on the wall.
        cpu_seconds: alike, of all threads of this process.
        flops: operations per picture.
        memory_bytes: at most; see `Measured.memory_means`.
        ratio: times faster than the literal loop of the same workload.
        peak_flops: operations a second of the fastest matrix product of this machine, measured
            beside the rows in their precision.
        first_difference: the largest difference of a latent from the literal loop's, after the
            first timestep; the mean one is in `first_mean_difference`.
        last_difference: alike at the end, where L1 and Adam have made rounding grow.
        loss_difference: relative, of the style loss before the first Adam step.
        num_views: of all steps, for `texture-expand`.
    """

    technique: str
    backbone: str
    task: str
    size: int
    batch_size: int
    num_pictures: int
    num_steps: int
    dtype: str
    deterministic: bool | None = None
    note: str = ""
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    flops: float | None = None
    memory_bytes: int | None = None
    ratio: float | None = None
    peak_flops: float = 0.0
    first_difference: float | None = None
    first_mean_difference: float | None = None
    last_difference: float | None = None
    last_mean_difference: float | None = None
    loss_difference: float | None = None
    num_views: int | None = None

    @property
    def median_seconds(self) -> float | None:
        """Per picture; None where nothing was measured."""
        return median(self.seconds) if self.seconds else None

    @property
    def flops_per_second(self) -> float | None:
        """Operations a second."""
        seconds = self.median_seconds
        return self.flops / seconds if self.flops and seconds else None

    @property
    def share_of_peak(self) -> float | None:
        """Of the fastest matrix product, 0 to 1."""
        speed = self.flops_per_second
        return speed / self.peak_flops if speed and self.peak_flops else None

    @property
    def seconds_per_view(self) -> float | None:
        """One step of one view, for `texture-expand`."""
        seconds = self.median_seconds
        return seconds / self.num_views if seconds and self.num_views else None

    @property
    def seconds_per_megapixel(self) -> float | None:
        """Of the result; a megapixel has 1024 x 1024."""
        seconds = self.median_seconds
        return seconds / (self.size / 1024) ** 2 if seconds else None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All rows of a run, and the machine that they are from.

    Attributes:
        machine: versions and the device.
        memory_means: what the rows' memory counts.
        rows: in the order in which techniques were added, workload by workload.
    """

    machine: dict[str, Any]
    memory_means: str
    rows: list[Row]


def measure(
    backbone: Backbone,
    workloads: Sequence[Workload],
    *,
    techniques: Sequence[str] | None = None,
    repeats: int = 3,
    until: float = float("inf"),
    on_turn: Callable[[Measured], None] = lambda so_far: None,
) -> Measured:
    """Measures workloads with one technique added after the other.

    Args:
        backbone: the frozen model, where it shall run; its techniques are as before afterwards.
        workloads: those of one task, size and settings share the row of the literal loop.
        techniques: names from `TECHNIQUES`; None is all.
        repeats: turns of each row.
        until: by `time.monotonic`; rows that would begin later are not measured and say so.
        on_turn: told after each piece of work what is known so far.

    Raises:
        RequestError: a technique or a workload that there is not.
    """
    groups = [_runs_of(backbone, alike, chosen(techniques)) for alike in _alike(workloads)]
    measured = Measured(
        machine=described(backbone.device),
        memory_means=what_memory_means(backbone.device),
        rows=[run.row for group in groups for run in group],
    )
    before = backbone.techniques
    try:
        for group in groups:
            _measure_peak(backbone, group)
            for _ in _measured_group(backbone, group, repeats, until):
                on_turn(measured)
            _measure_peak(backbone, group)
            on_turn(measured)
    finally:
        backbone.techniques = before
    return measured


def _measure_peak(backbone: Backbone, runs: Sequence[_Run]) -> None:
    peak = matrix_product_peak(backbone.device, backbone.dtype)
    for run in runs:
        run.row.peak_flops = max(run.row.peak_flops, peak)


@dataclass(eq=False)
class _Run:
    """A row in the making."""

    row: Row
    way: Way
    state: Techniques
    technique: Technique
    requests: Sequence[Request]
    first: list[Rendered] = field(default_factory=list)
    last: dict[int, Rendered] = field(default_factory=dict)

    def turn(self, number: int) -> list[int]:
        """Positions of the requests that are rendered in a turn: of the literal loop one."""
        if self.technique.is_batched:
            return list(range(len(self.requests)))
        return [number % len(self.requests)]


def _alike(workloads: Iterable[Workload]) -> list[list[Workload]]:
    """Workloads that differ in their batches and numbers alone stand together."""
    groups: dict[str, list[Workload]] = {}
    for one in workloads:
        key = repr((one.task, one.size, one.styles, sorted(one.settings.items())))
        groups.setdefault(key, []).append(one)
    return list(groups.values())


def _runs_of(
    backbone: Backbone, workloads: Sequence[Workload], techniques: Sequence[Technique]
) -> list[_Run]:
    largest = max(workloads, key=lambda one: one.num_pictures)
    runs = []
    for workload in workloads:
        for at, technique in enumerate(techniques):
            if not technique.is_batched and runs:
                continue  # the literal loop does not know batches: one row for all of them
            of = workload if technique.is_batched else largest
            way = InBatches(of.batch_size, technique.shares) if technique.is_batched else literally
            state = switched_on(techniques[: at + 1])
            runs.append(_Run(_row(backbone, of, technique), way, state, technique, of.requests()))
    return runs


def _row(backbone: Backbone, workload: Workload, technique: Technique) -> Row:
    settings = workload.preset.settings_with(workload.settings)
    views = workload.num_views(backbone.vae_scale_factor)
    together = technique.is_batched or views is not None  # the published code batches views
    return Row(
        technique=technique.name,
        backbone=backbone.weights.model_id,
        task=workload.task,
        size=workload.size,
        batch_size=workload.batch_size if together else 1,
        num_pictures=workload.num_pictures if technique.is_batched else 1,
        num_steps=settings.num_inference_steps,
        dtype=str(backbone.dtype).removeprefix("torch."),
        deterministic=technique.deterministic,
        num_views=views,
        note=why_not(technique, backbone),
    )


def _measured_group(
    backbone: Backbone, runs: Sequence[_Run], repeats: int, until: float
) -> Iterator[None]:
    """Measures rows in turns; gives way after each piece of work."""
    for run in runs:
        _guarded(backbone, run, until, partial(_warm_up, backbone, run))
        yield
    for run, eager in zip(runs, _eager_before(runs), strict=True):
        if run.row.flops is None and eager is not None and not run.row.note:
            run.row.flops = eager.row.flops
    literal = next((run for run in runs if not run.technique.is_batched), None)
    for number in range(repeats):
        for run in runs:
            _guarded(backbone, run, until, partial(_take_turn, backbone, run, number))
            if literal is not None:
                _compare(run, literal)
            yield


def _eager_before(runs: Sequence[_Run]) -> list[_Run | None]:
    """For each row the last one whose operations were counted: a compiled graph does the same."""
    found: list[_Run | None] = []
    for run in runs:
        found.append(run if run.row.flops is not None else found[-1] if found else None)
    return found


def _guarded(backbone: Backbone, run: _Run, until: float, work: Callable[[], None]) -> None:
    """Does a piece of a row's work, as its row says; what cannot be done is told in the row."""
    if run.row.note:
        return
    if time.monotonic() > until:
        run.row.note = "" if run.row.seconds else NO_TIME_LEFT
        return
    try:
        backbone.techniques = run.state
        with _kernels(backbone.device.type, run.technique.deterministic):
            work()
    except (RuntimeError, MemoryError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        run.row.note = OUT_OF_MEMORY if is_out_of_memory(error) else f"failed: {reason}"
        logger.warning(
            "%s in batches of %d: %s", run.row.technique, run.row.batch_size, reason, exc_info=True
        )
    if run.row.note and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _kernels(device_type: str, deterministic: bool | None) -> AbstractContextManager[Any]:
    if deterministic is None:
        return nullcontext()
    return using_kernels(device_type, deterministic=deterministic)


def _warm_up(backbone: Backbone, run: _Run) -> None:
    """The first step, for its latents; then what compiles, or counts operations."""
    requests = [run.requests[position] for position in run.turn(0)]
    if run.technique.is_compiled:
        run.first = run.way(backbone, requests, 1)
        run.way(backbone, requests, None)
        if backbone.chosen_techniques.compile == "off":
            run.row.note = "compiling failed"
        return
    run.first, first = counted(partial(run.way, backbone, requests, 1))
    run.row.flops = _operations(backbone, run, requests, first) / len(requests)


def _operations(backbone: Backbone, run: _Run, requests: Sequence[Request], first: int) -> float:
    """Of a whole run; all steps are alike, but where the views change from step to step."""
    if run.row.num_views is not None:
        return counted(partial(run.way, backbone, requests, None))[1]
    if run.row.num_steps == 1:
        return first
    second = counted(partial(run.way, backbone, requests, 2))[1]
    return first + (run.row.num_steps - 1) * (second - first)


def _take_turn(backbone: Backbone, run: _Run, number: int) -> None:
    positions = run.turn(number)
    requests = [run.requests[position] for position in positions]
    if run.technique.is_compiled:  # weights may have moved since, and graphs hold their place
        run.way(backbone, requests, 1)
    rendered, took = spent(backbone.device, lambda: run.way(backbone, requests, None))
    run.last.update(zip(positions, rendered, strict=True))
    _note(run.row, took, len(requests))


def _note(row: Row, took: Spent, num_pictures: int) -> None:
    row.seconds.append(took.seconds / num_pictures)
    row.cpu_seconds.append(took.cpu_seconds / num_pictures)
    if took.memory_bytes is not None:
        row.memory_bytes = max(row.memory_bytes or 0, took.memory_bytes)


def _compare(run: _Run, literal: _Run) -> None:
    """Holds a row to the literal loop, in seconds and in the latents of the pictures of both."""
    row, base = run.row, literal.row
    if row.median_seconds and base.median_seconds:
        row.ratio = base.median_seconds / row.median_seconds
    both = sorted(run.last.keys() & literal.last.keys())
    if both:
        pairs = [(run.last[one].latents, literal.last[one].latents) for one in both]
        row.last_difference, row.last_mean_difference = _differences(pairs)
    if run.first and literal.first:
        mine, theirs = run.first[0], literal.first[0]
        pairs = [(mine.latents, theirs.latents)]
        row.first_difference, row.first_mean_difference = _differences(pairs)
        if theirs.first_loss:
            row.loss_difference = abs(mine.first_loss - theirs.first_loss) / theirs.first_loss


def _differences(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """The largest and the mean difference."""
    apart = torch.stack([(mine.float() - theirs.float()).abs() for mine, theirs in pairs])
    return float(apart.max()), float(apart.mean())
