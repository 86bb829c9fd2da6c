"""What an estimate says is what a run of such steps takes, and it leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from ad_lib.batch import plan_batches
from manifests.commits import Commit, Counts, StoredFile
from manifests.items import ErrorClass, Item, Problem
from manifests.outcomes import Outcome, OutputFile
from manifests.shard_stats import ShardStats
from tasks.estimating.batches import batches_of
from tasks.estimating.buckets import Bucket, buckets_of
from tasks.estimating.estimating import outlooks_of
from tasks.estimating.forecast import Forecast, Outlook, quantile
from tasks.estimating.known import RunKind, known_of, speed_of
from tasks.estimating.measuring import Measured
from tasks.estimating.remembered import (
    MAX_SPEEDS,
    Circumstances,
    Speed,
    recall,
    remember,
    remembered,
    speeds_path,
)
from tasks.estimating.stopwatch import TimedRenderer
from tasks.estimating.trial import TrialPlace
from tasks.inputs.resolving import ResolvedJob, resolve_job
from tasks.plans.planning import plan_items
from tasks.runs.faults import Stopped
from tasks.runs.item_settings import settings_of
from tasks.runs.requests import request_of
from tasks.runs.scratch import file_sha256, find_scratch
from tasks.work.shard_work import ShardWork, Watch
from tests.tasks.runs import make_job

Cost = Callable[[int], float]
"""Seconds of a step of a batch of so many items."""


class MadeUp:
    """A renderer on a clock of its own, whose steps and pictures take what is said.

    Every third picture takes the `finish` of three.
    """

    def __init__(
        self,
        step: Cost,
        *,
        finish: float = 0.0,
        encode: float = 0.0,
        measure: float = 0.0,
        room: int = 16,
    ):
        self.step, self.finish, self.encode, self.room = step, finish, encode, room
        self.measure = measure
        self.now = 0.0
        self.num_steps = self.num_finished = 0

    def render(self, work: ShardWork, watch: Watch, *, hang_seconds: float) -> None:
        watch.loaded(0.0, "made up")
        items = list(work.items)
        for batch in batches_of(items, min(work.batch_size, self.room)):
            watch.begin([one.item_id for one in batch], alone=False)
            self.render_batch(batch, work, watch)

    def render_batch(self, batch: Sequence[Item], work: ShardWork, watch: Watch) -> None:
        steps = settings_of(batch[0]).num_inference_steps
        self.now += self.encode
        for _ in range(steps):
            self.now += self.step(len(batch))
            self.num_steps += 1
            watch.advance(len(batch) / steps)
            if watch.should_stop():
                raise Stopped("enough")
        of_steps = steps * self.step(len(batch)) / len(batch)
        for one in batch:
            self.num_finished += 1
            finish = 0.0 if self.num_finished % 3 else 3 * self.finish
            self.now += finish
            path = work.scratch / f"{one.key}.png"
            Image.new("RGB", (one.width, one.height)).save(path)
            num_bytes = path.stat().st_size
            file = OutputFile(path.name, file_sha256(path), num_bytes, one.width, one.height)
            watch.finish(
                Outcome(
                    one,
                    outputs=(file,),
                    metrics={},
                    seconds=of_steps + finish + self.encode / len(batch),
                    synthesis_seconds=of_steps,
                    encode_seconds=self.measure,
                )
            )

    def close(self) -> None:
        """Nothing to give back."""

    def run_seconds(self, items: Sequence[Item], most_together: int) -> float:
        """What rendering a shard of these takes."""
        return sum(
            settings_of(batch[0]).num_inference_steps * self.step(len(batch))
            + len(batch) * self.finish
            for batch in batches_of(items, most_together)
        )


def planned(base: Path, **changes: Any) -> ResolvedJob:
    return resolve_job(make_job(**changes), str(base))


def estimated(resolved: ResolvedJob, renderer: MadeUp, num_items: int = 3) -> list[Outlook]:
    """The outlooks of a job, rendered by a made-up renderer, whose clock is the estimate's."""
    plan = plan_items(resolved)
    place = TrialPlace(
        resolved=resolved,
        device="cpu",
        renderer=TimedRenderer(renderer, clock=lambda: renderer.now),
        should_stop=lambda: False,
        tell=lambda event: None,
    )
    pending, _ = buckets_of(plan)
    return list(outlooks_of(place, plan, list(pending.values()), num_items, lambda *about: None))


STEPS = {
    "settings__num_inference_steps": 200,
    "compute__shard_items": 100,
    "compute__seconds_per_item": 1.0,  # so that all items fit into one shard
}


@pytest.mark.parametrize(
    ("changes", "room"),
    [({}, 16), ({"compute__batch_size": 1}, 16), ({"compute__batch_size": 4}, 16), ({}, 2)],
    ids=["all together", "one by one", "whole batches and a rest", "as memory has room"],
)
def test_rendering_takes_what_was_estimated_whatever_the_batches_are(
    pictures: Path, changes: dict[str, Any], room: int
):
    renderer = MadeUp(lambda number: 0.2 + 0.1 * number, finish=5.0, room=room)
    resolved = planned(pictures, variants=3, **STEPS, **changes)  # 18 items
    (outlook,) = estimated(resolved, renderer)
    plan = plan_items(resolved)
    most = min(room, changes.get("compute__batch_size", 16))
    taken = sum(renderer.run_seconds(plan.items(shard), most) for shard in plan.shards)
    assert outlook.render_seconds == pytest.approx(taken, rel=0.05)
    assert sum(outlook.seconds.values()) == pytest.approx(18)


def test_an_item_takes_its_share_of_its_batch_and_its_end_as_often_as_it_is_tried():
    known = {"most_together": 8, "start_seconds": 0.0, "finish_seconds": 2.0, "area": 100}
    measured = Measured(step_seconds={4: 16.0, 8: 40.0}, tries=1.5, **known)
    of_items = [measured.seconds_per_item(number, 100) for number in (8, 6, 4, 1)]
    shares = (40.0 / 8, (16.0 + 2 * 6.0) / 6, 16.0 / 4, 16.0 / 4)  # no less in a smaller batch
    assert of_items == [pytest.approx(1.5 * (share + 2.0)) for share in shares]
    assert measured.seconds_per_item(8, 200) == pytest.approx(2 * of_items[0])
    alone = Measured(step_seconds={1: 3.0}, **known)
    assert alone.seconds_per_item(1, 100) == alone.seconds_per_item(5, 100) == 5.0


def test_a_long_batch_is_not_rendered_to_its_end(pictures: Path):
    renderer = MadeUp(lambda number: float(number))
    estimated(planned(pictures, variants=3, **STEPS), renderer)
    assert renderer.num_steps < 200 + 20, "three items to their ends, and a few steps of sixteen"


def test_items_that_take_too_long_are_told_by_their_steps(pictures: Path):
    renderer = MadeUp(lambda number: 40.0 * number)
    (outlook,) = estimated(planned(pictures, **STEPS), renderer)
    assert renderer.num_steps < 5
    assert outlook.tried is not None
    assert outlook.tried.whole_seconds is not None
    assert outlook.render_seconds == pytest.approx(6 * 200 * 40.0, rel=0.01)


def test_an_estimate_leaves_nothing_in_the_run_folder_and_nothing_in_scratch(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
):
    scratch = pictures / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    estimated(planned(pictures), MadeUp(lambda number: 0.1))
    assert not (pictures / "run").exists()
    assert find_scratch("work-") == []


BATCHES: dict[str, dict[str, Any]] = {
    "of one size": {},
    "four at once": {"most": 4},
    "by the contents' sizes": {"output__resize_mode": "keep_ratio"},
    "by the references' own sizes": {"settings__reference_size": 64},
    "by the reference that decodes": {"settings__decoder_epochs": 1},
    "textures in views": {
        **{"task": "texture-expand", "inputs": {"texture": "style"}},
        **{"output__size": 128, "settings__view_size": 8, "settings__view_stride": 4},
    },
}


@pytest.mark.parametrize("case", BATCHES)
def test_batches_are_foretold_as_they_are_rendered(pictures: Path, case: str):
    Image.new("RGB", (90, 150), "green").save(pictures / "style" / "z.png")
    Image.new("RGB", (200, 100), "red").save(pictures / "content" / "d.png")
    changes = dict(BATCHES[case])
    most = changes.pop("most", 16)
    plan = plan_items(planned(pictures, compute__shard_items=100, **changes))
    for shard in plan.shards:
        items = plan.items(shard)
        foretold = {frozenset(one.item_id for one in batch) for batch in batches_of(items, most)}
        assert foretold == rendered_batches(items, most)


def rendered_batches(items: Sequence[Item], most: int) -> set[frozenset[str]]:
    """The batches that `ad_lib.batch` cuts what a worker hands it: items of one size, so many."""
    found: set[frozenset[str]] = set()
    for size in dict.fromkeys((one.width, one.height) for one in items):
        alike = [one for one in items if (one.width, one.height) == size]
        for start in range(0, len(alike), most):
            begun = alike[start : start + most]
            requests = [request_of(one, opened(one), one.seed) for one in begun]
            for batch in plan_batches(requests, lambda request: most):
                found.add(frozenset(begun[place].item_id for place in batch))
    return found


def opened(item: Item) -> dict[Any, Image.Image]:
    return {one: Image.open(one.uri.removeprefix("file://")).convert("RGB") for one in item.inputs}


# ------------------------------------------------------------------ what is known already


def bucket(num_items: int = 6, num_problems: int = 0) -> Bucket:
    return Bucket(
        task="style-transfer",
        label="",
        params="{}",
        smallest=(64, 64),
        largest=(64, 64),
        shards=["00000"],
        num_items=num_items,
        num_problems=num_problems,
    )


def forecast(*shard_seconds: list[float], **changes: Any) -> Forecast:
    """A bucket for each of the lists."""
    outlooks = [
        Outlook(bucket=bucket(), basis="measured", shard_seconds=seconds)
        for seconds in shard_seconds
    ]
    for one in outlooks:
        one.bucket.shards = [str(number) for number in range(len(one.shard_seconds))]
    known: dict[str, Any] = {"load_seconds": 2.0, "workers": 1, "price_per_hour": 36.0}
    return Forecast(outlooks=outlooks, **(known | changes))


def test_more_workers_end_earlier_and_pay_for_each_load_and_the_longest_shard_bounds_them():
    one = forecast([10.0, 60.0], [20.0, 30.0])
    assert [one.wall_seconds(number) for number in (1, 2, 8)] == [122.0, 62.0, 62.0]
    assert [one.device_seconds(number) for number in (1, 2, 8)] == [122.0, 124.0, 128.0]
    assert (one.wall_seconds(), one.device_seconds()) == (122.0, 122.0), "of the job's worker"
    assert one.cost(one.device_seconds(1)) == pytest.approx(1.22)
    assert forecast([1.0], price_per_hour=None).cost(100.0) is None
    done = forecast()
    assert (done.wall_seconds(8), done.device_seconds(8)) == (2.0, 2.0)


def test_what_is_told_of_all_is_the_sum_of_its_buckets_where_each_is_known():
    total = forecast([1.0], [2.0, 3.0])
    first, second = total.outlooks
    first.seconds, second.seconds = {1.0: 5.0}, {1.0: 2.0, 3.0: 4.0}
    first.bucket.num_problems, second.bucket.num_problems = 2, 1
    assert total.seconds == {1.0: 7.0, 3.0: 4.0}
    assert total.render_seconds == 19.0
    assert (total.num_items, total.num_problems, total.num_shards) == (12, 3, 3)
    first.output_bytes, first.peak_memory_bytes = 10.0, 7
    assert (total.output_bytes, total.peak_memory_bytes) == (None, 7)
    second.output_bytes, second.peak_memory_bytes = 5.0, 3
    assert (total.output_bytes, total.peak_memory_bytes) == (15.0, 7)
    assert (forecast().output_bytes, forecast().peak_memory_bytes) == (None, None)


def test_a_bucket_knows_its_sizes_what_is_broken_and_a_few_that_are_not():
    found = bucket(num_items=0)
    columns = {
        **{"width": [64, 128, 32, 64], "height": [64, 64, 32, 64], "key": list("abcd")},
        "error_class": [None, "decode", None, None],
        "cost_seconds": [1.0, 2.0, 3.0, 4.0],
    }
    found.add("00001", pa.table(columns))
    assert (found.num_items, found.num_problems, found.num_sound) == (4, 1, 3)
    assert (found.smallest, found.largest) == ((32, 32), (128, 64))
    assert (found.examples, found.cost_seconds) == (["a", "c"], 10.0)


def test_quantiles_count_items():
    seconds = {1.0: 8.0, 5.0: 1.0, 9.0: 1.0}
    assert [quantile(seconds, share) for share in (0.5, 0.9, 1.0)] == [1.0, 5.0, 9.0]
    assert quantile({}, 0.5) is None


KIND = RunKind(model_revision="sha256:1", dtype="float32", hardware="a cpu x 2")


def speed(seconds: float = 1.0, batch_size: int = 4, **changes: Any) -> Speed:
    of = Circumstances(**{**KIND.of("style-transfer", 64, 64).model_dump(), **changes})
    return Speed(of=of, batch_size=batch_size, seconds_per_step=seconds)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_is_remembered_is_recalled_for_such_items_alone(cache: Path):
    remember(speed(1.0))
    remember(speed(2.0))  # in its place
    remember(speed(7.0, hardware="another"))
    remember(speed(7.0, dtype="bfloat16"))
    remember(speed(3.0, batch_size=8).model_copy(update={"peak_memory_bytes": 5}))
    remember(speed(32.0, width=512))
    assert [one.seconds_per_step for one in remembered()] == [2.0, 7.0, 7.0, 3.0, 32.0]

    def recalled(width: int) -> tuple[float, int | None]:
        found = recall(remembered(), KIND.of("style-transfer", width, 64))
        assert found is not None
        return found.seconds_per_step, found.peak_memory_bytes

    assert recalled(64) == (3.0, 5), "the newest"
    assert recalled(128) == (6.0, None), "of twice the pixels; nobody knows what they hold"
    assert recalled(16) == (0.75, None)
    assert recalled(256) == (16.0, None), "the nearest size"
    assert recalled(4096) == (256.0, None)
    assert recall(remembered(), KIND.of("texture-sample", 64, 64)) is None


def test_so_many_speeds_are_remembered_and_no_more(cache: Path):
    many = [speed(width=64 + number).model_dump() for number in range(MAX_SPEEDS)]
    path = speeds_path()
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"speeds": many}))
    remember(speed(width=9999))
    found = remembered()
    assert len(found) == MAX_SPEEDS
    assert (found[0].of.width, found[-1].of.width) == (65, 9999)
    assert [one.name for one in path.parent.iterdir()] == [path.name], "nothing is left beside it"


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"\xff", b"[]", b'{"speeds": [{}]}', b"x" * 2_000_000]
)
def test_a_damaged_file_is_as_good_as_none(cache: Path, damage: bytes):
    path = speeds_path()
    path.parent.mkdir(parents=True)
    path.write_bytes(damage)
    assert remembered() == []
    remember(speed())
    assert remembered() == [speed()]


def test_a_cache_that_cannot_be_written_is_done_without(cache: Path):
    cache.write_text("a file where the folder would be")
    remember(speed())
    assert remembered() == []


def commit_of(shard: str, num_items: int, seconds: float, load_seconds: float = 3.0) -> Commit:
    parquet = StoredFile(name=f"data/{shard}-{'0' * 12}.parquet", bytes=1, sha256="0" * 64)
    stats = ShardStats(
        render_seconds=seconds * num_items,
        load_seconds=load_seconds,
        seconds_worked=seconds * num_items + 1.0,
        largest_batch=num_items,
        peak_memory_bytes=7,
        output_bytes=100 * num_items,
    )
    return Commit(
        **{"shard": shard, "attempt_id": "a", "plan_digest": "0" * 64, "content_digest": "0" * 64},
        tar=None,
        parquet=parquet,
        counts=Counts(planned=num_items, failed=num_items),
        stats=stats,
        worker="w",
        finished_at="2026-11-27T00:00:00+00:00",
    )


def test_where_steps_are_quick_the_smallest_batch_is_tried_too(pictures: Path):
    quick = STEPS | {"settings__num_inference_steps": 10}
    resolved = planned(pictures, variants=3, **quick)  # batches of 16 and 2
    (outlook,) = estimated(resolved, MadeUp(lambda number: 0.2 + 0.1 * number))
    assert outlook.render_seconds == pytest.approx(10 * (1.8 + 0.4))


def test_a_shard_takes_as_long_as_its_last_batch_is_measured_and_encoded(pictures: Path):
    io = {"compute__io_threads": 8}

    def seconds(measure: float) -> tuple[float, float]:
        resolved = planned(pictures, variants=3, **STEPS, **io)  # batches of 16 and 2
        (outlook,) = estimated(resolved, MadeUp(lambda number: 0.01 * number, measure=measure))
        return outlook.render_seconds, outlook.device_seconds

    at_once, measured = seconds(0.0), seconds(24.0)  # three were tried together: 8 s each of many
    assert measured[0] == at_once[0]
    assert measured[1] - at_once[1] == pytest.approx(2 * 8.0, abs=2.0)


def test_commits_tell_before_memory_does_and_memory_before_a_guess(pictures: Path):
    plan = plan_items(planned(pictures))  # three shards of two items
    first, *others = plan.shards
    rough = known_of(plan, {}, KIND, [])
    assert [one.basis for one in rough.outlooks] == ["rough"]
    costs = [shard.cost_seconds for shard in plan.shards.values()]
    assert rough.outlooks[0].render_seconds == pytest.approx(sum(costs))
    assert rough.outlooks[0].shard_seconds == pytest.approx(costs)
    assert rough.load_seconds == 0.0

    remembers = speed(1.5).model_copy(update={"peak_memory_bytes": 5, "bytes_per_pixel": 0.5})
    by_memory = known_of(plan, {}, KIND, [remembers]).outlooks[0]
    assert (by_memory.basis, by_memory.render_seconds) == ("remembered", 6 * 2 * 1.5)
    assert by_memory.shard_seconds == [2 * 2 * 1.5] * 3
    assert (by_memory.batch_size, by_memory.peak_memory_bytes) == (4, 5)
    assert by_memory.output_bytes == 6 * 64 * 64 * 0.5

    commits = {first: commit_of(first, 2, 10.0)}
    known = known_of(plan, commits, KIND, [remembers])
    (left,) = known.outlooks
    assert (left.basis, left.bucket.shards) == ("commits", others)
    assert left.render_seconds == pytest.approx(4 * 10.0)
    assert left.shard_seconds == pytest.approx([21.0, 21.0])
    assert (left.batch_size, left.peak_memory_bytes, left.output_bytes) == (2, 7, 4 * 100)
    commits[others[0]] = commit_of(others[0], 2, 10.0, load_seconds=0.0)
    assert known_of(plan, commits, KIND, []).load_seconds == 3.0, "who loads anew loads as long"


def test_what_is_alike_to_nothing_is_as_much_longer_than_planned_as_others_were(pictures: Path):
    sweep = [{"label": "short"}, {"label": "long", "num_inference_steps": 4}]
    plan = plan_items(planned(pictures, sweep=sweep))
    pending, _ = buckets_of(plan)
    short, long = (one.shards for one in pending.values())
    commits = {name: commit_of(name, 2, 10.0) for name in short[:2]}
    (_, guessed) = known_of(plan, commits, KIND, []).outlooks
    pace = 4 * 10.0 / sum(plan.shards[name].cost_seconds for name in short[:2])
    costs = [plan.shards[name].cost_seconds for name in long]
    assert guessed.basis == "commits"
    assert guessed.render_seconds == pytest.approx(pace * sum(costs))
    assert guessed.shard_seconds == pytest.approx([pace * cost for cost in costs])
    by_job = known_of(plan, {}, replace(KIND, has_given_seconds=True), []).outlooks
    assert [one.basis for one in by_job] == ["job", "job"]
    assert [one.basis for one in known_of(plan, {}, KIND, []).outlooks] == ["rough", "rough"]


def test_what_a_shard_took_is_remembered_by_its_steps(pictures: Path):
    plan = plan_items(planned(pictures))
    first, *_ = plan.shards
    one, other = plan.items(first)
    stats = commit_of(first, 2, 10.0).stats
    found = speed_of([one, other], KIND, stats)
    assert found is not None
    assert found.seconds_per_step == pytest.approx(5.0), "ten seconds an item, of two steps"
    half = replace(other, height=other.height // 2)
    broken = replace(other, problem=Problem(ErrorClass.DECODE, "it ends early"))
    found = speed_of([half, one, broken], KIND, stats)
    assert found is not None
    assert (found.of.width, found.of.height) == (64, 64)
    assert found.seconds_per_step == pytest.approx(20.0 / 2 / 1.5), "one, and half of one"
    assert found.bytes_per_pixel == pytest.approx(200 / 1.5 / 64**2)
    assert (found.batch_size, found.peak_memory_bytes) == (2, 7)
    assert speed_of([broken], KIND, stats) is None
    for unknown in (ShardStats(render_seconds=1.0), ShardStats(largest_batch=1)):
        assert speed_of([one], KIND, unknown) is None
