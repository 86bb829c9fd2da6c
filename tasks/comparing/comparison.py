"""From entries to what is told of them: every figure of every entry over the cases that all have.

A figure is compared over the same cases in all entries that have it, so that no entry is judged by
easier ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from manifests.errors import ManifestError
from manifests.items import EXTERNAL, Item, Status
from tasks.comparing.controls import CONTROL_NAMES, Controls, measure_controls
from tasks.comparing.figures import COST_COLUMNS, FIGURES, Figure
from tasks.comparing.statistics import Estimate, Values, Wins, estimates, paired_wins
from tasks.results.entries import Entry, common_cases

MAX_ENTRIES = 100
MAX_PROMPT_LETTERS = 40


@dataclass(frozen=True)
class Lacking:
    """A case that an entry has no picture of.

    Attributes:
        case: its id.
        name: in words.
        why: `pending`, `not planned`, `skipped`, or the class of the error.
        message: of the error; empty where there is none.
    """

    case: str
    name: str
    why: str
    message: str = ""


@dataclass(frozen=True)
class Row:
    """One figure of an entry or a control.

    Attributes:
        name: of the entry, `identity` or `style copy`.
        is_control: whether it is one of the last two.
        estimate: None where it does not have the figure.
        difference: of its mean to the first entry's, over the cases that both have.
        wins: against each other row that has the figure too, by name.
    """

    name: str
    is_control: bool
    estimate: Estimate | None
    difference: Estimate | None
    wins: Mapping[str, Wins]


@dataclass(frozen=True)
class Table:
    """One figure of all.

    Attributes:
        num_cases: over how many cases it is compared.
        rows: the entries in the order in which they were asked for, then the controls.
    """

    figure: Figure
    num_cases: int
    rows: Sequence[Row]

    def best(self) -> frozenset[str]:
        """The entries with the best mean, by name; empty where there is nothing to choose."""
        bad = {
            row.name: self.figure.direction.badness(row.estimate.mean)
            for row in self.rows
            if row.estimate and not row.is_control
        }
        least = min(bad.values(), default=0.0)
        best = frozenset(name for name, value in bad.items() if value == least)
        return best if len(best) < len(bad) else frozenset()

    def share_against_others(self, row: Row) -> float | None:
        """How often a row is better than an entry drawn from the others; None without others."""
        others = {other.name for other in self.rows if not other.is_control}
        shares = [wins.share for name, wins in row.wins.items() if name in others]
        return fmean(shares) if shares else None


@dataclass(frozen=True)
class Comparison:
    """Entries side by side.

    Attributes:
        entries: as they were asked for, without those that have no picture at all.
        cases: the ids of those that all have, with their names.
        num_all_cases: that any of them has.
        lacking: the cases that an entry has no picture of, by its name.
        tables: one for each figure that any of them has.
        notes: what has to be known to read them, in sentences.
    """

    entries: Sequence[Entry]
    cases: Mapping[str, str]
    num_all_cases: int
    lacking: Mapping[str, Sequence[Lacking]]
    tables: Sequence[Table]
    notes: Sequence[str]


def compare(entries: Sequence[Entry], figures: Sequence[Figure] = FIGURES) -> Comparison:
    """Compares entries over the cases that all of them have; one without any is left out.

    Args:
        entries: at least one; differences and wins are told against the first.
        figures: which to compare.

    Raises:
        ManifestError: no case is ok in all of them, or too many are compared at once.
    """
    _refuse_unusable(entries)
    names: dict[str, str] = {}
    for case, item in (pair for entry in entries for pair in entry.items.items()):
        names.setdefault(case, _case_name(item))
    lacking = {entry.name: _lacking(entry, names) for entry in entries}
    empty = [entry for entry in entries if len(lacking[entry.name]) == len(names)]
    entries = [entry for entry in entries if entry not in empty] or entries
    cases = common_cases(entries)
    if not cases:
        raise ManifestError(_nothing_in_common(entries, lacking, len(names)))
    controls = measure_controls(entries[0], cases)
    tables = _tables(entries, cases, controls, figures)
    return Comparison(
        entries=entries,
        cases={case: names[case] for case in cases},
        num_all_cases=len(names),
        lacking=lacking,
        tables=tables,
        notes=[
            *_notes_of_empty(empty, lacking),
            *_notes_of_entries(entries, cases),
            *_notes_of_controls(controls, len(cases)),
            *_notes_of_figures(tables, len(cases)),
        ],
    )


def _refuse_unusable(entries: Sequence[Entry]) -> None:
    if len(entries) > MAX_ENTRIES:
        raise ManifestError(
            f"{len(entries)} entries are too many to be compared at once (at most {MAX_ENTRIES}): "
            "name some of them, as RUN#LABEL"
        )
    for entry in entries:
        if entry.name in CONTROL_NAMES:
            raise ManifestError(
                f"an entry cannot be called {entry.name!r}, which is a row of its own: give it "
                "another name, as NAME=RUN#LABEL"
            )


def _case_name(item: Item) -> str:
    """A case in words: the keys of its inputs, its prompt, and its variant where it is not 0."""
    words = [one.key for one in item.case_inputs]
    words += [f"“{item.prompt[:MAX_PROMPT_LETTERS]}”"] if item.prompt else []
    return " + ".join(words) + (f", variant {item.variant}" if item.variant else "")


def _lacking(entry: Entry, names: Mapping[str, str]) -> list[Lacking]:
    return [
        Lacking(case, name, *_why(entry, case))
        for case, name in names.items()
        if not entry.is_ok(case)
    ]


def _why(entry: Entry, case: str) -> tuple[str, str]:
    if case not in entry.items:
        return "not planned", ""
    if case not in entry.rows:
        return "pending", ""
    row = entry.rows[case]
    if row["status"] == Status.FAILED:
        return row["error_class"], row["error_message"]
    return row["status"], ""


def reasons(lacking: Sequence[Lacking]) -> str:
    """How many cases are lacking for which reason, in words."""
    counts = Counter(one.why for one in lacking)
    return ", ".join(f"{number} {why}" for why, number in counts.most_common())


def _nothing_in_common(
    entries: Sequence[Entry], lacking: Mapping[str, Sequence[Lacking]], num_all: int
) -> str:
    told = [
        f"{name} lacks {len(of_entry)} of {num_all} ({reasons(of_entry)})"
        for name, of_entry in lacking.items()
        if of_entry
    ]
    shown = "; ".join(told[:5]) + (f"; and {len(told) - 5} more" if len(told) > 5 else "")
    tasks = sorted({entry.task for entry in entries})
    hint = f", of the tasks {', '.join(tasks)}" if len(tasks) > 1 else ""
    return (
        f"no case is ok in every entry{hint}: {shown}. Compare entries that have been rendered "
        "over the same inputs, prompts and variants"
    )


def _tables(
    entries: Sequence[Entry], cases: Sequence[str], controls: Controls, figures: Sequence[Figure]
) -> list[Table]:
    """A table for each figure that an entry has; all intervals are drawn at once."""
    columns = [
        (figure, columns)
        for figure in figures
        if (columns := _columns(figure, entries, cases, controls)) is not None
    ]
    differences = [
        {name: values - next(iter(of_figure.values())) for name, values in of_figure.items()}
        for _, of_figure in columns
    ]
    wanted = [
        values
        for (_, of_figure), of_differences in zip(columns, differences, strict=True)
        for values in (*of_figure.values(), *of_differences.values())
    ]
    found = iter(estimates(wanted))
    tables: list[Table] = []
    for figure, of_figure in columns:
        means = {name: next(found) for name in of_figure}
        apart = {name: next(found) for name in of_figure}
        rows = [
            Row(
                name=name,
                is_control=name in CONTROL_NAMES,
                estimate=means[name],
                difference=apart[name] if number else None,
                wins={
                    other: wins
                    for other, theirs in of_figure.items()
                    if other != name
                    and (wins := paired_wins(values, theirs, figure.direction)) is not None
                },
            )
            for number, (name, values) in enumerate(of_figure.items())
        ]
        num_cases = max((one.num_cases for one in means.values() if one), default=0)
        tables.append(Table(figure, num_cases, rows))
    return tables


def _columns(
    figure: Figure, entries: Sequence[Entry], cases: Sequence[str], controls: Controls
) -> dict[str, Values] | None:
    """A value for each case and row, NaN where there is none; None where no entry has the figure.

    What an entry has of some cases only is compared over these cases in all of them.
    """
    of_entries = {
        entry.name: _values([_value(entry, case, figure) for case in cases]) for entry in entries
    }
    having = [values for values in of_entries.values() if np.isfinite(values).any()]
    if not having:
        return None
    compared = np.logical_and.reduce([np.isfinite(values) for values in having])
    of_controls = {
        name: _values([row.get(case, {}).get(figure.name) for case in cases])
        for name, row in controls.rows.items()
    }
    return {
        name: np.where(compared, values, np.nan)
        for name, values in {**of_entries, **of_controls}.items()
    }


def _value(entry: Entry, case: str, figure: Figure) -> float | None:
    """A figure of a row; what another program took for its picture is not known."""
    is_unknown = entry.task == EXTERNAL and figure.name in COST_COLUMNS
    return None if is_unknown else entry.rows[case][figure.name]


def _values(found: Sequence[float | None]) -> Values:
    return np.array([np.nan if value is None else value for value in found], dtype=np.float64)


def _notes_of_empty(empty: Sequence[Entry], lacking: Mapping[str, Sequence[Lacking]]) -> list[str]:
    """Which entries are left out, as they have no picture at all."""
    return [
        f"{entry.name} has no picture of any case ({reasons(lacking[entry.name])}): it is left out."
        for entry in empty
    ]


def _notes_of_entries(entries: Sequence[Entry], cases: Sequence[str]) -> list[str]:
    """In what else than their results the entries differ."""
    notes = [
        f"{entry.name} is incomplete: {entry.num_pending} of {len(entry.items)} items are pending."
        for entry in entries
        if entry.num_pending
    ]
    rows = [entry.rows[case] for entry in entries for case in cases]
    if num_apart := sum(len(_sizes(entries, case)) > 1 for case in cases):
        notes.append(
            f"The entries have pictures of different sizes in {num_apart} of {len(cases)} cases: "
            "figures of pictures of different sizes tell little about each other."
        )
    for what, found in (
        ("tasks", {entry.task for entry in entries}),
        ("models", {row["model_id"] for row in rows}),
        ("devices", {row["device_name"] for row in rows if row["device_name"]}),
    ):
        if len(found) > 1:
            notes.append(f"The entries are of different {what}: {', '.join(sorted(found))}.")
    if any(entry.items[case].variant for entry in entries for case in cases):
        notes.append(
            "Variants of the same inputs are cases of their own: the intervals tell of more noise, "
            "and less than they seem to of other inputs."
        )
    return notes


def _sizes(entries: Sequence[Entry], case: str) -> set[tuple[int, int]]:
    outputs = [entry.rows[case]["outputs"][0] for entry in entries]
    return {(output["width"], output["height"]) for output in outputs}


def _notes_of_controls(controls: Controls, num_cases: int) -> list[str]:
    notes: list[str] = []
    if len(controls.measured) < num_cases:
        notes.append(
            f"identity and style copy are measured in {len(controls.measured)} of {num_cases} "
            "cases, evenly chosen."
        )
    for cases, why in (
        (controls.gone, "a source is gone or was changed"),
        (controls.too_small, "a picture is too small to be measured"),
    ):
        if cases:
            notes.append(
                f"identity and style copy lack {len(cases)} of {len(controls.measured)} cases, of "
                f"which {why}."
            )
    return notes


def _notes_of_figures(tables: Sequence[Table], num_cases: int) -> list[str]:
    return [
        f"{table.figure.name} is compared over {table.num_cases} of {num_cases} cases, those of "
        "which every entry that has it at all has a finite value."
        for table in tables
        if table.num_cases < num_cases
    ]
