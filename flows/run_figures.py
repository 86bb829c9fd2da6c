"""What do the commits of a run say, while others make more of them?

They are read by a thread of its own, so that a slow store holds up nobody, and rarely enough to be
no load.
"""

from __future__ import annotations

import logging
import threading
import time

from infra.store import StoreError, local_path
from manifests.errors import RunFolderError
from tasks.keeping.overview import Figures, read_figures

logger = logging.getLogger(__name__)

LOCAL_SECONDS, REMOTE_SECONDS = 15.0, 60.0
"""Between two looks at a run folder, where it is a local one and where it is not."""

SHARE = 20
"""Between two looks passes at least so many times what the last one took."""

LAST_SECONDS = 3.0
"""The last look, at the end of a run, is not waited for longer."""


class RunFigures:
    """The figures of one run, read now and then."""

    def __init__(self, run_uri: str) -> None:
        self._run_uri = run_uri
        self._least_seconds = REMOTE_SECONDS if local_path(run_uri) is None else LOCAL_SECONDS
        self._due = 0.0
        self._num_shards = 0
        self._thread: threading.Thread | None = None
        self._newest: Figures | None = None

    def look(self, num_shards: int) -> Figures | None:
        """The newest figures that were not given yet, if there are any; looks where that is due.

        Args:
            num_shards: committed, as far as is known; without a new one there is nothing to see.
        """
        is_new = num_shards > self._num_shards
        if is_new and time.monotonic() >= self._due and not self._is_reading():
            self._num_shards = num_shards
            self._start()
        newest, self._newest = self._newest, None
        return newest

    def last(self) -> Figures | None:
        """The figures of now; None where they cannot be read, or not within some seconds."""
        if self._is_reading() and self._thread is not None:
            self._thread.join(LAST_SECONDS)
        if self._is_reading():
            return None
        self._newest = None
        self._start().join(LAST_SECONDS)
        return self._newest

    def _is_reading(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _start(self) -> threading.Thread:
        self._thread = threading.Thread(target=self._read, name="figures", daemon=True)
        self._thread.start()
        return self._thread

    def _read(self) -> None:
        began = time.monotonic()
        try:
            self._newest = read_figures(self._run_uri)
        except (RunFolderError, StoreError) as error:
            logger.debug("%s is not looked at: %s", self._run_uri, error)
        took = time.monotonic() - began
        self._due = time.monotonic() + max(self._least_seconds, SHARE * took)
