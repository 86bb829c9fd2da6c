"""The commands that look and tell: status, report, failures, presets."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.verbs.opening import run_folder
from flows.verbs.options import AsJson, Call, RunUri, names_of


def status(context: typer.Context, run_uri: RunUri, as_json: AsJson = False) -> None:
    """Say how far a run is, who works on it, how fast, and what failed; nothing is written."""
    call = context.ensure_object(Call)
    uri = run_folder(run_uri)
    from flows.status import show_status

    show_status(call.terminal, uri, as_json=as_json)


def report(
    context: typer.Context,
    run_uri: RunUri,
    show: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    with_table: Annotated[
        bool,
        typer.Option(
            "--table", help="Print seconds and memory of each entry, as Table 1 of the paper does."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring index.json and report.html up to date, and say where the page is."""
    call = context.ensure_object(Call)
    uri = run_folder(run_uri)
    from flows import session

    session.show_report(call.terminal, uri, show, with_table=with_table, as_json=as_json)


def failures(
    context: typer.Context,
    run_uri: RunUri,
    classes: Annotated[
        str,
        typer.Option(
            "--class",
            metavar="CLASS,…",
            help="Tell of items that failed with these classes, such as oom,decode; all unless "
            "given.",
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List the items of a run that failed, each with the reason."""
    call = context.ensure_object(Call)
    uri = run_folder(run_uri)
    from flows.failures import show_failures

    show_failures(call.terminal, uri, names_of(classes), as_json=as_json)


def presets(context: typer.Context, as_json: AsJson = False) -> None:
    """List the tasks: what each takes, its published numbers, and what it does."""
    from flows.presets import show_presets

    show_presets(context.ensure_object(Call).terminal, as_json=as_json)
