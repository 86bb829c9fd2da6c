"""What a command ends with: every exit code, and which error is which.

This is the only table of exit codes; the help, the README and the tests hold to it.
"""

from __future__ import annotations

import os
from enum import IntEnum

from typer.exceptions import TyperException

from manifests.wording import safe_text, without_secrets

DEBUG_VARIABLE = "STYLEFARM_DEBUG"


class ExitCode(IntEnum):
    """How a command ended; `meaning` says it for people, `verbs` which commands may end so."""

    meaning: str
    verbs: tuple[str, ...]

    COMPLETE = (
        0,
        "complete; also when there was nothing to do, when all that was asked for is done, and of "
        "a command that only reads",
    )
    BUG = 1, f"an error of stylefarm itself; {DEBUG_VARIABLE}=1 shows where"
    UNUSABLE = (
        2,
        "wrong usage, or an input, a store, a device or a model that cannot be used; also where "
        "the sources of a run are gone, or a record that only a copy brings back",
    )
    FAILED_ITEMS = (
        3,
        "complete, but more items failed than the job allows; also where 'stylefarm bench "
        "--compare' found something slower than it tolerates",
        ("run", "extend", "retry", "bench"),
    )
    INCOMPLETE = (
        4,
        "incomplete: stopped by a signal or by 'stylefarm stop', or the store of the run folder or "
        "every worker of this machine failed. What is committed stays; run it again. Also where "
        "'stylefarm verify' found damage that rendering mends",
        ("run", "extend", "retry", "work", "estimate", "render", "plan", "verify", "study"),
    )
    OTHER_JOB = (
        5,
        "the run folder belongs to another job",
        ("run", "extend", "plan", "estimate", "deploy"),
    )
    ENDED_EARLY = (
        6,
        "stopped by a budget (--max-gpu-hours, --max-cost, --deadline): what was in hand is "
        "committed; or because too many items fail for other reasons than their inputs",
        ("run", "extend", "retry", "work"),
    )

    def __new__(cls, number: int, meaning: str, verbs: tuple[str, ...] = ()) -> ExitCode:
        """A code with its meaning; without verbs every command may end with it."""
        code = int.__new__(cls, number)
        code._value_ = number
        code.meaning, code.verbs = meaning, verbs
        return code


def explained(error: Exception) -> tuple[str, ExitCode]:
    """The sentence and the exit code of an error; the sentence is empty where all is said.

    It may be shown and stored: it names no password and no key.
    """
    sentence, code = _explained(error)
    return safe_text(without_secrets(sentence, os.environ)), code


def _explained(error: Exception) -> tuple[str, ExitCode]:
    from ad_lib.errors import BackboneError, ImageError, RequestError
    from infra.objects import StoreError
    from infra.prefect_api import PrefectUnavailable
    from manifests.errors import FingerprintMismatch, ManifestError
    from tasks.runs.faults import (
        BreakerTripped,
        BudgetSpent,
        SourcesGone,
        Stopped,
        StoreTrouble,
        WorkerFault,
    )

    if isinstance(error, Stopped):
        return "", ExitCode.INCOMPLETE  # who asked has been told, or `finish` has said why
    if isinstance(error, FingerprintMismatch):
        return str(error), ExitCode.OTHER_JOB
    if isinstance(error, BreakerTripped | BudgetSpent):
        return str(error), ExitCode.ENDED_EARLY
    if isinstance(error, SourcesGone):
        return str(error), ExitCode.UNUSABLE
    if isinstance(error, StoreTrouble | WorkerFault):
        return str(error), ExitCode.INCOMPLETE
    if isinstance(error, TyperException):
        return _usage(error), ExitCode.UNUSABLE
    known = (ManifestError, RequestError, ImageError, BackboneError, StoreError, PrefectUnavailable)
    if isinstance(error, known):
        return str(error), ExitCode.UNUSABLE
    if isinstance(error, OSError):
        return f"the machine refuses something that is needed: {error}", ExitCode.UNUSABLE
    if isinstance(error, MemoryError):
        return "out of memory; lower compute.batch_size and compute.io_threads", ExitCode.UNUSABLE
    text = f"unexpected {type(error).__name__}: {error} (set {DEBUG_VARIABLE}=1 for the traceback)"
    return text, ExitCode.BUG


def _usage(error: TyperException) -> str:
    """What is wrong with the arguments, and where the right ones are explained."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        return ""  # the help has been printed
    command = context.command_path if context else "stylefarm"
    message = error.format_message()
    end = "" if message.endswith((".", "?", ")")) else "."
    return f"{message}{end} See '{command} --help'."
