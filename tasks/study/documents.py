"""How the results of a study are written: as a JSON document, as Markdown, as CSV, and in words."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from manifests.wording import safe_line
from tasks.study.criteria import PAPER
from tasks.study.results import Proportion, Ranking, Results, Share
from tasks.study.statistics import Interval
from tasks.study.study_file import OVERALL

HOW = (
    "Counted are the first showings by people who answered every trivial trial rightly. Intervals "
    "are 95 %: by votes takes each vote as independent (Wilson), by people draws whole people "
    "again (bootstrap), which is the safer one. p: two-sided sign test, votes as independent. "
    "alpha: Krippendorff's, over the cases that several judged; unlike Fleiss' kappa it allows "
    "that not everybody judges every case. agree: of two who judged a case, how often they chose "
    "the same."
)

COLUMNS = (
    *("task", "question", "first", "second", "votes", "first_chosen", "share", "people"),
    *("low_by_votes", "high_by_votes", "low_by_people", "high_by_people", "p_value"),
    *("alpha", "agreement", "cases_judged_by_several", "counted"),
)
"""Of the CSV; `counted` is false for the votes of inattentive people."""


def document_of(results: Results) -> dict[str, Any]:
    """The results as a JSON document; `tasks/README.md` says what its names mean."""
    study, people = results.study, results.people
    return {
        "study": study.digest,
        "title": study.title,
        "ours": study.ours,
        "people": {
            "opened": people.num_opened,
            "finished": len(people.finished),
            "unfinished": len(people.unfinished),
            "silent": len(people.silent),
            "inattentive": len(people.inattentive),
        },
        "votes": results.votes.num_rows,
        "shares": [_share(share) for share in results.shares],
        "shares_of_inattentive": [_share(share) for share in results.shares_apart],
        "consistency": [
            {"question": question, "same": one.number, "repeats": one.total, **_ends(one)}
            for question, one in results.consistency.items()
        ],
        "left": {
            "chosen": results.left.number,
            "votes": results.left.total,
            **_ends(results.left),
        },
        "strengths": [_ranking(ranking) for ranking in results.rankings],
        "left_out": list(results.problems),
        "how": HOW,
        "paper": PAPER,
    }


def _share(share: Share) -> dict[str, Any]:
    return {name: value for name, value in _row(share, True).items() if name != "counted"}


def _row(share: Share, counted: bool) -> dict[str, Any]:
    low, high = share.interval or (None, None)
    low_of_people, high_of_people = share.interval_of_people or (None, None)
    values = (
        *(share.task, share.question, share.first, share.second, share.num_votes),
        *(share.num_first, share.share, share.num_people, low, high),
        *(low_of_people, high_of_people, share.p_value, share.alpha, share.agreement),
        *(share.num_shared, counted),
    )
    return dict(zip(COLUMNS, values, strict=True))


def _ends(one: Proportion) -> dict[str, Any]:
    low, high = one.interval or (None, None)
    return {"share": one.share, "low": low, "high": high}


def _ranking(ranking: Ranking) -> dict[str, Any]:
    found = ranking.strengths
    return {
        "task": ranking.task,
        "question": ranking.question,
        "problem": found.problem,
        "entries": [
            {"name": name, "strength": value, "low": low, "high": high}
            for name, value, low, high in strength_rows(ranking)
        ],
    }


def strength_rows(
    ranking: Ranking,
) -> Iterator[tuple[str, float, float | None, float | None]]:
    """Name, strength and interval of each entry, the strongest first; none where undetermined."""
    strengths, intervals = ranking.strengths.strengths or {}, ranking.strengths.intervals or {}
    for name, value in sorted(strengths.items(), key=lambda of_name: (-of_name[1], of_name[0])):
        low, high = intervals.get(name) or (None, None)
        yield name, value, low, high


def csv_of(results: Results) -> str:
    """A row for each share, with the figures in full."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for shares, counted in ((results.shares, True), (results.shares_apart, False)):
        writer.writerows(_row(share, counted) for share in shares)
    return file.getvalue()


def markdown_of(results: Results) -> str:
    """The tables with what they mean."""
    parts = [f"# {_cell(results.study.title)}", told_people(results)]
    parts += _shares_in_markdown("##", results.shares)
    parts += [_cell(sentence) for sentence in told_sides(results)]
    for ranking in results.rankings:
        parts.append(_cell(told_ranking(ranking)))
        if ranking.strengths.strengths:
            parts.append(_table(STRENGTH_HEADINGS, strength_cells(ranking)))
    if results.shares_apart:
        parts.append("## Votes of inattentive people, not counted above")
        parts += _shares_in_markdown("###", results.shares_apart)
    if results.problems:
        parts.append("## Left out")
        parts.append("\n".join(f"* {_cell(sentence)}" for sentence in results.problems))
    return "\n\n".join([*parts, HOW, PAPER]) + "\n"


def _shares_in_markdown(level: str, shares: Sequence[Share]) -> Iterator[str]:
    for (task, question), of_question in by_question(shares).items():
        yield f"{level} {_cell(task)}: {_cell(asked(question))}"
        yield _table(SHARE_HEADINGS, map(share_cells, of_question))


SHARE_HEADINGS = ("chosen over", "votes", "share", "by votes", "by people", "p", "alpha", "agree")
STRENGTH_HEADINGS = ("entry", "strength", "interval")


def by_question(shares: Sequence[Share]) -> dict[tuple[str, str], list[Share]]:
    """The shares by task and question, in their order."""
    found: dict[tuple[str, str], list[Share]] = {}
    for share in shares:
        found.setdefault((share.task, share.question), []).append(share)
    return found


def share_cells(share: Share) -> tuple[str, ...]:
    """A share in words, under `SHARE_HEADINGS`."""
    return (
        f"{share.first} over {share.second}",
        f"{share.num_first} of {share.num_votes}",
        f"{share.share:.0%}",
        told_interval(share.interval),
        told_interval(share.interval_of_people),
        _number(share.p_value, "{:.2g}"),
        _number(share.alpha, "{:.2f}"),
        _number(share.agreement, "{:.0%}"),
    )


def strength_cells(ranking: Ranking) -> list[tuple[str, ...]]:
    """The strengths in words, under `STRENGTH_HEADINGS`."""
    return [
        (
            name,
            f"{value:.3f}",
            "–" if low is None or high is None else f"{low:.3f} to {high:.3f}",
        )
        for name, value, low, high in strength_rows(ranking)
    ]


def asked(question: str) -> str:
    """A question in words."""
    return "which is better" if question == OVERALL else question


def told_people(results: Results) -> str:
    """Who took part, in a sentence."""
    people = results.people
    if not people.num_opened:
        return "Nobody has begun yet."
    parts = [f"{len(people.finished)} of {people.num_opened} people finished"]
    if people.unfinished:
        parts.append(f"{len(people.unfinished)} stopped before the end (counted)")
    if people.silent:
        parts.append(f"{len(people.silent)} answered nothing")
    if people.inattentive:
        parts.append(f"{len(people.inattentive)} failed a trivial trial (not counted)")
    return f"{results.votes.num_rows} votes; {', '.join(parts)}."


def told_sides(results: Results) -> Iterator[str]:
    """Whether people say the same again, and whether they favour a side, a sentence each."""
    for question, one in results.consistency.items():
        about = "" if question == OVERALL else f" to {question!r}"
        yield (
            f"Repeats with the sides swapped were answered{about} as before in {one.number} of "
            f"{one.total} ({_told(one)})."
        )
    if results.left.total:
        yield (
            f"The left picture was chosen in {results.left.number} of {results.left.total} "
            f"({_told(results.left)})."
        )


def told_ranking(ranking: Ranking) -> str:
    """What the table of strengths says, or why there is none."""
    head = f"Bradley–Terry strengths, {ranking.task}, {asked(ranking.question)}"
    if ranking.strengths.problem is not None:
        return f"{head}: not determined, as {ranking.strengths.problem}."
    beside = "" if ranking.strengths.intervals else "; too few people for intervals"
    return f"{head} (sum 1; one is chosen over another by the ratio of theirs{beside}):"


def told_interval(interval: Interval | None) -> str:
    """An interval in per cent; a dash where there is none."""
    return "–" if interval is None else f"{100 * interval[0]:.0f} to {100 * interval[1]:.0f}%"


def _told(one: Proportion) -> str:
    return f"{one.share:.0%}, {told_interval(one.interval)}"


def _number(value: float | None, pattern: str) -> str:
    return "–" if value is None else pattern.format(value)


def _table(headings: Sequence[str], rows: Any) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, cells))} |" for cells in lines)


def _cell(text: str) -> str:
    return safe_line(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
