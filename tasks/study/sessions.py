"""What does each person see, in which order, and on which side?

Everything follows from a seed. Over all people every comparison is shown equally often, and of any
two that are compared each is on the left as often as on the right, for every person too; both hold
up to one. No person sees a case twice in a row.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from manifests.errors import ManifestError
from tasks.study.study_file import DECOY, Trial

DISTANCE = 3
"""A repeat comes when a third of the others, or more, has been seen since."""


@dataclass(frozen=True)
class Comparison:
    """Two entries for one case.

    Attributes:
        first: ours, where it is one of them.
    """

    task: str
    case: str
    first: str
    second: str


@dataclass(frozen=True)
class Asked:
    """How much is shown.

    Attributes:
        people: sessions that are laid out.
        trials: plain trials of each.
        repeats: of these, shown once more with the sides swapped.
        attention: trials of each whose answer everybody can tell.
    """

    people: int
    trials: int
    repeats: int
    attention: int


@dataclass(frozen=True)
class _Page:
    """A trial that has no number yet."""

    case: str
    left: str
    right: str
    kind: Literal["plain", "repeat", "attention"]
    first: str

    @property
    def first_is_left(self) -> bool:
        return self.left == self.first

    def swapped(self) -> _Page:
        return replace(self, left=self.right, right=self.left, kind="repeat")


def lay_out(
    comparisons: Sequence[Comparison], ours: str, asked: Asked, random: Random
) -> tuple[tuple[Trial, ...], ...]:
    """The trials of every person.

    Args:
        comparisons: all of the study.
        ours: the entry that is beside the decoy in attention trials; every case has it.
        asked: how much is shown.
        random: all chance comes from it.

    Raises:
        ManifestError: so many trials cannot be laid out.
    """
    if asked.trials > len(comparisons):
        raise ManifestError(
            f"there are {len(comparisons)} comparisons, and nobody sees one twice: give --trials "
            f"{len(comparisons)} or less, or more cases; got {asked.trials}"
        )
    if asked.repeats > asked.trials:
        raise ManifestError(
            f"of {asked.trials} trials no more can be repeated: give --repeats {asked.trials} or "
            f"less; got {asked.repeats}"
        )
    shown = _shared_out(comparisons, asked, random)
    sides = _sides(shown, ours, random)
    sessions: list[tuple[Trial, ...]] = []
    for of_person, first_left in zip(shown, sides, strict=True):
        pages = [_plain(one, is_left) for one, is_left in zip(of_person, first_left, strict=True)]
        pages += _attention(of_person, ours, asked.attention, random)
        pages = _with_repeats(_without_neighbours(pages, random), asked.repeats, random)
        sessions.append(tuple(_trial(number, page) for number, page in enumerate(pages)))
    return tuple(sessions)


def _plain(comparison: Comparison, first_is_left: bool) -> _Page:
    first, second = comparison.first, comparison.second
    left, right = (first, second) if first_is_left else (second, first)
    return _Page(comparison.case, left, right, "plain", first)


def _trial(number: int, page: _Page) -> Trial:
    expected = None
    if page.kind == "attention":
        expected = "right" if page.left == DECOY else "left"
    return Trial(
        number=number,
        case=page.case,
        left=page.left,
        right=page.right,
        kind=page.kind,
        expected=expected,
    )


def _shared_out(
    comparisons: Sequence[Comparison], asked: Asked, random: Random
) -> list[list[Comparison]]:
    """The comparisons that each person sees: none twice, and over all people each equally often.

    Of those that were shown least, one comes next whose case, and then whose two entries, this
    person has seen least.
    """
    num_shown: Counter[Comparison] = Counter()
    people: list[list[Comparison]] = []
    for _ in range(asked.people):
        cases: Counter[str] = Counter()
        entries: Counter[tuple[str, str, str]] = Counter()
        left = list(comparisons)
        random.shuffle(left)
        picked: list[Comparison] = []
        for _ in range(asked.trials):
            place = min(
                range(len(left)),
                key=lambda n: (num_shown[left[n]], cases[left[n].case], entries[_kind(left[n])]),
            )
            one = left.pop(place)
            picked.append(one)
            num_shown[one] += 1
            cases[one.case] += 1
            entries[_kind(one)] += 1
        people.append(picked)
    return people


def _kind(comparison: Comparison) -> tuple[str, str, str]:
    return comparison.task, comparison.first, comparison.second


def _sides(shown: Sequence[Sequence[Comparison]], ours: str, random: Random) -> list[list[bool]]:
    """Whether the first entry of each comparison is on the left."""
    flat = [(person, one) for person, of_person in enumerate(shown) for one in of_person]
    by_entries = [(one.task, _kind(one), one.case) for _, one in flat]
    by_person = [(person, one.first == ours, _kind(one)) for person, one in flat]
    answers = iter(halved(by_entries, by_person, random))
    return [[next(answers) for _ in of_person] for of_person in shown]


def halved(
    first: Sequence[tuple[Hashable, ...]], second: Sequence[tuple[Hashable, ...]], random: Random
) -> list[bool]:
    """Split elements in two so that every set of two families of nested sets is halved up to one.

    In each family the elements are paired off, within the smallest sets first, so that no set has
    more than one element whose partner lies outside. An element has a partner in each family at
    most, so that going from partner to partner never closes a ring of odd length: partners can
    always be told apart.

    Args:
        first: for each element the sets of one family that it is in, each inside the one before.
        second: the same of the other family.
        random: which element is paired with which, and which half is which.
    """
    partners = [_paired(paths, random) for paths in (first, second)]
    halves: dict[int, bool] = {}
    for start in range(len(first)):
        open_ends = [(start, random.random() < 0.5)] if start not in halves else []
        while open_ends:
            element, half = open_ends.pop()
            if element not in halves:
                halves[element] = half
                open_ends += [(of[element], not half) for of in partners if element in of]
    return [halves[element] for element in range(len(first))]


def _paired(paths: Sequence[tuple[Hashable, ...]], random: Random) -> dict[int, int]:
    """A partner for each element but those that are left over in the whole."""
    partners: dict[int, int] = {}
    alone = list(range(len(paths)))
    random.shuffle(alone)
    for depth in range(max(map(len, paths), default=0), -1, -1):
        sets: defaultdict[tuple[Hashable, ...], list[int]] = defaultdict(list)
        for element in alone:
            sets[paths[element][:depth]].append(element)
        for of_set in sets.values():
            for one, other in zip(of_set[::2], of_set[1::2], strict=False):
                partners |= {one: other, other: one}
        alone = [element for element in alone if element not in partners]
    return partners


def _attention(
    of_person: Sequence[Comparison], ours: str, number: int, random: Random
) -> list[_Page]:
    """Ours beside the decoy, on cases that the person sees least, on either side equally often."""
    seen = Counter(one.case for one in of_person)
    ours_is_left = random.random() < 0.5
    pages: list[_Page] = []
    for _ in range(number):
        case = min(random.sample(sorted(seen), len(seen)), key=lambda case: seen[case])
        seen[case] += 1
        left, right = (ours, DECOY) if ours_is_left else (DECOY, ours)
        pages.append(_Page(case, left, right, "attention", ours))
        ours_is_left = not ours_is_left
    return pages


def _without_neighbours(pages: Sequence[_Page], random: Random) -> list[_Page]:
    """The pages in a random order in which no case comes twice in a row.

    Raises:
        ManifestError: one case has more than half of them.
    """
    left = random.sample(pages, len(pages))
    num_left = Counter(page.case for page in left)
    ordered: list[_Page] = []
    while left:
        last = ordered[-1].case if ordered else None
        most, number = num_left.most_common(1)[0]
        wanted = {most} if 2 * number > len(left) else num_left.keys() - {last}
        place = next((n for n, page in enumerate(left) if page.case in wanted), None)
        if place is None or left[place].case == last:
            raise _too_few_cases()
        page = left.pop(place)
        ordered.append(page)
        num_left[page.case] -= 1
        num_left += Counter()  # without those that have none left
    return ordered


def _with_repeats(pages: Sequence[_Page], number: int, random: Random) -> list[_Page]:
    """The pages with some of them again, sides swapped, far behind and not beside their case.

    As many of them are taken with the first entry on the left as on the right, up to one, and that
    one evens out the sides of all.

    Raises:
        ManifestError: there is no place for so many.
    """
    ordered = list(pages)
    plain = [page for page in ordered if page.kind == "plain"]
    surplus = sum(1 if page.first_is_left else -1 for page in plain)
    wants_left = surplus > 0 if surplus else random.random() < 0.5
    distance = max(2, len(ordered) // DISTANCE)
    for _ in range(number):
        places = [
            (page, place)
            for page in plain
            for place in range(ordered.index(page) + distance + 1, len(ordered) + 1)
            if all(near.case != page.case for near in ordered[place - 1 : place + 1])
        ]
        if not places:
            raise _too_few_cases(" or --repeats")
        wanted = [found for found in places if found[0].first_is_left == wants_left] or places
        source = random.choice(sorted({page for page, _ in wanted}, key=ordered.index))
        place = random.choice([place for page, place in wanted if page is source])
        plain.remove(source)
        ordered.insert(place, source.swapped())
        wants_left = not wants_left
    return ordered


def _too_few_cases(less: str = "") -> ManifestError:
    return ManifestError(
        "there are too few cases to show none of them twice in a row: give more cases, or smaller "
        f"--trials{less}"
    )
