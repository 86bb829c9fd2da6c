"""Who holds a shard or held it, how that ended, and which item is to blame where it ended badly?

`attempts/<shard>/<n>.json` is lease, breadcrumb and account in one. Who creates it holds the shard;
its owner rewrites it while it works and once more at the end. Whatever is concluded from attempts
saves work or names a culprit; that a shard is done is said by its commit alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from manifests.items import ErrorClass, Problem
from manifests.plan import SHARD_PATTERN
from manifests.records import Count, Record, Seconds, Words, read_record

ATTEMPT_SCHEMA_VERSION = 2

Ending = Literal["committed", "lost", "stopped", "infra", "died", "hung"]
"""How an attempt ended: its shard was committed, by it or (`lost`) by another one first; it was
asked to stop; something failed that is no item's fault (`infra`); its renderer died, or hung."""

ItemId = Annotated[str, Field(max_length=100)]

OWN_DEATHS = 2
"""So often a process must have died of itself under an item alone."""

FOREIGN_DEATHS = 3
"""So often at least a suspect must have died where something else may have killed it: SIGKILL, or a
machine that is gone. The death that made it a suspect says nothing: somebody is always in hand."""

MAX_CHANCE = 1e-5
"""The most that chance may have to do with such a conviction; a run has many suspects."""

FOREIGN_SIGNALS = (1, 2, 9, 15)
"""SIGHUP, SIGINT, SIGKILL and SIGTERM: sent from outside, as far as anybody can tell."""


class Worker(Record):
    """Who works: enough to find the process, and to know on the same machine whether it is gone.

    Attributes:
        id: unique to one worker, as long as it works.
        host: the name of its machine, for people.
        boot_id, pid_namespace: of its machine as it runs now; None where that cannot be told.
        pid: its process, and `started` the time at which that began, as the system counts it.
        device: what it renders on, such as `cuda:1`.
    """

    id: Words
    host: Words = ""
    boot_id: Words | None = None
    pid_namespace: Words | None = None
    pid: Count = 0
    started: Words | None = None
    device: Words = ""


class AttemptRecord(Record):
    """`attempts/<shard>/<n>.json`.

    Attributes:
        number: n, from 1.
        attempt_id: stands in the commit and in the rows of what this attempt commits.
        progress: counts signs of life; a holder whose count stands still has lost its lease.
        finished: items that this attempt has finished.
        in_hand: item ids whose decoding had begun and whose encoding had not ended.
        alone: nothing else was in hand, and this was written before the item was begun.
        cleared: suspects that were tried alone in this attempt without harm.
        convicted: items that this attempt gave a row for having killed or hung their renderer.
        took_over: the newest attempt without an end whose holder was gone.
        ending: None while the attempt goes on, or where its holder was killed.
        signal, exit_code: how its renderer died.
        out_of_memory: the kernel killed a process for want of memory at that time.
        error: what went wrong, in one sentence.
        begun_at, ended_at: by the clock of its machine, for people.
        device_seconds: that it held its device until this was written; None in records of earlier
            versions.
    """

    schema_version: Annotated[int, Field(strict=True, ge=1)] = ATTEMPT_SCHEMA_VERSION
    shard: Annotated[str, Field(pattern=rf"^{SHARD_PATTERN}$")]
    number: Annotated[Count, Field(ge=1)]
    attempt_id: Words
    worker: Worker
    progress: Count = 0
    finished: Count = 0
    in_hand: tuple[ItemId, ...] = ()
    alone: bool = False
    cleared: tuple[ItemId, ...] = ()
    convicted: tuple[ItemId, ...] = ()
    took_over: Count | None = None
    ending: Ending | None = None
    signal: Count | None = None
    exit_code: int | None = None
    out_of_memory: bool = False
    error: Words = ""
    begun_at: Words = ""
    ended_at: Words | None = None
    device_seconds: Seconds | None = None


class AttemptNote(Record):
    """What the first layout left at the same place where a shard could not be finished."""

    error: Words
    attempt_id: Words = ""
    worker: Words = ""
    failed_at: Words = ""


class _AnyVersion(Record):
    schema_version: Any = None


def attempt_name(shard: str, number: int) -> str:
    """Where an attempt lies in the run folder."""
    return f"attempts/{shard}/{number}.json"


def read_attempt(data: bytes, shard: str, number: int) -> AttemptRecord:
    """An attempt from its bytes; a note of the first layout is read as one that ended `infra`.

    Raises:
        RunFolderError: it is damaged.
    """
    name = attempt_name(shard, number)
    way_out = "delete it; it holds no results"
    if read_record(_AnyVersion, data, name, way_out=way_out).schema_version is not None:
        found = read_record(AttemptRecord, data, name, way_out=way_out)
        return found.model_copy(update={"shard": shard, "number": number})
    note = read_record(AttemptNote, data, name, way_out=way_out)
    return AttemptRecord(
        shard=shard,
        number=number,
        attempt_id=note.attempt_id,
        worker=Worker(id=note.worker),
        ending="infra",
        error=note.error,
        ended_at=note.failed_at,
    )


@dataclass(frozen=True, kw_only=True)
class Background:
    """What else happened in a run, as far as it tells how often renderers die without a reason.

    Attributes:
        deaths: of attempts at other shards that no item of theirs explains.
        finished: batches that came through there.
    """

    deaths: int = 0
    finished: float = 0


@dataclass(frozen=True, kw_only=True)
class Suspicion:
    """What the attempts at a shard say about its items.

    Attributes:
        suspects: item ids to try alone before the others, in this order.
        convicted: why items get a row without being tried again, by item id.
    """

    suspects: tuple[str, ...] = ()
    convicted: Mapping[str, Problem] = field(default_factory=dict[str, Problem])


@dataclass
class _Case:
    """What is held against one item since it last came through.

    Attributes:
        made_suspect: the first attempt that ended badly with this item in hand.
        deaths: attempts in which a process died while this item was alone in hand.
    """

    made_suspect: AttemptRecord
    deaths: list[AttemptRecord] = field(default_factory=list[AttemptRecord])

    @property
    def deaths_as_suspect(self) -> int:
        """Deaths of an item that was under suspicion already."""
        return sum(1 for death in self.deaths if death is not self.made_suspect)


def suspicion(attempts: Sequence[AttemptRecord], background: Background | None = None) -> Suspicion:
    """Who is to be tried alone, and who is guilty.

    An item is convicted when its own process died under it, alone in hand, by a signal of its own,
    by exiting or by hanging: twice. Where something from outside may have been the cause (SIGKILL,
    a worker that was lost), a suspect must die three times, and more where processes die under
    others too: until the odds that all of it was chance are below 1 in 100,000.

    Args:
        attempts: at one shard. One without an end counts as lost if a later one took it over.
        background: what happened at other shards.
    """
    cases: dict[str, _Case] = {}
    ordered = sorted(attempts, key=lambda attempt: attempt.number)
    dead = _dead(ordered)
    dead_numbers = {attempt.number for attempt in dead}
    for attempt in ordered:
        for item_id in attempt.cleared:
            cases.pop(item_id, None)
        if attempt.number not in dead_numbers:
            continue
        for item_id in attempt.in_hand:
            cases.setdefault(item_id, _Case(attempt))
        if attempt.alone and len(attempt.in_hand) == 1:
            cases[attempt.in_hand[0]].deaths.append(attempt)

    already = {item_id for attempt in ordered for item_id in attempt.convicted}
    convicted: dict[str, Problem] = {}
    for item_id, case in cases.items():
        if _is_own(case.deaths) or (case.deaths and item_id in already):
            convicted[item_id] = _problem(case.deaths)
    for item_id, case in cases.items():
        if item_id in convicted:
            continue
        elsewhere = _background(item_id, ordered, dead, convicted, background or Background())
        if _is_beyond_chance(case.deaths_as_suspect, elsewhere):
            convicted[item_id] = _problem(case.deaths)
    suspects = [item_id for item_id in cases if item_id not in convicted]
    turn = (ordered[-1].number if ordered else 0) % max(1, len(suspects))
    return Suspicion(suspects=tuple(suspects[turn:] + suspects[:turn]), convicted=convicted)


def unexplained_deaths(attempts: Sequence[AttemptRecord]) -> int:
    """How many attempts at a shard ended by a death that no convicted item explains."""
    guilty = {item_id for attempt in attempts for item_id in attempt.convicted}
    return sum(1 for attempt in _dead(attempts) if not guilty.intersection(attempt.in_hand))


def _dead(attempts: Sequence[AttemptRecord]) -> list[AttemptRecord]:
    """The attempts that ended by a death or a hang, or were lost with their worker."""
    taken_over = max((attempt.took_over or 0 for attempt in attempts), default=0)
    return [
        attempt
        for attempt in attempts
        if attempt.ending in ("died", "hung")
        or (attempt.ending is None and attempt.number <= taken_over)
    ]


def _is_from_outside(death: AttemptRecord) -> bool:
    return death.ending is None or (death.ending == "died" and death.signal in FOREIGN_SIGNALS)


def _is_own(deaths: Sequence[AttemptRecord]) -> bool:
    by_itself = sum(1 for death in deaths if not _is_from_outside(death))
    by_memory = sum(1 for death in deaths if _is_from_outside(death) and death.out_of_memory)
    return by_itself >= OWN_DEATHS or by_itself + by_memory >= FOREIGN_DEATHS


def _background(
    item_id: str,
    attempts: Sequence[AttemptRecord],
    dead: Sequence[AttemptRecord],
    convicted: Collection[str],
    others: Background,
) -> Background:
    """What happened to others: at other shards, and at this one without the item in hand."""
    unexplained = [
        death
        for death in dead
        if item_id not in death.in_hand and not set(convicted).intersection(death.in_hand)
    ]
    group = max((len(death.in_hand) for death in dead), default=1)
    finished = sum(attempt.finished for attempt in attempts) / max(1, group)
    return Background(deaths=others.deaths + len(unexplained), finished=others.finished + finished)


def _is_beyond_chance(num_deaths: int, others: Background) -> bool:
    """Whether so many deaths in a row are too many for the rate at which others die.

    The rate is estimated with one death and one survivor added (Laplace's rule of succession), so
    that nothing is concluded from little.
    """
    rate = (others.deaths + 1) / (others.deaths + others.finished + 2)
    return num_deaths >= FOREIGN_DEATHS and rate**num_deaths <= MAX_CHANCE


def _problem(deaths: Sequence[AttemptRecord]) -> Problem:
    """The row of a convicted item: how often its renderer died under it, and how."""
    last = deaths[-1]
    how_often = f"{len(deaths)} times, each time with nothing else in hand"
    if last.ending == "hung":
        return Problem(ErrorClass.TIMEOUT, f"its renderer hung {how_often}: {last.error}")
    return Problem(ErrorClass.CRASH, f"its renderer died {how_often}: {_cause(last)}")


def _cause(death: AttemptRecord) -> str:
    if death.out_of_memory:
        return f"signal {death.signal}, as the machine was out of memory"
    if death.signal is not None:
        return f"signal {death.signal}"
    if death.exit_code is not None:
        return f"exit code {death.exit_code}"
    return "its worker was lost with it"
