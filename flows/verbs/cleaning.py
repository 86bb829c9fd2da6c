"""The command that cleans: gc."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.verbs.opening import run_folder
from flows.verbs.options import AsJson, Call, RunUri


def gc(
    context: typer.Context,
    run_uri: RunUri,
    older_than: Annotated[
        str,
        typer.Option(
            metavar="AGE",
            help="Leave what was written later, such as 2d, 12h, 30m or 0s. Nothing that is needed "
            "is deleted, however young.",
        ),
    ] = "2d",
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete it; else it is only told.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find what nobody needs in a run folder and in this machine's scratch, and delete it.

    Files that no commit names, of shards that are committed or not planned; plans that no
    generation names; what killed writers left. It may run beside workers. What a shard that is not
    committed has stays, and so does what is not of this run.
    """
    call = context.ensure_object(Call)
    uri = run_folder(run_uri)
    from flows.gc import collect_garbage

    collect_garbage(call.terminal, uri, older_than=older_than, delete=delete, as_json=as_json)
