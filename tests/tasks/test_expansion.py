"""Braces stand for what a shell's stand for, and are counted first; globs match as a shell's do."""

from __future__ import annotations

import tracemalloc
from pathlib import PurePosixPath

import pytest
from braceexpand import braceexpand
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.store import UriError
from tasks.inputs.expansion import expand_braces, matches, split_glob

pieces = st.sampled_from(["{", "}", ",", "a", "B", "..", "1", "007", "-3", "x", "\\", "é", "{a,b}"])


@settings(max_examples=400, deadline=None)
@given(name=st.lists(pieces, max_size=14).map("".join))
def test_braces_are_expanded_as_the_library_does_or_refused(name):
    try:
        found = expand_braces(name)
    except UriError:
        return
    assert found == (list(braceexpand(name)) if "{" in name or "}" in name else [name])


@pytest.mark.parametrize(
    "name",
    [
        "{1..999999999}.png",
        "{1..1000000000000000000000000000000}.png",
        "{0..99}{0..99}{0..99}.png",
        "{{0..999}{0..999},a}.png",
        "{a,b}" * 40,
        "{{{{0..999},x}{0..999},x},x}",
        "{a..z}{a..z}{a..z}{a..z}",
        "{-9999999..9999999..0}",
        "{1.." + "9" * 5000 + "}",
    ],
)
def test_braces_that_stand_for_too_many_names_are_refused_at_once(name):
    tracemalloc.start()
    try:
        with pytest.raises(UriError, match="stand for more than 100,000 files"):
            expand_braces(name)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{0..2.tar", "unbalanced braces in"),
        ("a}.tar", "unbalanced braces in"),
        ("{" * 1000 + "}" * 1000, "nest more than 20 deep"),
        ("{a,b}" + "x" * 20_000, "letters; 10,000 at most"),
    ],
)
def test_braces_that_are_no_list_are_refused_in_a_short_sentence(name, message):
    with pytest.raises(UriError, match=message) as raised:
        expand_braces(name)
    assert len(str(raised.value)) < 500


def test_as_many_names_as_are_read_are_given():
    assert len(expand_braces("{00000..99999}.tar")) == 100_000
    assert len(expand_braces("{a..b}{1..50000}.tar")) == 100_000


@pytest.mark.parametrize(
    ("glob", "found"),
    [
        ("*.jpg", ["a.jpg"]),
        ("**/*.jpg", ["a.jpg", "d/b.jpg", "d/e/c.jpg"]),
        ("*/*.jpg", ["d/b.jpg"]),
        ("d/**", ["d/b.jpg", "d/e/c.jpg", "d/x.png"]),
        ("**", ["a.jpg", "d/b.jpg", "d/e/c.jpg", "d/x.png"]),
        ("**/e/**/c.*", ["d/e/c.jpg"]),
        ("d/[!x]*", ["d/b.jpg"]),
        ("?.jpg", ["a.jpg"]),
        ("*.JPG", []),
    ],
)
def test_a_glob_matches_what_it_would_in_a_shell(glob, found):
    keys = ["a.jpg", "d/b.jpg", "d/e/c.jpg", "d/x.png"]
    _, parts = split_glob(glob) if glob[0] != "d" else ("", glob.split("/"))
    assert [key for key in keys if matches(key, parts)] == found


def test_a_globs_folder_ends_before_its_first_wildcard():
    assert split_glob("photos/2024/**/*.jpg") == ("photos/2024/", ["**", "*.jpg"])
    assert split_glob("*.jpg") == ("", ["*.jpg"])
    assert split_glob("/*.jpg") == ("/", ["*.jpg"])
    assert split_glob("s3://bucket/a/./*//b?.tar") == ("s3://bucket/a/./", ["*", "b?.tar"])


def test_a_glob_of_many_stars_ends():
    key = "/".join(["a" * 50] * 60)
    assert not matches(key, ["**", "a*a*a*a*a*a*a*b"] * 30)
    assert matches(key, ["**"] * 30 + ["a*"])
    assert PurePosixPath(key).match("a*")
