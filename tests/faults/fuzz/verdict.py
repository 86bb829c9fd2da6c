"""Did an input end as it should: as a row or a sentence?"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.fuzz.cases import Case
from tests.faults.fuzz.child import ENDED, MAKER_FAILED, MARKER
from tests.faults.fuzz.files import changed_outside, state_of

MAX_BYTES = 20_000
MAX_LINE = 2_100
"""Letters of a line: a message of 2,000 and what stands before it."""

_HIDDEN = {"\u202a", "\u202b", "\u202c", "\u202d", "\u202e", "\u2066", "\u2067", "\u2068", "\u2069"}
_LEFT_BEHIND = ("tmp",)


SCRATCH = re.compile(r"tmp/stylefarm-[0-9]+(/lock)?")
"""What stays in the folder for temporary files: where rendered shards would be kept."""

SPEEDS = {
    *("home/.cache", "home/.cache/stylefarm", "home/.cache/stylefarm/speeds.json"),
}
"""What stays in the user's cache folder: how fast this machine was."""


@dataclass(frozen=True)
class Ended:
    """How the process of an input ended.

    Attributes:
        code: its exit code; negative for a signal.
        stopped: why it was killed: `hang`, `memory`, or nothing.
        grown: bytes that it had more at its peak than when the command began.
    """

    code: int
    stopped: str
    grown: int


@dataclass(frozen=True)
class Fault:
    """A way in which an input did not end as it should."""

    kind: str
    what: str


def faults_of(workplace: Path, ended: Ended, max_growth: int) -> tuple[Case | None, list[Fault]]:
    """The case, as its process told it, and all that is wrong with its end."""
    events = [json.loads(line) for line in (workplace / "events").read_text().splitlines()]
    told: dict[str, Any] = {kind: what for kind, what in reversed(events)}
    said = (workplace / "said").read_bytes()
    if MAKER_FAILED in told or "case" not in told:
        return None, [Fault(MAKER_FAILED, str(told.get(MAKER_FAILED, said[-300:])))]
    case = Case(
        **{name: tuple(v) if isinstance(v, list) else v for name, v in told["case"].items()}
    )
    faults = [
        Fault(kind, what)
        for kind, what in events
        if kind in ("executed", "written outside", "connected")
    ]
    faults += _end_faults(case, ended, told, said, max_growth)
    faults += _said_faults(said)
    faults += _file_faults(workplace, case)
    if not ended.stopped and ended.code in (0, 3):
        faults += _loss_faults(workplace / "place" / "case", case, ended.code, said)
    return case, faults


def _end_faults(
    case: Case, ended: Ended, told: dict[str, Any], said: bytes, max_growth: int
) -> list[Fault]:
    faults: list[Fault] = []
    if ended.stopped:
        faults.append(Fault(ended.stopped, _tail(said)))
    elif ended.code < 0 or ENDED not in told:
        faults.append(Fault("died", f"of signal {-ended.code}: {_tail(said)}"))
    elif ended.code not in case.codes:
        faults.append(Fault(f"exit {ended.code}", _tail(said)))
    elif case.sound and ended.code == 2:
        faults.append(Fault("lost", f"a neighbour's fault ended the job: {_tail(said)}"))
    if ended.grown > max_growth and ended.stopped != "memory":
        faults.append(Fault("memory", f"{ended.grown >> 20} MB"))
    return faults


def _said_faults(said: bytes) -> list[Fault]:
    faults: list[Fault] = []
    text = said.decode("utf-8", "replace")
    if "Traceback" in text:
        faults.append(Fault("traceback", _tail(said)))
    elif "unexpected" in text:
        faults.append(Fault("unexpected", _around(text, text.index("unexpected"))))
    for place, letter in enumerate(text):
        if letter in _HIDDEN or (unicodedata.category(letter) == "Cc" and letter not in "\n\t"):
            faults.append(Fault("control letter", f"{letter!r} in {_around(text, place)!r}"))
            break
    if len(said) > MAX_BYTES:
        faults.append(Fault("too much said", f"{len(said)} bytes: {text[:100]!r}"))
    longest = max(text.split("\n"), key=len)
    if len(longest) > MAX_LINE:
        faults.append(Fault("long line", f"{len(longest)} letters: {longest[:150]!r}"))
    if "hunter2" in text:
        faults.append(Fault("password", _around(text, text.index("hunter2"))))
    return faults


def _file_faults(workplace: Path, case: Case) -> list[Fault]:
    faults: list[Fault] = []
    if (workplace / MARKER).exists():
        faults.append(Fault("executed", "a program of PATH was started"))
    before = json.loads((workplace / "before.json").read_text())
    after = state_of(workplace / "place")
    allowed = tuple(f"case/{name}" for name in case.may_write)
    outside = changed_outside(before, after, allowed)
    changed = [name for name in outside if not (SCRATCH.fullmatch(name) or name in SPEEDS)]
    planted = [name for name in changed if os.path.basename(name) == "pwned"]  # noqa: PTH119
    if planted:
        faults.append(Fault("executed", f"there is {planted[0]!r}"))
    elif changed:
        faults.append(Fault("written outside", ", ".join(map(repr, changed))[:300]))
    return faults


def _loss_faults(folder: Path, case: Case, code: int, said: bytes) -> list[Fault]:
    """Sound items must be planned, and rendered ones have one row each."""
    text = " ".join(said.decode("utf-8", "replace").split())
    if case.command[0] not in ("run", "plan"):
        return []
    planned = re.search(r"Planned (\d+) items?", text)
    broken = re.search(r"; (\d+) cannot be rendered", text)
    sound = int(planned[1]) - int(broken[1] if broken else 0) if planned else 0
    if case.sound and sound < case.sound:
        return [Fault("lost", f"{sound} sound items of {case.sound}: {_tail(said)}")]
    if case.command[0] == "run" and "--dry-run" not in case.command and case.codes == Case.codes:
        return _audited(folder / "run", case)
    return []


def _audited(run: Path, case: Case) -> list[Fault]:
    from tests.audit import audit

    try:
        found = audit(run)
    except Exception as error:
        return [Fault("lost", f"the audit says {type(error).__name__}: {error}"[:400])]
    if found.counts["ok"] < case.sound:
        return [Fault("lost", f"{found.counts}, but {case.sound} are sound")]
    return []


def _tail(said: bytes) -> str:
    text = said.decode("utf-8", "replace")
    return " ".join(ascii(text[-400:]).strip("'").split())


def _around(text: str, place: int) -> str:
    return ascii(text[max(0, place - 80) : place + 80])
