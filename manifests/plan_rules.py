"""Which rules does every planned item keep, whoever wrote the plan?

Keys and shards become names of files, and sizes and offsets decide how much memory is used. A plan
that breaks a rule is therefore refused as a whole before it is used.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import get_args

from manifests.items import Input, Item
from manifests.job import Role
from manifests.plan import SHARD_PATTERN

MAX_KEY_LENGTH = 240
"""Maximum letters of a key; with its extension it is a file name on every file system."""

MIN_SIDE, MAX_SIDE = 64, 8192
MAX_FAILED_SIDE = (1 << 31) - 1
"""Maximum side of an item that fails because of its size; a plan cannot hold a larger number."""

MAX_INPUTS = 1000
MAX_URI_LENGTH = 8192
MAX_TEXT_LENGTH = 16 << 20
MAX_OFFSET = 1 << 62

_ROLES = frozenset(get_args(Role))
_ITEM_ID = re.compile(r"[0-9a-f]{32}")
_KEY = re.compile(rf"[a-z0-9_-]{{1,{MAX_KEY_LENGTH}}}")
_SHARD = re.compile(SHARD_PATTERN)
_SHA256 = re.compile(r"[0-9a-f]{64}")


def checked_items(items: Iterable[Item]) -> Iterator[Item]:
    """The items, each held to the rules.

    Raises:
        ValueError: an item breaks a rule; the message says which one, and the number of its row.
    """
    item_ids: set[str] = set()
    keys: set[str] = set()
    shard = ""
    for row, item in enumerate(items, start=1):
        broken = _broken_rule(item)
        if broken is None and item.item_id in item_ids:
            broken = f"the item_id {item.item_id} stands twice"
        if broken is None and item.key in keys:
            broken = f"the key {item.key} stands twice"
        if broken is None and (len(item.shard), item.shard) < (len(shard), shard):
            broken = f"shard {item.shard} comes after shard {shard}"
        if broken is not None:
            raise ValueError(f"row {row}: {broken}")
        item_ids.add(item.item_id)
        keys.add(item.key)
        shard = item.shard
        yield item


def _broken_rule(item: Item) -> str | None:
    """The first rule that an item breaks, in words."""
    if not _ITEM_ID.fullmatch(item.item_id):
        return f"{item.item_id[:80]!r} is no item_id of 32 hex digits"
    if not _KEY.fullmatch(item.key):
        return f"the key {item.key[:80]!r} is not 1 to {MAX_KEY_LENGTH} of the letters a-z0-9_-"
    if not _SHARD.fullmatch(item.shard):
        return f"{item.shard[:80]!r} is no name of a shard"
    lowest, highest = (MIN_SIDE, MAX_SIDE) if item.problem is None else (1, MAX_FAILED_SIDE)
    if not lowest <= min(item.width, item.height) <= max(item.width, item.height) <= highest:
        return f"{item.width}x{item.height} lies outside {lowest}..{highest}"
    if item.variant < 0:
        return f"the variant {item.variant} is negative"
    if not 0 <= item.cost_seconds < math.inf:
        return f"its estimated time is {item.cost_seconds} seconds"
    for name in ("params", "user"):
        if not _is_json_object(getattr(item, name)):
            return f"{name} holds no JSON object"
    if len(item.inputs) > MAX_INPUTS:
        return f"it has {len(item.inputs)} inputs, more than {MAX_INPUTS}"
    texts = (item.task, item.label, item.prompt or "", item.negative_prompt or "")
    if max(map(len, texts)) > MAX_TEXT_LENGTH:
        return f"a text is longer than {MAX_TEXT_LENGTH}"
    broken = (_broken_input_rule(item_input, item) for item_input in item.inputs)
    return next((rule for rule in broken if rule), None)


def _broken_input_rule(item_input: Input, item: Item) -> str | None:
    role, uri = item_input.role, item_input.uri
    if role not in _ROLES:
        return f"{str(role)[:80]!r} is no role of an input"
    named = bool(uri) or item.problem is not None  # a row of a table may name nothing
    if not named or len(uri) > MAX_URI_LENGTH or "\0" in uri:
        return f"the {role} has no usable URI"
    place = (item_input.offset, item_input.num_bytes)
    if item_input.member is not None and None in place:
        return f"the {role} has no place in its tar"
    if not all(0 <= number <= MAX_OFFSET for number in place if number is not None):
        return f"the {role} lies at {place}, which no file has"
    if item_input.sha256 is None:
        return None if item.problem else f"the {role} has no sha256"
    if not _SHA256.fullmatch(item_input.sha256):
        return f"{item_input.sha256[:80]!r} is no sha256"
    return None


@lru_cache(maxsize=1024)
def _is_json_object(text: str) -> bool:
    try:
        return len(text) <= MAX_TEXT_LENGTH and isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
