"""The optimisation step, whose functions of tensors are compiled whole.

Invariant: what a compiled function reads besides tensors is the same in every batch of one shape;
so no value of a setting, of a timestep or of a batch is compiled into it without need.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from ad_lib.algorithm.features import References
from ad_lib.algorithm.stacked_references import StackedReferences
from ad_lib.algorithm.step import AdamState, Distiller, ReferenceFeatures


class Compile(Protocol):
    """Makes a function one that is compiled when it is called."""

    def __call__(self, function: Callable[..., Any], /) -> Callable[..., Any]: ...


@dataclass(frozen=True, kw_only=True)
class CompiledDistiller(Distiller):
    """A `Distiller` whose visit of a timestep is one graph: references, losses, gradient and Adam.

    A visit of several optimisation steps is two graphs, the references and one step, so that the
    time that compiling takes does not grow with their number.

    Attributes:
        compile: how functions are compiled.
    """

    compile: Compile
    _on_device: dict[object, Tensor] = field(default_factory=dict, init=False)

    def visit(
        self,
        state: AdamState,
        rates: Float[Tensor, "m 3"],
        timestep: Tensor,
        style: References | StackedReferences,
        content: References | StackedReferences | None = None,
    ) -> tuple[AdamState, Float[Tensor, "m 2 b"]]:
        """As of `Distiller`."""
        if len(rates) != 1:
            return super().visit(state, rates, timestep, style, content)
        stacked = (self._stacked(style), self._stacked(content))
        return self._visit(self._plain, state, rates, timestep, *stacked)

    def references(
        self,
        timestep: Tensor,
        style: References | StackedReferences,
        content: References | StackedReferences | None = None,
    ) -> ReferenceFeatures:
        """As of `Distiller`."""
        stacked = (self._stacked(style), self._stacked(content))
        return self._references(self._plain, timestep, *stacked)

    def descend(
        self,
        state: AdamState,
        rates: Float[Tensor, "m 3"],
        timestep: Tensor,
        references: ReferenceFeatures,
    ) -> tuple[AdamState, Float[Tensor, "m 2 b"]]:
        """As of `Distiller`."""
        losses = rates.new_empty(len(rates), 2, len(state.latents))
        for step, rate in enumerate(rates.split(1)):
            state, losses[step : step + 1] = self._descend(
                self._plain, state, rate, timestep, references
            )
        return state, losses

    @cached_property
    def _plain(self) -> Distiller:
        return Distiller(*(getattr(self, one.name) for one in fields(Distiller)))

    @cached_property
    def _visit(self) -> Callable[..., tuple[AdamState, Tensor]]:
        return self.compile(Distiller.visit)

    @cached_property
    def _references(self) -> Callable[..., ReferenceFeatures]:
        return self.compile(Distiller.references)

    @cached_property
    def _descend(self) -> Callable[..., tuple[AdamState, Tensor]]:
        return self.compile(Distiller.descend)

    def _stacked(
        self, references: References | StackedReferences | None
    ) -> References | StackedReferences | None:
        """References as tensors alone, if they have one size."""
        if not isinstance(references, References) or not references.have_one_size:
            return references
        latents = torch.stack(list(references.latents))
        index = self._tensor(tuple(map(tuple, references.index)), latents.device, torch.long)
        weights = None
        if references.weights is not None:
            weights = self._tensor(tuple(references.weights), latents.device, latents.dtype)
        return StackedReferences(latents, index, weights)

    def _tensor(self, values: Sequence[Any], device: torch.device, dtype: torch.dtype) -> Tensor:
        """Goes to the device once, not once a step."""
        if values not in self._on_device:
            self._on_device[values] = torch.tensor(values, dtype=dtype, device=device)
        return self._on_device[values]
