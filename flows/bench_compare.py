"""What got slower or faster since an earlier measurement, beyond what noise explains?"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from flows.terminal import Terminal, counted

KEY = (
    "part",
    "backbone",
    "task",
    "size",
    "num_steps",
    "dtype",
    "deterministic",
    "batch_size",
    "num_pictures",
    "technique",
)
"""What must agree for two rows to be compared."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One row then and now.

    Attributes:
        name: the row, in words.
        then, now: median seconds per picture.
        noise: relative: half the range of the turns, of both.
        is_beyond: whether it is slower by more than the tolerance.
    """

    name: str
    then: float
    now: float
    noise: float
    is_beyond: bool

    @property
    def ratio(self) -> float:
        """Above 1 is slower than then."""
        return self.now / self.then

    @property
    def verdict(self) -> Literal["slower", "faster", "same"]:
        """`same` is within the noise."""
        if abs(self.ratio - 1) <= self.noise:
            return "same"
        return "slower" if self.ratio > 1 else "faster"


def compared(
    old: dict[str, Any], new: dict[str, Any], tolerance: float
) -> tuple[list[Compared], int]:
    """Every row that both have, and the number of rows that have no partner.

    Args:
        old: the earlier document.
        new: the later one.
        tolerance: relative slowing that is accepted; 0.1 is 10 %.
    """
    before = {_key(row): row for row in old["rows"] if row["seconds"]}
    after = {_key(row): row for row in new["rows"] if row["seconds"]}
    both = [key for key in after if key in before]
    rows = [_compared(before[key]["seconds"], after[key], tolerance) for key in both]
    return rows, len(before) + len(after) - 2 * len(both)


def show_comparison(
    terminal: Terminal, old: dict[str, Any], new: dict[str, Any], tolerance: float
) -> bool:
    """Prints what got slower or faster; whether nothing got slower by more than the tolerance."""
    rows, num_alone = compared(old, new, tolerance)
    devices = [_device(document) for document in (old, new)]
    if devices[0] != devices[1]:
        terminal.say(f"Two machines are compared: {devices[0]} then, {devices[1]} now.", "yellow")
    terminal.say_table(
        ("row", "s/image then", "now", "ratio", "noise", "verdict"),
        [
            (
                row.name,
                f"{row.then:.4g}",
                f"{row.now:.4g}",
                f"{row.ratio:.3f}",
                f"±{row.noise:.1%}",
                f"{row.verdict}, beyond {tolerance:.0%}" if row.is_beyond else row.verdict,
            )
            for row in rows
        ],
    )
    if num_alone:
        terminal.say(f"{counted(num_alone, 'row')} without a partner in the other measurement.")
    if not rows:
        terminal.say("No row of the two measurements agrees in what was rendered.", "yellow")
    beyond = [row for row in rows if row.is_beyond]
    if beyond:
        terminal.say(f"Slower by more than {tolerance:.0%}: {len(beyond)} of {len(rows)}.", "red")
    return not beyond


def _compared(then: list[float], row: dict[str, Any], tolerance: float) -> Compared:
    now = row["seconds"]
    noise = _spread(then) + _spread(now)
    slowing = median(now) / median(then) - 1
    return Compared(
        name=f"{row['task']} {row['size']}, {row['backbone']}, batch {row['batch_size']}: "
        f"{row['technique']}",
        then=median(then),
        now=median(now),
        noise=noise,
        is_beyond=slowing > max(tolerance, noise),
    )


def _spread(seconds: list[float]) -> float:
    return (max(seconds) - min(seconds)) / 2 / median(seconds)


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in KEY)


def _device(document: dict[str, Any]) -> str:
    machine = document.get("machine")
    return str(machine.get("device")) if isinstance(machine, dict) else "an unknown machine"
