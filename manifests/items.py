"""One image to make: the inputs that it uses, as they were found, and where it goes."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass, replace
from enum import StrEnum

from manifests.wording import safe_line

REFERENCE_ROLES = ("style", "texture")
"""The roles of the images whose look is distilled; the others say what is drawn, and where."""

EXTERNAL = "external"
"""The role of a picture that another program has made, and the task of the item that shows it."""


class Status(StrEnum):
    """What became of a planned item; a committed shard has no pending ones."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"
    PENDING = "pending"


class ErrorClass(StrEnum):
    """Why an item failed. Only `infra` is worth trying again as it is.

    `rejected` pictures were made and lie outside the job's `quality`.
    """

    INPUT_MISSING = "input_missing"
    DECODE = "decode"
    UNSUPPORTED = "unsupported"
    OOM = "oom"
    NUMERICS = "numerics"
    REJECTED = "rejected"
    TIMEOUT = "timeout"
    CRASH = "crash"
    LICENSE_DENIED = "license_denied"
    INFRA = "infra"


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with an input or an item, in one sentence.

    The message is made safe to show, and bounded, when the problem is made.
    """

    error_class: ErrorClass
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", safe_line(self.message))


@dataclass(frozen=True, slots=True)
class Input:
    """One image of one role, as preflight found it.

    Attributes:
        role: what the image is for, such as `content`.
        key: its name within its source, unique there.
        uri: the file, or the tar that holds it.
        member: its name inside the tar.
        offset, num_bytes: where its bytes lie in the tar.
        sha256: of its bytes; None where they could not be read.
        width, height: pixels, upright.
        problem: why it cannot be used.
    """

    role: str
    key: str
    uri: str
    member: str | None = None
    offset: int | None = None
    num_bytes: int | None = None
    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    license: str | None = None
    attribution: str | None = None
    problem: Problem | None = None

    @property
    def full_uri(self) -> str:
        """The URI with the member, as rows and reports show it."""
        return f"{self.uri}#{self.member}" if self.member else self.uri

    def broken(self, error_class: ErrorClass, message: str) -> Input:
        """The same input with a problem."""
        return replace(self, problem=Problem(error_class, message))


@dataclass(frozen=True, slots=True)
class Item:
    """One image to make.

    Attributes:
        item_id: 32 hex digits, the same wherever and whenever it is planned.
        key: the sample's key in the output, `[a-z0-9_-]+`.
        seed: of its noise.
        params: canonical JSON of the settings and the size.
        cost_seconds: what rendering it is expected to take.
        prompt, negative_prompt: what is drawn, and what guidance leads away from.
        label: of its sweep entry, or the program that has made its picture; empty where there is no
            sweep.
        user: canonical JSON of the table columns that are the user's own.
        problem: why it cannot be rendered; such an item gets its row all the same.
        replaces: the item_id of an earlier generation's item that no longer counts.
        first_retry: at which retry it starts, where it goes on after the seeds of a rejected one.
    """

    item_id: str
    key: str
    seed: int
    task: str
    params: str
    variant: int
    width: int
    height: int
    inputs: tuple[Input, ...]
    cost_seconds: float
    prompt: str | None = None
    negative_prompt: str | None = None
    label: str = ""
    user: str = "{}"
    problem: Problem | None = None
    shard: str = ""
    replaces: str | None = None
    first_retry: int = 0

    @property
    def case_inputs(self) -> tuple[Input, ...]:
        """The inputs without the picture that another program has made of them."""
        return tuple(found for found in self.inputs if found.role != EXTERNAL)

    def of_role(self, role: str) -> list[Input]:
        """The item's inputs of one role, in order."""
        return [found for found in self.inputs if found.role == role]


def slug(text: str, max_length: int = 48) -> str:
    """The text in the characters that WebDataset keys allow: `[a-z0-9_-]+`.

    Different texts may have the same slug; `distinct_slug` keeps them apart.
    """
    return _in_key_letters(text)[:max_length].strip("-") or "x"


def distinct_slug(text: str, max_length: int) -> str:
    """A slug that ends in eight digits of a hash of the text where letters of it were lost.

    Letters are lost where the text is not ASCII (accents included) or too long; case, spaces
    and punctuation are not counted. What is made of ASCII letters, digits, `_` and `-` stays as it
    is. `max_length` is at least 10.
    """
    plain = _in_key_letters(text)
    lost = any(
        not letter.isascii() and unicodedata.category(letter)[0] not in "PZ" for letter in text
    )
    if not lost and len(plain) <= max_length:
        return plain or "x"
    digits = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{plain[: max_length - 9].strip('-')}-{digits}".strip("-")


def _in_key_letters(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9_-]+", "-", plain.lower()).strip("-")
