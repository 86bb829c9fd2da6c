"""What `stylefarm compare` prints and writes: entries side by side, figure by figure."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ad_lib.errors import RequestError
from flows.output_files import check_writable, write_whole
from flows.terminal import Terminal
from tasks.comparing.comparison import Comparison, Table, compare
from tasks.comparing.documents import (
    csv_of,
    document_of,
    markdown_of,
    told_cases,
    told_estimate,
    told_interval,
    told_lacking,
    told_legend,
    told_wins,
)
from tasks.comparing.figures import known_figures
from tasks.results.entries import read_entries


@dataclass(frozen=True, kw_only=True)
class ComparisonFiles:
    """Where a comparison is written besides the terminal; None for none."""

    markdown: Path | None = None
    csv: Path | None = None
    plot: Path | None = None

    def check(self) -> None:
        """Refuses places that could not be written, before anything is read.

        Raises:
            RequestError: one of them cannot be written, or is no PNG.
        """
        if self.plot is not None and self.plot.suffix.lower() != ".png":
            raise RequestError(f"--plot must end in .png; got {str(self.plot)!r}")
        for option, path in (("--markdown", self.markdown), ("--csv", self.csv)):
            if path is not None:
                check_writable(option, path)
        if self.plot is not None:
            check_writable("--plot", self.plot)

    def write(self, comparison: Comparison) -> Iterator[Path]:
        """Writes what was asked for, each file whole or not at all; which files."""
        for path, text_of in ((self.markdown, markdown_of), (self.csv, csv_of)):
            if path is not None:
                write_whole(path, text_of(comparison).encode())
                yield path
        if self.plot is not None:
            from tasks.comparing.comparison_chart import draw_comparison

            file = io.BytesIO()
            draw_comparison(comparison).save(file, "PNG")
            write_whole(self.plot, file.getvalue())
            yield self.plot


def compare_runs(
    terminal: Terminal,
    asked: Sequence[str],
    files: ComparisonFiles,
    *,
    figures: Sequence[str] = (),
    as_json: bool = False,
) -> None:
    """Compares what is asked for, prints the table, and writes the files.

    Args:
        terminal: what is printed goes through it.
        asked: as `tasks.results.entries.read_entries` takes them.
        files: what to write.
        figures: names of those to compare; all of them unless given.
        as_json: whether a document is printed in the table's place.

    Raises:
        ManifestError: an entry or a figure does not exist, or no case is ok in all entries.
        RequestError: a file cannot be written.
        RunFolderError: a run folder is damaged.
        StoreError: a store refuses or does not answer.
    """
    wanted = known_figures(figures)
    files.check()
    comparison = compare(read_entries(asked, Path.cwd()), wanted)
    if as_json:
        terminal.print_json(document_of(comparison))
    else:
        _show(terminal, comparison)
    for path in files.write(comparison):
        terminal.say(f"Written: {path}")


def _show(terminal: Terminal, comparison: Comparison) -> None:
    for table in comparison.tables:
        terminal.say(f"{table.figure.name}: {table.figure.direction.words}", "bold")
        terminal.say_table(*_table(table))
        terminal.say("")
    terminal.say(told_legend(comparison))
    terminal.say(told_interval(comparison))
    for sentence in (told_cases(comparison), *comparison.notes):
        terminal.say(sentence)
    for name, lacking in comparison.lacking.items():
        if lacking:
            terminal.say(told_lacking(name, lacking, comparison))
            terminal.say_list(
                [f"  {one.name}: {one.why} {one.message}".rstrip() for one in lacking],
                rest="more; --json tells all",
            )


def _table(table: Table) -> tuple[list[str], list[list[str]]]:
    """The headings and the rows of one figure."""
    first = table.rows[0].name
    num_entries = sum(not row.is_control for row in table.rows)
    with_wins = any(row.wins for row in table.rows)
    headings = ["", "mean", "interval"]
    headings += ["vs first"] if with_wins else []
    headings += ["vs others"] if with_wins and num_entries > 2 else []
    best = table.best()
    rows: list[list[str]] = []
    for row in table.rows:
        mean, interval = told_estimate(table, row.estimate)
        cells = [row.name, f"{mean} *" if row.name in best else mean, interval]
        if with_wins:
            wins = row.wins.get(first)
            cells.append(told_wins(wins) if wins else "")
        if with_wins and num_entries > 2:
            share = table.share_against_others(row)
            cells.append("" if share is None or row.is_control else f"{share:.0%}")
        rows.append(cells)
    return headings, rows
