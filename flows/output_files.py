"""A file that a command writes: can it be written, and is it there whole or not at all?"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ad_lib.errors import RequestError


def check_writable(option: str, output: Path) -> None:
    """Refuses an output that could not be written, before anything is done for it.

    Raises:
        RequestError: it is a folder, or its folder takes no file; `option` names it.
    """
    try:
        if output.is_dir():
            raise RequestError(f"{option} names a folder; got {str(output)!r}")
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except (OSError, ValueError) as error:
        if isinstance(error, RequestError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise RequestError(f"{option} {str(output)!r} cannot be written: {reason}") from error


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    number, name = tempfile.mkstemp(prefix=".stylefarm-", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(data)
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(0o666 & ~mask)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
