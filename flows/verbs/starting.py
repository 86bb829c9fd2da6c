"""The command that writes a first job file: init."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.completing import complete_presets
from flows.verbs.options import Call


def init(
    context: typer.Context,
    task: Annotated[
        str | None,
        typer.Argument(
            metavar="TASK",
            autocompletion=complete_presets,
            help="The task; the one that fits to what the folder holds unless given.",
        ),
    ] = None,
    folder: Annotated[
        str | None,
        typer.Argument(
            metavar="FOLDER",
            help="Where its inputs are, a folder or s3://bucket/prefix; here unless given.",
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="JOB.yaml", help="The job file to write.")
    ] = Path("job.yaml"),
    force: Annotated[
        bool, typer.Option("--force", help="Replace the job file where there is one.")
    ] = False,
) -> None:
    """Write a commented job file for a task, with what a folder holds filled in."""
    from flows.initializing import write_job

    write_job(context.ensure_object(Call).terminal, task, folder, output, force=force)
