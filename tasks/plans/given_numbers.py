"""Where do the pictures that other programs have made stand among the images of a plan?

They are numbered after the images of the combinations, each different one once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from manifests.items import Input
from tasks.inputs.resolving import ResolvedJob
from tasks.plans.combinations import Combinations
from tasks.plans.given_pictures import Given

NOT_GIVEN = -1
"""Instead of a number, of an item that is rendered."""


class GivenNumbers:
    """The pictures that were given, by number.

    Attributes:
        images: of the combinations, then those that were given.
        variations: the numbers of those that show what was given.
    """

    def __init__(self, resolved: ResolvedJob, combinations: Combinations, given: Given) -> None:
        self.variations = [
            number for number, one in enumerate(resolved.variations) if one.is_external
        ]
        every = (image for pictures in given.values() for image in pictures)
        places = dict.fromkeys(every, 0)
        first = len(combinations.images)
        places = {image: first + number for number, image in enumerate(places)}
        self.images: Sequence[Input] = [*combinations.images, *places]
        shape = (len(combinations), len(resolved.variations), resolved.job.variants)
        self._numbers = np.full(shape if given else (0, 0, 0), NOT_GIVEN, dtype=np.int32)
        for number in self.variations:
            pictures = given[resolved.variations[number].label]
            self._numbers[:, number] = np.reshape([places[image] for image in pictures], shape[::2])

    def of(self, place: int, variation: int, variant: int) -> tuple[int, ...]:
        """The picture that was given of an item, or nothing."""
        if variation not in self.variations:
            return ()
        return (int(self._numbers[place, variation, variant]),)

    def of_items(self, items: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The picture that was given of each item, or `NOT_GIVEN`."""
        if not self.variations:
            return np.full(len(items), NOT_GIVEN, dtype=np.int64)
        return self._numbers.reshape(-1)[items].astype(np.int64)
