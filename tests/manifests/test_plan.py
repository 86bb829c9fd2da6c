from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import plan_table
from manifests.commits import PlanReference
from manifests.errors import RunFolderError
from manifests.items import ErrorClass, Item, Problem
from manifests.plan import cut_into_shards, generation_of, plan_name, shard_name
from manifests.plan_table import ROWS_PER_GROUP, PlanFile, item_tables
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
        st.sampled_from([64, 65, 127, 128]),
        st.sampled_from(["style-transfer", "appearance-transfer"]),
    ),
    unique_by=lambda item: item.item_id,
    max_size=40,
)


def write_plan(items: Iterable[Item]) -> bytes:
    file = io.BytesIO()
    plan_table.write_plan(file, item_tables(items))
    return file.getvalue()


def reference_of(data: bytes, items: Sequence[Item]) -> PlanReference:
    digest = hashlib.sha256(data).hexdigest()
    num_shards = len({item.shard for item in items})
    return PlanReference(
        plan_name=plan_name(digest),
        plan_digest=digest,
        num_items=len(items),
        num_shards=num_shards,
    )


def read_back(data: bytes, items: Sequence[Item]) -> PlanFile:
    return PlanFile(io.BytesIO(data), reference_of(data, items))


def by_shard(items: Sequence[Item]) -> dict[str, list[Item]]:
    return {shard: list(found) for shard, found in groupby(items, lambda item: item.shard)}


def bucket(item):
    return (item.task, item.width, item.height, item.params)


def size_of(item):
    return (item.width, item.height)


@given(items_to_cut, st.sampled_from([1.0, 3.0, 10.0]), st.integers(1, 6))
def test_a_plan_holds_every_item_once_in_shards_of_one_bucket_and_bounded_cost(
    items, seconds, most
):
    cut = cut_into_shards(items, shard_seconds=seconds, shard_items=most)
    assert Counter(replace(item, shard="") for item in cut) == Counter(items)
    shards = by_shard(cut)
    assert sum(map(len, shards.values())) == len(items)
    assert list(shards) == [f"{number:05d}" for number in range(len(shards))]
    for of_shard in shards.values():
        assert len({item.task for item in of_shard}) == 1
        areas = [item.width * item.height for item in of_shard]
        assert max(areas) < 2 * min(areas)
        sizes = [size for size, _ in groupby(of_shard, key=size_of)]
        assert len(sizes) == len(set(sizes)), "a batch has one size: equal ones stand together"
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
    assert list(plan.iter_items()) == items
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
    assert list(read_back(data, [item]).iter_items()) == [item]


def test_a_failed_item_of_a_size_that_no_picture_has_is_planned_all_the_same():
    problem = Problem(ErrorClass.UNSUPPORTED, "the result would be 512x40960000000")
    item = replace(make_item([make_input("content", "c")], problem=problem), shard="00000")
    data = write_plan([replace(item, height=40_960_000_000)])
    (found,) = read_back(data, [item]).iter_items()
    assert found.problem == problem
    assert found.height == 2**31 - 1


@pytest.mark.parametrize("per_shard", [1, 700, ROWS_PER_GROUP + 1, 3000])
def test_a_shard_is_read_as_it_was_written_wherever_it_lies(per_shard):
    item = make_item([make_input("texture", "t")])
    items = [
        replace(item, key=f"k{n}", item_id=f"{n:032x}", shard=shard_name(0, n // per_shard))
        for n in range(3000)
    ]
    plan = read_back(write_plan(items), items)
    assert list(plan.iter_items()) == items
    shards = by_shard(items)
    assert list(plan.shards) == list(shards)
    for name in [*list(shards)[:2], *list(shards)[-2:]]:
        assert plan.items(name) == shards[name]
        assert plan.shards[name].num_items == len(shards[name])
        assert plan.shards[name].cost_seconds == len(shards[name])


def test_a_plan_of_the_first_layout_has_fewer_columns_and_any_row_groups():
    items = some_items()
    file = io.BytesIO()
    table = pq.read_table(io.BytesIO(write_plan(items))).drop_columns(["replaces", "first_retry"])
    pq.write_table(table, file, row_group_size=2)
    plan = read_back(file.getvalue(), items)
    assert [item for shard in plan.shards for item in plan.items(shard)] == items
    assert plan.columns("replaces", "first_retry", "key").to_pylist() == [
        {"replaces": None, "first_retry": 0, "key": item.key} for item in items
    ]


def test_what_a_later_generation_adds_to_an_item_is_read_again():
    item = make_item([make_input("content", "c")])
    item = replace(item, shard=shard_name(3, 0), replaces="a" * 32, first_retry=2)
    data = write_plan([item])
    plan = PlanFile(io.BytesIO(data), reference_of(data, [item]), generation=3)
    assert plan.items("g0003-00000") == [item]
    with pytest.raises(RunFolderError, match="shard g0003-00000 is not of generation 0"):
        read_back(data, [item])


def test_shards_of_later_generations_sort_after_all_earlier_ones():
    names = [shard_name(g, n) for g in (0, 1, 2, 9999) for n in (0, 99_999)]
    assert sorted(names) == names
    assert [generation_of(name) for name in names] == [0, 0, 1, 1, 2, 2, 9999, 9999]
    assert shard_name(0, 123_456) < shard_name(1, 0)
    for name in ("1", "g1-00000", "g0001-1", "../00000", "g0001-00000\n"):
        with pytest.raises(ValueError, match="is no name of a shard"):
            generation_of(name)


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_damaged_plan_is_refused_with_the_way_out(place):
    items = some_items()
    data = write_plan(items)
    damaged = bytearray(data)
    damaged[place] ^= 1
    for found in (bytes(damaged), data[:-1], b""):
        with pytest.raises(RunFolderError, match=r"^plan/\w{12}.parquet has sha256 .*restore it"):
            PlanFile(io.BytesIO(found), reference_of(data, items))


def test_a_shard_is_read_without_the_row_groups_of_others():
    item = make_item([make_input("texture", "t")])
    items = [
        replace(item, key=f"k{n}", item_id=f"{n:032x}", shard=shard_name(0, n // 1000))
        for n in range(3000)
    ]
    data = write_plan(items)
    file = io.BytesIO(data)
    plan = PlanFile(file, reference_of(data, items))
    second = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(1)
    file.seek(second.column(0).file_offset or second.column(0).data_page_offset)
    file.write(b"\xff" * 100)
    assert plan.items("00000") == items[:1000]
    assert plan.items("00002") == items[2000:]
    with pytest.raises(RunFolderError, match=r"^plan/\w{12}.parquet is damaged .*restore it"):
        plan.items("00001")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda item: replace(item, first_retry=-1), "the first_retry -1 is negative"),
        (lambda item: replace(item, replaces="x"), "'x' is no item_id that it could replace"),
        (
            lambda item: replace(item, inputs=item.inputs * 1001),
            "it has 1001 inputs, more than 1000",
        ),
        (
            lambda item: replace(item, inputs=(replace(item.inputs[0], sha256=None),)),
            "the texture has no sha256",
        ),
        (
            lambda item: replace(item, inputs=(replace(item.inputs[0], offset=-1),)),
            r"the texture lies at \(-1, 10\), which no file has",
        ),
        (
            lambda item: replace(item, inputs=(replace(item.inputs[0], num_bytes=2**62 + 1),)),
            "the texture lies at .*, which no file has",
        ),
    ],
)
def test_a_row_that_breaks_a_rule_is_named_with_the_rule(change, sentence):
    sound = [replace(make_item([make_input("texture", key)]), shard="00000") for key in "ab"]
    items = [sound[0], change(sound[1])]
    with pytest.raises(RunFolderError, match=rf"\(row 2: {sentence}"):
        read_back(write_plan(items), items)
