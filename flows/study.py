"""What `stylefarm study build` and `stylefarm study results` say and write."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from ad_lib.errors import RequestError
from flows.output_files import check_writable, write_whole
from flows.terminal import Terminal, counted
from infra.store import open_store
from manifests.errors import ManifestError
from tasks.study.building import Built, build_study
from tasks.study.contests import Wanted
from tasks.study.criteria import PAPER
from tasks.study.documents import (
    HOW,
    SHARE_HEADINGS,
    STRENGTH_HEADINGS,
    asked,
    by_question,
    csv_of,
    document_of,
    markdown_of,
    share_cells,
    strength_cells,
    told_people,
    told_ranking,
    told_sides,
)
from tasks.study.results import Results, Share, read_results
from tasks.study.study_file import MAX_CONSENT_LETTERS, STUDY_NAME, load_study


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
        questions = map(asked, study.asked(one.task))
        rivals = "\n".join(rival.name for rival in one.rivals)
        rows.append((one.task, cases, one.ours.name, rivals, "\n".join(questions)))
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


@dataclass(frozen=True, kw_only=True)
class ResultFiles:
    """Where results are written besides the terminal; None for none.

    Attributes:
        votes: all votes as the rows of a Parquet file.
    """

    markdown: Path | None = None
    csv: Path | None = None
    votes: Path | None = None
    plot: Path | None = None

    def check(self) -> None:
        """Refuses places that could not be written, before anything is read.

        Raises:
            RequestError: one of them cannot be written, or is not called as its kind.
        """
        for option, path, suffix in (
            ("--markdown", self.markdown, ""),
            ("--csv", self.csv, ""),
            ("--votes", self.votes, ".parquet"),
            ("--plot", self.plot, ".png"),
        ):
            if path is None:
                continue
            if suffix and path.suffix.lower() != suffix:
                raise RequestError(f"{option} must end in {suffix}; got {str(path)!r}")
            check_writable(option, path)

    def write(self, results: Results) -> Iterator[Path]:
        """Writes what was asked for, each file whole or not at all; which files."""
        made: tuple[tuple[Path | None, Callable[[Results], bytes]], ...] = (
            (self.markdown, lambda results: markdown_of(results).encode()),
            (self.csv, lambda results: csv_of(results).encode()),
            (self.votes, _votes_as_parquet),
            (self.plot, _shares_as_png),
        )
        for path, bytes_of in made:
            if path is not None:
                write_whole(path, bytes_of(results))
                yield path


def _votes_as_parquet(results: Results) -> bytes:
    file = io.BytesIO()
    pq.write_table(results.votes, file, compression="zstd", write_page_checksum=True)
    return file.getvalue()


def _shares_as_png(results: Results) -> bytes:
    from tasks.study.share_chart import draw_shares

    file = io.BytesIO()
    draw_shares(results).save(file, "PNG")
    return file.getvalue()


def show_results(
    terminal: Terminal, folder: str, files: ResultFiles, *, as_json: bool = False
) -> None:
    """Tell what came out of a study so far, and write the files.

    Args:
        terminal: what is printed goes through it.
        folder: of the study.
        files: what to write.
        as_json: whether a document is printed in the tables' place.

    Raises:
        RunFolderError: there is no study, or it is damaged.
        RequestError: a file cannot be written.
        StoreError: the store refuses or does not answer.
    """
    files.check()
    store = open_store(folder)
    results = read_results(store, load_study(store))
    if as_json:
        terminal.print_json(document_of(results))
    else:
        _show(terminal, results)
    for path in files.write(results):
        terminal.say(f"Written: {path}")


def _show(terminal: Terminal, results: Results) -> None:
    terminal.say(results.study.title, "bold")
    terminal.say(told_people(results))
    _show_shares(terminal, results.shares)
    for ranking in results.rankings:
        terminal.say("")
        terminal.say(told_ranking(ranking))
        if ranking.strengths.strengths:
            terminal.say_table(STRENGTH_HEADINGS, strength_cells(ranking))
    if sentences := list(told_sides(results)):
        terminal.say("")
        terminal.say(" ".join(sentences))
    if results.shares_apart:
        terminal.say("")
        terminal.say("Votes of inattentive people, not counted above:", "yellow")
        _show_shares(terminal, results.shares_apart)
    if results.problems:
        terminal.say("")
        terminal.say(f"{counted(len(results.problems), 'file')} left out:", "yellow")
        terminal.say_list(results.problems, rest="more files")
    terminal.say("")
    terminal.say(HOW)
    terminal.say(PAPER)


def _show_shares(terminal: Terminal, shares: Sequence[Share]) -> None:
    for (task, question), of_question in by_question(shares).items():
        terminal.say("")
        terminal.say(f"{task}: {asked(question)}", "bold")
        terminal.say_table(SHARE_HEADINGS, map(share_cells, of_question))
