"""A million items are planned as columns; each is what it would be if it were planned alone."""

from __future__ import annotations

import hashlib
import random
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import pyarrow.parquet as pq
import pytest

from manifests.errors import JobError
from manifests.items import ErrorClass, Input, Item, Problem
from manifests.job import Pairing
from manifests.pairing import pair, with_source_masks
from manifests.plan import cut_into_shards
from manifests.plan_rules import MAX_FAILED_SIDE
from tasks.inputs.external import External
from tasks.inputs.listed_inputs import ListedInputs
from tasks.inputs.passed_over import PassedOver
from tasks.inputs.resolving import ResolvedJob, resolve_job
from tasks.inputs.sources import SourceFile
from tasks.inputs.tables import TableRow
from tasks.plans import combinations, planning
from tasks.plans.combinations import limited
from tasks.plans.given_pictures import given_pictures
from tasks.plans.items import make_item, shaping_place
from tasks.plans.planning import plan_items
from tests.tasks.runs import make_job

JOBS: dict[str, dict[str, Any]] = {
    "pairs": {},
    "kept proportions": {"output": {"uri": "run"}, "settings": {"reference_size": 64}},
    "own sizes": {"output": {"uri": "run", "size": 64, "resize_mode": "no"}},
    "sweep": {"sweep": {"content_weight": [0, 0.25], "num_inference_steps": [2, 3]}},
    "sweep of tasks": {
        "sweep": [
            {"task": "style-transfer", "label": "as a style"},
            {"task": "appearance-transfer", "num_inference_steps": 3},
        ]
    },
    "prompts": {
        "task": "style-t2i",
        "inputs": {"style": "style", "prompt": ["a cat", "a dög", " ", "a cat "]},
    },
    "negative prompt": {
        "task": "style-t2i",
        "inputs": {"style": "style", "prompt": "x" * 60, "negative_prompt": "'\"ü"},
    },
    "masks": {
        "task": "texture-masked",
        "inputs": {"texture": "style", "source_mask": "style", "target_mask": "content"},
    },
    "others": {"external": {"theirs": "theirs", "Ü": "theirs"}},
    "others beside a sweep": {
        "sweep": {"content_weight": [0, 0.25]},
        "external": {"theirs": "theirs"},
    },
    "no shape": {"task": "texture-optimize", "inputs": {"texture": "style"}},
}

KEYS = ["a", "b", "A!", "a-b", "c", "ü", "日本", "x" * 300, "0", "a?", "d/e", "f.g", "__", "~"]
ENDS = [[], [], ["1"], ["2"]]
SIZES = [
    (64, 64),
    (64, 64),
    (64, 64),
    (65, 64),
    (128, 96),
    (96, 128),
    (4096, 64),
    (3, 4000),
    (30, 30),
    (9000, 9000),
]


@pytest.fixture(scope="module")
def resolved_jobs(tmp_path_factory) -> dict[str, ResolvedJob]:
    base = tmp_path_factory.mktemp("jobs")
    for folder in ("content", "style", "theirs"):
        (base / folder).mkdir()
        (base / folder / "a.png").write_bytes(b"")
    return {name: resolve_job(make_job(**changes), str(base)) for name, changes in JOBS.items()}


class Draw:
    """Random sources of one job, and what preflight would find in them."""

    def __init__(self, seed: int, resolved: ResolvedJob) -> None:
        self.random = random.Random(seed)
        self.found: dict[str, Input] = {}
        self.resolved = self.changed(resolved)

    def changed(self, resolved: ResolvedJob) -> ResolvedJob:
        draw, listed = self.random, resolved.inputs
        if draw.random() < 0.4:
            rows = [self.row(list(listed.files), listed) for _ in range(draw.randint(1, 12))]
            inputs = replace(listed, files={}, table=rows, prompts=[], negative_prompt=None)
        else:
            files = {role: self.files(role) for role in listed.files}
            if "source_mask" in files and draw.random() < 0.9:
                names = [file.name for file in files["texture"]]
                files["source_mask"] = [self.file("source_mask", name) for name in names]
                for name in names[1:]:  # a mask has the size of its texture, mostly
                    self.found[f"/source_mask/{name}"] = self.found[f"/texture/{name}"]
            inputs = replace(listed, files=files)
        external = {name: self.external(one) for name, one in listed.external.items()}
        inputs = replace(inputs, external=external)
        job = resolved.job.model_copy(
            update={
                "variants": draw.choice([1, 1, 2, 3]),
                "seed": draw.choice([0, 7]),
                "pairing": Pairing(
                    mode=draw.choice(["product", "product", "zip", "random"]),
                    styles_per_content=draw.randint(1, 2),
                ),
                "limits": resolved.job.limits.model_copy(
                    update={"max_items": draw.choice([None, None, 1, 5, 40])}
                ),
                "compute": resolved.job.compute.model_copy(
                    update={
                        "shard_items": draw.choice([1, 3, 1000]),
                        "shard_seconds": draw.choice([1.0, 400.0, 1e9]),
                        "seconds_per_item": draw.choice([None, 0.0, 1.0]),
                    }
                ),
            }
        )
        return replace(resolved, job=job, inputs=inputs)

    def files(self, role: str) -> list[SourceFile]:
        keys = self.random.sample(KEYS, self.random.randint(1, 5))
        return [self.file(role, f"{key}.png") for key in keys]

    def external(self, listed: External) -> External:
        """Pictures named after one or two inputs and a variant, or like nothing."""
        draw = self.random
        names = {
            "-".join([*(draw.choice(KEYS) for _ in range(draw.randint(1, 2))), *draw.choice(ENDS)])
            for _ in range(30)
        }
        files = [self.file("external.x", f"{name}.png") for name in sorted(names)]
        return replace(listed, files=files, passed_over=PassedOver())

    def file(self, role: str, name: str) -> SourceFile:
        size = 10 if self.random.random() < 0.95 else None
        terms = {"license": self.random.choice([None, "CC0"])}
        file = SourceFile(role, f"/{role}/{name}", name, size, **terms)
        self.found[file.uri] = self.facts()
        return file

    def row(self, roles: list[str], listed: ListedInputs) -> TableRow:
        draw = self.random
        inputs = []
        for role in [*roles, *draw.choices(roles, k=draw.choice([0, 0, 1]))]:
            uri = f"/{role}/{draw.choice(KEYS)}.png"
            self.found.setdefault(uri, self.facts())
            inputs.append(Input(role, uri.rpartition("/")[2][:-4], uri))
        problem = Problem(ErrorClass.UNSUPPORTED, f"row: {draw.randint(0, 3)}")
        return TableRow(
            tuple(inputs),
            key=draw.choice(["", "", "", *map(str, range(30)), "A!", "a?"]),
            user=draw.choice(["{}", '{"note":"ü"}']),
            prompt=draw.choice(["a cat", "", "ü"]) if listed.prompts else None,
            negative_prompt=draw.choice([None, "rain"]) if listed.prompts else None,
            problem=problem if draw.random() < 0.1 else None,
        )

    def facts(self) -> Input:
        """Bytes that may be those of another picture too, a size, or a problem."""
        content = self.random.randint(0, 6)
        sha256 = hashlib.sha256(b"%d" % content).hexdigest()
        width, height = self.random.choice(SIZES)
        problem = Problem(ErrorClass.DECODE, f"broken {content}")
        if self.random.random() < 0.1:
            return Input("", "", "", sha256=self.random.choice([None, sha256]), problem=problem)
        return Input("", "", "", sha256=sha256, num_bytes=9, width=width, height=height)

    def inspect(self, images: Iterable[Input], **_: Any) -> dict[Input, Input]:
        return {image: self.inspected(image) for image in images}

    def inspected(self, image: Input) -> Input:
        if image.problem:
            return image
        names = ("sha256", "num_bytes", "width", "height", "problem")
        found = self.found[image.uri]
        return replace(image, **{name: getattr(found, name) for name in names})


def plain_rows(draw: Draw) -> Iterator[TableRow]:
    """The rows of the job as objects, each with its inspected inputs."""
    resolved, inputs = draw.resolved, draw.resolved.inputs
    rows = inputs.table
    if not rows:
        images = combinations.listed_images(resolved)
        masks = images.pop("source_mask", None)
        pairs = pair(images, resolved.job.pairing)
        if masks is not None:
            pairs = with_source_masks(pairs, masks, list(inputs.files))
        prompts = inputs.prompts or [None]
        negative = inputs.negative_prompt
        rows = [TableRow(one, "", "{}", text, negative) for one in pairs for text in prompts]
    most = resolved.job.limits.max_items
    if most is not None:
        most = max(1, most // (resolved.job.variants * len(resolved.variations)))
    for row in limited(rows, most):
        yield replace(row, inputs=tuple(map(draw.inspected, row.inputs)))


def plain_items(draw: Draw) -> list[Item]:
    """The items, one after the other, as the first version of planning made them."""
    resolved = draw.resolved
    twins: Counter[str] = Counter()
    of_key: dict[str, str] = {}
    items: list[Item] = []
    rows = list(plain_rows(draw))
    external = {name: one.images() for name, one in resolved.inputs.external.items()}
    given = given_pictures(resolved, rows, external)
    ranks: dict[int, int] = {}
    for number, row in enumerate(rows):
        for variation in resolved.variations:
            for variant in range(resolved.job.variants):
                case = number * resolved.job.variants + variant
                picture = None
                if variation.is_external:
                    picture = draw.inspected(given[variation.label][case])
                    rank = ranks[case]
                else:
                    item = make_item(resolved, row, variation, variant)
                    rank = twins[item.item_id]
                    twins[item.item_id] += 1
                    ranks.setdefault(case, rank)
                item = make_item(resolved, row, variation, variant, rank, picture)
                if item.key in of_key:
                    raise JobError(f"key {item.key!r} ({of_key[item.key]!r} and {row.key!r})")
                of_key[item.key] = row.key
                items.append(item)
    if all(item.problem for item in items):
        lines = dict.fromkeys(item.problem.message for item in items if item.problem)
        raise JobError("no item can be rendered, and nothing was written:\n" + "\n".join(lines))
    compute = resolved.job.compute
    return cut_into_shards(
        items, shard_seconds=compute.shard_seconds, shard_items=compute.shard_items
    )


def as_stored(item: Item) -> Item:
    """The item as a plan can hold it."""
    return replace(
        item,
        inputs=tuple(replace(one, problem=None) for one in item.inputs),
        width=min(item.width, MAX_FAILED_SIDE),
        height=min(item.height, MAX_FAILED_SIDE),
    )


def answer(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except JobError as error:
        return (
            str(error)
            .replace("inputs.table: two rows would be stored under the ", "")
            .split(": make the keys differ")[0]
        )


@pytest.mark.parametrize("name", JOBS)
def test_every_item_is_what_it_would_be_if_it_were_planned_alone(resolved_jobs, monkeypatch, name):
    told: Counter[type] = Counter()
    for seed in range(30):
        draw = Draw(seed, resolved_jobs[name])
        monkeypatch.setattr(planning, "inspect_inputs", draw.inspect)
        wanted = answer(lambda draw=draw: [as_stored(item) for item in plain_items(draw)])
        found = answer(lambda draw=draw: list(plan_items(draw.resolved).iter_items()))
        assert found == wanted, seed
        told[type(wanted)] += 1
    assert told[list] > 2


def test_of_several_images_that_could_shape_a_result_the_last_one_of_the_first_role_does():
    assert shaping_place(["style", "content", "style", "content"]) == 3
    assert shaping_place(["control", "target_mask", "layout"]) == 2
    assert shaping_place(["style", "texture"]) is None


def test_planning_holds_some_hundred_bytes_for_each_item(resolved_jobs, monkeypatch):
    draw = Draw(0, resolved_jobs["pairs"])
    monkeypatch.setattr(planning, "inspect_inputs", draw.inspect)
    files = {
        role: [draw.file(role, f"{number}.png") for number in range(90)]
        for role in ("content", "style")
    }
    job = make_job(compute={"seconds_per_item": 1.0, "device": "cpu"})
    resolved = replace(
        resolved_jobs["pairs"], job=job, inputs=replace(draw.resolved.inputs, files=files, table=[])
    )
    list(plan_items(draw.resolved).iter_items())  # what is imported late is not counted
    tracemalloc.start()
    try:
        plan = plan_items(resolved)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert plan.num_items == 8100
    assert peak / plan.num_items < 700
    assert pq.ParquetFile(plan.path).num_row_groups <= 9, "a row group has 1000 rows or more"
