"""How text that came from outside is made safe to show and to store.

File names, table cells and messages of libraries reach terminals, Parquet rows and HTML pages.
Whatever they hold, what is shown is bounded, has no control characters and names no password.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from manifests.credentials import SECRET_WORDS, secrets_of

MAX_MESSAGE_LETTERS = 2000

_HIDDEN_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Control and format characters (escape sequences, reversed writing), half surrogate pairs, and
line separators."""

_USER_AND_PASSWORD = re.compile(
    r"(?<=:/)(/?)[^/\s@:]*:(?![0-9]{1,5}/)\S{0,300}(?=@)|(?<=://)[^/\s@:]+(?=@)"
)
"""A key of AWS may hold a `/`; a port has one behind it."""
_SECRET_VALUE = re.compile(
    rf"(?i)((?:{SECRET_WORDS}|signature|\bsig)"
    r"(?:=['\"]?"  # token=abc, token="abc"
    r"|['\"]\s*:\s*['\"]"  # {"token": "abc"}
    r"|(?<=authorization):\s*(?:basic|bearer)?\s*|(?<=password):\s*))"
    r"[^&\s'\",;}]+"
)
_SECRET_SHAPE = re.compile(
    r"\b(?:hf_|gh[opsu]_|github_pat_|pnb_|pnu_|sk-)[A-Za-z0-9_-]{16,}|\bA[KS]IA[0-9A-Z]{16}\b"
)
"""Keys of well-known services, which show by their beginning that they are secret."""


_LINE_BREAKS = re.compile(r"[ \t]*[\r\n][ \t\r\n]*")


def safe_text(text: str, max_letters: int = MAX_MESSAGE_LETTERS) -> str:
    r"""The text with control characters as escapes, passwords as `***`, and a bounded length.

    Line breaks stay. An ESC becomes `\x1b`, half a surrogate pair `\ud800`.

    Args:
        text: any text, such as a file name or the message of a library.
        max_letters: a longer text keeps its beginning and says how much was left out.
    """
    beginning, num_left_out = _beginning(text, max_letters)
    return _safe(beginning, num_left_out, max_letters)


def safe_line(text: str, max_letters: int = MAX_MESSAGE_LETTERS) -> str:
    """The same on one line: line breaks and the spaces around them become one space."""
    beginning, num_left_out = _beginning(text, max_letters)
    return _safe(_LINE_BREAKS.sub(" ", beginning.strip()), num_left_out, max_letters)


def without_secrets(text: str, environment: Mapping[str, str]) -> str:
    """The text without the passwords and keys of an environment, however they stand in it.

    For errors and tracebacks, in which libraries write them in ways of their own.
    """
    for secret in secrets_of(environment):
        text = text.replace(secret, "***")
    return text


def _beginning(text: str, max_letters: int) -> tuple[str, int]:
    """So much of a text that the work on it is bounded, and how many letters follow."""
    beginning = text[: 4 * max_letters]
    return beginning, len(text) - len(beginning)


def _safe(text: str, num_left_out: int, max_letters: int) -> str:
    text = _USER_AND_PASSWORD.sub(r"\1***", text)
    text = _SECRET_VALUE.sub(r"\1***", text)
    text = _SECRET_SHAPE.sub("***", text)
    text = "".join(map(_visible, text))
    if num_left_out or len(text) > max_letters:
        ending = "… ({} more letters)"
        kept = max_letters - len(ending) - 10
        text = text[:kept] + ending.format(len(text) - kept + num_left_out)
    return text


def _visible(letter: str) -> str:
    if letter.isprintable() or letter == "\n":
        return letter
    if unicodedata.category(letter) in _HIDDEN_CATEGORIES:
        return letter.encode("unicode_escape").decode()
    return letter


def unusable_letter(text: str) -> str | None:
    r"""The first letter that no file name or caption may hold, in words; None where all are fine.

    These are half surrogate pairs, which UTF-8 cannot write, and control characters other than
    tabs and line breaks.
    """
    if text.isprintable():
        return None
    for letter in text:
        category = unicodedata.category(letter)
        if category == "Cs":
            return f"half a surrogate pair ({_visible(letter)})"
        if category == "Cc" and letter not in "\t\r\n":
            return f"the control character {_visible(letter)}"
    return None
