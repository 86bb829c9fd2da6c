"""The losses of which items have stopped falling, and how does the batch go on without them?

Invariant: an item is judged by its own losses alone, so no item depends on its batch-mates.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import torch
from jaxtyping import Float
from torch import Tensor

from ad_lib.algorithm.dynamics import Timestep
from ad_lib.algorithm.features import References
from ad_lib.algorithm.seen import Show, clean
from ad_lib.algorithm.step import AdamState, Distiller


def has_stopped_falling(losses: Sequence[float], patience: int, threshold: float) -> bool:
    """Whether the mean of the last losses is not below that of as many before them.

    Args:
        losses: before each step, so far.
        patience: how many make a mean.
        threshold: by what share of itself the mean must fall.
    """
    if len(losses) < 2 * patience:
        return False
    before, last = losses[-2 * patience : -patience], losses[-patience:]
    return fmean(last) >= (1 - threshold) * fmean(before)


class MovingItems:
    """The items of a batch that are still optimised, and where those that have left it ended.

    Args:
        distiller: the optimisation step of the whole batch.
        latents: where its items start.
        style: z_s, the clean latents of the references.
        content: z_c, the clean latents of each item's content, one per item.
        show: what the network sees of them.

    Attributes:
        num_steps: Adam steps of each item so far.
    """

    def __init__(
        self,
        distiller: Distiller,
        latents: Float[Tensor, "b c h w"],
        style: References,
        content: References | None,
        show: Show = clean,
    ) -> None:
        self._distiller, self._style, self._content = distiller, style, content
        self._show = show
        self._state = distiller.init(latents)
        self._ended = self._state.latents
        self._rows: list[int] = list(range(len(latents)))
        self._places: Tensor | slice = slice(None)
        self.num_steps = [0] * len(latents)

    @property
    def latents(self) -> Float[Tensor, "b c h w"]:
        """Where every item of the batch is now, or ended."""
        everywhere = self._ended.clone()
        everywhere[self._places] = self._state.latents
        return everywhere

    def visit(
        self,
        step: int,
        rates: Float[Tensor, "m 3"],
        timestep: Timestep,
        losses: Float[Tensor, "m 2 b"],
    ) -> None:
        """All optimisation steps of one timestep; `losses` are written for the items that move."""
        if not self._rows:
            return
        seen = self._show(
            step, timestep, self._rows, self._state.latents, self._style, self._content
        )
        self._state, losses[..., self._places] = self._distiller.showing(seen.show).visit(
            self._state, rates, timestep.tensor, seen.style, seen.content
        )
        for row in self._rows:
            self.num_steps[row] += len(rates)

    def stop_flat(self, losses: Float[Tensor, "timesteps m 2 b"]) -> None:
        """Leaves behind the items that have stopped falling; asks after every `patience` steps.

        Only then the device is waited for.

        Args:
            losses: of all visits so far.
        """
        settings = self._distiller.settings
        patience, num_steps = settings.early_stopping_patience, losses[..., 0, 0].numel()
        of_visit = settings.num_optimization_steps
        if patience is None or num_steps // patience == (num_steps - of_visit) // patience:
            return
        style, content = losses.flatten(0, 1)[-2 * patience :].unbind(1)
        histories = (style + settings.content_weight * content).T.tolist()
        self._keep(
            [
                place
                for place, row in enumerate(self._rows)
                if not has_stopped_falling(
                    histories[row], patience, settings.early_stopping_threshold
                )
            ]
        )

    def _keep(self, stay: Sequence[int]) -> None:
        """Goes on with the items at these places."""
        if len(stay) == len(self._rows):
            return
        self._ended = self.latents
        self._rows = [self._rows[place] for place in stay]
        device = self._ended.device
        self._places = torch.tensor(self._rows, dtype=torch.long, device=device)
        kept = torch.tensor(stay, dtype=torch.long, device=device)
        self._state = AdamState(*(one[kept] for one in self._state))
        self._distiller = self._distiller.of_items(stay)
        self._style = self._style.of_items(stay)
        self._content = self._content and self._content.of_items(stay)
