"""Which picture of a folder that another program has filled belongs to which case?

A picture is found by its key, its name without suffix. Invariant: none is guessed. What could be
the picture of two cases, or is one of two that could be a case's, is nobody's.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from manifests.errors import JobError
from manifests.items import EXTERNAL, ErrorClass, Input, slug
from manifests.job import Source, external_role
from tasks.inputs.passed_over import PassedOver
from tasks.inputs.sources import SourceFile, images_in, list_files

MAX_NAMES = 4
"""Pictures or names that a sentence names."""

MAX_SLUG = 240


@dataclass(frozen=True)
class CaseNames:
    """What the picture of a case may be called.

    Attributes:
        own: keys of the case; no other case should have one of them.
        loose: keys of one of its inputs; they count where no other case could have the picture.
    """

    own: tuple[str, ...]
    loose: tuple[str, ...] = ()


@dataclass(frozen=True)
class External:
    """A source of pictures that another program has made, listed and not read.

    Attributes:
        name: of the program or method.
        passed_over: what the source holds and is not taken.
    """

    name: str
    uris: tuple[str, ...]
    files: Sequence[SourceFile]
    passed_over: PassedOver

    def images(self) -> list[Input]:
        """The pictures under the role `external`; headers of tars are read."""
        return [image for file in self.files for image in images_in(file, self.passed_over)]


def list_external(
    name: str, source: Source, base: str, *, run_folder: str | None = None
) -> External:
    """The files of a source of pictures; none of them is read.

    Args:
        name: of the program that has made them.
        source: as the job names it.
        base: the folder that relative paths start from.
        run_folder: of the job, which is never its own input.

    Raises:
        JobError: a folder or tar is not there, or a URI is of a kind that is not read.
        StoreError: the store refuses or does not answer.
    """
    passed_over = PassedOver()
    files = list_files(
        external_role(name), source, base, run_folder=run_folder, passed_over=passed_over
    )
    return External(name, source.uri, files, passed_over)


def find_external(folder_uri: str, keys: Iterable[str], *, base: str = ".") -> dict[str, Input]:
    """The pictures of a folder that have given keys.

    Args:
        folder_uri: a folder, an S3 prefix, or tars.
        keys: of cases.
        base: the folder that a relative URI starts from.

    Returns:
        For each key its picture; one that is missing or ambiguous has a problem that says so.

    Raises:
        JobError: the folder is not there, or holds no pictures.
        StoreError: the store refuses or does not answer.
    """
    external = list_external("pictures", Source(uri=(folder_uri,)), base)
    wanted = list(dict.fromkeys(keys))
    found = matched(external, external.images(), [CaseNames((key,)) for key in wanted])
    return dict(zip(wanted, found, strict=True))


def matched(external: External, images: Sequence[Input], cases: Sequence[CaseNames]) -> list[Input]:
    """The picture of each case; one that is missing or ambiguous has a problem that says so.

    Pictures that belong to no case are counted in `external.passed_over`.

    Args:
        external: the source.
        images: of the source.
        cases: what the picture of each may be called.

    Raises:
        JobError: the source holds no pictures at all.
    """
    if not images:
        told = f" ({external.passed_over})" if external.passed_over else ""
        raise JobError(f"{_place(external)} holds no images: check its uri{told}")
    search = _Search(external, images, cases)
    found = [search.picture(case) for case in cases]
    used = set(found)
    for image in images:
        if _as_external(image) not in used:
            external.passed_over.add(image.member or image.uri.rpartition("/")[2], "of no item")
    return found


class _Search:
    """Which cases could have which picture."""

    def __init__(
        self, external: External, images: Sequence[Input], cases: Sequence[CaseNames]
    ) -> None:
        self._place = _place(external)
        self._images = [_as_external(image) for image in images]
        self._by_key: dict[str, list[int]] = defaultdict(list)
        self._by_slug: dict[str, list[int]] = defaultdict(list)
        for number, image in enumerate(self._images):
            self._by_key[image.key].append(number)
            self._by_slug[slug(image.key, MAX_SLUG)].append(number)
        owned = [self._of(case.own) for case in cases]
        self._owners = Counter(number for numbers in owned for number in numbers)
        self._claims = Counter(
            number
            for case, numbers in zip(cases, owned, strict=True)
            for number in numbers | self._of(case.loose)
        )

    def picture(self, case: CaseNames) -> Input:
        """The picture of a case, or an input that says why there is none."""
        taken: set[int] = set()
        for names, claims in ((case.own, self._owners), (case.loose, self._claims)):
            for name in names:
                numbers = self._named(name)
                if len(numbers) > 1:
                    return self._ambiguous(case, name, numbers)
                if numbers and claims[numbers[0]] == 1:
                    return self._images[numbers[0]]
                taken.update(numbers)
        if taken:
            return self._shared(case, min(taken))
        return self._missing(case)

    def _named(self, name: str) -> Sequence[int]:
        """The pictures of a name: letter by letter, or else as keys of samples are written."""
        return self._by_key.get(name) or self._by_slug.get(name, ())

    def _of(self, names: Sequence[str]) -> set[int]:
        return {number for name in names for number in self._named(name)}

    def _missing(self, case: CaseNames) -> Input:
        names = list(dict.fromkeys([*case.own, *case.loose]))
        *others, last = [repr(name) for name in names[:MAX_NAMES]]
        told = f"{', '.join(others)} or {last}" if others else last
        message = f"{self._place} has no picture named {told}, with .png or another suffix"
        return self._broken(case, ErrorClass.INPUT_MISSING, message)

    def _ambiguous(self, case: CaseNames, name: str, numbers: Sequence[int]) -> Input:
        files = ", ".join(self._images[number].full_uri for number in numbers[:MAX_NAMES])
        message = f"{self._place}: {len(numbers)} pictures are named {name!r} ({files}): keep one"
        return self._broken(case, ErrorClass.UNSUPPORTED, message)

    def _shared(self, case: CaseNames, number: int) -> Input:
        free = next((name for name in case.own if not self._named(name)), case.own[-1])
        message = (
            f"{self._place}: {self._images[number].full_uri} could be the picture of "
            f"{self._claims[number]} items: name each like its item, this one {free!r}"
        )
        return self._broken(case, ErrorClass.UNSUPPORTED, message)

    def _broken(self, case: CaseNames, error_class: ErrorClass, message: str) -> Input:
        return Input(EXTERNAL, case.own[0], "").broken(error_class, message)


def _as_external(image: Input) -> Input:
    return replace(image, role=EXTERNAL)


def _place(external: External) -> str:
    return f"{external_role(external.name)} ({', '.join(external.uris[:MAX_NAMES])})"
