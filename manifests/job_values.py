"""What may a single value of a job file be: a text, a name, a number?

Texts and numbers are bounded. A word, `true` or `false` is no number.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from manifests.limits import MAX_TEXT_LETTERS, MAX_WHOLE, MIN_WHOLE
from manifests.wording import unusable_letter


def _usable(text: str) -> str:
    if letter := unusable_letter(text):
        raise ValueError(f"it holds {letter}, which no file name or text may have")
    return text


def number(value: Any) -> Any:
    """The value, unless it is a word or a truth value; its range is checked by its type."""
    if isinstance(value, str) and not re.fullmatch(r"-?(0|[1-9][0-9]{0,19})(\.[0-9]+)?", value):
        plain = value.replace("_", "").lstrip("0")
        way_out = f": write {plain}" if re.fullmatch(r"[0-9]{1,20}", plain) else ""
        raise ValueError(f"give a number, not a word{way_out}")
    if isinstance(value, bool):
        raise ValueError("give a number, not true or false")
    return value


Text = Annotated[str, Field(max_length=MAX_TEXT_LETTERS), AfterValidator(_usable)]
NonEmpty = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_LETTERS), AfterValidator(_usable)]
Name = Annotated[str, Field(max_length=200), AfterValidator(_usable)]
Whole = Annotated[int, Field(ge=MIN_WHOLE, le=MAX_WHOLE), BeforeValidator(number)]
Seconds = Annotated[float, Field(gt=0, le=1e9), BeforeValidator(number)]
"""Above 0, and at most 30 years."""

Money = Annotated[float, Field(ge=0, le=1e9), BeforeValidator(number)]

MIN_PORT, MAX_PORT = 1024, 65_535
"""TCP ports that need no rights of an administrator."""

Count = Annotated[int, Field(gt=0), BeforeValidator(number)]

Side = Annotated[int, Field(ge=64, le=8192), BeforeValidator(number)]
"""Pixels along an axis of a result."""
