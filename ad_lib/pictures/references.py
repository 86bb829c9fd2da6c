"""Which reference is a picture of a batch compared with? One that all share, or its own."""

from __future__ import annotations

from torch import Tensor


def check_references(images: Tensor, references: Tensor) -> None:
    """Refuses a number of references that does not say which picture has which.

    Raises:
        ValueError: neither one reference nor one for each picture.
    """
    if len(references) not in (1, len(images)):
        raise ValueError(
            f"give one reference or one for each of {len(images)} pictures; got {len(references)}"
        )
