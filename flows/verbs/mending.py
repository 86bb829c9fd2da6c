"""The commands that bring a run folder back into order: verify."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.verbs.opening import run_folder
from flows.verbs.options import AsJson, Call, RunUri


def verify(
    context: typer.Context,
    run_uri: RunUri,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is damaged; write nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read all of a run again, name what is damaged or missing, and plan that anew.

    Every committed file is held to its sha256, and every record to its plan. Shards that are
    damaged are planned again, as they were planned; 'stylefarm run' or 'work' renders them, and the
    same pictures come of it. Ends with 0 where all is sound, with 4 where something was planned.
    """
    call = context.ensure_object(Call)
    uri = run_folder(run_uri)
    from flows.verifying import verify_run

    raise typer.Exit(verify_run(call.terminal, uri, dry_run=dry_run, as_json=as_json))
