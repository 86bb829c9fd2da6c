"""Which names a pattern in a job stands for: braces and globs, as in a shell.

Braces are counted before they are expanded, so that `{1..1000000000}` is refused at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from braceexpand import alphabet, braceexpand

from infra.store import UriError, quoted
from manifests.limits import MAX_EXPANDED_URIS, MAX_TEXT_LETTERS

MAX_NESTING = 20

_INNERMOST = re.compile(r"\{([^{}]*)\}")
_NUMBERS = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?")
_LETTERS = re.compile(r"([A-Za-z])\.\.([A-Za-z])(?:\.\.-?(\d+))?")
_FIRST_COUNT = 0xF0000  # characters for private use stand for the groups that were counted


def expand_braces(name: str) -> list[str]:
    """What a name with `{a,b}` or `{000..099}` stands for, in order.

    Raises:
        UriError: the braces are unbalanced, or stand for more than `MAX_EXPANDED_URIS` names.
    """
    if "{" not in name and "}" not in name:
        return [name]
    if len(name) > MAX_TEXT_LETTERS:
        raise UriError(f"{quoted(name)} has {len(name):,} letters; {MAX_TEXT_LETTERS:,} at most")
    if _count(name) > MAX_EXPANDED_URIS:
        raise UriError(
            f"the braces of {quoted(name)} stand for more than {MAX_EXPANDED_URIS:,} files: name a "
            "folder, or fewer files"
        )
    return list(braceexpand(name))


def _count(name: str) -> int:
    """How many names braces stand for: innermost groups are replaced by their counts."""
    text = re.sub(r"[\U000f0000-\U0010ffff]|\\.", "x", name, flags=re.DOTALL)
    counts: list[int] = []

    def counted(group: re.Match[str]) -> str:
        counts.append(_count_group(group[1], counts))
        return chr(_FIRST_COUNT + len(counts) - 1)

    for _ in range(MAX_NESTING):
        if not _INNERMOST.search(text):
            break
        text = _INNERMOST.sub(counted, text)
    if _INNERMOST.search(text):
        raise UriError(f"braces nest more than {MAX_NESTING} deep in {quoted(name)}")
    if "{" in text or "}" in text:
        raise UriError(f"unbalanced braces in {quoted(name)}")
    return _product(text, counts)


def _count_group(inside: str, counts: Sequence[int]) -> int:
    if found := _NUMBERS.fullmatch(inside):
        if max(map(len, found.groups(""))) > 18:
            return MAX_EXPANDED_URIS + 1
        return abs(int(found[2]) - int(found[1])) // _step(found[3]) + 1
    if found := _LETTERS.fullmatch(inside):
        first, last = (alphabet.index(letter) for letter in found.groups()[:2])
        return abs(last - first) // _step(found[3]) + 1
    return sum(_product(part, counts) for part in inside.split(","))


def _step(digits: str | None) -> int:
    return int(digits or 1) or 1


def _product(text: str, counts: Sequence[int]) -> int:
    """The product of the counts of the groups in a text; no more than the limit and one."""
    product = 1
    for letter in text:
        if ord(letter) >= _FIRST_COUNT:
            product = min(product * counts[ord(letter) - _FIRST_COUNT], MAX_EXPANDED_URIS + 1)
    return product


def is_glob(name: str) -> bool:
    """Whether a name holds `*`, `?` or `[`."""
    return any(letter in name for letter in "*?[")


def split_glob(name: str) -> tuple[str, list[str]]:
    """Split a glob into the folder that contains all matches, and the parts below that."""
    parts = name.split("/")
    first = next(number for number, part in enumerate(parts) if is_glob(part))
    return "/".join(parts[:first]) + "/" * (first > 0), [
        part for part in parts[first:] if part not in ("", ".")
    ]


def literal_beginning(part: str) -> str:
    """The letters of a part of a glob before its first `*`, `?` or `[`."""
    return re.split(r"[*?[]", part, maxsplit=1)[0]


def matches(key: str, parts: Sequence[str]) -> bool:
    """Whether the parts of a glob match a key; `**` stands for any number of folders."""
    reached = _after_folders({0}, parts)  # positions in the glob that may match the next name
    for name in key.split("/"):
        step = {at + 1 for at in reached if at < len(parts) and fnmatchcase(name, parts[at])}
        stay = {at for at in reached if at < len(parts) and parts[at] == "**"}
        reached = _after_folders(step | stay, parts)
    return len(parts) in reached


def _after_folders(reached: set[int], parts: Sequence[str]) -> set[int]:
    """Add the positions after each `**`, as `**` may stand for no folder at all."""
    found = set(reached)
    for at in sorted(reached):
        while at < len(parts) - 1 and parts[at] == "**":
            at += 1
            found.add(at)
    return found
