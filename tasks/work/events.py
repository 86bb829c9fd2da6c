"""What a worker tells whoever watches it, while it works. Small values; nothing depends on them.

Each names its worker by the id that the worker has in its attempts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from manifests.commits import Counts
from manifests.shard_stats import ShardStats
from tasks.work.shard_work import MemoryNeed


@dataclass(frozen=True, slots=True)
class WorkEvent:
    """Something that a worker tells."""

    worker: str


@dataclass(frozen=True, slots=True)
class Began(WorkEvent):
    """The worker is there, and renders on `device` of `host`; the first that it tells."""

    host: str
    device: str


@dataclass(frozen=True, slots=True)
class Ended(WorkEvent):
    """The worker works no more; `reason` is the fault that ended it. The last that it tells."""

    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Phase(WorkEvent):
    """What the worker does from now on.

    Attributes:
        name: "starting", "loading", "rendering", "committing" or "waiting" (for other workers).
        shard: the shard that it holds, if any.
    """

    name: str
    shard: str | None = None


@dataclass(frozen=True, slots=True)
class Progress(WorkEvent):
    """A step of rendering: `items` more of the shard are rendered, as a fraction of an item."""

    items: float


@dataclass(frozen=True, slots=True)
class ItemDone(WorkEvent):
    """An item of a shard has its outcome.

    Attributes:
        error_class, message: why it failed; None where it has a picture.
    """

    key: str
    error_class: str | None = None
    shard: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Needs(WorkEvent):
    """Pictures of one size will take so much memory; told for each shard and size."""

    need: MemoryNeed


@dataclass(frozen=True, slots=True)
class Committed(WorkEvent):
    """The worker has committed a shard, which took it so many seconds.

    Attributes:
        stats: as the commit has them.
    """

    shard: str
    counts: Counts
    seconds: float
    stats: ShardStats = field(default_factory=ShardStats)


@dataclass(frozen=True, slots=True)
class CommittedElsewhere(WorkEvent):
    """The worker has seen a commit of another one; told once for each shard."""

    shard: str


@dataclass(frozen=True, slots=True)
class Pending(WorkEvent):
    """So many shards of the run, and items in them, had no commit when the worker looked last."""

    shards: int
    items: int


@dataclass(frozen=True, slots=True)
class Restarted(WorkEvent):
    """The worker's child has ended, and a fresh one goes on with the shard."""

    shard: str
    reason: str


@dataclass(frozen=True, slots=True)
class Waiting(WorkEvent):
    """The worker cannot go on just now, such as for a store that does not answer."""

    reason: str
