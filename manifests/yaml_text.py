"""What does a piece of YAML say?

Job files and `--set` are read by the core schema of YAML 1.2: `1e-2` is a number, `no` and `off`
are words, dates and `12:30` are words. The result holds None, booleans, numbers, text, lists and
dictionaries, and nothing else. Its size is bounded after aliases have been written out.
"""

# pyright: standard
# PyYAML's types leave much open, so strict checking would see unknowns everywhere here.
from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import yaml

from manifests.errors import JobError
from manifests.limits import MAX_WHOLE, MIN_WHOLE

MAX_NODES = 50_000
"""Keys and values of one text, each alias counted as what it stands for."""

MAX_DEPTH = 100
"""Lists and mappings inside each other."""

_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"

_CORE_SCHEMA: dict[str, re.Pattern[str]] = {
    "null": re.compile(r"~|null|Null|NULL|"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "int": re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
    "float": re.compile(
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
    ),
}
"""How a plain word is written that is no text, in the order in which the schema looks."""


class YamlError(JobError):
    """A text that cannot be read.

    Attributes:
        line: where, from 1.
        reason: what is wrong, without the line.
    """

    def __init__(self, reason: str, line: int) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line, self.reason = line, reason


def parse_value(text: str) -> Any:
    """The value of a short text such as that of `--set KEY=VALUE`.

    Raises:
        JobError: it is no YAML, or holds what no job may hold.
    """
    try:
        tree = compose(text)
        return None if tree is None else value_of(tree)
    except YamlError as error:
        raise JobError(f"{text[:200]!r}: {error.reason}") from None


def compose(text: str) -> yaml.Node | None:
    """The tree of a text, with a line for every node; None for an empty text.

    Raises:
        YamlError: it is no YAML, or larger than the limits.
    """
    try:
        tree = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "it cannot be read"
        problem = problem.replace("found unexpected", "found")  # the word tells a user nothing
        raise YamlError(f"not valid YAML: {problem}", mark.line + 1 if mark else 1) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError(
            f"not valid YAML: the character U+{ord(text[error.position]):04X} may not stand here",
            line,
        ) from None
    except RecursionError:
        raise YamlError("it nests too deeply", 1) from None
    if tree is not None:
        _Measured().size_of(tree)
    return tree


def value_of(node: yaml.Node) -> Any:
    """The value of a tree; an alias gives a copy of what it stands for.

    Raises:
        YamlError: a tag that is not of the core schema, a number that does not fit 64 bits or is
            written ambiguously, a key that is no plain word or stands twice.
    """
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node)
    if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
        return [value_of(child) for child in node.value]
    if not isinstance(node, yaml.MappingNode) or node.tag != f"{_TAG}map":
        raise _unknown_tag(node)
    own = {_key(key): value for key, value in _own_pairs(node)}
    return {**_merged(node), **{name: value_of(value) for name, value in own.items()}}


class _Loader(yaml.SafeLoader):
    """Builds the tree of a text with the words of YAML 1.2, and stops at the limits."""

    yaml_implicit_resolvers: ClassVar[dict[Any, Any]] = {}  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._depth = self._num_nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark = self.peek_event().start_mark
        self._num_nodes += 1
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise YamlError(f"it nests deeper than {MAX_DEPTH} levels", mark.line + 1)
        if self._num_nodes > MAX_NODES:
            raise YamlError(f"it holds more than {MAX_NODES} keys and values", mark.line + 1)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


for _name, _pattern in _CORE_SCHEMA.items():
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_pattern.pattern})$"), None)
_Loader.add_implicit_resolver(_MERGE, re.compile("<<$"), None)


@dataclass
class _Measured:
    """How large the parts of a tree are, with every alias written out.

    Attributes:
        found: (nodes, levels) by the identity of a node; None while the node is being measured.
    """

    found: dict[int, tuple[int, int] | None] = field(
        default_factory=dict[int, tuple[int, int] | None]
    )

    def size_of(self, node: yaml.Node, depth: int = 0) -> tuple[int, int]:
        line = node.start_mark.line + 1
        if id(node) not in self.found:
            self.found[id(node)] = None
            sizes = [self.size_of(child, depth + 1) for child in _children(node)]
            levels = max((levels for _, levels in sizes), default=0)
            self.found[id(node)] = 1 + sum(nodes for nodes, _ in sizes), 1 + levels
        size = self.found[id(node)]
        if size is None:
            raise YamlError("an alias stands for what it is itself a part of", line)
        if size[0] > MAX_NODES:
            raise YamlError(f"its aliases stand for more than {MAX_NODES} keys and values", line)
        if depth + size[1] > MAX_DEPTH:
            raise YamlError(f"it nests deeper than {MAX_DEPTH} levels", line)
        return size


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _own_pairs(node: yaml.MappingNode) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
    """The keys and values that stand in a mapping itself, without those that `<<` brings."""
    seen: set[str] = set()
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise YamlError("a key is a plain word, not a list or mapping", line)
        if key.value in seen:
            raise YamlError(f"the key {_shown(key)} stands here twice", line)
        seen.add(key.value)
    return [(key, value) for key, value in node.value if key.tag != _MERGE]


def _key(node: yaml.ScalarNode) -> Any:
    value = _scalar(node)
    return node.value if isinstance(value, float) else value  # nan would never be found again


def _merged(node: yaml.MappingNode) -> dict[Any, Any]:
    """What `<<: *base` brings into a mapping; of a list of mappings, the first one wins."""
    merged: dict[Any, Any] = {}
    for key, value in node.value:
        if key.tag == _MERGE:
            bases = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for base in reversed(bases):
                if not isinstance(base, yaml.MappingNode):
                    raise YamlError(
                        "'<<' takes a mapping or a list of mappings", key.start_mark.line + 1
                    )
                merged |= value_of(base)
    return merged


def _scalar(node: yaml.ScalarNode) -> Any:
    name = node.tag.removeprefix(_TAG)
    if name in ("str", "merge"):  # '<<' as a value is a word like any other
        return _with_whole_pairs(node.value)
    if name not in _CORE_SCHEMA:
        raise _unknown_tag(node)
    if not _CORE_SCHEMA[name].fullmatch(node.value):
        raise YamlError(f"{_shown(node)} is no {name}: drop the tag", node.start_mark.line + 1)
    return {"null": _null, "bool": _boolean, "int": _whole, "float": _real}[name](node)


def _with_whole_pairs(text: str) -> str:
    r"""The text with letters that JSON writes as two escapes (`\ud83d\ude00`) in one piece."""
    if not any("\ud800" <= letter <= "\udfff" for letter in text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def _null(node: yaml.ScalarNode) -> None:
    return None


def _boolean(node: yaml.ScalarNode) -> bool:
    return node.value.lower() == "true"


def _whole(node: yaml.ScalarNode) -> int:
    line, digits = node.start_mark.line + 1, node.value.lstrip("+-")
    sign = "-" if node.value.startswith("-") else ""
    base = {"0o": 8, "0x": 16}.get(digits[:2], 10)
    if base == 10 and len(digits) > 1 and digits[0] == "0":
        raise YamlError(
            f"{_shown(node)} could be an octal or a decimal number: write "
            f"{sign}{digits[:20].lstrip('0') or '0'}, or {_shown(node)} in quotes if it is a word",
            line,
        )
    value = int(node.value, base) if len(digits) <= 24 else MAX_WHOLE + 1
    if not MIN_WHOLE <= value <= MAX_WHOLE:
        raise YamlError(f"the whole number {_shown(node)} does not fit 64 bits", line)
    return value


def _real(node: yaml.ScalarNode) -> float:
    words = node.value.lower().lstrip("+-")
    value = float(node.value.replace(".", "", 1) if words in (".inf", ".nan") else node.value)
    if value in (float("inf"), -float("inf")) and words != ".inf":
        line = node.start_mark.line + 1
        raise YamlError(f"the number {_shown(node)} is too large", line)
    return value


def _unknown_tag(node: yaml.Node) -> YamlError:
    tag = node.tag.replace(_TAG, "!!")[:80]
    return YamlError(f"the tag {tag!r} is not read in job files: drop it", node.start_mark.line + 1)


def _shown(node: yaml.ScalarNode) -> str:
    return repr(node.value if len(node.value) <= 40 else f"{node.value[:40]}…")
