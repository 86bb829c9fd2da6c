"""The command line `stylefarm`: which commands there are, and how each of them ends.

Exit codes are in `exit_codes`.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

import typer

from flows import completing
from flows.exit_codes import DEBUG_VARIABLE, ExitCode, explained
from flows.logs import configure_logging
from flows.stopping import run_stoppable
from flows.terminal import Terminal, prepare_streams
from flows.verbs import (
    cleaning,
    comparing,
    deploying,
    estimating,
    looking,
    making,
    measuring,
    mending,
    picture,
    starting,
    studying,
)
from flows.verbs.options import Call

app = typer.Typer(
    name="stylefarm",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="\n\n".join(["Exit codes:", *(f"{code.value}  {code.meaning}." for code in ExitCode)]),
    context_settings={"help_option_names": ["-h", "--help"]},
)

VERBS = {
    "Begin": (starting.init, looking.presets),
    "Make pictures": (
        *(making.run, making.extend, making.retry, making.plan, making.work, making.stop),
        *(estimating.estimate, picture.render),
    ),
    "Look": (
        *(looking.status, looking.report, looking.failures, comparing.compare),
        measuring.bench,
    ),
    "Keep in order": (mending.verify, cleaning.gc),
    "Run by Prefect": (deploying.deploy, deploying.gpu_limit, deploying.automations),
}
"""Every command, under the heading that the help has for it."""


study = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


def _add_verbs() -> None:
    """Makes commands of the verbs, those around a study in a group of their own."""
    for heading, verbs in VERBS.items():
        for verb in verbs:
            app.command(help=_folded(verb), rich_help_panel=heading)(verb)
    for verb in studying.VERBS:
        study.command(help=_folded(verb))(verb)
    app.add_typer(
        study, name="study", help="Ask people which pictures are better.", rich_help_panel="Look"
    )


def _folded(verb: Callable[..., None]) -> str:
    """What a verb does, in paragraphs that are folded to the terminal, not to ours."""
    paragraphs = (inspect.getdoc(verb) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


_add_verbs()


def _show_version(context: typer.Context, wanted: bool) -> None:
    if wanted:
        context.ensure_object(Call).terminal.say(f"stylefarm {version('stylefarm')}")
        raise typer.Exit


@app.callback()
def stylefarm(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
    show_completion: Annotated[
        str | None,
        typer.Option(
            "--show-completion",
            metavar="SHELL",
            callback=completing.show_completion,
            is_eager=True,
            help="Print what bash, zsh or fish completes commands with, and exit.",
        ),
    ] = None,
    install_completion: Annotated[
        str | None,
        typer.Option(
            "--install-completion",
            metavar="SHELL",
            callback=completing.install_completion,
            is_eager=True,
            help="Have the shell complete commands from its next start on, and exit.",
        ),
    ] = None,
    verbosity: Annotated[
        int,
        typer.Option(
            *("--verbose", "-v"),
            count=True,
            show_default=False,
            help="Tell more of what happens, with times; twice for everything.",
        ),
    ] = 0,
) -> None:
    """Turn manifests of images into stylised datasets and texture assets."""
    configure_logging(context.ensure_object(Call).terminal, verbosity)


def main() -> None:
    """Runs the command line; every error is a sentence and an exit code, never a traceback."""
    prepare_streams()
    _quiet_libraries()
    terminal = Terminal()
    code = run_stoppable(lambda stopping: _run_command(Call(terminal, stopping)), terminal)
    terminal.restore()
    sys.exit(code)


def _run_command(call: Call) -> int:
    try:
        completing.prepare_completion()
        arguments = completing.with_shells(sys.argv[1:])
        return app(arguments, completing.PROGRAM, standalone_mode=False, obj=call) or 0
    except SystemExit as ended:
        # Of a completion the shell is told whether there is any; else the help's reader has gone.
        return int(bool(ended.code)) if completing.VARIABLE in os.environ else 0
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            _show_causes(call.terminal, error)
        sentence, code = explained(error)
        if sentence:
            call.terminal.complain(sentence)
        return code


def _show_causes(terminal: Terminal, error: Exception) -> None:
    """Prints the traceback with the whole chain of causes, those cut by `from None` too."""
    import traceback

    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        cause.__suppress_context__ = False
        cause = cause.__cause__ or cause.__context__
    terminal.say_traceback("".join(traceback.format_exception(error)))


def _quiet_libraries() -> None:
    """Keeps messages of libraries off the terminal; called before they are imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads crawl on a busy machine
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.raiseExceptions = False  # a log that cannot be written is no message for the user
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


if __name__ == "__main__":
    main()
