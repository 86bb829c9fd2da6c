"""What a process writes, starts and connects to, as Python's audit events tell it.

Libraries in C are not seen here; `runner` therefore compares the files around the case before and
after as well, and every program that a library might start is one of ours that leaves a mark.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

STARTS = (
    *(
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
        "os.spawn",
        "os.startfile",
        "os.system",
    ),
    *("pty.spawn", "subprocess.Popen", "webbrowser.open"),
)
WRITES = {
    **dict.fromkeys(("os.remove", "os.rmdir"), ((0, 1),)),
    **dict.fromkeys(("os.mkdir", "os.chmod"), ((0, 2),)),
    **dict.fromkeys(("os.chown", "os.utime"), ((0, 3),)),
    **dict.fromkeys(("os.truncate", "os.setxattr"), ((0, None),)),
    **dict.fromkeys(("os.rename", "os.link"), ((0, 2), (1, 3))),
    "os.symlink": ((1, 2),),
}
"""The events that change files: which of their arguments are paths, and each path's folder."""

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_LOOPBACK = ("127.", "::1", "localhost", "/")

Tell = Callable[[str, str], None]


def start_watching(tell: Tell, may_write: tuple[Path, ...]) -> None:
    """Tells every forbidden act of this process from now on; it cannot be stopped.

    Args:
        tell: is called with the kind of the act (`written outside`, `executed`, `connected`) and
            what was done.
        may_write: folders and files below which anything may be written.
    """
    allowed = tuple(os.fspath(path) for path in may_write)
    busy = False

    def check(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal busy
        if busy:
            return
        busy = True
        try:
            _check(event, arguments, tell, allowed)
        finally:
            busy = False

    sys.addaudithook(check)


OBSERVER = "flows.prefect_process"
"""The process that shows a run in Prefect, which every command that renders starts."""


def _check(event: str, arguments: tuple[Any, ...], tell: Tell, allowed: tuple[str, ...]) -> None:
    if event == "open":
        path, _, flags = arguments
        if isinstance(flags, int) and flags & _WRITING:
            _check_path(event, path, tell, allowed)
    elif event in WRITES:
        for place, folder in WRITES[event]:
            inside = arguments[folder] if folder is not None else -1
            _check_path(event, arguments[place], tell, allowed, inside)
    elif event == "subprocess.Popen" and OBSERVER in arguments[1]:
        pass
    elif event in STARTS:
        tell("executed", f"{event} {arguments!r}"[:300])
    elif event in ("socket.connect", "socket.sendto", "socket.getaddrinfo"):
        address = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
        host = address[0] if isinstance(address, tuple) else address
        if not str(host).startswith(_LOOPBACK) and host is not None:
            tell("connected", f"{event} {address!r}"[:300])


def _check_path(
    event: str, path: Any, tell: Tell, allowed: tuple[str, ...], folder: int = -1
) -> None:
    """Holds a path to the allowed ones; it may be relative to an open folder."""
    if not isinstance(path, str | bytes | os.PathLike):
        return  # an open file
    name = os.fsdecode(path)
    if folder is not None and folder >= 0:
        name = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), name)  # noqa: PTH115, PTH118
    name = os.path.realpath(name)
    is_there = event == "os.mkdir" and os.path.exists(name)  # noqa: PTH110
    if (
        is_there
        or name == os.devnull
        or any(name == one or name.startswith(f"{one}/") for one in allowed)
    ):
        return
    tell("written outside", f"{event} {name!r}"[:300])
