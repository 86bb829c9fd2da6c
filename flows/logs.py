"""Where log records of our packages go: to standard output, as safe lines with a timestamp.

Configured once, by the command line. Every module has its own logger, named after it; records of
libraries are not shown. Standard error stays for the sentence that ends a command. The log of a
Prefect run is Prefect's own; its flows see to it that it names no password.
"""

from __future__ import annotations

import logging
import os

from flows.terminal import Terminal
from manifests.wording import safe_text, without_secrets

PACKAGES = ("ad_lib", "flows", "infra", "manifests", "tasks")
LINE = "%(asctime)s %(levelname)s %(message)s"
DEBUG_LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _TerminalHandler(logging.Handler):
    def __init__(self, terminal: Terminal) -> None:
        super().__init__()
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        style = "yellow" if record.levelno >= logging.WARNING else "dim"
        self._terminal.say(self.format(record), style)


def configure_logging(terminal: Terminal, verbosity: int = 0) -> None:
    """Sends the records of our packages to the terminal, and no others.

    Args:
        terminal: makes every line safe to show.
        verbosity: how often `-v` was given. Without it warnings are shown on a terminal, and what
            happens (INFO) where there is none; each `-v` shows one level more.
    """
    quietest = logging.WARNING if terminal.console.is_terminal else logging.INFO
    level = max(logging.DEBUG, quietest - 10 * verbosity)
    handler = _TerminalHandler(terminal)
    line = DEBUG_LINE if level == logging.DEBUG else LINE
    handler.setFormatter(logging.Formatter(line, "%Y-%m-%d %H:%M:%S"))
    for name in PACKAGES:
        package = logging.getLogger(name)
        package.handlers = [handler]
        package.setLevel(level)
    logging.getLogger().addHandler(logging.NullHandler())  # else Python prints what others warn of


MAX_RECORD_LETTERS = 20_000


def mask_prefect_logs() -> None:
    """Takes passwords out of what is logged in flow and task runs, by Prefect too.

    Prefect itself names the page of a flow run, and where events go, with all that PREFECT_API_URL
    has in it.
    """
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.events.clients"):
        logging.getLogger(name).addFilter(_masked)  # added once, however often


def _masked(record: logging.LogRecord) -> bool:
    record.msg, record.args = _safe(record.getMessage()), ()
    if record.exc_info:
        record.exc_text = _safe(logging.Formatter().formatException(record.exc_info))
    return True


def _safe(text: str) -> str:
    return safe_text(without_secrets(text, os.environ), MAX_RECORD_LETTERS)
