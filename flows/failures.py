"""What `stylefarm failures` prints: which items failed, and why."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from flows.terminal import Terminal, counted
from tasks.results.failures import find_failures
from tasks.runs.committed import Row

MAX_ROWS = 50
"""Failed items that are printed; `--json` tells all."""

COLUMNS = ("key", "error_class", "error_message")

TOLD = (*COLUMNS, "item_id", "shard", "seed", "retries", "task", "label", "prompt")
"""What the JSON document says of an item, as its metadata row has it."""


def show_failures(terminal: Terminal, uri: str, classes: Sequence[str], *, as_json: bool) -> None:
    """Prints the failed items of a run, the first of them or, as JSON, all.

    Raises:
        JobError: an unknown class.
        RunFolderError: a plan or a committed file is damaged.
    """
    found = find_failures(uri, classes)
    if as_json:
        rows = map(_told, found.rows)
        terminal.print_json({"run": uri, "by_class": dict(found.by_class), "failures": rows})
        return
    number = sum(found.by_class.values())
    if not number:
        terminal.say("No item has failed" + (" with these classes." if classes else "."))
        return
    rows = ([row[name] for name in COLUMNS] for row in islice(found.rows, MAX_ROWS))
    terminal.say_table(("key", "class", "why"), rows)
    if number > MAX_ROWS:
        terminal.say(f"… and {number - MAX_ROWS} more; --json tells all of them")
    told = ", ".join(f"{number} {name}" for name, number in found.by_class.items())
    terminal.say(f"{counted(number, 'item')} failed ({told}).")


def _told(row: Row) -> dict[str, Any]:
    inputs = [{"role": one["role"], "uri": one["uri"]} for one in row["inputs"]]
    return {**{name: row[name] for name in TOLD}, "inputs": inputs}
