"""In which words is a wrong value of a job file refused?

One sentence for each value: where it was written, what is wrong, and what to write.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from manifests.credentials import credentials_in, is_secret_name
from manifests.errors import nearest, nearest_key

CREDENTIALS_REFUSED = (
    "{key}: it holds {found}, and what a job says is stored with its run: take that out, and give "
    "credentials in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) or a profile"
)

_INNER_KEY = re.compile(r"([\w-]{1,100})['\"]?\s*:")
"""What may be a key inside a value, such as of `{uri: x, token: y}`."""

MAX_SENTENCES = 6
"""The most wrong values that a message names."""


@dataclass(frozen=True)
class Places:
    """Where each value was written.

    Attributes:
        tree: of the file.
        path: of the file.
        overrides: the keys that the command line sets instead.
    """

    tree: yaml.MappingNode
    path: Path
    overrides: Mapping[str, str]

    def of(self, keys: list[str]) -> str:
        """The file and line of a key, or the option that set it."""
        for key, value in self.overrides.items():
            if f"{'.'.join(keys)}.".startswith(f"{key}."):
                return set_option(key, value)
        line = _line_of(self.tree, keys)
        return f"{self.path}, line {line}" if line else f"{self.path}"


def set_option(key: str, value: str) -> str:
    """The option that set a key, without its value where that may be a password or a key."""
    named = [key, *_INNER_KEY.findall(value)]
    is_secret = any(map(is_secret_name, named)) or credentials_in(value) is not None
    return f"--set {key}={'***' if is_secret else value[:200]}"


def sentences(error: ValidationError, model: type[BaseModel], places: Places) -> list[str]:
    """One sentence for each wrong value, `MAX_SENTENCES` at most.

    Args:
        error: of pydantic.
        model: of the whole job.
        places: where its values were written.
    """
    problems = error.errors()
    lines = [_sentence(problem, model, places) for problem in problems[:MAX_SENTENCES]]
    if len(problems) > MAX_SENTENCES:
        lines.append(f"{places.path}: and {len(problems) - MAX_SENTENCES} more")
    return list(dict.fromkeys(lines))


def _sentence(problem: Any, model: type[BaseModel], places: Places) -> str:
    keys = [str(key) for key in problem["loc"]]
    if problem["type"] == "credentials":
        return f"{places.of(problem['ctx']['keys'])}: {problem['msg']}"
    where = places.of(keys)
    keys = [key for key in keys if not key.startswith(("constrained-", "function-"))]
    if problem["type"] == "extra_forbidden":
        known = _known_keys(model, keys[:-1])
        inside = f" in {'.'.join(keys[:-1])}" if keys[:-1] else ""
        hint = nearest(keys[-1], known) if keys[:-1] else nearest_key(keys[-1], known)
        return f"{where}: unknown key {_shown(keys[-1])}{inside}; {hint}"
    if problem["type"] == "missing":
        return f"{where}: the key {'.'.join(keys)!r} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if problem["type"] == "string_unicode":
        message = "it holds half a surrogate pair, which no text may have"
    if problem["type"] == "model_type":
        message = f"give a mapping of {', '.join(_known_keys(model, keys))}"
    is_secret = any(map(is_secret_name, keys))
    got = (
        ""
        if is_secret or isinstance(problem["input"], dict)
        else f"; got {_shown(problem['input'])}"
    )
    return f"{where}: {'.'.join(keys) or 'job'}: {message}{got}"


def _shown(value: Any) -> str:
    """A value as Python writes it, without the middle of a long one."""
    shortened = reprlib.Repr()
    shortened.maxstring = shortened.maxother = shortened.maxlong = 80
    return shortened.repr(value)


def _line_of(node: yaml.Node, keys: list[str]) -> int | None:
    """The line of the deepest key of the path that the file has."""
    line: int | None = None
    for key in keys:
        if not isinstance(node, yaml.MappingNode):
            break
        found = [(name, value) for name, value in node.value if name.value == key]
        if not found:
            break
        line, node = found[0][0].start_mark.line + 1, found[0][1]
    return line


def _known_keys(model: type[BaseModel], keys: list[str]) -> list[str]:
    part: Any = model
    for key in keys:
        if get_origin(part) is dict:  # its keys are the user's own
            part = get_args(part)[1]
            continue
        annotation = part.model_fields[key].annotation
        if get_origin(annotation) is dict:
            part = annotation
            continue
        options = getattr(annotation, "__args__", (annotation,))
        part = next(option for option in options if hasattr(option, "model_fields"))
    return list(part.model_fields)
