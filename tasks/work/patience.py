"""How long is a store waited for, and when is it given up?"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from infra.store import StoreError
from tasks.runs.faults import Stopped, StoreTrouble

logger = logging.getLogger(__name__)

AWAY_SECONDS = 600.0
"""So long a store is waited for that does not answer."""

NUM_REFUSALS = 3
"""So often a store may refuse: it is full, read-only, or wants other rights."""

REFUSAL_SECONDS = 2.5
PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds between two tries; the last one is repeated."""

T = TypeVar("T")


class Patience:
    """Waits between tries until it is over.

    Args:
        should_stop: asked while the store is waited for.
        on_wait: told why, at least twice a second.
    """

    def __init__(self, should_stop: Callable[[], bool], on_wait: Callable[[str], None]) -> None:
        self._should_stop, self._on_wait = should_stop, on_wait
        self.renew()

    def renew(self) -> None:
        """Begins anew, as the store has answered since."""
        self._since: float | None = None
        self._num_waits = self._num_refusals = 0

    def wait(self, error: StoreError) -> None:
        """Waits before the next try.

        Raises:
            StoreTrouble: the store refused three times, or did not answer for ten minutes.
            Stopped: `should_stop` said so.
        """
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        self._num_refusals += not error.transient
        if self._num_refusals >= NUM_REFUSALS or now - self._since >= AWAY_SECONDS:
            raise StoreTrouble(str(error)) from error
        pause = PAUSES[min(self._num_waits, len(PAUSES) - 1)]
        self._num_waits += 1
        seconds = pause if error.transient else REFUSAL_SECONDS
        logger.warning("waiting %g s: %s", seconds, error)
        until = now + seconds
        while (left := until - time.monotonic()) > 0:
            if self._should_stop():
                raise Stopped("stopped; run the same command again to finish")
            self._on_wait(str(error))
            time.sleep(min(0.2, left))


def patiently(
    action: Callable[[], T], should_stop: Callable[[], bool], on_wait: Callable[[str], None]
) -> T:
    """What the action returns, which is repeated while its store cannot do it.

    Args:
        action: safe to repeat.
        should_stop: asked while the store is waited for.
        on_wait: told why, at least twice a second.

    Raises:
        StoreTrouble: the store refused three times, or did not answer for ten minutes.
        Stopped: `should_stop` said so.
    """
    patience = Patience(should_stop, on_wait)
    while True:
        try:
            return action()
        except StoreError as error:
            patience.wait(error)
