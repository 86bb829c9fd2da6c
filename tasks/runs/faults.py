"""Whose fault is it? Decided by type, never by the words of a message.

RuntimeError
├── Stopped            somebody asked; nothing is anybody's fault
├── WorkerFault        the machine's: nothing is committed as an item's fault
│   ├── DeviceFault    the device is lost, or failed otherwise than by running out of memory
│   ├── ScratchFull    the temporary folder cannot be written
│   └── SourcesGone    the sources are not there: a drive that is not mounted
├── StoreTrouble       the run folder's store is full, read-only, or away for too long
├── BudgetSpent        another shard would cost more, or take longer, than the run may
├── BreakerTripped     too many items fail for other reasons than their inputs
├── ChildDied          the process that renders ended by itself
├── ChildHung          the process that renders made no progress, and was ended
└── FreshDeviceNeeded  out of memory on a device that has rendered others

What is an item's own fault is a row of its shard and no exception; a `StoreError` is the attempt's.
All of these can cross from one process to another.
"""

from __future__ import annotations

import signal as signals
from collections.abc import Sequence


class Stopped(RuntimeError):
    """The user or the machine asked to stop; the current shard is given up."""


class WorkerFault(RuntimeError):
    """The machine's fault, in one sentence; nothing is committed as an item's."""


class DeviceFault(WorkerFault):
    """The device is lost, or failed otherwise than by running out of memory."""


class ScratchFull(WorkerFault):
    """The temporary folder cannot be written, or does not hold what was written.

    Args:
        finding: what was found, without a full stop.
    """

    def __init__(self, finding: str) -> None:
        super().__init__(finding)
        self.finding = finding

    def __str__(self) -> str:
        return (
            f"{self.finding}: free some room on the disk of the temporary folder, or set TMPDIR to "
            "another one, and run the job again"
        )


class SourcesGone(WorkerFault):
    """More than half of the sources' files are gone, or a source's root is."""


class StoreTrouble(RuntimeError):
    """The run folder's store is full, read-only, or away for too long."""


class BudgetSpent(RuntimeError):
    """Another shard would exceed what the run may cost, or end too late; nothing is lost."""


class BreakerTripped(RuntimeError):
    """Too many of the last items failed for other reasons than their inputs."""


class ChildDied(RuntimeError):
    """The process that renders ended by itself.

    Args:
        signal: what killed it, or None.
        exit_code: what it ended with, or None where a signal killed it or nobody knows.
        last_words: the end of what it wrote to its standard error; may be empty.
    """

    def __init__(self, signal: int | None, exit_code: int | None, last_words: str = "") -> None:
        super().__init__(signal, exit_code, last_words)
        self.signal = signal
        self.exit_code = exit_code
        self.last_words = last_words

    def __str__(self) -> str:
        if self.signal is not None:
            how = f"was killed by {_signal_name(self.signal)}"
        elif self.exit_code is not None:
            how = f"ended with exit code {self.exit_code}"
        else:
            how = "ended, and its exit code is not known"
        return f"the rendering process {how}" + (f": {self.last_words}" if self.last_words else "")


class ChildHung(RuntimeError):
    """The process that renders told nothing for so many seconds, and was killed."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds

    def __str__(self) -> str:
        return f"the rendering process made no progress for {self.seconds:g} s and was killed"


class FreshDeviceNeeded(RuntimeError):
    """These items ran out of memory, but on a device that has rendered others.

    Tried first and alone on a fresh device, they are rendered, or `oom` is their own fault.

    Args:
        item_ids: in plan order, at least one.
    """

    def __init__(self, item_ids: Sequence[str]) -> None:
        super().__init__(tuple(item_ids))
        self.item_ids = tuple(item_ids)
        self.item_id = self.item_ids[0]

    def __str__(self) -> str:
        return f"{len(self.item_ids)} items need a fresh device; the first is {self.item_id}"


def _signal_name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"
