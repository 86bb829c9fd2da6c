"""The files under `infra/` that say where stylefarm runs, read as the tests need them.

A command line is whatever stands where one is run: a value that a program takes as a command, a
line of a script, a comment that is indented like code, or words in quotes that begin with
`stylefarm` or `prefect`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"

DOCUMENTS = {".yaml", ".yml", ".json"}
SCRIPTS = {".service", ".sbatch", ".example", ""}
PROGRAMS = ("stylefarm", "prefect")
GIVES_ITS_ARGUMENTS = {"image": "stylefarm"}

_COMMENT_OF_CODE = re.compile(r"^\s*#(?:   +|\s*-\s+)(\S.*)$")
_QUOTED = re.compile(r"'((?:stylefarm|prefect) [a-z][^']*)'")
_HOLE = re.compile(r"\$\{?[A-Za-z_][A-Za-z0-9_]*\}?|%[iIhH]|\{\{.*?\}\}|<[^>]*>")
"""What is filled in when the line is run."""


class Unique(yaml.SafeLoader):
    """YAML without keys that stand twice, of which the first would be lost in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"{node.start_mark}: {', '.join(sorted(twice))} stands twice")
        return super().construct_mapping(node, deep)


def recipes() -> list[Path]:
    """Every file of `infra/` but its Python, and what git ignores."""
    files = [file for file in INFRA.rglob("*") if file.is_file()]
    return sorted(f for f in files if f.suffix not in {".py", ".pyc", ".env"} and f.name != ".env")


def documents(file: Path) -> list[Any]:
    """What a YAML or JSON file holds, document by document."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".json":
        return [json.loads(text, object_pairs_hook=_without_twins)]
    return list(yaml.load_all(text, Loader=Unique))


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"one of {names} stands twice")
    return dict(pairs)


def mappings(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a document, at any depth."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from mappings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from mappings(inner)


def command_lines(file: Path) -> Iterator[list[str]]:
    """Every call of ours and of Prefect's in a file, holes filled with a word."""
    text = file.read_text(encoding="utf-8")
    yield from (shlex.split(found) for found in _QUOTED.findall(text))
    for line in text.splitlines():
        comment = _COMMENT_OF_CODE.match(line)
        if comment:
            yield from _calls(comment[1])
        elif file.suffix in SCRIPTS and not line.lstrip().startswith("#"):
            yield from _calls(line.partition("=")[2] if line.startswith("Exec") else line)
    if file.suffix in DOCUMENTS:
        for mapping in (m for document in documents(file) for m in mappings(document)):
            yield from _calls_of_container(mapping)


def _calls_of_container(container: dict[str, Any]) -> Iterator[list[str]]:
    image = str(container.get("image", ""))
    start = container.get("entrypoint") or (["stylefarm"] if image.startswith("stylefarm:") else [])
    for words in (container.get("command"), container.get("args")):
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            continue
        if words[:1] == ["prefect"]:
            yield words
        elif start in (["prefect"], ["stylefarm"]) and words != ["env"]:
            yield [*start, *words]


def _calls(line: str) -> Iterator[list[str]]:
    """The calls in one line of a shell, inside quotes too."""
    try:
        words = shlex.split(_HOLE.sub("filled", line), comments=True)
    except ValueError:  # half a line
        return
    for number, word in enumerate(words):
        if " " in word:
            yield from _calls(word)
        elif word.rpartition("/")[2] in PROGRAMS and "=" not in word:
            end = next((n for n, w in enumerate(words) if n > number and w in _ENDS), len(words))
            call = [word.rpartition("/")[2], *words[number + 1 : end]]
            if len(call) > 1 and _is_called(words[:number]):
                yield call


_ENDS = {"&&", "||", "|", ";", "&", ">", ">>"}


def _is_called(before: list[str]) -> bool:
    """Whether the next word is what these run, not one of their arguments."""
    return not before or before[-1] in _ENDS or before[0] in {"exec", "env", "nohup"}
