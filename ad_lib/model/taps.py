"""How are the features of attention layers recorded, and how are others put in their place?

Features are query, key, value and output. Invariant: the network is left as it was found. Nothing
behind the last wanted layer is run for features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from types import MappingProxyType
from typing import Any, Self

from jaxtyping import Float
from torch import Tensor

from ad_lib.algorithm.features import AttentionFeatures

Inject = Callable[[AttentionFeatures], AttentionFeatures]
"""From a layer's own query, key and value to those that it attends with."""


class FeatureExtractor:
    """A frozen network as a function from latents to the features of some attention layers.

    Within `with extractor:` the taps stay in the network, whose output does not change by them.
    Outside of it each call puts them in and takes them out again.

    Args:
        run: runs the network on latents at a timestep; gradients flow back to the latents.
        layers: some of its attention modules, in execution order.
        tap: an attention processor for all of them.
        others: attention processors for further modules.
    """

    def __init__(
        self,
        run: Callable[[Tensor, Tensor], object],
        layers: Sequence[Any],
        tap: Tap,
        others: Mapping[Any, Any] = MappingProxyType({}),
    ) -> None:
        self._run = run
        self._layers = layers
        self._tap = tap
        self._processors = {**dict.fromkeys(layers, tap), **others}
        self._found: list[Any] = []

    def __enter__(self) -> Self:
        self._found = [layer.processor for layer in self._processors]
        for layer, processor in self._processors.items():
            layer.processor = processor
        return self

    def __exit__(self, *_: object) -> None:
        for layer, processor in zip(self._processors, self._found, strict=True):
            layer.processor = processor
        self._found = []

    def __call__(
        self, latents: Float[Tensor, "b c h w"], timestep: Tensor, *, projections_only: bool = False
    ) -> list[AttentionFeatures]:
        """The features of the latents in each layer.

        Args:
            latents: any number of them.
            timestep: one for all.
            projections_only: skip the attention of the last layer, whose output is not needed.
        """
        if self._found:
            return self._seen(latents, timestep, projections_only)
        with self:
            return self._seen(latents, timestep, projections_only)

    @contextmanager
    def injecting(self, inject: Sequence[Inject]) -> Iterator[None]:
        """Within it each layer attends with what its function makes of its query, key and value.

        Args:
            inject: one for each of the layers, in execution order.
        """
        with self if not self._found else nullcontext():
            self._tap.inject = dict(zip(self._layers, inject, strict=True))
            try:
                yield
            finally:
                self._tap.inject = None

    def _seen(
        self, latents: Tensor, timestep: Tensor, projections_only: bool
    ) -> list[AttentionFeatures]:
        seen: list[AttentionFeatures] = []
        self._tap.begin(latents)
        self._tap.sink, self._tap.projections_only = seen, projections_only
        try:
            with suppress(_LastLayerReached):
                self._run(latents, timestep)
        finally:
            self._tap.sink = None
        assert len(seen) == len(self._layers), "the network never ran all of its tapped layers"
        return seen


class _LastLayerReached(Exception):
    """Ends the network's pass once every wanted layer has been recorded."""


class Tap(ABC):
    """An attention processor, one for all layers, that records their features.

    Args:
        last: the last of the layers.
        ends_early: stop the network's pass behind it, by an exception.

    Attributes:
        sink: where it writes; without one it only attends, as the layer's own processor does.
        projections_only: of the last layer only query, key and value are wanted.
        inject: for each layer, what it attends with instead of its own; None is its own.
    """

    inject: Mapping[Any, Inject] | None

    def __init__(self, last: Any, *, ends_early: bool = True) -> None:
        self.sink: list[AttentionFeatures] | None = None
        self.projections_only = False
        self.inject = None
        self._last = last
        self._ends_early = ends_early

    def begin(self, latents: Tensor) -> None:  # noqa: B027 - most taps need not know
        """Told the latents of each pass before it is run."""

    @abstractmethod
    def __call__(self, attn: Any, hidden_states: Tensor, *arguments: Any, **named: Any) -> Any:
        """What the layer's own processor gives."""

    def is_unread(self, attn: Any) -> bool:
        """Whether the output of this layer's attention is not needed."""
        return self.projections_only and attn is self._last

    def write(self, attn: Any, features: AttentionFeatures) -> None:
        """Records the features of a layer; after the last one the pass may end here."""
        assert self.sink is not None, "nobody asked for features"
        self.sink.append(features)
        if self._ends_early and attn is self._last:
            raise _LastLayerReached
