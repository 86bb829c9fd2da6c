from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import JobError
from manifests.job import Pairing
from manifests.pairing import pair, with_source_masks
from tests.manifests.builders import make_input, make_inputs

key_sets = st.sets(st.text("abcxyz/0", min_size=1, max_size=4), min_size=1, max_size=8)


def keys_of(combinations):
    return [tuple(one.key for one in combination) for combination in combinations]


def test_zip_joins_images_of_the_same_key_wherever_they_stand():
    sources = {
        "content": make_inputs("content", ["b", "a", "c"]),
        "style": make_inputs("style", ["c", "b", "a"]),
    }
    combinations = pair(sources, Pairing(mode="zip"))
    assert keys_of(combinations) == [("a", "a"), ("b", "b"), ("c", "c")]
    assert all([one.role for one in found] == ["content", "style"] for found in combinations)


@pytest.mark.parametrize("lacking", ["content", "style"])
def test_zip_refuses_a_key_that_one_side_lacks_and_names_it(lacking):
    sources = {role: make_inputs(role, "abcdefgh") for role in ("content", "style")}
    sources[lacking] = sources[lacking][:1]
    with pytest.raises(JobError) as raised:
        pair(sources, Pairing(mode="zip"))
    assert str(raised.value) == (
        f"pairing zip: {lacking} has no image for 7 key(s) of the other sources: "
        "'b', 'c', 'd', 'e', 'f', …; add them, or use pairing product or random"
    )


@given(key_sets, key_sets)
def test_product_is_every_combination_once(contents, styles):
    sources = {
        "content": make_inputs("content", [*contents]),
        "style": make_inputs("style", [*styles]),
    }
    assert keys_of(pair(sources, Pairing())) == sorted(product(sorted(contents), sorted(styles)))


@given(key_sets, key_sets, st.data())
def test_random_draws_so_many_different_styles_for_every_content(contents, styles, data):
    most = data.draw(st.integers(1, len(styles)))
    sources = {
        "content": make_inputs("content", [*contents]),
        "style": make_inputs("style", [*styles]),
    }
    drawn = keys_of(pair(sources, Pairing(mode="random", styles_per_content=most)))
    assert len(set(drawn)) == len(drawn) == len(contents) * most
    for content in contents:
        chosen = {style for key, style in drawn if key == content}
        assert len(chosen) == most
        assert chosen <= styles


@given(key_sets, st.data())
@pytest.mark.parametrize("mode", ["zip", "product", "random"])
def test_the_order_of_the_listing_changes_nothing(mode, keys, data):
    sources = {role: make_inputs(role, sorted(keys)) for role in ("content", "style")}
    shuffled = {role: data.draw(st.permutations(inputs)) for role, inputs in sources.items()}
    assert pair(shuffled, Pairing(mode=mode)) == pair(sources, Pairing(mode=mode))


def drawn_styles(num_styles: int, seed: int = 0, contents: int = 400) -> dict[str, str]:
    sources = {
        "content": make_inputs("content", [f"c{n}" for n in range(contents)]),
        "style": make_inputs("style", [f"s{n}" for n in range(num_styles)]),
    }
    return dict(keys_of(pair(sources, Pairing(mode="random", seed=seed))))


def test_adding_a_style_moves_few_draws_and_only_to_the_new_one():
    before, after = drawn_styles(20), drawn_styles(21)
    moved = {key: style for key, style in after.items() if style != before[key]}
    assert set(moved.values()) == {"s20"}
    assert len(moved) < 2.5 * len(before) / 21


def test_random_uses_every_style_about_equally():
    counts = [list(drawn_styles(10).values()).count(f"s{n}") for n in range(10)]
    assert min(counts) > 15
    assert max(counts) < 75


def test_another_pairing_seed_draws_anew():
    same = drawn_styles(20).items() & drawn_styles(20, seed=1).items()
    assert len(same) < 60


def test_a_content_draws_the_same_whatever_other_contents_there_are():
    assert drawn_styles(20, contents=3).items() <= drawn_styles(20).items()


def test_a_key_that_names_two_images_is_refused_with_both():
    twice = [make_input("style", "a"), make_input("style", "a", uri="/style/a.jpg")]
    with pytest.raises(JobError) as raised:
        pair({"content": make_inputs("content", "b"), "style": twice}, Pairing())
    assert str(raised.value) == (
        "style: the key 'a' names two images, /style/a.png and /style/a.jpg: rename one of them"
    )


@pytest.mark.parametrize("mode", ["zip", "product", "random"])
def test_a_source_without_images_is_refused(mode):
    with pytest.raises(JobError, match="the style source holds no images: check its uri"):
        pair({"content": make_inputs("content", "a"), "style": []}, Pairing(mode=mode))


def test_more_draws_than_styles_are_refused_with_both_numbers():
    sources = {role: make_inputs(role, "ab") for role in ("content", "style")}
    with pytest.raises(JobError, match="asks for 3 styles per content, but there are 2: lower"):
        pair(sources, Pairing(mode="random", styles_per_content=3))


@pytest.mark.parametrize("role", ["layout", "target_mask", "control"])
def test_whatever_says_where_things_are_draws_references(role):
    sources = {"texture": make_inputs("texture", "abc"), role: make_inputs(role, "xy")}
    drawn = pair(sources, Pairing(mode="random", styles_per_content=2))
    assert len(drawn) == 4
    assert all([one.role for one in found] == ["texture", role] for found in drawn)


ORDER = ["target_mask", "source_mask", "texture"]


def test_a_source_mask_comes_with_its_texture_and_with_no_other():
    sources = {
        "target_mask": make_inputs("target_mask", "xy"),
        "texture": make_inputs("texture", "ab"),
    }
    masks = make_inputs("source_mask", "bac")
    found = with_source_masks(pair(sources, Pairing()), masks, ORDER)
    assert keys_of(found) == [("x", "a", "a"), ("x", "b", "b"), ("y", "a", "a"), ("y", "b", "b")]
    assert all([one.role for one in inputs] == ORDER for inputs in found)


def test_a_texture_without_its_mask_is_refused_by_name():
    combinations = pair({"texture": make_inputs("texture", "ab")}, Pairing())
    with pytest.raises(JobError, match=r"no mask for 1 texture\(s\): 'b'; name each mask like"):
        with_source_masks(combinations, make_inputs("source_mask", "ac"), ORDER)


def test_random_without_contents_is_refused():
    with pytest.raises(JobError, match="give a content and a style source"):
        pair({"texture": make_inputs("texture", "ab")}, Pairing(mode="random"))
