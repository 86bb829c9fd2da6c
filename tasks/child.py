"""The renderers: a process of its own, or this one."""

from __future__ import annotations

from tasks.shard_work import ShardWork, Watch


class InThisProcess:
    """Renders in this process, for tests and notebooks; a crash or a hang is this process's."""

    def __init__(self) -> None:
        from tasks.models import ModelCache  # loads torch

        self._models = ModelCache()

    def render(self, work: ShardWork, watch: Watch, *, hang_seconds: float) -> None:
        """Renders a shard; see `Renderer`. Nobody watches whether it hangs."""
        from tasks.render import render_shard

        render_shard(work, self._models, watch)

    def close(self) -> None:
        """Gives the device back."""
        self._models.clear()
