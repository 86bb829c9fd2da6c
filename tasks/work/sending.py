"""How is a rendered shard stored while the next one renders?

In a thread of its own, one shard at most. It is held as any other until it has arrived.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from manifests.commits import Commit
from tasks.runs.faults import WorkerFault
from tasks.work.events import Committed, CommittedElsewhere, Phase, WorkEvent
from tasks.work.finishing import ShardInWork

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Sent:
    """A shard on its way; `stored` has its commit, and whether it is this worker's."""

    shard: ShardInWork
    stored: Future[tuple[Commit, bool]]


class Sending:
    """What one worker has on its way to the run folder.

    Args:
        worker: the id that events carry.
        tell: is told what is sent and how it arrived, by another thread.
    """

    def __init__(self, worker: str, tell: Callable[[WorkEvent], None]) -> None:
        self._worker, self._tell = worker, tell
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="storing")
        self._sent: _Sent | None = None

    @property
    def shard(self) -> ShardInWork | None:
        """The shard that is on its way, if any."""
        sent = self._sent
        return None if sent is None else sent.shard

    def is_in_trouble(self) -> bool:
        """Whether it could not be stored, so that nothing more can be; any thread may ask."""
        sent = self._sent
        if sent is None or not sent.stored.done():
            return False
        error = sent.stored.exception()
        return error is not None and not isinstance(error, WorkerFault)

    def send(self, shard: ShardInWork, waited: float) -> None:
        """Begins to store a rendered shard; the one before has arrived.

        Args:
            shard: which one.
            waited: seconds that the worker waited for the one before.
        """
        self._tell(Phase(self._worker, name="committing", shard=shard.name))
        self._sent = _Sent(shard, self._thread.submit(self._store, shard, waited))

    def wait(self) -> tuple[Commit, bool]:
        """Waits for the shard that is on its way; nothing is after that.

        Returns:
            Its commit, and whether that is this worker's.

        Raises:
            RuntimeError: nothing is on its way.
            Stopped, StoreTrouble, WorkerFault: see `ShardInWork.store`.
        """
        sent, self._sent = self._sent, None
        if sent is None:
            raise RuntimeError("nothing is on its way")
        return sent.stored.result()

    def close(self) -> None:
        """Ends the thread, once it has nothing more to store."""
        self._thread.shutdown()

    def _store(self, shard: ShardInWork, waited: float) -> tuple[Commit, bool]:
        """Commits a shard, and tells so."""
        commit, won = shard.store(waited)
        if won:
            event = Committed(
                self._worker,
                shard=commit.shard,
                counts=commit.counts,
                seconds=shard.seconds,
                stats=commit.stats,
            )
        else:
            logger.info("shard %s was committed by another worker first", commit.shard)
            event = CommittedElsewhere(self._worker, shard=commit.shard)
        self._tell(event)
        return commit, won
