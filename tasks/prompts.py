"""What is drawn: the prompts that a job names, from itself or from text files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from infra.store import ObjectNotFound, read_uri
from manifests.errors import JobError
from tasks.sources import resolve_uri


def read_prompts(named: Iterable[str], base: str) -> list[str]:
    """The prompts, in order and each once; what ends in `.txt` is a file with one on each line.

    Args:
        named: as the job names them.
        base: the folder that relative paths start from.

    Raises:
        JobError: a file is not there, is not UTF-8, or holds no prompt.
    """
    prompts = (prompt for one in named for prompt in _prompts(one, base))
    return list(dict.fromkeys(prompts))


def _prompts(named: str, base: str) -> Iterator[str]:
    if not named.lower().endswith(".txt"):
        yield named
        return
    lines = [line.strip() for line in _text(resolve_uri(named, base)).splitlines()]
    if not any(lines):
        raise JobError(f"inputs.prompt: {named!r} holds no prompt; write one on each line")
    yield from filter(None, lines)


def _text(uri: str) -> str:
    try:
        return read_uri(uri).decode("utf-8-sig")
    except (ObjectNotFound, FileNotFoundError):
        raise JobError(
            f"inputs.prompt: {uri!r} is not there; what ends in .txt is a file of prompts"
        ) from None
    except UnicodeDecodeError:
        raise JobError(f"inputs.prompt: {uri!r} is not UTF-8 text") from None
