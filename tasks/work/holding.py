"""One shard, held by this worker: taken, kept alive while it is worked on, and given up or done.

Whoever creates the attempt's record holds the shard. A thread of its own rewrites it: soon after
something has changed, at most four times a minute, and often enough that the lease never runs out
while this process lives. What the record says of an item that is tried alone is never out of date:
that is written before the item is begun, and again when it has ended.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from infra.store import Store, StoreError
from manifests.attempts import AttemptRecord, Ending, Worker, attempt_name
from manifests.wording import safe_line
from tasks.runs.run_folder import refuse_linked_folders

logger = logging.getLogger(__name__)

LEASE_SECONDS = 120.0
"""A holder whose record stands still for so long has lost its shard."""

BEAT_SECONDS = 20.0
"""So often the record is rewritten though nothing happened."""

NUM_BEATS = 4
"""That may follow each other at once; as many a minute are added."""


class Holding:
    """One shard in the hands of this worker; made by `take`."""

    def __init__(self, store: Store, record: AttemptRecord) -> None:
        self._store = store
        self._record = record
        self._took_device_at = time.monotonic()
        self._left_device_at: float | None = None
        self._lock = threading.RLock()  # held while a record is written: the last one stays
        self._changed = threading.Event()
        self._ended = threading.Event()
        self._beats, self._beat_at = float(NUM_BEATS), time.monotonic()
        self._thread = threading.Thread(target=self._keep_alive, name="beats", daemon=True)
        self._thread.start()

    @property
    def shard(self) -> str:
        """The shard that is held."""
        return self._record.shard

    @property
    def record(self) -> AttemptRecord:
        """The attempt as it is now."""
        return self._record

    def charge(self, seconds: float) -> None:
        """Adds seconds that the device was held for this shard before it was taken."""
        self._took_device_at -= seconds

    def leave_device(self) -> None:
        """Notes that the device works on something else from now on: only storing is left."""
        if self._left_device_at is None:
            self._left_device_at = time.monotonic()

    def update(self, *, at_once: bool = False, **changes: Any) -> None:
        """Notes what has changed; it is written soon, or before this returns."""
        with self._lock:
            self._record = self._record.model_copy(update=changes)
            if at_once:
                self._beat()
            else:
                self._changed.set()

    def end(self, ending: Ending, error: str = "", **changes: Any) -> AttemptRecord:
        """Gives the shard back and says how it ended; a store that is away is not waited for."""
        with self._lock:
            if self._record.ending is None:
                told: dict[str, Any] = {
                    "ending": ending,
                    "error": safe_line(error),
                    "ended_at": _now(),
                }
                told["device_seconds"] = self._device_seconds()
                self._record = self._record.model_copy(update={**told, **changes})
                self._write()
            self._ended.set()
            self._changed.set()
        self._thread.join()
        return self._record

    def _keep_alive(self) -> None:
        while not self._ended.wait(self._seconds_to_next_beat()):
            self._changed.wait(BEAT_SECONDS)
            with self._lock:
                if not self._ended.is_set():
                    self._beat()

    def _seconds_to_next_beat(self) -> float:
        return max(0.0, (1.0 - self._beats_allowed()) * 60 / NUM_BEATS)

    def _beats_allowed(self) -> float:
        """How many beats may follow now; below 1, none."""
        waited = time.monotonic() - self._beat_at
        return min(float(NUM_BEATS), self._beats + waited * NUM_BEATS / 60)

    def _beat(self) -> None:
        self._changed.clear()
        self._beats = max(0.0, self._beats_allowed() - 1.0)
        self._beat_at = time.monotonic()
        told = {"progress": self._record.progress + 1, "device_seconds": self._device_seconds()}
        self._record = self._record.model_copy(update=told)
        self._write()

    def _device_seconds(self) -> float:
        until = time.monotonic() if self._left_device_at is None else self._left_device_at
        return round(until - self._took_device_at, 3)

    def _write(self) -> None:
        """Writes the record; if that fails, the next beat makes up for it."""
        name = attempt_name(self._record.shard, self._record.number)
        try:
            self._store.put(name, self._record.to_bytes())
        except StoreError as error:
            logger.warning("%s was not written: %s", name, error)


def take(
    store: Store, shard: str, number: int, worker: Worker, *, took_over: int | None = None
) -> Holding | None:
    """The shard, held by this worker from now on; None where another one has that attempt.

    Args:
        store: of the run folder.
        shard: which shard.
        number: of the attempt, one more than the newest.
        worker: this one.
        took_over: the newest attempt, where it has no end because its holder is gone.

    Raises:
        RunFolderError: the place of the attempts is a link that leads out of the run folder.
        StoreError: the store refuses or does not answer.
    """
    refuse_linked_folders(store, f"attempts/{shard}")
    record = AttemptRecord(
        shard=shard,
        number=number,
        attempt_id=uuid.uuid4().hex,
        worker=worker,
        took_over=took_over,
        begun_at=_now(),
    )
    taken = store.put_if_absent(attempt_name(shard, number), record.to_bytes())
    return Holding(store, record) if taken else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
