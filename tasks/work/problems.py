"""What does an exception in an item's own work become: its row, or not its fault at all?"""

from __future__ import annotations

import signal
import threading

from ad_lib.errors import ImageError, NumericsError, RequestError
from ad_lib.model.device_errors import is_device_failure, is_out_of_memory
from infra.store import StoreError
from manifests.items import ErrorClass, Problem
from tasks.runs.faults import DeviceFault, Stopped, WorkerFault
from tasks.runs.requests import unsupported


def problem_of(error: BaseException) -> Problem:
    """The problem of the item in whose decoding, rendering, measuring or encoding this was raised.

    Raises:
        Stopped, WorkerFault, StoreError: the same error, as it is not the item's.
        DeviceFault: the device failed.
        KeyboardInterrupt: a person pressed Ctrl-C.
    """
    if isinstance(error, Stopped | WorkerFault | StoreError) or _is_from_the_keyboard(error):
        raise error
    if is_device_failure(error):
        raise DeviceFault(f"the device failed: {_in_short(error)}") from error
    if is_out_of_memory(error):
        return Problem(ErrorClass.OOM, f"out of memory even alone: {_first_line(error)}"[:300])
    if isinstance(error, ImageError):
        return Problem(ErrorClass(error.kind), str(error)[:500])
    if isinstance(error, RequestError):
        return unsupported(error)
    if isinstance(error, NumericsError):
        return Problem(ErrorClass.NUMERICS, _first_line(error)[:300])
    return Problem(ErrorClass.CRASH, _in_short(error))


def _is_from_the_keyboard(error: BaseException) -> bool:
    """Whether Python itself raised this for Ctrl-C; a rendering process ignores that signal."""
    return (
        isinstance(error, KeyboardInterrupt)
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )


def _in_short(error: BaseException) -> str:
    return f"{type(error).__name__}: {_first_line(error)}"[:300]


def _first_line(error: BaseException) -> str:
    """The first line of the message, which may itself not be printable; else the type's name."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # an exception's own __str__ may raise
        lines = []
    return lines[0] if lines else type(error).__name__
