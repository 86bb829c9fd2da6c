"""Has somebody asked all workers of a run to stop?

The request is `stop.json` in the run folder. It speaks to the workers that are at work when it is
written: whoever finds it there at the start does not obey it.
"""

from __future__ import annotations

import logging
import time
import uuid
from datetime import UTC, datetime

from infra.store import ObjectNotFound, Store, StoreError, local_path
from manifests.errors import RunFolderError
from manifests.records import Record, Words, read_record
from manifests.wording import safe_line
from tasks.runs.environment import worker_name

logger = logging.getLogger(__name__)

STOP_NAME = "stop.json"
MAX_REQUEST_BYTES = 1 << 16
LOCAL_SECONDS, REMOTE_SECONDS = 5.0, 15.0
"""The least time between two looks, where the run folder is a local one and where it is not."""


class StopRequest(Record):
    """`stop.json`: who asked all workers to stop, and why."""

    id: Words
    reason: Words
    asked_by: Words
    asked_at: Words


def ask_to_stop(store: Store, reason: str) -> StopRequest:
    """Asks all workers that work on a run folder now to stop at their next step.

    Raises:
        StoreError: the store refuses or does not answer.
    """
    request = StopRequest(
        id=uuid.uuid4().hex,
        reason=safe_line(reason),
        asked_by=worker_name(),
        asked_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    store.put(STOP_NAME, request.to_bytes())
    return request


class StopRequests:
    """The requests that were made since this object was."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._interval = REMOTE_SECONDS if local_path(store.uri) is None else LOCAL_SECONDS
        self._before = self._read()
        self._looked_at = time.monotonic()
        self._reason: str | None = None

    def reason(self) -> str | None:
        """Why all workers shall stop; None where nobody has asked. Looks at most every 5 or 15 s.

        A store that does not answer has not asked.
        """
        if self._reason is None and time.monotonic() - self._looked_at >= self._interval:
            try:
                found = self._read()
            except StoreError as error:
                logger.warning("nobody knows whether the run shall stop: %s", error)
            else:
                if found not in (None, self._before):
                    self._reason = _reason(found)
                self._before = found
            self._looked_at = time.monotonic()
        return self._reason

    def _read(self) -> bytes | None:
        try:
            return self._store.get_range(STOP_NAME, 0, MAX_REQUEST_BYTES)
        except ObjectNotFound:
            return None


def _reason(data: bytes) -> str:
    try:
        request = read_record(StopRequest, data, STOP_NAME)
    except RunFolderError as error:
        return f"somebody asked all workers to stop ({error})"
    return f"{request.asked_by} asked all workers to stop: {request.reason}"
