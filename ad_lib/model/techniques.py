"""How is a network made to run faster?"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Techniques:
    """What may be done to a frozen network; each changes a picture by rounding at most.

    Attributes:
        early_exit: feature passes stop behind the last layer that the loss reads.
    """

    early_exit: bool = True
