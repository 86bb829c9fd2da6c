"""Which rules does every planned item keep, whoever wrote the plan?

Keys and shards become names of files, and sizes and offsets decide how much memory is used. A plan
that breaks a rule is therefore refused as a whole before it is used. The rules look at columns and
not at rows, so that a million rows are checked in seconds.
"""

# pyright: standard
# pyarrow ships no types, so strict checking would see nothing but unknowns here.
from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as compute

from manifests.items import EXTERNAL, ErrorClass
from manifests.job import Role
from manifests.plan import SHARD_PATTERN

pc: Any = compute  # its functions are made when it is imported: no checker sees them

MAX_KEY_LENGTH = 240
"""Maximum letters of a key; with its extension it is a file name on every file system."""

MIN_SIDE, MAX_SIDE = 64, 8192
MAX_FAILED_SIDE = (1 << 31) - 1
"""Maximum side of an item that fails because of its size; a plan cannot hold a larger number."""

MAX_INPUTS = 1000
MAX_URI_LENGTH = 8192
MAX_TEXT_LENGTH = 16 << 20
MAX_OFFSET = 1 << 62

Mask = npt.NDArray[np.bool_]
Broken = tuple[Mask, Callable[[int], str]]
"""The rows that break a rule, and the sentence about one of them."""


def first_broken_rule(rows: pa.RecordBatch) -> tuple[int, str] | None:
    """The first row that breaks a rule, from 0, and in words which one; None where none does."""
    found = [
        (int(np.argmax(mask)), number, sentence)
        for number, (mask, sentence) in enumerate([*_rules(rows), *_input_rules(rows)])
        if mask.any()
    ]
    if not found:
        return None
    row, _, sentence = min(found, key=lambda entry: entry[:2])
    return row, sentence(row)


def _rules(rows: pa.RecordBatch) -> Iterator[Broken]:
    def text(name: str, row: int) -> str:
        return repr((rows[name][row].as_py() or "")[:80])

    yield (
        ~_matches(rows["item_id"], "[0-9a-f]{32}"),
        lambda row: f"{text('item_id', row)} is no item_id of 32 hex digits",
    )
    yield (
        ~_matches(rows["key"], f"[a-z0-9_-]{{1,{MAX_KEY_LENGTH}}}"),
        lambda row: (
            f"the key {text('key', row)} is not 1 to {MAX_KEY_LENGTH} of the letters a-z0-9_-"
        ),
    )
    yield (
        ~_matches(rows["shard"], SHARD_PATTERN),
        lambda row: f"{text('shard', row)} is no name of a shard",
    )
    half = _nulls(rows["error_class"]) != _nulls(rows["error_message"])
    yield (
        half,
        lambda row: f"{text('key', row)} has an error_class or an error_message without the other",
    )
    yield (
        ~(_nulls(rows["error_class"]) | _among(rows["error_class"], ErrorClass)),
        lambda row: f"{text('error_class', row)} is not a valid ErrorClass",
    )
    failed = ~_nulls(rows["error_class"])
    width, height = (_numbers(rows[name], np.int64) for name in ("width", "height"))
    lowest = np.where(failed, 1, MIN_SIDE)
    highest = np.where(failed, MAX_FAILED_SIDE, MAX_SIDE)
    yield (
        (np.minimum(width, height) < lowest) | (np.maximum(width, height) > highest),
        lambda row: f"{width[row]}x{height[row]} lies outside {lowest[row]}..{highest[row]}",
    )
    variant = _numbers(rows["variant"], np.int64)
    yield variant < 0, lambda row: f"the variant {variant[row]} is negative"
    retry = _numbers(rows["first_retry"], np.int64)
    yield retry < 0, lambda row: f"the first_retry {retry[row]} is negative"
    yield (
        ~(_nulls(rows["replaces"]) | _matches(rows["replaces"], "[0-9a-f]{32}")),
        lambda row: f"{text('replaces', row)} is no item_id that it could replace",
    )
    cost = _numbers(rows["cost_seconds"], np.float64)
    yield (
        ~((cost >= 0) & (cost < math.inf)),
        lambda row: f"its estimated time is {cost[row]} seconds",
    )
    for name in ("params", "user"):
        yield (
            ~_each(rows[name], _is_json_object),
            lambda row, name=name: f"{name} holds no JSON object",
        )
    too_long = np.zeros(rows.num_rows, dtype=bool)
    for name in ("task", "label", "prompt", "negative_prompt"):
        too_long |= _lengths(rows[name]) > MAX_TEXT_LENGTH
    yield too_long, lambda row: f"a text is longer than {MAX_TEXT_LENGTH}"


def _input_rules(rows: pa.RecordBatch) -> Iterator[Broken]:
    """The rules of inputs; where several break in one row, the first rule is told."""
    inputs = rows["inputs"]
    counts = _numbers(pc.list_value_length(inputs), np.int64)
    yield (
        counts > MAX_INPUTS,
        lambda row: f"it has {counts[row]} inputs, more than {MAX_INPUTS}",
    )
    flat = pc.list_flatten(inputs)
    owners = np.repeat(np.arange(rows.num_rows), counts)
    failed = ~_nulls(rows["error_class"])[owners]
    role, uri, sha256 = (flat.field(name) for name in ("role", "uri", "sha256"))

    def of_rows(broken: Mask, sentence: Callable[[int], str]) -> Broken:
        """The rule of inputs as one of rows: told of the first input that breaks it."""
        mask = np.zeros(rows.num_rows, dtype=bool)
        mask[owners[broken]] = True
        return mask, lambda row: sentence(int(np.argmax(broken & (owners == row))))

    def text(column: pa.Array, place: int) -> str:
        return str(column[place].as_py())[:80]

    lacking = _nulls(flat) | _nulls(role) | _nulls(uri) | _nulls(flat.field("key"))
    yield of_rows(
        lacking,
        lambda place: (
            f"an input of {rows['key'][int(owners[place])].as_py()[:80]!r} has no role, key or URI"
        ),
    )
    yield of_rows(
        ~(lacking | _among(role, (*get_args(Role), EXTERNAL))),
        lambda place: f"{text(role, place)!r} is no role of an input",
    )
    length = _lengths(uri)
    unusable = (length > MAX_URI_LENGTH) | ((length == 0) & ~failed)  # a row may name nothing
    unusable |= _true(pc.match_substring(uri, "\0"))
    yield of_rows(~lacking & unusable, lambda place: f"the {text(role, place)} has no usable URI")
    offset, num_bytes = flat.field("offset"), flat.field("num_bytes")
    placeless = ~_nulls(flat.field("member")) & (_nulls(offset) | _nulls(num_bytes))
    yield of_rows(placeless, lambda place: f"the {text(role, place)} has no place in its tar")
    outside = np.zeros(len(flat), dtype=bool)
    for numbers in (offset, num_bytes):
        known = _numbers(pc.fill_null(numbers, 0), np.int64)
        outside |= (known < 0) | (known > MAX_OFFSET)
    yield of_rows(
        outside,
        lambda place: (
            f"the {text(role, place)} lies at "
            f"{(offset[place].as_py(), num_bytes[place].as_py())}, which no file has"
        ),
    )
    yield of_rows(_nulls(sha256) & ~failed, lambda place: f"the {text(role, place)} has no sha256")
    yield of_rows(
        ~(_nulls(sha256) | _matches(sha256, "[0-9a-f]{64}")),
        lambda place: f"{text(sha256, place)!r} is no sha256",
    )


def _true(answers: pa.Array) -> Mask:
    """Where the answer is yes; no answer about an empty value is a no."""
    return np.asarray(pc.fill_null(answers, False), dtype=bool)


def _nulls(column: pa.Array) -> Mask:
    return np.asarray(pc.is_null(column), dtype=bool)


def _numbers(column: pa.Array, kind: Any) -> npt.NDArray[Any]:
    return column.to_numpy(zero_copy_only=False).astype(kind)


def _matches(column: pa.Array, pattern: str) -> Mask:
    return _true(pc.match_substring_regex(column, rf"\A(?:{pattern})\z"))


def _among(column: pa.Array, words: Any) -> Mask:
    return _true(pc.is_in(column, value_set=pa.array([str(word) for word in words])))


def _lengths(column: pa.Array) -> npt.NDArray[np.int64]:
    """Letters of each text, and 0 of an empty value."""
    return _numbers(pc.fill_null(pc.utf8_length(column), 0), np.int64)


def _each(column: pa.Array, rule: Callable[[str], bool]) -> Mask:
    """Whether each text keeps a rule; each different text is looked at once."""
    coded = column.dictionary_encode()
    kept = np.array([rule(text) for text in coded.dictionary.to_pylist()], dtype=bool)
    return kept[_numbers(coded.indices, np.int64)]


@lru_cache(maxsize=1024)
def _is_json_object(text: str) -> bool:
    try:
        return len(text) <= MAX_TEXT_LENGTH and isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
