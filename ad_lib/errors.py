"""What can go wrong in ad_lib?

ValueError
├── RequestError      a request that cannot be rendered; raised when it is built
├── ImageError        bytes that are not a usable image
└── BackboneError     a model folder or hub id that cannot serve as a backbone
ArithmeticError
└── NumericsError     latents or pixels stopped being finite numbers
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


class RequestError(ValueError):
    """A request that cannot be rendered; the message says what to change."""


class ImageError(ValueError):
    """Bytes that are not a usable image.

    Attributes:
        kind: `decode` when the bytes are damaged, `unsupported` when they are sound but refused.
    """

    def __init__(self, message: str, kind: str = "decode") -> None:
        super().__init__(message)
        self.kind = kind


class BackboneError(ValueError):
    """A model folder or hub id that cannot serve as a backbone; the message names the remedy."""


class NumericsError(ArithmeticError):
    """Latents or pixels stopped being finite numbers."""


def unknown_name(
    kind: str, name: str, known: Iterable[str], meant: Mapping[str, str] | None = None
) -> str:
    """The sentence for a name that is not known, with the names that are like it.

    Args:
        kind: what the name names, such as `setting`.
        name: as written.
        known: the names that there are.
        meant: what people mean by names of other programs.
    """
    plain = {_plain(candidate): candidate for candidate in sorted(known)}
    wanted = _plain(name)
    if alias := (meant or {}).get(name.lower().replace(" ", "-")):
        near = [alias]
    else:
        inside = [plain[text] for text in plain if len(wanted) > 2 and wanted in text]
        near = inside or [plain[text] for text in get_close_matches(wanted, plain, n=1)]
    hint = (
        f"did you mean {' or '.join(map(repr, near))}?"
        if near
        else f"known: {', '.join(plain.values())}"
    )
    return f"unknown {kind} {name[:80]!r}; {hint}"


def _plain(name: str) -> str:
    """A name without the differences that a person easily overlooks."""
    return "".join(letter for letter in name.lower()[:80] if letter.isalnum())
