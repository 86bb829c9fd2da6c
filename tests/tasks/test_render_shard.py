"""The function that renders a shard: what is batched, what is tried again, whose fault it is."""

from __future__ import annotations

import errno
import hashlib
import io
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import tasks.work.concluding as concluding
import tasks.work.decode as decoding
import tasks.work.encode as encoding
import tasks.work.loading as loading
import tasks.work.render as rendering
from ad_lib.batch import Result
from ad_lib.errors import ImageError, NumericsError, RequestError
from ad_lib.model.device_errors import answers, is_device_failure, is_out_of_memory
from ad_lib.pictures.measure import Judge, measure
from ad_lib.requests import fit_role
from infra.store import StoreBusy
from manifests.errors import RunFolderError
from manifests.identity import seed_of
from manifests.items import ErrorClass, Input, Problem
from manifests.quality import Bounds, Quality
from tasks.runs.faults import DeviceFault, FreshDeviceNeeded, ScratchFull, Stopped
from tasks.runs.item_settings import settings_of
from tasks.work.concluding import Conclusions
from tasks.work.loading import Pictures
from tasks.work.models import ModelCache
from tasks.work.problems import problem_of
from tasks.work.render import render_shard
from tasks.work.shard_work import ShardWork
from tests.bad_images import picture
from tests.tasks.shards import Told, planted

MODELS = ModelCache()


@pytest.fixture
def rendered(monkeypatch) -> list[list[int]]:
    """Batches of made-up pictures: the seeds of each."""
    return made_up(monkeypatch)


def made_up(
    patch: pytest.MonkeyPatch, check: Callable[[Sequence[Any]], None] = lambda requests: None
) -> list[list[int]]:
    batches: list[list[int]] = []

    def render(backbone: Any, requests: Sequence[Any], **options: Any) -> list[Result]:
        batches.append([request.seed for request in requests])
        check(requests)
        options["on_step_end"](len(requests), 1)
        return [
            Result(
                image=Image.new("RGB", (one.width, one.height), (one.seed % 256, 9, 9)),
                style_losses=(1.0,),
                content_losses=(1.0,),
                seconds=1.0,
                synthesis_seconds=1.0,
                seed=one.seed,
            )
            for one in requests
        ]

    patch.setattr(rendering, "render", render)
    return batches


def fresh(work: ShardWork) -> ModelCache:
    MODELS.backbone(work.model, work.device)
    MODELS.is_fresh = True
    return MODELS


def render(work: ShardWork, **changes: Any) -> Told:
    told, work = Told(), replace(work, **changes)
    render_shard(work, fresh(work), told)
    return told


def ids(work: ShardWork) -> list[str]:
    return [item.item_id for item in work.items]


def test_suspects_come_first_and_alone_then_batches_of_one_size(tmp_path, rendered):
    work = planted(tmp_path, num_sound=7)
    items = tuple(
        replace(item, width=64 + 8 * (number % 2)) for number, item in enumerate(work.items)
    )
    suspects = (items[4].item_id, items[1].item_id)
    told = render(work, items=items, alone=suspects)
    assert told.begun[:2] == [((suspects[0],), True), ((suspects[1],), True)]
    seeds = [item.seed for item in items]
    assert rendered[:2] == [[seeds[4]], [seeds[1]]]
    assert rendered[2:] == [[seeds[0], seeds[2]], [seeds[6]], [seeds[3], seeds[5]]]
    assert told.outcomes.keys() == set(ids(work))


def test_nothing_else_is_begun_while_an_item_is_tried_alone(tmp_path, rendered):
    work = planted(tmp_path, num_sound=4)
    told = Told()
    told.on_begin = lambda: seen.append(len(told.in_hand))
    seen: list[int] = []
    render_shard(replace(work, alone=tuple(ids(work)[:3])), fresh(work), told)
    assert seen[:3] == [1, 1, 1]


def test_retries_go_on_at_the_seed_after_the_last(tmp_path, rendered):
    work = planted(tmp_path, num_sound=1)
    item = replace(work.items[0], first_retry=3)
    job = work.job.model_copy(
        update={"quality": Quality(style_loss=Bounds(max=0.5), retries=2)}  # all are rejected
    )
    for alone in ((), (item.item_id,)):
        rendered.clear()
        told = render(work, items=(item,), job=job, alone=alone)
        assert rendered == [[seed_of(item.item_id, number)] for number in (3, 4, 5)]
        (outcome,) = told.outcomes.values()
        assert (outcome.retries, outcome.seconds) == (5, 3.0)
        assert outcome.seed == seed_of(item.item_id, 5)
        assert outcome.problem is not None
        assert outcome.problem.error_class == ErrorClass.REJECTED


@pytest.mark.parametrize(
    ("memory_sharers", "sizes"), [(None, [3, 2]), (1, [3, 2]), (10**9, [1] * 5)]
)
def test_workers_that_share_little_memory_render_one_item_at_a_time(
    tmp_path, rendered, memory_sharers, sizes
):
    work = planted(tmp_path, num_sound=5)
    told = render(work, batch_size=3, memory_sharers=memory_sharers)
    assert [len(batch) for batch in rendered] == sizes
    assert [len(names) for names, _ in told.begun] == sizes


def test_what_fitted_after_an_out_of_memory_is_where_the_next_batch_begins(tmp_path, monkeypatch):
    def too_many(requests: Sequence[Any]) -> None:
        if len(requests) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    sizes = made_up(monkeypatch, too_many)
    work = planted(tmp_path, num_sound=12)
    told = render(work, batch_size=8)
    assert [len(batch) for batch in sizes] == [8, 4, 2, 2, 4, 2, 2, 2, 2]
    assert told.fits[-1] == 2
    assert [outcome.problem for outcome in told.outcomes.values()] == [None] * 12


def test_an_item_that_no_batch_fits_does_not_make_the_batches_of_others_small(
    tmp_path, monkeypatch
):
    work = planted(tmp_path, num_sound=8)
    greedy = work.items[0]

    def is_greedy(requests: Sequence[Any]) -> None:
        if any(request.seed == greedy.seed for request in requests):
            raise MemoryError

    made_up(monkeypatch, is_greedy)
    told = Told()
    with pytest.raises(FreshDeviceNeeded) as raised:
        render_shard(replace(work, batch_size=4), fresh(work), told)
    assert raised.value.item_ids == (greedy.item_id,)
    assert told.outcomes.keys() == set(ids(work)[1:])
    assert told.fits == []


def test_out_of_memory_alone_is_a_row_on_a_fresh_device_and_not_on_a_used_one(
    tmp_path, monkeypatch
):
    def no_memory(requests: Sequence[Any]) -> None:
        raise MemoryError

    work = planted(tmp_path, num_sound=1)
    made_up(monkeypatch, no_memory)
    alone = tuple(ids(work))
    told = render(work, alone=alone)
    (outcome,) = told.outcomes.values()
    assert outcome.problem is not None
    assert outcome.problem.error_class == ErrorClass.OOM
    models = fresh(work)
    models.is_fresh = False
    with pytest.raises(FreshDeviceNeeded):
        render_shard(replace(work, alone=alone), models, Told())


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (torch.AcceleratorError("CUDA error: an illegal memory access"), DeviceFault),
        (StoreBusy("later"), StoreBusy),
        (Stopped("stop"), Stopped),
    ],
)
def test_what_is_not_an_items_fault_ends_the_shard(tmp_path, monkeypatch, error, fault):
    def fail(requests: Sequence[Any]) -> None:
        raise error

    made_up(monkeypatch, fail)
    told = Told()
    work = planted(tmp_path)
    with pytest.raises(fault):
        render_shard(work, fresh(work), told)
    assert not told.outcomes


def test_scratch_that_cannot_be_written_is_the_workers_fault(tmp_path, rendered):
    work = planted(tmp_path)
    work.scratch.rmdir()
    told = Told()
    with pytest.raises(ScratchFull, match="TMPDIR"):
        render_shard(work, fresh(work), told)
    assert not told.outcomes


def test_a_run_that_began_before_keeps_the_bytes_of_its_png_files(tmp_path):
    work = planted(tmp_path, num_sound=1)
    image, files = Image.fromarray(picture(seed=4)), {}
    for strategy in ("default", "rle"):
        written = io.BytesIO()
        encoding.encode_image(image, work.job.output, written, strategy)
        files[strategy] = written.getvalue()
        assert Image.open(io.BytesIO(files[strategy])).tobytes() == image.tobytes()
    before = io.BytesIO()
    image.save(before, "PNG", compress_level=6)
    assert files["default"] == before.getvalue() != files["rle"]


@pytest.mark.parametrize("codec", ["png", "jpg", "webp"])
def test_a_picture_is_written_piece_by_piece_as_in_memory(tmp_path, rendered, codec):
    work = planted(tmp_path, num_sound=1)
    output = work.job.output.model_copy(update={"codec": codec})
    work = replace(work, job=work.job.model_copy(update={"output": output}))
    (outcome,) = render(work).outcomes.values()
    (file,) = outcome.outputs
    stored, whole = (work.scratch / file.name).read_bytes(), io.BytesIO()
    encoding.encode_image(Image.open(io.BytesIO(stored)), work.job.output, whole)
    assert (file.sha256, file.bytes) == (hashlib.sha256(stored).hexdigest(), len(stored))
    if codec != "jpg":
        assert stored == whole.getvalue()


def test_an_error_of_the_disk_while_encoding_is_the_items_own(tmp_path, rendered, monkeypatch):
    def fail(*_: Any) -> bytes:
        raise OSError(errno.EIO, "encoder error")

    monkeypatch.setattr(encoding, "encode_image", fail)
    told = render(planted(tmp_path, num_sound=1))
    (outcome,) = told.outcomes.values()
    assert outcome.problem is not None
    assert outcome.problem.message == "OSError: [Errno 5] encoder error"


def test_each_distinct_picture_of_a_shard_is_read_fitted_and_encoded_once(tmp_path, monkeypatch):
    read, fitted = Counter[str](), Counter[str]()
    input_bytes, fit_role = decoding.input_bytes, decoding.fit_role

    def reading(image: Input) -> Any:
        read[image.full_uri] += 1
        return input_bytes(image)

    def fitting(role: str, *args: Any) -> Any:
        fitted[role] += 1
        return fit_role(role, *args)

    monkeypatch.setattr(decoding, "input_bytes", reading)
    monkeypatch.setattr(decoding, "fit_role", fitting)
    work = planted(tmp_path, num_sound=5)
    models = fresh(work)
    models.encoded.clear()
    backbone, _ = models.backbone(work.model, work.device)
    encoded: list[Any] = []
    encode = backbone.encode
    monkeypatch.setattr(backbone, "encode", lambda images: encoded.append(images) or encode(images))
    told = render(work, alone=ids(work)[:1], batch_size=2)
    assert len(told.begun) == 3
    assert set(read.values()) == {1}
    assert fitted == {"content": 5, "style": 1}
    assert len(encoded) == len({images.numpy().tobytes() for images in encoded}) == 5, (
        "the style is one of the contents, too"
    )


def test_pictures_that_were_asked_for_last_are_kept_as_far_as_their_bytes_may_go(tmp_path):
    work = planted(tmp_path, num_sound=4)
    size = 4 * work.items[0].width * work.items[0].height
    with Pictures(2, max_pixels=10**6, kept_bytes=3 * size) as pictures:
        first = pictures.of(work.items)  # a style and four contents
        wait(first.values())
        again = pictures.of(work.items[2:])
        last = pictures.of(work.items)
    for image in again:
        assert again[image] is first[image] is last[image]
    assert sum(first[image] is last[image] for image in first) == 3


def test_a_picture_that_could_not_be_read_is_tried_again_for_the_next_batch(tmp_path):
    work = planted(tmp_path, num_sound=1)
    (item,) = work.items
    content = next(image for image in item.inputs if image.role == "content")
    away = Path(content.uri).rename(tmp_path / "away")
    with Pictures(2, max_pixels=10**6) as pictures:
        missing = pictures.of([item])[content].result()
        assert isinstance(missing, Problem)
        assert missing.error_class == ErrorClass.INPUT_MISSING
        away.rename(content.uri)
        pictures.of([])
        assert isinstance(pictures.of([item])[content].result(), Image.Image)


def test_slow_measuring_holds_up_no_loading(tmp_path, rendered, monkeypatch):
    """Every picture is loaded although nothing is measured before that."""
    loaded: list[str] = []
    all_loaded = threading.Event()
    load, measuring = loading.load_picture, Judge.measure

    def watched(image: Input, *args: Any) -> Any:
        found = load(image, *args)
        loaded.append(image.full_uri)
        if len(loaded) == 7:
            all_loaded.set()
        return found

    def slow(*args: Any, **options: Any) -> Any:
        assert all_loaded.wait(60)
        return measuring(*args, **options)

    monkeypatch.setattr(loading, "load_picture", watched)
    monkeypatch.setattr(Judge, "measure", slow)
    told = render(planted(tmp_path, num_sound=6), batch_size=2, io_threads=1)
    assert [outcome.problem for outcome in told.outcomes.values()] == [None] * 6


def test_what_was_waited_for_slow_files_and_for_slow_measuring_is_told(
    tmp_path, rendered, monkeypatch
):
    work = planted(tmp_path, num_sound=4)

    def slowly(function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            time.sleep(0.2)
            return function(*args, **options)

        return call

    for owner, name, slow in ((loading, "load_picture", 0), (Judge, "measure", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, slowly(getattr(owner, name)))
            told = render(work)
        assert told.waits[slow] >= 0.2


def test_pictures_that_wait_to_be_measured_share_a_bounded_memory(monkeypatch):
    monkeypatch.setattr(concluding, "WAITING_BYTES", 100)
    at_once, most = 0, 0
    counting = threading.Lock()

    def conclude() -> None:
        nonlocal at_once
        time.sleep(0.002)
        with counting:
            at_once -= 1

    with Conclusions[None](4, most_waiting=10) as conclusions:
        for _ in range(20):
            conclusions.add(conclude, 40)
            with counting:
                at_once += 1
                most = max(most, at_once)
        assert len([*conclusions.ended(), *conclusions.all()]) == 20
    assert 1 <= most <= 3, "two of them, and one whose share has just been given back"


def test_weights_that_are_not_the_planned_ones_render_nothing(tmp_path):
    work = planted(tmp_path, num_sound=1)
    model = replace(work.model, revision="sha256:other")
    with pytest.raises(RunFolderError, match="planned with backbone"):
        render_shard(replace(work, model=model), ModelCache(), Told())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_model_has_the_planned_precision(tmp_path, dtype):
    model = replace(planted(tmp_path, num_sound=1).model, dtype=dtype)
    backbone, _ = ModelCache().backbone(model, "cpu")
    assert backbone.dtype == getattr(torch, dtype)


# ---------------------------------------------------------------------------- by type


def raised_by(action: Callable[[], object]) -> BaseException:
    with pytest.raises(RuntimeError) as raised:
        action()
    return raised.value


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("error", "error_class"),
    [
        (ImageError("x"), "decode"),
        (ImageError("x", "unsupported"), "unsupported"),
        (RequestError("x"), "unsupported"),
        (NumericsError("x"), "numerics"),
        (MemoryError(), "oom"),
        (torch.OutOfMemoryError("x"), "oom"),
        (RuntimeError("the memory of the store is full"), "crash"),
        (RuntimeError("CUDA error: words decide nothing"), "crash"),
        (RecursionError("x"), "crash"),
        (SystemExit(), "crash"),
        (GeneratorExit(), "crash"),
        (OSError(errno.ENOSPC, "x"), "crash"),
        (Unprintable(), "crash"),
    ],
    ids=repr,
)
def test_an_items_own_exception_is_a_row_by_its_type(error, error_class):
    problem = problem_of(error)
    assert problem.error_class == error_class
    assert problem.message
    assert "\n" not in problem.message
    assert len(problem.message) <= 500


def test_ctrl_c_is_no_items_fault_where_it_can_be_pressed(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            problem_of(KeyboardInterrupt())
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        assert problem_of(KeyboardInterrupt()).error_class == "crash"
    finally:
        signal.signal(signal.SIGINT, before)


def test_pytorchs_own_sentence_for_a_full_host_is_known():
    error = raised_by(lambda: torch.empty(1 << 60))
    assert is_out_of_memory(error)
    assert not is_device_failure(error)
    assert answers(torch.device("cpu"))


def test_a_picture_of_another_plan_is_not_rendered(tmp_path, rendered):
    work = planted(tmp_path, num_sound=2)
    (tmp_path / "content" / "sound1.png").write_bytes(b"")
    Image.fromarray(picture(seed=9)).save(tmp_path / "content" / "sound0.png")
    told = render(work)
    assert {one.problem.error_class for one in told.outcomes.values() if one.problem} == {
        ErrorClass.INPUT_MISSING
    }


def test_who_asks_to_stop_is_heard_at_the_next_step(tmp_path, rendered):
    work, told = planted(tmp_path, num_sound=1), Told()
    told.on_begin = told.stopping.set
    with pytest.raises(Stopped):
        render_shard(work, fresh(work), told)
    assert len(rendered) == 1
    assert not told.outcomes


def test_pictures_are_what_their_roles_say_to_rendering_and_to_measuring(tmp_path, monkeypatch):
    asked: list[Any] = []
    made_up(monkeypatch, asked.extend)
    work = planted(tmp_path, num_sound=1)
    told = render(work)
    settings = settings_of(work.items[0])
    content, style = (
        fit_role(role, Image.fromarray(picture(seed=seed)), 64, 64, settings)
        for role, seed in (("content", 0), ("style", 1))
    )
    (request,), (outcome,) = asked, told.outcomes.values()
    assert request.content.tobytes() == content.tobytes()
    assert [one.tobytes() for one in request.styles] == [style.tobytes()]
    with Image.open(work.scratch / outcome.outputs[0].name) as made:
        figures = measure(made, styles=(style,), content=content, reference_size=None)
    assert figures.items() <= outcome.metrics.items()
