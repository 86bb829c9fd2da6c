"""What stands side by side: the entries of a sweep, and pictures that other programs have made.

A sweep tries every combination of listed settings, or the listed overrides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Any

import yaml

from manifests.items import EXTERNAL, distinct_slug
from manifests.limits import MAX_SWEEP_ENTRIES
from manifests.wording import unusable_letter

MAX_LABEL = 120
"""Maximum letters of a label, which is part of keys and heads a column of the contact sheet."""


@dataclass(frozen=True, slots=True)
class SweepEntry:
    """One column of a sweep, or of pictures that another program has made.

    Attributes:
        label: for people; the sample keys hold it in their own letters.
        task: instead of the job's; None keeps it.
        settings: over those of the job.
    """

    label: str
    task: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def suffix(self) -> str:
        """The label in the letters that sample keys allow."""
        return distinct_slug(self.label, MAX_LABEL) if self.label else ""


def sweep_entries(sweep: Any) -> tuple[SweepEntry, ...]:
    """The entries of a job's `sweep`, in the order in which they are written.

    Args:
        sweep: `{setting: [values]}`, or a list of `{setting: value}` in which `task` and `label`
            may stand too; None has no entries.

    Raises:
        ValueError: neither of the two, or entries that cannot be told apart.
    """
    if sweep is None:
        return ()
    if isinstance(sweep, Mapping):
        entries = _grid(sweep)  # pyright: ignore[reportUnknownArgumentType]
    elif isinstance(sweep, list | tuple):
        _refuse_many(len(sweep))  # pyright: ignore[reportUnknownArgumentType]
        entries = [_entry(written) for written in sweep]  # pyright: ignore[reportUnknownVariableType]
    else:
        raise ValueError("give {setting: [values]}, or a list of {setting: value}")
    if not entries:
        raise ValueError("name at least one setting with a list of values")
    refuse_twins(entries)
    return tuple(entries)


def external_entries(names: Iterable[str]) -> tuple[SweepEntry, ...]:
    """The columns of pictures that other programs have made.

    Args:
        names: of a job's `external`.

    Raises:
        ValueError: a name that no label can be.
    """
    for name in names:
        if not name.strip():
            raise ValueError("a name is empty: name the method, such as {StyTR2: results/stytr2}")
        if letter := unusable_letter(name):
            raise ValueError(f"a name holds {letter}")
    entries = tuple(SweepEntry(name, EXTERNAL) for name in names)
    _refuse_many(len(entries))
    return entries


def refuse_twins(entries: Iterable[SweepEntry]) -> None:
    """Refuses entries that cannot be told apart.

    Raises:
        ValueError: a label is too long, or two would have the same keys.
    """
    seen: dict[str, SweepEntry] = {}
    for entry in entries:
        if len(entry.label) > MAX_LABEL:
            raise ValueError(f"the label {entry.label[:40]!r}… is longer than {MAX_LABEL}")
        if entry.suffix in seen:
            raise ValueError(
                f"the entries {seen[entry.suffix].label!r} and {entry.label!r} would have the same "
                "keys: give each a label that differs in letters or digits"
            )
        seen[entry.suffix] = entry


def _grid(sweep: Mapping[Any, Any]) -> list[SweepEntry]:
    for name, values in sweep.items():
        if not isinstance(name, str) or not isinstance(values, list | tuple) or not values:
            raise ValueError(f"{name} needs a list of values, such as [0.1, 0.2]")
    _refuse_many(prod(len(values) for values in sweep.values()))
    combinations = product(*sweep.values()) if sweep else ()
    return [_entry(dict(zip(sweep, values, strict=True))) for values in combinations]


def _refuse_many(num_entries: int) -> None:
    if num_entries > MAX_SWEEP_ENTRIES:
        raise ValueError(
            f"it has {num_entries:,} entries, at most {MAX_SWEEP_ENTRIES:,} are possible: list "
            "fewer values, or give some settings in another job"
        )


def _entry(written: Any) -> SweepEntry:
    if not isinstance(written, Mapping) or not all(isinstance(name, str) for name in written):  # pyright: ignore
        raise ValueError(
            f"an entry is a mapping such as {{learning_rate: 0.02}}; got {written!r:.40}"
        )
    settings: dict[str, Any] = {**written}
    label, task = settings.pop("label", None), settings.pop("task", None)
    for name, value in (("label", label), ("task", task)):
        if value is not None and not (isinstance(value, str) and value.strip()):
            raise ValueError(f"{name} is a name; got {value!r:.40}")
    if label and (letter := unusable_letter(label)):
        raise ValueError(f"a label holds {letter}")
    return SweepEntry(label or _described(task, settings), task, settings)


def _described(task: str | None, settings: Mapping[str, Any]) -> str:
    parts = [task] if task else []
    parts += [f"{name} {_written(value)}" for name, value in settings.items()]
    return ", ".join(parts) or "as it is"


def _written(value: Any) -> str:
    """A value as the job file would say it."""
    if isinstance(value, str):
        return value
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("...\n").strip()
