"""A training that can be killed: a model, its moving average, its optimiser, clock and checkpoint.

It is given minutes, not steps, so that any machine ends on time.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

SECONDS_BETWEEN_SAVES = 60
AVERAGE_DECAY = 0.998


class Clock:
    """Counts steps and seconds over restarts; `share` is the part of the minutes that is used."""

    def __init__(self, *, minutes: float, now: Callable[[], float] = time.monotonic) -> None:
        self.seconds_given = 60 * minutes
        self.seconds = 0.0
        self.steps = 0
        self._now = now
        self._last = now()

    @property
    def share(self) -> float:
        """Share of the time given that is used."""
        return min(1.0, self.seconds / self.seconds_given)

    def tick(self) -> bool:
        """Begin a step; False when the time is up."""
        now = self._now()
        self.seconds, self._last = self.seconds + now - self._last, now
        self.steps += 1
        return self.share < 1

    def state(self) -> dict[str, float]:
        """What `resume` takes."""
        return {"seconds": self.seconds, "steps": self.steps}

    def resume(self, state: dict[str, float]) -> None:
        """Go on from a saved clock."""
        self.seconds, self.steps = state["seconds"], int(state["steps"])
        self._last = self._now()


class Report(Protocol):
    """Hears of each step: which training, and the step's figures."""

    def __call__(self, training: Training, **figures: float) -> None: ...


class Training:
    """Optimises `model`'s unfrozen weights with Adam and follows them with an average.

    Args:
        path: the checkpoint; one file, replaced whole.
        model: trained in place.
        minutes: to train, those of earlier runs included.
        peak: learning rate after the warm-up of 50 steps; a cosine takes it down to 2 %.
        stage: name of this stage, kept in the checkpoint; see `resume`.
    """

    def __init__(
        self, path: Path, model: nn.Module, *, minutes: float, peak: float, stage: str
    ) -> None:
        self.path, self.model, self.peak, self.stage = path, model, peak, stage
        self.average = copy.deepcopy(model).requires_grad_(False)
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.Adam(self.weights, lr=peak, betas=(0.9, 0.99), fused=True)
        self.clock = Clock(minutes=minutes)
        self._saved = time.monotonic()

    def resume(self) -> None:
        """Go on from the checkpoint, where it is of the same stage."""
        state = load_checkpoint(self.path)
        if state is None or state["stage"] != self.stage:
            return
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.clock.resume(state["clock"])

    def step(self, loss: Tensor) -> None:
        """One step down `loss`'s gradient; a save where one is due."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self._follow(min(AVERAGE_DECAY, self.clock.steps / (self.clock.steps + 50)))
        if time.monotonic() - self._saved > SECONDS_BETWEEN_SAVES:
            self.save()

    def rate(self) -> float:
        """The learning rate of this step."""
        cosine = 0.5 * (1 + math.cos(math.pi * self.clock.share))
        return self.peak * min(1.0, self.clock.steps / 50) * (0.02 + 0.98 * cosine)

    def save(self) -> None:
        """Write the checkpoint; it is never seen half written."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "stage": self.stage,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "clock": self.clock.state(),
        }
        new = self.path.with_suffix(".new")
        torch.save(state, new)
        new.replace(self.path)
        self._saved = time.monotonic()

    @torch.no_grad()
    def _follow(self, decay: float) -> None:
        pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
        for slow, fast in pairs:
            slow.lerp_(fast, 1 - decay)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read what `Training.save` wrote; None where nothing was."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


def stage_of(path: Path) -> str | None:
    """Which stage a checkpoint is in; None where there is none."""
    state = load_checkpoint(path)
    return None if state is None else state["stage"]
