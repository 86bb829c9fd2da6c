from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.items import ErrorClass, Problem, distinct_slug, slug
from tests.manifests.builders import make_input, make_item


@given(st.text(), st.integers(1, 60))
def test_a_slug_of_anything_is_a_webdataset_key(text, length):
    found = slug(text, length)
    assert re.fullmatch(r"[a-z0-9_-]+", found)
    assert len(found) <= length


@given(st.from_regex(r"\A[a-z0-9]([a-z0-9_-]{0,40}[a-z0-9])?\Z"))
def test_what_is_a_key_already_stays_as_it_is(text):
    assert slug(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ångström Café.v2", "angstrom-cafe-v2"),
        ("a/b c", "a-b-c"),
        ("..", "x"),
        ("", "x"),
        ("日本", "x"),
        ("a" * 99, "a" * 48),
        ("_a", "_a"),
    ],
)
def test_a_slug_reads_like_the_name(text, expected):
    assert slug(text) == expected


@given(st.text(), st.integers(10, 130))
def test_a_distinct_slug_of_anything_is_a_webdataset_key_too(text, length):
    found = distinct_slug(text, length)
    assert re.fullmatch(r"[a-z0-9_-]+", found)
    assert len(found) <= length


@given(st.sets(st.text(st.characters(categories=["L", "N", "M"])), min_size=2, max_size=2))
def test_words_of_any_script_have_distinct_slugs_unless_only_case_differs(words):
    one, two = words
    differ = distinct_slug(one, 60) != distinct_slug(two, 60)
    assert differ or one.lower() == two.lower()


@pytest.mark.parametrize(
    "words",
    [("日本", "東京"), ("café", "cafe"), ("Straße", "Strae"), ("🐱", "🐶"), ("a" * 99, "a" * 98)],
)
def test_letters_that_a_key_cannot_hold_still_tell_keys_apart(words):
    assert len({distinct_slug(word, 60) for word in words}) == 2


@pytest.mark.parametrize("text", ["a-1_b", "Photo 1.JPG", "a" * 60, "v2 (final)"])
def test_a_key_of_ascii_letters_needs_no_digits_of_a_hash(text):
    assert distinct_slug(text, 60) == slug(text, 60)


def test_the_message_of_a_problem_is_safe_to_show_and_bounded():
    problem = Problem(ErrorClass.DECODE, "a\n\x1b[2Jb" + "x" * 10_000)
    assert problem.message.isprintable()
    assert problem.message.startswith(r"a \x1b[2Jb")
    assert len(problem.message) <= 2000
    assert Problem(ErrorClass.DECODE, problem.message) == problem


def test_an_input_in_a_tar_shows_its_member():
    assert make_input("style", "a").full_uri == "/style/a.png"
    assert make_input("style", "a", member="d/a.png").full_uri == "/style/a.png#d/a.png"


def test_an_item_gives_its_inputs_by_role_in_order():
    content, *styles = (
        make_input("content", "c"),
        make_input("style", "b"),
        make_input("style", "a"),
    )
    assert make_item([content, *styles]).of_role("style") == styles
    assert make_item([content, *styles]).of_role("texture") == []
