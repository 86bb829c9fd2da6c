"""What takes long to make is made once, though several processes of pytest-xdist run the tests."""

from __future__ import annotations

import fcntl
import os
import pickle
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import pytest

T = TypeVar("T")


@contextmanager
def made_once(
    factory: pytest.TempPathFactory, name: str, making: AbstractContextManager[T]
) -> Iterator[T]:
    """What the first process makes, for all of them; it ends when nobody uses it any more.

    Args:
        factory: of folders of this session.
        name: of what is made.
        making: makes it; it can be pickled.
    """
    folder = factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    made = folder / f"{name}.made"
    with (folder / f"{name}.turn").open("w") as turn, (folder / f"{name}.use").open("w") as use:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if made.exists():
            fcntl.flock(use, fcntl.LOCK_SH)
            fcntl.flock(turn, fcntl.LOCK_UN)
            yield pickle.loads(made.read_bytes())
            return
        with making as found:
            made.write_bytes(pickle.dumps(found))
            fcntl.flock(turn, fcntl.LOCK_UN)
            try:
                yield found
            finally:
                fcntl.flock(turn, fcntl.LOCK_EX)
                made.unlink()
                fcntl.flock(use, fcntl.LOCK_EX)  # waits for the others
