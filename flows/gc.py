"""What `stylefarm gc` prints: what nobody needs in a run folder and in this machine's scratch."""

from __future__ import annotations

import re
from collections import Counter
from datetime import timedelta

from flows.terminal import MAX_LINES, Terminal, counted
from manifests.errors import JobError
from tasks.keeping.collecting import KINDS, Collected, collect

_DURATION = re.compile(r"([0-9]{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_MAX = timedelta(days=36_500)


def collect_garbage(
    terminal: Terminal, uri: str, *, older_than: str, delete: bool, as_json: bool = False
) -> str:
    """Says what nobody needs, and deletes it where that is asked for.

    Returns:
        How much that was, in a sentence.

    Raises:
        JobError: `older_than` is no duration.
        RunFolderError: a record of the run is damaged, so that nobody knows what it needs.
        StoreError: the store refuses or does not answer.
    """
    age = duration(older_than)
    collected = collect(uri, older_than=age, delete=delete)
    if as_json:
        _print_json(terminal, uri, collected, age=age, deleted=delete)
    else:
        _say(terminal, collected, older_than=older_than, deleted=delete)
    return _outcome(collected, deleted=delete)


def duration(text: str, option: str = "--older-than") -> timedelta:
    """A length of time such as `2d`, `12h`, `30m` or `0s`.

    Args:
        text: as it was typed.
        option: what it was typed for.

    Raises:
        JobError: it is none, or longer than a century.
    """
    found = _DURATION.fullmatch(text.strip())
    length = timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else None
    if length is None or length > _MAX:
        raise JobError(
            f"{option} takes a number and s, m, h, d or w, such as 2d, 12h or 0s, a century at "
            f"most; got {text[:100]!r}"
        )
    return length


def _say(terminal: Terminal, collected: Collected, *, older_than: str, deleted: bool) -> None:
    garbage = collected.garbage
    if garbage:
        numbers, sizes = _totals(collected)
        rows = [
            (KINDS[kind], str(numbers[kind]), f"{sizes[kind] / 1e6:.1f} MB")
            for kind in KINDS
            if numbers[kind]
        ]
        terminal.say_table(("what nobody needs", "number", "size"), rows)
        names = (one.name for one in garbage[: MAX_LINES + 1])
        terminal.say_list(names, rest="more", num_lines=len(garbage))
    if collected.num_younger:
        terminal.say(f"{counted(collected.num_younger, 'file')} younger than {older_than} left.")
    if collected.not_ours:
        files = counted(len(collected.not_ours), "file")
        terminal.say(f"{files} left that a run does not write:")
        terminal.say_list(collected.not_ours, rest="more")
    terminal.say_list(collected.sentences, "yellow", rest="more")
    terminal.say(_outcome(collected, deleted=deleted))


def _outcome(collected: Collected, *, deleted: bool) -> str:
    if not collected.garbage:
        return "Nothing to delete."
    num_bytes = sum(one.num_bytes for one in collected.garbage)
    what = f"{counted(len(collected.garbage), 'file')}, {num_bytes / 1e6:.1f} MB"
    if deleted:
        return f"Deleted {what}."
    return f"Nothing was deleted; with --delete it would be {what}."


def _totals(collected: Collected) -> tuple[Counter[str], Counter[str]]:
    numbers = Counter(one.kind for one in collected.garbage)
    sizes: Counter[str] = Counter()
    for one in collected.garbage:
        sizes[one.kind] += one.num_bytes
    return numbers, sizes


def _print_json(
    terminal: Terminal, uri: str, collected: Collected, *, age: timedelta, deleted: bool
) -> None:
    numbers, sizes = _totals(collected)
    terminal.print_json(
        {
            "run": uri,
            "deleted": deleted,
            "older_than_seconds": int(age.total_seconds()),
            "number": len(collected.garbage),
            "bytes": sum(sizes.values()),
            "kinds": {kind: {"number": numbers[kind], "bytes": sizes[kind]} for kind in KINDS},
            "younger": collected.num_younger,
            "sentences": list(collected.sentences),
            "garbage": (
                {"kind": one.kind, "name": one.name, "bytes": one.num_bytes}
                for one in collected.garbage
            ),
            "not_ours": iter(collected.not_ours),
        }
    )
