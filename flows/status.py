"""What `stylefarm status` tells of a run: a screen for people, or one JSON document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from flows.terminal import MAX_LINES, Terminal, counted
from manifests.amounts import money, plain_number
from manifests.budget import SECONDS_PER_HOUR
from manifests.wording import safe_line
from tasks.keeping.overview import Attempt, Failures, Overview, overview

MAX_EXAMPLE_LETTERS = 160


def show_status(terminal: Terminal, uri: str, *, as_json: bool = False) -> None:
    """Prints how far a run is, who works on it, how fast that is, and what failed.

    Raises:
        RunFolderError: there is no run, or one of its records is damaged.
    """
    seen = overview(uri)
    if as_json:
        terminal.print_json(status_document(seen))
        return
    terminal.say(uri)
    terminal.say_table((), _figures(seen))
    if seen.failures:
        terminal.say("")
        terminal.say_table(("failed", "items", "for example"), map(_failures_row, seen.failures))
    _show_attempts(terminal, seen)
    terminal.say("")
    terminal.say(_what_now(seen))


def status_document(seen: Overview) -> dict[str, Any]:
    """The same as a JSON document; `flows/README.md` says what its names mean."""
    index, speed, left = seen.index, seen.speed, seen.seconds_left
    return {
        "run": seen.uri,
        "task": seen.run.task,
        "model": seen.run.model_id,
        "complete": index.complete,
        "items": index.counts.model_dump(),
        "shards": {
            "planned": seen.num_shards,
            "committed": seen.num_committed,
            "pending": seen.num_shards - seen.num_committed,
            "in_hand": len(seen.workers),
            "superseded": seen.num_superseded,
        },
        "speed": speed
        and {
            "items_per_second": round(speed.items_per_second, 6),
            "seconds_per_item": round(speed.seconds_per_item, 3),
        },
        "seconds_left": None if left is None else round(left),
        "failures": [
            {
                "error_class": one.error_class,
                "items": one.num_items,
                "example": one.key and {"key": one.key, "error_message": one.message},
            }
            for one in seen.failures
        ],
        "attempts": [_attempt_document(one) for one in seen.attempts],
        "attempts_not_read": seen.num_unread,
        "generations": [
            {
                "number": one.number,
                "kind": one.kind,
                "items": one.num_items,
                "shards": one.num_shards,
            }
            for one in index.generations
        ],
        "content_digest": index.content_digest,
        "output_bytes": index.stats.output_bytes,
        "render_seconds": round(index.stats.render_seconds, 3),
        "device_seconds": round(seen.device_seconds, 3),
        "cost": _rounded(seen.cost),
        "share_waited": _rounded(index.stats.share_waited),
        "unpublished_commits": seen.num_unpublished,
    }


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 6)


def _attempt_document(attempt: Attempt) -> dict[str, Any]:
    record, worker = attempt.record, attempt.record.worker
    return {
        "shard": record.shard,
        "attempt": record.number,
        "state": attempt.state,
        "host": worker.host,
        "pid": worker.pid,
        "device": worker.device,
        "items_finished": record.finished,
        "begun_at": record.begun_at or None,
        "ended_at": record.ended_at,
        "silent_seconds": round(attempt.silent_seconds),
        "ending": record.ending,
        "error": record.error or None,
    }


def _figures(seen: Overview) -> Iterator[tuple[str, str]]:
    index, run = seen.index, seen.run
    yield "task", f"{run.task} on {run.model_id}"
    yield "items", _items(index.counts.model_dump())
    yield "shards", _shards(seen)
    if len(index.generations) > 1:
        told = (f"{one.kind} {counted(one.num_items, 'item')}" for one in index.generations)
        yield "generations", ", ".join(told)
    output = (
        f"{index.stats.output_bytes / 1e6:.1f} MB, {_time(index.stats.render_seconds)} rendering"
    )
    yield "output", output
    yield "spent", _spent(seen)
    if (share := index.stats.share_waited) is not None:
        yield "waited", f"{100 * share:.2g} % of the workers' time for inputs"
    if seen.workers:
        yield "workers", _workers(seen.workers)
        yield "speed", _speed(seen)


def _spent(seen: Overview) -> str:
    hours = f"{plain_number(seen.device_seconds / SECONDS_PER_HOUR)} {seen.run.hours_name}"
    return hours if seen.cost is None else f"{hours}, {money(seen.cost)} in money"


def _items(counts: dict[str, int]) -> str:
    planned, pending = counts["planned"], counts["pending"]
    share = f" ({100 * (planned - pending) / planned:.0f} % done)" if planned and pending else ""
    others = (f"{counts[name]} {name}" for name in ("failed", "skipped", "pending") if counts[name])
    return ", ".join([f"{counts['ok']} of {planned} ok", *others]) + share


def _shards(seen: Overview) -> str:
    parts = [f"{seen.num_committed} of {seen.num_shards} committed"]
    parts += [f"{len(seen.workers)} in hand"] if seen.workers else []
    if endings := Counter(str(one.record.ending) for one in _ended(seen)):
        told = ", ".join(f"{number} {ending}" for ending, number in endings.most_common())
        parts.append(f"{endings.total()} tried and free again ({told})")
    parts += [f"{seen.num_superseded} replaced by a repair"] if seen.num_superseded else []
    return ", ".join(parts)


def _workers(workers: list[Attempt]) -> str:
    hosts = {worker.record.worker.host for worker in workers}
    return f"{len(workers)} at work on {counted(len(hosts), 'machine')}"


def _speed(seen: Overview) -> str:
    if seen.speed is None:
        return "not known before a worker of now has committed a shard"
    parts = [f"{seen.speed.items_per_second:.3g} items/s"]
    parts.append(f"a worker takes {seen.speed.seconds_per_item:.3g} s an item")
    if seen.seconds_left is not None:
        parts.append(f"ETA {_time(seen.seconds_left)}")
    return ", ".join(parts)


def _failures_row(failures: Failures) -> tuple[str, str, str]:
    example = f"{failures.key}: {failures.message}" if failures.key else "(cannot be read)"
    return failures.error_class, str(failures.num_items), safe_line(example, MAX_EXAMPLE_LETTERS)


def _show_attempts(terminal: Terminal, seen: Overview) -> None:
    """A table of who holds which shard, and one of the attempts that came to nothing."""
    held = [one for one in seen.attempts if one.state != "ended"]
    ended = sorted(_ended(seen), key=_urgency)
    if held:
        terminal.say("")
        columns = ("worker", "device", "shard", "items done", "since", "state")
        terminal.say_table(columns, map(_held_row, held[:MAX_LINES]))
        _say_rest(terminal, len(held) - MAX_LINES, "shards are in hand")
    if ended:
        terminal.say("")
        columns = ("free again", "attempt", "ended", "how", "why")
        terminal.say_table(columns, map(_ended_row, ended[:MAX_LINES]))
        _say_rest(terminal, len(ended) - MAX_LINES, "shards are free again")
    _say_rest(terminal, seen.num_unread, "shards have attempts that were not read")


def _ended(seen: Overview) -> list[Attempt]:
    return [one for one in seen.attempts if one.state == "ended"]


def _urgency(attempt: Attempt) -> tuple[bool, float]:
    """What went wrong comes before what was stopped, what ended last before what ended earlier."""
    return attempt.record.ending == "stopped", attempt.seconds or 0.0


def _say_rest(terminal: Terminal, number: int, what: str) -> None:
    if number > 0:
        terminal.say(f"… and {number} more {what}")


def _held_row(attempt: Attempt) -> tuple[str, ...]:
    record, worker = attempt.record, attempt.record.worker
    states = {
        "working": "at work",
        "gone": "gone; the next worker takes the shard",
        "silent": f"no sign of life for {_time(attempt.silent_seconds)}",
    }
    name = f"{worker.host} pid {worker.pid}" if worker.pid else worker.host
    since = _ago(attempt.seconds)
    return name, worker.device, record.shard, str(record.finished), since, states[attempt.state]


def _ended_row(attempt: Attempt) -> tuple[str, ...]:
    record, ago = attempt.record, _ago(attempt.seconds)
    why = safe_line(record.error, MAX_EXAMPLE_LETTERS)
    return record.shard, str(record.number), ago, str(record.ending), why


def _ago(seconds: float | None) -> str:
    return "" if seconds is None else f"{_time(seconds)} ago"


def _time(seconds: float) -> str:
    """Days, hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


def _what_now(seen: Overview) -> str:
    """Whether the run is complete, and what to do next."""
    if not seen.index.complete:
        if seen.workers:
            return "incomplete: its workers go on"
        return f"incomplete, and nobody works on it: 'stylefarm work {seen.uri}' goes on"
    if seen.num_unpublished:
        return f"complete, but not published yet: 'stylefarm report {seen.uri}' does that"
    return "complete"
