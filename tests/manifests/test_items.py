from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.items import slug
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
