"""Does a name or a text carry a password or a key?

What a job or a table says is copied into plans, rows, reports and records of Prefect, which many
people read: credentials in it are refused, and no message that refuses them repeats them.
`manifests.wording` takes out of messages what nobody has refused, such as of a library.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

SECRET_WORDS = (
    r"(?:pass[_-]?words?|passwd|pwd|pass[_-]?phrase|secrets?|token|jwt|credentials?|authorization"
    r"|auth(?:[_-]?string)?|(?:access|auth|api|bearer|session|refresh|security|sas)[_-]?tokens"
    r"|(?:access|account|api|encryption|private|secret|signing|ssh)[_-]?keys?(?:[_-]?id)?"
    r"|connection[_-]?string)"
)
"""What a name of secrets ends with, in lower case."""

_SECRET_NAME = re.compile(
    rf"{SECRET_WORDS}(?:_?(?:value|hash|json|old|new|prod|dev|test|[0-9]+))*$"
    r"|(?:access|api|private|secret)_?key_"
)
_SIGNATURES = {"sig", "signature", "x_amz_signature", "x_amz_credential", "x_goog_signature"} | {
    "x_goog_credential"
}
_USER = re.compile(r"://(?:[^/\s?#@:[]{1,200}@|[^/\s?#@:[]{0,200}:(?![0-9]{1,5}/)[^\s@]{0,300}@)")
"""A user with or without a password; `host:port/…@` is none."""

FOLDERS = ("PWD", "OLDPWD")
"""Variables of a shell that are named like passwords."""

MIN_SECRET_LETTERS = 8
"""A shorter text may stand in other words, too."""

_QUERY = re.compile(r"[?&;#]([^=&;#?\s]{1,100})=[^&;#\s]")


def is_secret_name(name: str) -> bool:
    """Whether a column or key is named as passwords, tokens and keys are.

    `password`, `hf_token`, `apiKey` and `AWS-Secret-Access-Key` are; `key`, `keyword`,
    `tokenizer`, `num_tokens` and `secretary` are not.
    """
    return _SECRET_NAME.search(_plain(name)) is not None


def credentials_in(text: str) -> str | None:
    """Which credentials a text carries in a URI, in words that do not repeat them; None for none.

    They stand before an `@` (`s3://KEY:SECRET@bucket`), or in a query (`?X-Amz-Signature=…`).
    """
    if "://" not in text:
        return None
    if _USER.search(text):
        return "a URI with a user name or a password before an @"
    for name in map(unquote, _QUERY.findall(text)):
        if is_secret_name(name) or _plain(name) in _SIGNATURES:
            return f"a URI with {name[:40]}=… in its query"
    return None


def secrets_of(environment: Mapping[str, str]) -> list[str]:
    """The passwords and keys that variables hold, the longest first.

    They are the values of those that are named like secrets, and what stands between a `:` and an
    `@` in URLs. Shorter ones than `MIN_SECRET_LETTERS` are left out.
    """
    found: set[str] = set()
    for name, value in environment.items():
        if is_secret_name(name) and name not in FOLDERS and not name.lower().endswith("_id"):
            found |= {value, value.partition(":")[2]}
        if "@" in value:
            found.add(value.rpartition("@")[0].rpartition("://")[2].partition(":")[2])
    long = (one for one in found if len(one) >= MIN_SECRET_LETTERS)
    return sorted(long, key=len, reverse=True)


def carried(value: Any) -> Iterator[tuple[tuple[str, ...], str]]:
    """The places in lists and mappings where a text carries credentials, and which.

    Args:
        value: what JSON or YAML can say.
    """
    for path, inner in _everything_in(value):
        if isinstance(inner, str) and (found := credentials_in(inner)):
            yield path, found


def entries_in(value: Any) -> Iterator[tuple[str, Any]]:
    """The keys of the mappings inside a value, at any depth, with what stands under each."""
    for path, inner in _everything_in(value):
        if path:
            yield path[-1], inner


def _everything_in(value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """A value and all that lies in it, each with the keys that lead there; however deep that is."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), value)]
    while waiting:
        path, one = waiting.pop()
        yield path, one
        if isinstance(one, Mapping):
            waiting += (((*path, str(name)), inner) for name, inner in one.items())  # pyright: ignore
        elif _is_map(one):
            waiting += (((*path, name), inner) for name, inner in one)
        elif isinstance(one, list | tuple):
            waiting += ((path, inner) for inner in one)  # pyright: ignore


def _is_map(value: Any) -> bool:
    """Whether a list is what a map of Parquet becomes: pairs of a name and a value."""
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)  # pyright: ignore
        for pair in value  # pyright: ignore
    )


def _plain(name: str) -> str:
    """The end of a name in lower case, with one `_` for all between its letters and digits."""
    return re.sub(r"[^a-z0-9]+", "_", name[-200:].lower()).strip("_")
