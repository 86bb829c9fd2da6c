"""What stylefarm prints. Every word for the terminal goes through `Terminal`, which makes it safe.

File names, table cells and messages of libraries may hold anything. What is printed has no control
characters and no passwords, and its length is bounded, whatever the run holds.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from manifests.wording import safe_line, safe_text, without_secrets

MAX_LINES = 20
"""Of a list; the rest is counted."""

MAX_LIST_BYTES = 5_000
MAX_CELL_LETTERS = 400
MAX_TRACEBACK_LETTERS = 200_000
MIN_WIDTH = 40


class _QuietConsole(Console):
    """A console whose reader may go away: what is printed after that is dropped."""

    def on_broken_pipe(self) -> None:
        self.drop_output()

    def drop_output(self) -> None:
        """Prints nothing from now on."""
        self.quiet = True
        _drop_output(self.file)


def _drop_output(stream: IO[str] | None) -> None:
    """Sends what is written to a stream to nowhere, what it still holds included."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]
        os.close(nowhere)


class Terminal:
    """Standard output and standard error.

    A reader that goes away (`stylefarm run job.yaml | head`) or a full disk behind a redirection
    ends the printing and not the work.
    """

    def __init__(self) -> None:
        self.console = _QuietConsole(highlight=False)
        self._errors = _QuietConsole(stderr=True, highlight=False)
        for console in (self.console, self._errors):
            if console.width < MIN_WIDTH:
                console.width = MIN_WIDTH

    def say(self, text: str, style: str = "") -> None:
        """Prints a sentence, or a few lines."""
        self._print(self.console, Text(safe_text(text), style))

    def complain(self, sentence: str) -> None:
        """Prints an error to standard error."""
        message = Text.assemble(("error:", "bold red"), " ", safe_text(sentence))
        self._print(self._errors, message)

    def say_traceback(self, text: str) -> None:
        """Prints a traceback to standard error."""
        told = without_secrets(text, os.environ)
        self._print(self._errors, Text(safe_text(told, MAX_TRACEBACK_LETTERS)))

    def say_list(
        self, lines: Iterable[str], style: str = "", *, rest: str, num_lines: int = 0
    ) -> None:
        """Prints each text on a line, and how many are left out where there are many.

        Args:
            lines: the texts.
            style: of rich.
            rest: what is left out, such as `more problems`.
            num_lines: how many there are, where `lines` are only the first ones.
        """
        listed = list(lines)
        num_bytes = num_told = 0
        for line in listed[:MAX_LINES]:
            safe = safe_line(line, MAX_CELL_LETTERS)
            num_bytes += len(safe.encode())
            if num_bytes > MAX_LIST_BYTES:
                break
            self._print(self.console, Text(safe, style))
            num_told += 1
        if (left := max(num_lines, len(listed)) - num_told) > 0:
            self._print(self.console, Text(f"… and {left} {rest}", style))

    def say_table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Prints a table whose first row names the columns; `columns` may be empty."""
        table = Table(box=None, pad_edge=False, show_header=bool(columns))
        for name in columns:
            table.add_column(Text(safe_line(name)))
        for row in rows:
            table.add_row(*(Text(safe_text(cell)) for cell in row))
        self._print(self.console, table)

    def keep_output_for_json(self) -> None:
        """Sends whatever is said from now on to standard error."""
        self.console = self._errors

    def print_json(self, document: Mapping[str, Any]) -> None:
        """Prints a JSON document to standard output, whole, in ASCII, each element on a line.

        Args:
            document: by name; an iterator among the values becomes an array and is read an element
                at a time, so that it may be longer than memory.

        Raises:
            OSError: standard output takes no more, as its disk is full. A reader that goes away
                ends the printing alone.
        """
        try:
            for piece in _json_pieces(document):
                sys.stdout.write(piece)
            sys.stdout.flush()
        except BrokenPipeError:
            _drop_output(sys.stdout)

    def restore(self) -> None:
        """Makes the cursor visible again and writes out what is waiting."""
        with suppress(OSError, ValueError):
            self.console.show_cursor()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                _drop_output(stream)
            except (ValueError, AttributeError, RuntimeError):
                pass  # closed, not there, or being flushed already

    def _print(self, console: _QuietConsole, content: Text | Table) -> None:
        try:
            console.print(content, soft_wrap=isinstance(content, Text))
        except OSError:
            console.drop_output()


def _json_pieces(document: Mapping[str, Any]) -> Iterator[str]:
    opening = "{\n"
    for name, value in document.items():
        yield f"{opening}{json.dumps(name)}: "
        if isinstance(value, list | tuple | Iterator):
            yield from _array_pieces(value)
        else:
            yield json.dumps(value, allow_nan=False)
        opening = ",\n"
    yield "\n}\n" if document else "{}\n"


def _array_pieces(elements: Iterable[Any]) -> Iterator[str]:
    opening = "[\n"
    for element in elements:
        yield opening + json.dumps(element, allow_nan=False)
        opening = ",\n"
    yield "[]" if opening == "[\n" else "\n]"


def counted(number: int, noun: str) -> str:
    """A number with its noun, such as `1 item` or `2 items`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def prepare_streams() -> None:
    """Makes printing safe for terminals that do not know every letter, and for closed streams."""
    for number in (0, 1, 2):  # else the next file that is opened would take the stream's number
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = Path(os.devnull).open("w")  # noqa: SIM115 - open until the process ends
            setattr(sys, name, nowhere)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
