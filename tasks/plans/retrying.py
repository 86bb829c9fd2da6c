"""Which failed items are planned again, and what of them may differ: `stylefarm retry`.

An item keeps its id, its key and its settings. It is planned again only where its counting row is
`failed` and no uncommitted shard holds it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from ad_lib.presets import find_preset
from manifests.commits import RunRecord
from manifests.errors import JobError
from manifests.generations import Generation
from manifests.identity import canonical_json
from manifests.items import EXTERNAL, ErrorClass, Input, Item, Status
from manifests.job import BackboneChoice, Compute, Job
from manifests.records import first_problem
from manifests.yaml_text import YamlError, compose, value_of
from tasks.inputs.tables import TableRow
from tasks.plans.growing import add_generation
from tasks.plans.items import Shape, problem_of, result_size, shaping_place
from tasks.plans.preflight import inspect_inputs
from tasks.results.failures import known_classes
from tasks.runs.committed import Committed, Row, open_committed
from tasks.runs.run_folder import open_run, recorded_job

OF_INPUTS = (
    ErrorClass.INPUT_MISSING,
    ErrorClass.DECODE,
    ErrorClass.UNSUPPORTED,
    ErrorClass.LICENSE_DENIED,
)
"""Classes whose items are planned again only where their inputs are found sound now."""

MAX_NAMES = 5
"""Inputs that a sentence names."""


@dataclass(frozen=True)
class Retry:
    """What a retry plans.

    Attributes:
        generation: None where nothing is to be tried again, or nothing was to be written.
        by_class: how many failed items of which class are planned again.
        changes: what changes pixels in them.
        compute: of the run, with what was to differ.
        sentences: why other failed items are not tried again.
    """

    generation: Generation | None
    by_class: Mapping[str, int]
    changes: Mapping[str, str]
    compute: Compute
    sentences: tuple[str, ...]


def retry(
    run_uri: str,
    *,
    classes: Sequence[str] = (),
    overrides: Mapping[str, str] | None = None,
    dry_run: bool = False,
) -> Retry:
    """Plans the failed items of a run as a new generation.

    Args:
        run_uri: the run folder.
        classes: of errors; all of them unless given.
        overrides: dotted key → value as YAML, of `compute` and `backbone.dtype`.
        dry_run: nothing is written.

    Raises:
        JobError: an unknown class, or a setting that a retry cannot change.
        RunFolderError: the run folder is damaged.
        StoreError: a store refuses or does not answer.
    """
    wanted = known_classes(classes)
    while True:
        store, run = open_run(run_uri)
        job = recorded_job(run)
        compute, changes = _changed(job, run, overrides or {})
        committed = open_committed(store, run)
        found = _Found(committed, job, compute, changes)
        items = found.items(wanted)
        by_class = dict(sorted(found.by_class.items()))
        planned = Retry(None, by_class, changes, compute, tuple(found.sentences()))
        if not items or dry_run:
            return planned
        told = ", ".join(f"{number} {name}" for name, number in by_class.items())
        generation = add_generation(
            store,
            run,
            items,
            number=len(committed.plan.generations) + 1,
            kind="retry",
            compute=compute,
            reason=f"failed items again: {told}",
            changes=changes,
        )
        if generation is not None:
            return replace(planned, generation=generation)


def _changed(
    job: Job, run: RunRecord, overrides: Mapping[str, str]
) -> tuple[Compute, dict[str, str]]:
    """How it is computed, and what of that changes pixels."""
    compute: dict[str, Any] = job.compute.model_dump(exclude_unset=True)
    changes: dict[str, str] = {}
    for key, text in overrides.items():
        value = _value(key, text)
        part, _, name = key.partition(".")
        if part == "compute" and name in Compute.model_fields:
            compute[name] = value
        elif key == "backbone.dtype":
            dtype = _checked(key, BackboneChoice, {"dtype": value}).dtype
            changes |= {"dtype": dtype} if dtype not in ("auto", run.dtype) else {}
        else:
            raise JobError(
                f"--set {key}: a retry keeps what its items are; it may change compute.* and "
                "backbone.dtype only: for other settings plan a run of its own"
            )
    checked = _checked("compute", Compute, compute)
    kind = checked.device.partition(":")[0]
    if "compute.device" in overrides and kind not in ("auto", run.device_type):
        changes["device_type"] = kind
    return checked, changes


def _value(key: str, text: str) -> Any:
    try:
        written = compose(text)
        return None if written is None else value_of(written)
    except YamlError as error:
        raise JobError(f"--set {key}={text[:200]}: {error.reason}") from None


def _checked(key: str, part: Any, content: dict[str, Any]) -> Any:
    try:
        return part.model_validate(content)
    except ValidationError as error:
        raise JobError(f"--set {key}: {first_problem(error)}") from None


class _Found:
    """The failed items of a run: which are planned again, and why others are not."""

    def __init__(
        self, committed: Committed, job: Job, compute: Compute, changes: Mapping[str, str]
    ) -> None:
        self.by_class: Counter[str] = Counter()
        self._committed = committed
        self._job = job
        self._compute = compute
        self._changes = changes
        self._num_held = 0
        self._num_same = 0
        self._still_broken: dict[str, None] = {}
        self._other_bytes: dict[str, None] = {}
        self._of_no_file: dict[str, None] = {}

    def items(self, classes: Collection[str]) -> list[Item]:
        """The items that are planned again, without their shards."""
        held = self._held()
        failed: list[tuple[Row, Item]] = []
        for row, item in self._failed(classes):
            if item.item_id in held:
                self._num_held += 1
            elif row["error_class"] == ErrorClass.REJECTED and item.label and not self._changes:
                self._num_same += 1
            else:
                failed.append((row, item))
        inspected = self._inspected(failed)
        items = [self._again(row, item, inspected) for row, item in failed]
        chosen = [(row, item) for (row, _), item in zip(failed, items, strict=True) if item]
        self.by_class.update(row["error_class"] for row, _ in chosen)
        return [item for _, item in chosen]

    def sentences(self) -> Iterator[str]:
        """Why failed items are not planned again."""
        if self._num_held:
            yield (
                f"{self._num_held} failed items are planned again already: 'stylefarm work' or "
                "'run' goes on with them"
            )
        if self._num_same:
            yield (
                f"{self._num_same} rejected pictures of a sweep keep the noise that its columns "
                "share, and would be the same again: change backbone.dtype, or plan another sweep"
            )
        if self._still_broken:
            yield f"inputs that cannot be used yet: {_named(self._still_broken)}"
        if self._of_no_file:
            yield (
                f"no file was found when they were planned: {_named(self._of_no_file)}; 'stylefarm "
                "extend' looks again"
            )
        if self._other_bytes:
            yield (
                f"files that have changed since they were planned: {_named(self._other_bytes)}; "
                "'stylefarm extend' plans what they are now"
            )

    def _failed(self, classes: Collection[str]) -> Iterator[tuple[Row, Item]]:
        for shard, commit in self._committed.live.items():
            if any(commit.stats.errors.get(name) for name in classes):
                for row, item in self._committed.counting_rows(shard):
                    if row["status"] == Status.FAILED and row["error_class"] in classes:
                        yield row, item

    def _held(self) -> set[str]:
        """The items that are planned again in shards which nobody has committed yet."""
        plan = self._committed.plan
        waiting = (
            shard
            for shard in plan.shards
            if shard in plan.contested.shards and shard not in self._committed.commits
        )
        return {item.item_id for shard in waiting for item in plan.items(shard)}

    def _inspected(self, failed: Iterable[tuple[Row, Item]]) -> dict[Input, Input]:
        """Every input of items that failed for it, as it is found now."""
        inputs = {
            item_input: _as_listed(item_input)
            for row, item in failed
            if row["error_class"] in OF_INPUTS
            for item_input in item.inputs
        }
        found = inspect_inputs(
            inputs.values(),
            max_pixels=self._job.limits.max_pixels,
            num_threads=self._compute.io_threads,
        )
        return {planned: found[listed] for planned, listed in inputs.items()}

    def _again(self, row: Row, item: Item, inspected: Mapping[Input, Input]) -> Item | None:
        """The item to plan; None where it would fail in the same way."""
        is_rejected = row["error_class"] == ErrorClass.REJECTED and not item.label
        first_retry = row["retries"] + 1 if is_rejected else item.first_retry
        item = replace(item, first_retry=first_retry)
        if row["error_class"] not in OF_INPUTS:
            return item
        if not all(planned.uri for planned in item.inputs):
            self._of_no_file[row["error_message"]] = None
            return None
        inputs = tuple(inspected[planned] for planned in item.inputs)
        others = [
            found.full_uri
            for planned, found in zip(item.inputs, inputs, strict=True)
            if planned.sha256 and found.sha256 and planned.sha256 != found.sha256
        ]
        if others:
            self._other_bytes.update(dict.fromkeys(others))
            return None
        item = _with_inputs(item, inputs, self._job)
        if item.problem is not None:
            self._still_broken[item.problem.message] = None
            return None
        return item


def _as_listed(planned: Input) -> Input:
    """An input as its source would list it, so that nothing is believed of its bytes."""
    num_bytes = planned.num_bytes if planned.member else None
    return replace(planned, sha256=None, width=None, height=None, num_bytes=num_bytes)


def _with_inputs(item: Item, inputs: tuple[Input, ...], job: Job) -> Item:
    """The item with inputs that may not have been there when it was planned."""
    place = shaping_place([found.role for found in inputs])
    shaping = None if place is None else inputs[place]
    task = job.task if item.task == EXTERNAL else item.task
    width, height = result_size(job.output, find_preset(task), shaping)
    params = canonical_json({**json.loads(item.params), "width": width, "height": height})
    cost = item.cost_seconds * width * height / max(1, item.width * item.height)
    row = TableRow(inputs, "", "{}", prompt=item.prompt, negative_prompt=item.negative_prompt)
    problem = problem_of(row, Shape(item.task, item.label, params, params, width, height, cost))
    return replace(
        item,
        inputs=inputs,
        width=width,
        height=height,
        params=params,
        cost_seconds=round(cost, 3),
        problem=problem,
    )


def _named(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - MAX_NAMES} more" if len(every) > MAX_NAMES else ""
    return "; ".join(every[:MAX_NAMES]) + more
