"""What does a form say of a job's keys, where a person fills one in instead of a job file?

Each class of the job has its keys explained once, in its docstring; a form shows the first sentence
of each. A form changes nothing about what a job may say.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

_NAMED = re.compile(r"    (\w[\w, ]*): (.*)")


def tell_form(schema: dict[str, Any], of_class: type) -> None:
    """Puts what a class says of itself and of its keys into its JSON schema.

    Args:
        schema: of the class; it is changed.
        of_class: its docstring explains keys under `Attributes:`.
    """
    first, _, attributes = (inspect.getdoc(of_class) or "").partition("\n\nAttributes:\n")
    if first:
        schema["description"] = _one_line(first.partition("\n\n")[0])
    for name, text in _told(attributes).items():
        if name in schema.get("properties", {}):
            schema["properties"][name]["description"] = _first_sentence(text)


def _told(attributes: str) -> dict[str, str]:
    """The text of each attribute; several may share one."""
    told: dict[str, str] = {}
    names: list[str] = []
    for line in attributes.splitlines():
        if begun := _NAMED.fullmatch(line):
            names = begun[1].split(", ")
        text = begun[2] if begun else line
        for name in names:
            told[name] = f"{told.get(name, '')} {text}"
    return told


def _first_sentence(text: str) -> str:
    sentence, end, _ = f"{_one_line(text)} ".partition(". ")
    return f"{sentence[:1].upper()}{sentence[1:]}{end.strip()}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
