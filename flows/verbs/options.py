"""What commands are given: the terminal, whether to stop, and the options that several share."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.stopping import Stopping
from flows.terminal import Terminal

if TYPE_CHECKING:
    from manifests.budget import Budget


@dataclass
class Call:
    """One call of the command line.

    Attributes:
        terminal: what is printed goes through it.
        stopping: whether this process was asked to stop; without `main` it never is.
        began: when, by this machine's clock.
    """

    terminal: Terminal = field(default_factory=Terminal)
    stopping: Stopping = field(default_factory=Stopping)
    began: datetime = field(default_factory=lambda: datetime.now().astimezone())


def _keep_output_for_json(context: typer.Context, wanted: bool) -> bool:
    if wanted:
        context.ensure_object(Call).terminal.keep_output_for_json()
    return wanted


JobPath = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job file.")]
RunUri = Annotated[
    str, typer.Argument(metavar="RUN", help="A run folder, local or s3://bucket/prefix.")
]
Overrides = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Replace a key of the job file, such as output.size=256. May be repeated.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="Plan only so many items, picked by hash; needs its own run folder."),
]
OutputUri = Annotated[
    str | None,
    typer.Option("--output", metavar="URI", help="The run folder, relative to where you are."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check and plan, write nothing, render nothing.")
]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        callback=_keep_output_for_json,
        help="Print one JSON document and nothing else; whatever else is said goes to standard "
        "error.",
    ),
]
PlannedAsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        callback=_keep_output_for_json,
        help="With --dry-run: print what is planned as one JSON document and nothing else.",
    ),
]

MaxGpuHours = Annotated[
    float | None,
    typer.Option(
        metavar="HOURS",
        help="Stop taking shards in time to spend no more than so many hours of devices, of all "
        "workers of the run folder and all of its runs so far: exit code 6.",
    ),
]
MaxCost = Annotated[
    float | None,
    typer.Option(metavar="MONEY", help="The same in money, at the job's compute.price_per_hour."),
]
Deadline = Annotated[
    str | None,
    typer.Option(
        metavar="WHEN",
        help="Stop taking shards in time to end by then: 8h or 30m from now, 06:00, or a date and "
        "time such as 2026-12-24T06:00.",
    ),
]


def budget_of(max_gpu_hours: float | None, max_cost: float | None, deadline: str | None) -> Budget:
    """The budget that a command is given.

    Raises:
        BadParameter: a bound is not above 0, or no moment.
    """
    from pydantic import ValidationError

    from manifests.budget import Budget

    try:
        return Budget(max_gpu_hours=max_gpu_hours, max_cost=max_cost, deadline=deadline)
    except ValidationError as error:
        problem = error.errors()[0]
        option = f"--{str(problem['loc'][0]).replace('_', '-')}"
        if problem["type"] == "value_error":
            reason = problem["msg"].removeprefix("Value error, ")
            raise typer.BadParameter(f"{option}: {reason}") from None
        raise typer.BadParameter(
            f"{option} takes something above 0, a billion at most; got {problem['input']}"
        ) from None


def pairs_of(
    texts: list[str], taken: str = "--set takes KEY=VALUE, such as output.size=256"
) -> dict[str, str]:
    """The keys and values of `--set KEY=VALUE`, or of what is written like it.

    Args:
        texts: as typed.
        taken: what is said where one of them has another form.

    Raises:
        BadParameter: one of them has no equals sign, or no key.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{taken}; got {text!r}")
        pairs[key] = value
    return pairs


def refuse_json_of_work(as_json: bool, dry_run: bool) -> None:
    """Refuses `--json` of a command that would render: there is nothing to read until it ends.

    Raises:
        BadParameter: `--json` was given and `--dry-run` was not.
    """
    if as_json and not dry_run:
        raise typer.BadParameter(
            "--json tells what --dry-run plans; give both, and ask 'stylefarm status RUN --json' "
            "how far a run is"
        )


def names_of(text: str) -> list[str]:
    """The names in a text such as `oom,decode`."""
    return [name.strip() for name in text.split(",") if name.strip()]
