"""What is drawn: the prompts that a job names, from itself or from text files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from manifests.errors import JobError
from manifests.limits import MAX_ITEMS, MAX_PROMPT_FILE_BYTES, MAX_TEXT_LETTERS
from manifests.wording import unusable_letter
from tasks.inputs.documents import decoded, read_document
from tasks.inputs.sources import resolve_uri


def read_prompts(named: Iterable[str], base: str) -> list[str]:
    """The prompts, in order and each once; what ends in `.txt` is a file with one on each line.

    Args:
        named: as the job names them.
        base: the folder that relative paths start from.

    Raises:
        JobError: a file is not there, is not UTF-8, is too large, or holds no prompt or one that
            cannot be used.
    """
    prompts: dict[str, None] = {}
    for prompt in (prompt for name in named for prompt in _prompts(name, base)):
        prompts[prompt] = None
        if len(prompts) > MAX_ITEMS:
            raise JobError(f"inputs.prompt: there are more than {MAX_ITEMS:,} prompts")
    return list(prompts)


def _prompts(named: str, base: str) -> Iterator[str]:
    if not named.lower().endswith(".txt"):
        yield named
        return
    what = f"inputs.prompt: {named!r}"
    lines = enumerate(re.split(r"\r\n|\r|\n", _text(named, base, what)), 1)
    prompts = [(number, line.strip()) for number, line in lines if line.strip()]
    if not prompts:
        raise JobError(f"{what} holds no prompt; write one on each line")
    for number, prompt in prompts:
        if len(prompt) > MAX_TEXT_LETTERS:
            raise JobError(
                f"{what}, line {number}: the prompt has {len(prompt):,} letters, at most "
                f"{MAX_TEXT_LETTERS:,} are possible"
            )
        if letter := unusable_letter(prompt):
            raise JobError(f"{what}, line {number}: the prompt holds {letter}")
        yield prompt


def _text(named: str, base: str, what: str) -> str:
    try:
        uri = resolve_uri(named, base)
    except ValueError as error:
        raise JobError(
            f"{what} ends in .txt, so it names a file of prompts: {error}; a prompt of its own "
            "ends in another way"
        ) from None
    try:
        return decoded(read_document(uri, "inputs.prompt", MAX_PROMPT_FILE_BYTES), what)
    except JobError as error:
        raise JobError(f"{error} (what ends in .txt is a file of prompts)") from None
