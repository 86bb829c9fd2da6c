"""A comparison as JSON, CSV and Markdown; the names in the first two are stable."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from manifests.wording import safe_line
from tasks.comparing.comparison import Comparison, Lacking, Row, Table, reasons
from tasks.comparing.statistics import LEVEL, SEED, Estimate, Wins, num_resamples

CSV_COLUMNS = (
    *("figure", "direction", "row", "kind", "num_cases", "mean", "low", "high"),
    *("difference", "difference_low", "difference_high"),
    *("share_against_first", "wins", "ties", "losses", "share_against_others"),
)
"""Of the CSV file, a line for each figure of each entry and control."""

MAX_LACKING_TOLD = 10
"""Cases by name in Markdown, of an entry; JSON tells all."""


def document_of(comparison: Comparison) -> dict[str, Any]:
    """The document that `--json` prints."""
    return {
        "entries": [
            {
                "name": entry.name,
                "run": entry.run_uri,
                "label": entry.label,
                "task": entry.task,
                "planned": len(entry.items),
                "pending": entry.num_pending,
                "lacking": [_lacking(one) for one in comparison.lacking[entry.name]],
            }
            for entry in comparison.entries
        ],
        "num_all_cases": comparison.num_all_cases,
        "cases": [{"case": case, "name": name} for case, name in comparison.cases.items()],
        "interval": {
            "level": LEVEL,
            "method": "percentile bootstrap over cases",
            "resamples": num_resamples(len(comparison.cases)),
            "seed": SEED,
        },
        "notes": list(comparison.notes),
        "figures": [_table(table) for table in comparison.tables],
    }


def csv_of(comparison: Comparison) -> str:
    """The same as a table with a line for each figure of each entry and control."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for table in comparison.tables:
        first = table.rows[0].name
        for row in table.rows:
            wins = row.wins.get(first)
            told = [table.figure.name, table.figure.direction.value, row.name, _kind(row)]
            writer.writerow(
                [
                    *told,
                    row.estimate.num_cases if row.estimate else 0,
                    *_ends(row.estimate),
                    *_ends(row.difference),
                    *((wins.share, wins.wins, wins.ties, wins.losses) if wins else [None] * 4),
                    table.share_against_others(row),
                ]
            )
    return file.getvalue()


def markdown_of(comparison: Comparison) -> str:
    """The same for people: what is compared, the means, and who wins how often."""
    return "\n".join(
        [
            *_bulleted([told_cases(comparison), *_told_lacking(comparison), *comparison.notes]),
            "",
            told_interval(comparison) + " **Bold** is the best entry of a figure.",
            "",
            *_means(comparison),
            *_shares(comparison),
            "",
        ]
    )


def told_cases(comparison: Comparison) -> str:
    """How many cases are compared, in a sentence."""
    number, every = len(comparison.cases), comparison.num_all_cases
    of_them = "" if number == every else f" of {every}"
    return f"{number}{of_them} {'case is' if number == 1 else 'cases are'} compared: " + (
        "all that there are." if number == every else "those that every entry has."
    )


def told_lacking(name: str, lacking: Sequence[Lacking], comparison: Comparison) -> str:
    """How many cases an entry lacks and why, in a sentence."""
    return f"{name} lacks {len(lacking)} of {comparison.num_all_cases} cases: {reasons(lacking)}."


def told_interval(comparison: Comparison) -> str:
    """What the intervals are, in a sentence."""
    number = len(comparison.cases)
    if number == 1:
        return "Of one case there are no intervals."
    return (
        f"Intervals: {LEVEL:.0%}, percentile bootstrap over {number} cases, "
        f"{num_resamples(number):,} resamples that all rows share, seed {SEED}."
    )


def told_legend(comparison: Comparison) -> str:
    """What the columns of a table of one figure are, in a sentence or two."""
    names = [entry.name for entry in comparison.entries]
    sentence = (
        f"vs first: in which share of the cases a row is better than {names[0]} (won:lost), ties "
        "counted as halves."
    )
    if len(names) > 1:
        sentence = f"* is the best entry. {sentence}"
    if len(names) > 2:
        sentence = f"{sentence} vs others: the mean of that over all other entries."
    return sentence


def told_wins(wins: Wins) -> str:
    """Who won how often, such as `83 % (5:1)`, ties counted as halves and told."""
    ties = f", {wins.ties} tied" if wins.ties else ""
    return f"{wins.share:.0%} ({wins.wins}:{wins.losses}{ties})"


def told_estimate(table: Table, estimate: Estimate | None) -> tuple[str, str]:
    """A mean and its interval in few letters; a dash where there is none."""
    if estimate is None:
        return "–", ""
    shown = table.figure.shown
    if estimate.low is None or estimate.high is None:
        return shown(estimate.mean), ""
    return shown(estimate.mean), f"[{shown(estimate.low)}, {shown(estimate.high)}]"


def _table(table: Table) -> dict[str, Any]:
    return {
        "figure": table.figure.name,
        "direction": table.figure.direction.value,
        "num_cases": table.num_cases,
        "rows": [
            {
                "name": row.name,
                "kind": _kind(row),
                "num_cases": row.estimate.num_cases if row.estimate else 0,
                **dict(zip(("mean", "low", "high"), _ends(row.estimate), strict=True)),
                **dict(
                    zip(
                        ("difference", "difference_low", "difference_high"),
                        _ends(row.difference),
                        strict=True,
                    )
                ),
                "wins": {name: _wins(wins) for name, wins in row.wins.items()},
            }
            for row in table.rows
        ],
    }


def _kind(row: Row) -> str:
    return "control" if row.is_control else "entry"


def _ends(estimate: Estimate | None) -> tuple[float | None, float | None, float | None]:
    return (estimate.mean, estimate.low, estimate.high) if estimate else (None, None, None)


def _wins(wins: Wins) -> dict[str, Any]:
    return {"share": wins.share, "wins": wins.wins, "ties": wins.ties, "losses": wins.losses}


def _lacking(one: Lacking) -> dict[str, str]:
    return {"case": one.case, "name": one.name, "why": one.why, "message": one.message}


def _bulleted(sentences: Sequence[str]) -> Iterator[str]:
    return (f"* {_text(sentence)}" for sentence in sentences)


def _told_lacking(comparison: Comparison) -> Iterator[str]:
    for name, lacking in comparison.lacking.items():
        if lacking:
            told = [f"{one.name} ({one.why})" for one in lacking[:MAX_LACKING_TOLD]]
            rest = len(lacking) - len(told)
            more = f"; and {rest} more" if rest else ""
            yield f"{told_lacking(name, lacking, comparison)} They are: {'; '.join(told)}{more}."


def _means(comparison: Comparison) -> Iterator[str]:
    """A line for each figure, a column for each row."""
    names = [row.name for row in comparison.tables[0].rows]
    yield _line(["figure", "better", *names])
    yield _line(["---", "---", *["---:"] * len(names)])
    for table in comparison.tables:
        best = table.best()
        cells: list[str] = []
        for row in table.rows:
            mean, interval = told_estimate(table, row.estimate)
            cell = f"**{mean}**" if row.name in best else mean
            cells.append(f"{cell}<br>{interval}" if interval else cell)
        yield _line([f"`{table.figure.name}`", table.figure.direction.value], cells)


def _shares(comparison: Comparison) -> Iterator[str]:
    """In which share of cases each row is better than the first entry."""
    names = [row.name for row in comparison.tables[0].rows]
    if len(names) < 2:
        return
    yield ""
    yield (
        f"Share of cases in which a row is better than {_text(names[0])} (won:lost; ties count as "
        "halves):"
    )
    yield ""
    yield _line(["figure", *names[1:]])
    yield _line(["---", *["---:"] * (len(names) - 1)])
    for table in comparison.tables:
        first, *others = table.rows
        wins = [row.wins.get(first.name) for row in others]
        if any(wins):
            cells = [told_wins(one) if one else "–" for one in wins]
            yield _line([f"`{table.figure.name}`"], cells)


def _line(cells: Sequence[str], formatted: Sequence[str] = ()) -> str:
    return f"| {' | '.join([*(_cell(cell) for cell in cells), *formatted])} |"


def _cell(text: str) -> str:
    return _text(text).replace("|", "\\|")


def _text(text: str) -> str:
    """Text from outside as Markdown shows it: one line, and no tags."""
    return safe_line(text).replace("&", "&amp;").replace("<", "&lt;")
