"""How does a shell complete what is typed after `stylefarm`?

Typer has the scripts for each shell, which call the command with `_STYLEFARM_COMPLETE` set; people
ask for them by `--show-completion` and `--install-completion`. Nothing of it is imported otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import typer

from flows.verbs.options import Call

PROGRAM = "stylefarm"
VARIABLE = "_STYLEFARM_COMPLETE"

SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")
OPTIONS = ("--show-completion", "--install-completion")

DETECTED = "detected"
"""In place of a shell that is not named: the one that the command is called from."""


def prepare_completion() -> None:
    """Makes Typer answer, where it is a shell that calls."""
    if VARIABLE in os.environ:
        from typer._completion_classes import completion_init

        completion_init()


def with_shells(arguments: Sequence[str]) -> list[str]:
    """The arguments of the command line, with a shell after each option that may have none."""
    found: list[str] = []
    for number, argument in enumerate(arguments):
        found.append(argument)
        if argument in OPTIONS and (arguments[number + 1 : number + 2] or ["-"])[0].startswith("-"):
            found.append(DETECTED)
    return found


def complete_presets(incomplete: str) -> list[tuple[str, str]]:
    """The tasks that begin so, each with what it does."""
    from ad_lib.presets import PRESETS

    presets = (preset for preset in PRESETS.values() if preset.name.startswith(incomplete))
    return [(preset.name, preset.summary) for preset in presets]


def show_completion(context: typer.Context, shell: str | None) -> None:
    """Prints the script that a shell completes with, and ends.

    Raises:
        BadParameter: there is no such shell.
    """
    if shell is not None:
        from typer._completion_shared import get_completion_script

        script = get_completion_script(
            prog_name=PROGRAM, complete_var=VARIABLE, shell=_known_shell(shell)
        )
        typer.echo(script)
        raise typer.Exit


def install_completion(context: typer.Context, shell: str | None) -> None:
    """Writes that script where the shell reads it, and ends.

    Raises:
        BadParameter: there is no such shell.
    """
    if shell is not None:
        from typer._completion_shared import install

        name, path = install(_known_shell(shell), PROGRAM, VARIABLE)
        context.ensure_object(Call).terminal.say(
            f"{name} completes stylefarm from its next start on; the script is {path}"
        )
        raise typer.Exit


def _known_shell(shell: str) -> str:
    name = _detected() if shell == DETECTED else shell
    if name not in SHELLS:
        raise typer.BadParameter(f"name the shell, one of {', '.join(SHELLS)}; got {name!r}")
    return name


def _detected() -> str:
    import shellingham

    try:
        return shellingham.detect_shell()[0]
    except shellingham.ShellDetectionFailure:
        return "no shell that is known"
