from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import RunFolderError
from manifests.items import ErrorClass, Item, Problem
from manifests.job import Pairing
from manifests.pairing import pair
from manifests.plan import Plan, cut_into_shards
from manifests.plan_table import ROWS_AT_ONCE, plan_digest, read_plan, write_plan
from tests.manifests.builders import make_input, make_inputs, make_item

items_to_cut = st.lists(
    st.builds(
        lambda content, style, cost, width, task: make_item(
            [make_input("content", f"c{content}"), make_input("style", f"s{style}")],
            cost_seconds=cost,
            width=width,
            task=task,
        ),
        st.integers(0, 999),
        st.integers(0, 3),
        st.sampled_from([0.5, 1.0, 2.5, 7.0]),
        st.sampled_from([64, 128]),
        st.sampled_from(["style-transfer", "appearance-transfer"]),
    ),
    unique_by=lambda item: item.item_id,
    max_size=40,
)


def read_back(data: bytes, items: Sequence[Item]) -> Plan:
    num_shards = len({item.shard for item in items})
    return read_plan(
        data, expected_digest=plan_digest(data), num_items=len(items), num_shards=num_shards
    )


def bucket(item):
    return (item.task, item.width, item.height, item.params)


@given(items_to_cut, st.sampled_from([1.0, 3.0, 10.0]), st.integers(1, 6))
def test_a_plan_holds_every_item_once_in_shards_of_one_bucket_and_bounded_cost(
    items, seconds, most
):
    cut = cut_into_shards(items, shard_seconds=seconds, shard_items=most)
    assert Counter(replace(item, shard="") for item in cut) == Counter(items)
    shards = Plan(tuple(cut), "").shards()
    assert sum(map(len, shards.values())) == len(items)
    assert list(shards) == [f"{number:05d}" for number in range(len(shards))]
    for of_shard in shards.values():
        assert len({bucket(item) for item in of_shard}) == 1
        assert len(of_shard) <= most
        cost = sum(item.cost_seconds for item in of_shard)
        assert cost <= seconds or len(of_shard) == 1


@given(items_to_cut, st.randoms())
def test_shards_do_not_depend_on_the_order_of_the_items(items, random):
    shuffled = items.copy()
    random.shuffle(shuffled)
    limits = {"shard_seconds": 5.0, "shard_items": 4}
    assert cut_into_shards(shuffled, **limits) == cut_into_shards(items, **limits)


@given(items_to_cut)
def test_items_that_share_a_style_stand_side_by_side(items):
    cut = cut_into_shards(items, shard_seconds=5.0, shard_items=4)
    for _, of_bucket in groupby(cut, key=bucket):
        styles = [key for key, _ in groupby(item.inputs[1].key for item in of_bucket)]
        assert len(styles) == len(set(styles))


def test_shards_are_as_full_as_their_cost_allows():
    items = [
        make_item([make_input("content", f"c{n}"), make_input("style", "s")]) for n in range(100)
    ]
    cut = cut_into_shards(items, shard_seconds=10.0, shard_items=1000)
    assert Counter(item.shard for item in cut) == {f"{n:05d}": 10 for n in range(10)}


def test_an_item_that_costs_more_than_a_shard_gets_one_to_itself():
    contents = make_inputs("content", [f"c{n}" for n in range(5)])
    items = [make_item([one], cost_seconds=100.0) for one in contents]
    cut = cut_into_shards(items, shard_seconds=10.0, shard_items=1000)
    assert len({item.shard for item in cut}) == 5


def some_items():
    strange = make_input(
        "content",
        "ü/€",
        member="d/a.png",
        offset=512,
        num_bytes=2**40,
        license="CC0",
        attribution="Ünï",
        uri="s3://b/x.tar",
    )
    missing = make_input("style", "x", sha256=None, width=None, height=None, num_bytes=None)
    style = make_input("style", "y")
    problem = Problem(ErrorClass.INPUT_MISSING, "/style/x.png is not there")
    items = [
        make_item([strange, missing], problem=problem),
        make_item([strange, style], user='{"note":"ß"}', variant=3),
        make_item([make_input("content", "c"), style, make_input("style", "z")], width=128),
    ]
    return cut_into_shards(items, shard_seconds=1.0, shard_items=5)


def test_a_plan_is_read_as_it_was_written():
    items = some_items()
    data = write_plan(items)
    plan = read_back(data, items)
    assert plan.items == tuple(items)
    assert [item.problem for item in plan.problems()] == [
        item.problem for item in items if item.problem
    ]


@given(items_to_cut.filter(bool))
@settings(max_examples=20, deadline=None)
def test_equal_items_give_the_same_plan_byte_by_byte(items):
    cut = cut_into_shards(items, shard_seconds=5.0, shard_items=4)
    again = [replace(item, inputs=tuple(replace(one) for one in item.inputs)) for item in cut]
    assert write_plan(again) == write_plan(cut)
    other = [replace(cut[0], seed=cut[0].seed ^ 1), *cut[1:]]
    assert write_plan(other) != write_plan(cut)


def test_the_largest_seed_survives():
    item = replace(make_item([make_input("texture", "t")]), seed=2**64 - 1, shard="00000")
    data = write_plan([item])
    assert read_back(data, [item]).items == (item,)


def test_a_failed_item_of_a_size_that_no_picture_has_is_planned_all_the_same():
    problem = Problem(ErrorClass.UNSUPPORTED, "the result would be 512x40960000000")
    item = replace(make_item([make_input("content", "c")], problem=problem), shard="00000")
    data = write_plan([replace(item, height=40_960_000_000)])
    (found,) = read_back(data, [item]).items
    assert found.problem == problem
    assert found.height == 2**31 - 1


def test_a_plan_longer_than_one_block_is_read_whole():
    item = make_item([make_input("texture", "t")])
    items = tuple(
        replace(item, key=f"k{n}", item_id=f"{n:032x}", shard="00000")
        for n in range(ROWS_AT_ONCE + 1)
    )
    data = write_plan(items)
    assert read_back(data, items).items == items


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_damaged_plan_is_refused_with_the_way_out(place):
    data = write_plan(some_items())
    damaged = bytearray(data)
    damaged[place] ^= 1
    expected = {"expected_digest": plan_digest(data), "num_items": 3, "num_shards": 3}
    with pytest.raises(RunFolderError, match="restore it, or choose another run folder"):
        read_plan(bytes(damaged), **expected)
    with pytest.raises(RunFolderError, match=r"plan/plan.parquet has sha256"):
        read_plan(data[:-1], **expected)


@pytest.mark.slow
def test_a_hundred_thousand_items_are_planned_in_seconds_and_little_memory(record_property):
    num_items = 100_000
    contents = make_inputs("content", [f"c{n:04d}" for n in range(num_items // 100)])
    styles = make_inputs("style", [f"s{n:02d}" for n in range(100)])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    combinations = pair({"content": contents, "style": styles}, Pairing())
    cut = cut_into_shards(map(make_item, combinations), shard_seconds=300.0, shard_items=1000)
    data = write_plan(cut)
    plan = read_back(data, cut)
    seconds = time.process_time() - started
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    record_property("seconds", seconds)
    record_property("megabytes", megabytes)
    assert len(plan.items) == num_items
    assert len(plan.shards()) == -(-num_items // 300)
    assert seconds < 40
    assert megabytes < 600
