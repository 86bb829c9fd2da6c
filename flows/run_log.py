"""What a command prints goes to the log of a flow run, where Prefect runs the job."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.terminal import Terminal

_LEVELS = {"yellow": logging.WARNING, "red": logging.ERROR}
"""What the colours of the terminal mean."""


class RunLog(Terminal):
    """A terminal whose words are lines of a log.

    Args:
        logger: of the flow run; what is said in yellow is a warning there, in red an error.
    """

    def __init__(self, logger: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        super().__init__()
        self._logger = logger
        self.console.quiet = True  # no bar

    def say_table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Logs each row as a line."""
        for row in rows:
            self.say(" · ".join(row))

    def _print(self, console: Console, content: Text | Table) -> None:
        if isinstance(content, Text):
            level = _LEVELS.get(str(content.style), logging.INFO)
            self._logger.log(level, "%s", content.plain)
