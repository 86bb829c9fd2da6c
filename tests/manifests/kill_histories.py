"""Imagined runs whose workers are killed at random, to see whom `suspicion` convicts.

One shard after the other is tried until all its items have their outcome, as a worker does it:
suspects alone first, then the others in batches; a death ends an attempt. What a worker knows is
lost with it, unless only its renderer is killed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from manifests.attempts import (
    AttemptRecord,
    Background,
    Suspicion,
    Worker,
    suspicion,
    unexplained_deaths,
)

Kill = Literal["parent", "child"]
MAX_ATTEMPTS = 400


@dataclass
class History:
    """What happened in a run.

    Attributes:
        convicted: item ids.
        num_kills: that hit while something was done.
        attempts: of every shard.
    """

    convicted: set[str] = field(default_factory=set)
    num_kills: int = 0
    attempts: dict[str, list[AttemptRecord]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """An imagined run.

    Attributes:
        num_shards, shard_items, batch_size: its size.
        chance: of a kill during a batch, and during each item that is tried alone.
        kill: what is killed: the whole worker, or its renderer alone.
        max_kills: then nobody kills any more.
        poison: item ids that kill their renderer by `signal`, or the whole worker where it is None.
    """

    num_shards: int
    shard_items: int
    batch_size: int
    chance: float
    kill: Kill
    max_kills: int = 100
    poison: frozenset[str] = frozenset()
    signal: int | None = 9


def play(scene: Scene, rng: random.Random) -> History:
    """Plays a run to its end."""
    history = History()
    shards = [f"{number:05d}" for number in range(scene.num_shards)]
    rng.shuffle(shards)
    for shard in shards:
        _play_shard(scene, shard, history, rng)
    return history


def _play_shard(scene: Scene, shard: str, history: History, rng: random.Random) -> None:
    items = [f"{shard}-{number}" for number in range(scene.shard_items)]
    attempts = history.attempts.setdefault(shard, [])
    kept: set[str] = set()
    while True:
        number = len(attempts) + 1
        assert number < MAX_ATTEMPTS, "the shard never ends"
        took_over = number - 1 if attempts and attempts[-1].ending is None else None
        record = AttemptRecord(
            shard=shard,
            number=number,
            attempt_id=f"{shard}-{number}",
            worker=Worker(id="w"),
            took_over=took_over,
        )
        found = suspicion([*attempts, record], _background(history, shard, scene.batch_size))
        history.convicted |= found.convicted.keys()
        kept |= found.convicted.keys()
        record = record.model_copy(update={"convicted": tuple(found.convicted)})
        record = _play_attempt(scene, record, items, kept, found, history, rng)
        attempts.append(record)
        if record.ending == "committed":
            return
        if record.ending is None:
            kept.clear()


def _background(history: History, shard: str, batch_size: int) -> Background:
    others = {name: found for name, found in history.attempts.items() if name != shard}
    done = [found for found in others.values() if found and found[-1].ending == "committed"]
    return Background(
        deaths=sum(unexplained_deaths(found) for found in others.values()),
        finished=sum(found[-1].finished for found in done) / batch_size,
    )


def _play_attempt(
    scene: Scene,
    record: AttemptRecord,
    items: Sequence[str],
    kept: set[str],
    found: Suspicion,
    history: History,
    rng: random.Random,
) -> AttemptRecord:
    cleared: list[str] = []
    suspects = [item for item in found.suspects if item not in kept]
    rest = [item for item in items if item not in kept and item not in suspects]
    batches = [[item] for item in suspects]
    batches += [rest[n : n + scene.batch_size] for n in range(0, len(rest), scene.batch_size)]
    for batch in batches:
        alone = batch[0] in suspects
        signal = scene.signal
        dies = bool(scene.poison.intersection(batch))
        if not dies and history.num_kills < scene.max_kills and rng.random() < scene.chance:
            dies, signal = True, 9 if scene.kill == "child" else None
            history.num_kills += 1
        changes = {"cleared": tuple(cleared), "finished": len(cleared)}
        if dies:
            changes |= {"in_hand": tuple(batch), "alone": alone or len(batch) == 1}
            if signal is not None:
                changes |= {"ending": "died", "signal": signal}
            else:
                changes |= {"alone": alone}
            return record.model_copy(update=changes)
        kept.update(batch)
        if alone:
            cleared += batch
    ended = {"ending": "committed", "finished": len(items), "cleared": tuple(cleared)}
    return record.model_copy(update=ended)
