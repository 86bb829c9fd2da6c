"""When does a worker publish, so that of many one does?

While a run goes on, whoever has seen the same index for an interval of its own, though commits
came, brings it up to date. Once nothing is left, whoever first creates `publishing.json` publishes
all of it, and removes that file; the others wait until it is done, or for so long that the one who
does it must be gone; on one machine that is known at once. Publishing is never a worker's fault,
and holds up neither a beat nor a stop.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from pydantic import ValidationError

from infra.store import ObjectNotFound, Store, local_path
from manifests.attempts import Worker
from manifests.commits import INDEX_NAME, RunRecord
from tasks.runs.worker_identity import is_gone, this_worker

if TYPE_CHECKING:
    from tasks.results.publishing import Publication

logger = logging.getLogger(__name__)

CLAIM_NAME = "publishing.json"
MAX_CLAIM_BYTES = 1 << 16

LOCAL_SECONDS, REMOTE_SECONDS = 10.0, 60.0
"""The least interval, where the run folder is a local one and where it is not."""

SHARE = 20
"""Between two publications passes at least so many times what the last one took."""

PATIENCE_SECONDS, PATIENCE_PER_SHARD = 60.0, 0.02
"""So long others are waited for that publish a complete run."""

CLOSING_SECONDS = 1.0
PAUSE_SECONDS = 0.05


class Publisher:
    """Publishes a run for one worker, in a thread of its own.

    Args:
        store: of the run folder.
        run: the run.
        num_committed: tells how many shards are committed, as far as the worker knows.
    """

    def __init__(self, store: Store, run: RunRecord, num_committed: Callable[[], int]) -> None:
        self._store, self._run, self._num_committed = store, run, num_committed
        self._is_local = local_path(store.uri) is not None
        self._least_seconds = LOCAL_SECONDS if self._is_local else REMOTE_SECONDS
        self._seen: str | None = None  # the index's etag
        self._num_seen = 0
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._put_off(0.0)

    def publish_if_due(self) -> None:
        """Brings the index up to date where it is this worker's turn; returns at once."""
        if time.monotonic() >= self._due and not self._is_busy():
            self._start(self._look)

    def finish(self, should_stop: Callable[[], bool]) -> None:
        """Waits until a complete run is published, by this worker or by another one."""
        if self._join(should_stop):
            self._start(self._finish)
            self._join(should_stop)

    def close(self) -> None:
        """Leaves off; what is half done is for whoever publishes next."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(CLOSING_SECONDS)

    def _look(self) -> None:
        """Publishes the index if it is the one that was seen last, though commits came since."""
        started = time.monotonic()
        found, num_committed = self._store.find(INDEX_NAME), self._num_committed()
        etag = found and found.etag
        if etag == self._seen and num_committed > self._num_seen:
            self._publication.publish_index(also_complete=False)
            found = self._store.find(INDEX_NAME)
            etag = found and found.etag
        self._seen, self._num_seen = etag, num_committed
        self._put_off(time.monotonic() - started)

    def _finish(self) -> None:
        publication = self._publication
        patience = PATIENCE_SECONDS + PATIENCE_PER_SHARD * self._num_committed()
        until = time.monotonic() + patience
        while not publication.is_up_to_date():
            if time.monotonic() >= until or self._claim():
                try:
                    publication.publish()
                finally:
                    self._store.delete(CLAIM_NAME)
                return
            if self._closing.wait(0.5 if self._is_local else 5.0):
                return

    def _claim(self) -> bool:
        """Whether it is this worker that publishes the complete run."""
        if not self._run.conditional_put:
            return True
        told = this_worker("").model_dump_json().encode()
        return self._store.put_if_absent(CLAIM_NAME, told) or self._is_abandoned()

    def _is_abandoned(self) -> bool:
        """Whether the process that publishes was one of this machine, and is gone."""
        try:
            told = self._store.get_range(CLAIM_NAME, 0, MAX_CLAIM_BYTES)
            return is_gone(Worker.model_validate_json(told))
        except (ObjectNotFound, ValidationError):
            return False

    def _put_off(self, seconds: float) -> None:
        """Chooses when to look next, by chance, after something that took so many seconds."""
        least = max(self._least_seconds, SHARE * seconds)
        self._due = time.monotonic() + random.uniform(1, 2) * least

    @cached_property
    def _publication(self) -> Publication:
        from tasks.results.publishing import Publication  # with what draws pages and writes Parquet

        return Publication(self._store, self._run)

    def _is_busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _join(self, should_stop: Callable[[], bool]) -> bool:
        """Waits for what is going on; False where this worker is to stop first."""
        while self._is_busy():
            if should_stop():
                return False
            self._closing.wait(PAUSE_SECONDS)
        return True

    def _start(self, action: Callable[[], None]) -> None:
        def act() -> None:
            try:
                action()
            except Exception as error:  # a worker is not there to publish
                logger.warning("the run is not published ('stylefarm report' does it): %s", error)
                self._put_off(0.0)

        self._thread = threading.Thread(target=act, name="publisher", daemon=True)
        self._thread.start()
