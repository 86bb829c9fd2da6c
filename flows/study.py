"""What `stylefarm study build` and `stylefarm study results` say and write."""

from __future__ import annotations

from pathlib import Path

from flows.terminal import Terminal, counted
from infra.store import open_store
from manifests.errors import ManifestError
from tasks.study.building import Built, build_study
from tasks.study.contests import Wanted
from tasks.study.study_file import MAX_CONSENT_LETTERS, STUDY_NAME


def build(terminal: Terminal, folder: str, wanted: Wanted) -> None:
    """Build a study, and tell what is in it and what had to be left out.

    Raises:
        ManifestError: what is asked for cannot be shown, or another study lies there.
        StoreError: a store refuses or does not answer.
    """
    built = build_study(open_store(folder), wanted)
    show_built(terminal, folder, built)


def _people(number: int) -> str:
    return "1 person sees" if number == 1 else f"{number} people see"


def consent_text(path: Path) -> str:
    """The text that people agree to.

    Raises:
        ManifestError: it cannot be read, or is no text of a usable length.
    """
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise ManifestError(f"--consent {str(path)!r} cannot be read: {reason}") from None
    if not 0 < len(text) <= MAX_CONSENT_LETTERS:
        raise ManifestError(
            f"--consent {str(path)!r} has {len(text)} letters: give 1 to {MAX_CONSENT_LETTERS}"
        )
    return text


def show_built(terminal: Terminal, folder: str, built: Built) -> None:
    """What was built, and what is next."""
    study = built.study
    was = " was there already, the very same" if built.was_there else ""
    terminal.say(f"{folder.rstrip('/')}/{STUDY_NAME}{was}")
    rows = [("task", "cases", "ours", "against", "asked")]
    for one in built.contests:
        num_cases = len(one.cases)
        left_out = one.num_left_out
        cases = f"{num_cases} of {num_cases + left_out}" if left_out else str(num_cases)
        asked = study.criteria[one.task] if study.question == "criteria" else ("which is better",)
        rivals = ", ".join(rival.name for rival in one.rivals)
        rows.append((one.task, cases, one.ours.name, rivals, ", ".join(asked)))
    terminal.say_table(rows[0], rows[1:])
    terminal.say("")
    terminal.say(_protocol(built))
    if missing := [sentence for one in built.contests for sentence in one.missing]:
        terminal.say("")
        terminal.say(f"{counted(len(missing), 'case')} cannot be shown:", "yellow")
        terminal.say_list(missing, rest="more cases")
    terminal.say("")
    terminal.say(f"Show it with 'stylefarm study serve {folder}'.")


def _protocol(built: Built) -> str:
    """Who sees how much, in a sentence or two."""
    study = built.study
    kinds = [trial.kind for trial in study.sessions[0]]
    extra = [
        f"{kinds.count(kind)} {words}"
        for kind, words in (
            ("repeat", "shown again with the sides swapped"),
            ("attention", "to see that somebody is looking"),
        )
        if kind in kinds
    ]
    fewest, most = built.num_judged
    judged = f"{fewest}" if fewest == most else f"{fewest} or {most}"
    beside = f", and beside them {' and '.join(extra)}" if extra else ""
    beyond = "whoever comes after them sees what the first ones saw"
    return (
        f"{_people(len(study.sessions))} {kinds.count('plain')} of "
        f"{counted(built.num_comparisons, 'comparison')} each{beside}. If all finish, each "
        f"comparison is judged {judged} times; {beyond}."
    )
