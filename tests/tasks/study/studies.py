"""Small studies for tests, and processes that vote."""

from __future__ import annotations

from itertools import combinations
from random import Random

from infra.store import LocalStore
from tasks.study.sessions import Asked, Comparison, lay_out
from tasks.study.study_file import STUDY_NAME, Case, Shown, Study, Trial

CRITERIA = {"style-transfer": ("structure", "style")}


def picture(number: int) -> str:
    return f"pictures/{number:064x}.png"


def small_study(
    *, num_cases: int = 4, question: str = "overall", num_sessions: int = 3, title: str = "Test"
) -> Study:
    """Every session shows each case once, then the first one again, then an attention trial."""
    cases = [
        Case(
            id=f"case{n}",
            task="style-transfer",
            references=(Shown(caption="Content", picture=picture(100 + n)),),
            prompt=None,
            results={"ours": picture(2 * n), "rival": picture(2 * n + 1), "decoy": picture(99)},
        )
        for n in range(num_cases)
    ]
    sessions: list[tuple[Trial, ...]] = []
    for session in range(num_sessions):
        sides = [("ours", "rival"), ("rival", "ours")]
        shown = [(case.id, *sides[(n + session) % 2], "plain") for n, case in enumerate(cases)]
        shown.append((shown[0][0], shown[0][2], shown[0][1], "repeat"))
        shown.append((cases[1].id, "ours", "decoy", "attention"))
        sessions.append(
            tuple(
                Trial(
                    number=number,
                    case=case,
                    left=left,
                    right=right,
                    kind=kind,  # pyright: ignore[reportArgumentType]
                    expected="left" if kind == "attention" else None,
                )
                for number, (case, left, right, kind) in enumerate(shown)
            )
        )
    return Study(
        title=title,
        consent="",
        seed=0,
        ours="ours",
        question=question,  # pyright: ignore[reportArgumentType]
        criteria=CRITERIA,
        cases=tuple(cases),
        sessions=tuple(sessions),
    )


def stored_study(folder, **options) -> tuple[LocalStore, Study]:
    store, study = LocalStore(folder), small_study(**options)
    store.put(STUDY_NAME, study.to_bytes())
    return store, study


def three_way_study(folder) -> tuple[LocalStore, Study]:
    """All pairs of three entries for six cases, laid out for ten people."""
    names = ("ours", "rival", "third")
    cases = tuple(
        Case(
            id=f"case{n}",
            task="style-transfer",
            references=(),
            prompt=None,
            results={name: picture(3 * n + k) for k, name in enumerate((*names, "decoy"))},
        )
        for n in range(6)
    )
    comparisons = [
        Comparison("style-transfer", case.id, first, second)
        for case in cases
        for first, second in combinations(names, 2)
    ]
    asked = Asked(people=10, trials=9, repeats=2, attention=1)
    study = Study(
        title="Three",
        consent="",
        seed=0,
        ours="ours",
        question="overall",
        criteria=CRITERIA,
        cases=cases,
        sessions=lay_out(comparisons, "ours", asked, Random(1)),
    )
    store = LocalStore(folder)
    store.put(STUDY_NAME, study.to_bytes())
    return store, study
