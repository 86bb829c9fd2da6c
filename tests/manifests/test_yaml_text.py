"""YAML is read by the core schema of YAML 1.2, and what it holds is bounded."""

from __future__ import annotations

import json
import math
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import JobError
from manifests.yaml_text import MAX_DEPTH, MAX_NODES, parse_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[(word, word) for word in ("no", "off", "yes", "on", "y", "N", "True!", "nan", "inf")],
        *[
            (word, word)
            for word in ("1_000", "12:30:45", "2024-13-45", "0b1", "=", "<<", "1e", ".")
        ],
        *[(word, True) for word in ("true", "True", "TRUE")],
        *[(word, None) for word in ("", "~", "null", "# nothing")],
        ("1e-2", 0.01),
        ("1E5", 1e5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-1.5e+3", -1500.0),
        ("0x1F", 31),
        ("0o17", 15),
        ("+7", 7),
        ("'7'", "7"),
        ("!!str 7", "7"),
        ("!!float 7", 7.0),
        ("[a, {b: 1}]", ["a", {"b": 1}]),
        ("{<<: [{a: 1}, {a: 2, b: 3}], b: 4}", {"a": 1, "b": 4}),
        ("[&x [1], *x]", [[1], [1]]),
    ],
)
def test_a_word_is_what_yaml_1_2_says(text, value):
    found = parse_value(text)
    assert (found, type(found)) == (value, type(value))


def test_infinity_and_nan_are_numbers():
    assert parse_value("[.inf, -.INF]") == [math.inf, -math.inf]
    assert math.isnan(parse_value(".nan"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0512", "write 512, or '0512' in quotes if it is a word"),
        ("-007", "write -7, or"),
        ("18446744073709551616", "does not fit 64 bits"),
        ("9" * 5000, "does not fit 64 bits"),
        ("0x" + "f" * 5000, "does not fit 64 bits"),
        ("1e999", "is too large"),
        ("!!bool maybe", "'maybe' is no bool: drop the tag"),
        ("!!int 1.5", "'1.5' is no int: drop the tag"),
        ("!!timestamp 2024-01-01", "the tag '!!timestamp' is not read"),
        ("!!binary aGk=", "the tag '!!binary' is not read"),
        ("!!set {a}", "the tag '!!set' is not read"),
        ("!!omap [a: 1]", "the tag '!!omap' is not read"),
        ("!!python/name:os.system x", "the tag '!!python/name:os.system' is not read"),
        ("!mine x", "the tag '!mine' is not read"),
        ("{a: 1, a: 2}", "the key 'a' stands here twice"),
        ("? [a]\n: b", "a key is a plain word"),
        ("{<<: 3}", "'<<' takes a mapping"),
        ("--- a\n--- b", "not valid YAML"),
        ("a\0b", "the character U+0000 may not stand here"),
        ("a\udcffb", "the character U+DCFF may not stand here"),
        ("&a [*a]", "an alias stands for what it is itself a part of"),
        ("[" * 100_000, "nests deeper than"),
        ("{a: " * 200 + "1" + "}" * 200, "nests deeper than"),
        (f"[{'a, ' * (MAX_NODES + 1)}]", "holds more than 50000 keys and values"),
    ],
)
def test_what_no_job_may_hold_is_refused_with_its_reason(text, reason):
    with pytest.raises(JobError, match=re.escape(reason)):
        parse_value(text)


@pytest.mark.parametrize("merge", [False, True])
def test_aliases_count_as_what_they_stand_for(merge):
    lines = ["x0: &x0 {a: 1}"]
    for n in range(1, 60):
        inner = f"{{<<: [{f'*x{n - 1}, ' * 9}], b{n}: 1}}" if merge else f"[{f'*x{n - 1}, ' * 9}]"
        lines.append(f"x{n}: &x{n} {inner}")
    with pytest.raises(JobError, match="aliases stand for more than 50000 keys and values"):
        parse_value("\n".join(lines))


def test_the_depth_of_aliases_is_counted_too():
    lines = ["- &x0 a", *(f"- &x{n} [*x{n - 1}]" for n in range(1, MAX_DEPTH + 1))]
    with pytest.raises(JobError, match="nests deeper than"):
        parse_value("\n".join(lines))


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@given(plain)
def test_what_is_written_as_json_is_read_as_it_was(value):
    assert parse_value(json.dumps(value)) == value


@given(st.text(alphabet="ab:[]{}-?!&*#|>%@`\"', \n\t01.\0é~<x_e", max_size=40))
def test_whatever_a_text_holds_it_is_a_plain_value_or_a_refusal(text):
    try:
        value = parse_value(text)
    except JobError:
        return
    yaml.safe_dump(value)
