"""The commands around a user study: build, serve, results.

`VERBS` is what the command line has under `stylefarm study`.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows.verbs.options import AsJson, Call


class Question(StrEnum):
    """What a person is asked about a pair."""

    OVERALL = "overall"
    CRITERIA = "criteria"


def build(
    context: typer.Context,
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="The folder or S3 URI that becomes the study.")
    ],
    ours: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=RUN#LABEL",
            help="A run of ours, or an entry of its sweep. Repeat it for another task, under the "
            "same name.",
        ),
    ],
    against: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=RUN#LABEL",
            help="A competitor in a run, or a whole sweep as RUN; it competes with ours of the "
            "same inputs. With TASK: before it, with ours of that task alone. May be repeated.",
        ),
    ] = [],  # noqa: B006 - typer copies it
    external: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=FOLDER",
            help="A competitor whose pictures another program has made, named by the items of "
            "ours. TASK: before it as above. May be repeated.",
        ),
    ] = [],  # noqa: B006
    cases: Annotated[
        int | None,
        typer.Option(min=1, help="Cases of each task, drawn by the seed; up to 50 unless given."),
    ] = None,
    people: Annotated[
        int, typer.Option(min=1, max=1000, help="For how many people trials are laid out.")
    ] = 20,
    trials: Annotated[
        int | None,
        typer.Option(
            min=1, max=500, help="Comparisons that each person sees; all up to 30 unless given."
        ),
    ] = None,
    repeats: Annotated[
        int,
        typer.Option(
            min=0, max=100, help="Of these, shown once more to each person with the sides swapped."
        ),
    ] = 3,
    attention: Annotated[
        int,
        typer.Option(
            min=0, max=100, help="Trials of each person beside them that show ours beside noise."
        ),
    ] = 2,
    question: Annotated[
        Question, typer.Option(help="One question over all criteria, or one for each of them.")
    ] = Question.OVERALL,
    all_pairs: Annotated[
        bool,
        typer.Option(
            "--all-pairs", help="Compare the competitors with each other too, not only with ours."
        ),
    ] = False,
    consent: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The text that people agree to.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="What stands at the top of the page.")] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=(1 << 63) - 1, help="Draws cases, sides and order.")
    ] = 0,
) -> None:
    """Draw a user study from runs and folders of pictures: who will be shown what, on which side.

    It is written to FOLDER with copies of the pictures, so that nothing else is needed to show it.
    The same inputs and the same seed give the same study; another study's folder is refused.
    """
    call = context.ensure_object(Call)
    from flows import study
    from tasks.study.contests import CONSENT, TITLE, Wanted

    wanted = Wanted(
        ours=ours,
        against=against,
        external=external,
        base=Path.cwd(),
        num_cases=cases,
        num_people=people,
        num_trials=trials,
        num_repeats=repeats,
        num_attention=attention,
        all_pairs=all_pairs,
        question=question.value,
        consent=CONSENT if consent is None else study.consent_text(consent),
        title=TITLE if title is None else title,
        seed=seed,
    )
    study.build(call.terminal, folder, wanted)


def serve(
    context: typer.Context,
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="The study, local or s3://bucket/prefix.")
    ],
    host: Annotated[
        str,
        typer.Option(
            help="The address to listen at; 0.0.0.0 for all of this machine. Off loopback the link "
            "has a token, without which nothing is shown."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 finds a free one.")] = 0,
    token: Annotated[
        str | None,
        typer.Option(
            help="The token of the link, so that the same link works after a restart; a random one "
            "unless given."
        ),
    ] = None,
) -> None:
    """Show a study in the browsers of those who take part, until this command is stopped.

    It prints the link to open. A person sees two results at a time and picks one; each vote is on
    disk in FOLDER before the next page is shown, so a stop at any moment loses none, and people go
    on where they were when the same command runs again. No name, no address and no cookie is kept.
    """
    call = context.ensure_object(Call)
    from flows.study_server import serve_study

    serve_study(call.terminal, call.stopping, folder, host=host, port=port, token=token)


def results(
    context: typer.Context,
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="The folder of a study.")],
    as_json: AsJson = False,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the tables as Markdown.")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the shares as CSV, figures in full.")
    ] = None,
    votes: Annotated[
        Path | None,
        typer.Option(metavar="FILE.parquet", help="Write every vote as a row of one table."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw the shares with their intervals.")
    ] = None,
) -> None:
    """Say what people chose so far, how sure that is, and how far they agree.

    Votes of people who failed a trivial trial are told apart and not counted. It may be called
    while people are voting; the study stays as it is.
    """
    call = context.ensure_object(Call)
    from flows import study

    files = study.ResultFiles(markdown=markdown, csv=csv, votes=votes, plot=plot)
    study.show_results(call.terminal, folder, files, as_json=as_json)


VERBS = (build, serve, results)
