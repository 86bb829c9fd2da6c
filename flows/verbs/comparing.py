"""The command that puts runs side by side: compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.verbs.options import AsJson, Call, names_of


def compare(
    context: typer.Context,
    entries: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN…",
            help="Each a run folder, RUN#LABEL for one entry of its sweep, or NAME=RUN#LABEL to "
            "call it otherwise. A swept run stands for all its entries; the first entry is what "
            "the others are held against.",
        ),
    ],
    figures: Annotated[
        str,
        typer.Option(
            metavar="NAME,…",
            help="Figures to compare, such as swd_patch,ssim_luma; all unless given.",
        ),
    ] = "",
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="Write the tables as Markdown.")
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE.csv", help="Write a line for each figure and entry."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw means and intervals.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare runs, or entries of sweeps, figure by figure over the cases that all of them have.

    Of each figure: the mean, a bootstrap interval over cases, and in which share of the cases an
    entry is better than the first and than the others. Beside them stand the rows 'identity' (the
    unchanged content) and 'style copy' (the style in the result's place), since some figures rank
    one of these first. Nothing is written into the runs.
    """
    call = context.ensure_object(Call)
    from flows.comparing import ComparisonFiles, compare_runs

    compare_runs(
        call.terminal,
        entries,
        ComparisonFiles(markdown=markdown, csv=csv, plot=plot),
        figures=names_of(figures),
        as_json=as_json,
    )
