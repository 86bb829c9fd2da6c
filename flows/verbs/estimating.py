"""The command that says what a job will take: estimate."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.verbs.making import fork_server
from flows.verbs.opening import resolved_job
from flows.verbs.options import AsJson, Call, JobPath, Limit, OutputUri, Overrides


def estimate(
    context: typer.Context,
    job: JobPath,
    items: Annotated[
        int, typer.Option(min=1, help="Render so many items of each bucket to their ends.")
    ] = 3,
    workers: Annotated[
        list[int],
        typer.Option(
            min=1,
            help="Tell the end for so many workers, each with a device of its own. May be "
            "repeated; 1, 2, 4, 8 and the job's unless given.",
        ),
    ] = [],  # noqa: B006 - typer copies it
    overrides: Overrides = [],  # noqa: B006
    limit: Limit = None,
    output: OutputUri = None,
    as_json: AsJson = False,
) -> None:
    """Say what a job will take, by rendering a few of its items: time, money, memory, bytes.

    A bucket is what agrees in task, settings and size, such as an entry of a sweep. Of each a few
    items and the first steps of a batch are rendered on this machine, as a run would, into a
    scratch folder that goes in the end; the run folder stays as it is. What is committed there
    already is left out.
    """
    call = context.ensure_object(Call)
    server = fork_server(context)
    resolved = resolved_job(server, job, overrides, limit, output, will_render=True)
    from flows import estimating

    estimating.estimate(
        *(call.terminal, call.stopping, server, resolved),
        num_items=items,
        workers=workers,
        as_json=as_json,
    )
