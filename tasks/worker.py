"""How does one worker finish its part of a run?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from manifests.job import Compute
from tasks.events import WorkEvent


@dataclass(frozen=True, kw_only=True)
class Worked:
    """How many shards a worker committed and lost to others, and whether it was asked to stop."""

    num_committed: int
    num_lost: int
    stopped: bool


def work(
    run_uri: str,
    *,
    device: str,
    compute: Compute,
    renderer: Any,
    max_shards: int | None = None,
    should_stop: Callable[[], bool],
    tell: Callable[[WorkEvent], None],
) -> Worked:
    """Renders and commits shards of a run until none is left; see the module."""
    raise NotImplementedError
