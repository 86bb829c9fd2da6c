"""What does a key mean, in the words of the class that holds it?

The docstrings of settings and of the parts of a job say it; nothing is written a second time.
"""

from __future__ import annotations

import inspect
import re
from typing import Any, Literal, get_args, get_origin

MAX_LETTERS = 76
"""Of a short meaning."""

_ATTRIBUTE = re.compile(r"    (\w+(?:, \w+)*): (.*)")


def meanings(kind: type) -> dict[str, str]:
    """What the docstring of a class says of its attributes, by name; each as one line."""
    _, _, section = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if attribute := _ATTRIBUTE.fullmatch(line):
            names = attribute[1].split(", ")
            found.update(dict.fromkeys(names, attribute[2]))
        elif line.startswith("        "):
            for name in names:
                found[name] += f" {line.strip()}"
        elif line.strip():
            break  # the next section
    return found


def in_short(meaning: str, about: str = "") -> str:
    """The first clause of a meaning, or the one about something, `MAX_LETTERS` long at most.

    Args:
        meaning: as the docstring has it.
        about: such as the name of a task; a clause that names it in backticks is taken first.
    """
    clauses = re.split(r"; |\. (?=[A-Z`])|\.$", meaning)
    special = [clause for clause in clauses if about and f"`{about}`" in clause]
    common = [clause for clause in clauses if "`baseline-" not in clause]
    clause = (special or common or clauses)[0].strip()
    if len(clause) <= MAX_LETTERS:
        return clause
    shortened = clause[:MAX_LETTERS]
    part = max(shortened.rfind(sign) for sign in (", ", ": "))
    if part > MAX_LETTERS // 2:
        return shortened[:part]
    return f"{shortened.rpartition(' ')[0]} …"


def words_of(kind: Any) -> tuple[str, ...]:
    """The words that a value of a type may be; none where it is of another kind."""
    if get_origin(kind) is Literal:
        return tuple(word for word in get_args(kind) if isinstance(word, str))
    return next((words for part in get_args(kind) if (words := words_of(part))), ())
