"""What can go wrong in ad_lib, as a tree.

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
    """The sentence for a name that is not known, with the nearest one that is.

    Args:
        kind: what the name names, such as `setting`.
        name: as written.
        known: the names that there are.
        meant: what people mean by names of other programs.
    """
    names = sorted(known)
    alias = (meant or {}).get(name.lower().replace(" ", "-"))
    near = [alias] if alias else get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
    return f"unknown {kind} {name[:80]!r}; {hint}"
