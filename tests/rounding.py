"""How far two correct computations may lie apart: a bound that is measured on this machine.

The same code on the same memory gives the same bits. Other code does not: another processor,
library, number of threads or size of a batch rounds differently, by some 1e-7. Networks make a few
1e-6 of it, and L1 may make more: it takes the sign of every difference, also of one that is smaller
than its own rounding error. So the bound is what a disturbance of the inputs by 1e-6 does here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

FLOOR = 1e-5
"""The tightest tolerance: what float32 keeps over a few network passes."""

DISTURBANCE = 1e-6
"""Standard deviation of the noise that is added to inputs in order to learn what rounding does."""

NUM_PROBES = 24
"""Disturbed computations, at most, that measure the sensitivity of one computation here."""

MARGIN = 10
"""Tolerances are so many times the deviation that a disturbance causes."""

Disturb = Callable[[Tensor], Tensor]
"""What is done to the tensors that a computation starts from."""


@dataclass(frozen=True)
class Figure:
    """One number that was compared."""

    name: str
    error: float
    tolerance: float = FLOOR
    where: str = ""

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance  # False for NaN

    def __str__(self) -> str:
        relation = "<=" if self.ok else f"({self.where}) >" if self.where else ">"
        return f"{self.name} {self.error:.1e} {relation} {self.tolerance:.1e}"


def worst(ours: Tensor, theirs: Tensor) -> float:
    """The largest deviation."""
    if ours.shape != theirs.shape:
        raise ValueError(f"shapes differ: {tuple(ours.shape)} and {tuple(theirs.shape)}")
    return float((ours - theirs).abs().max())


def relative(ours: Tensor, theirs: Tensor) -> float:
    """The largest deviation over the largest recorded magnitude."""
    return worst(ours, theirs) / float(theirs.abs().max())


def median(ours: Tensor, theirs: Tensor) -> float:
    """The median deviation: a few elements whose sign rounding decides do not move it."""
    return float((ours - theirs).abs().median())


def mean_relative(ours: Tensor, theirs: Tensor) -> float:
    """The mean deviation over the mean recorded magnitude."""
    return float((ours - theirs).abs().mean() / theirs.abs().mean())


def element_wise(ours: Tensor, theirs: Tensor) -> float:
    """The largest deviation of an element, relative to that element; 0 of no elements."""
    return float(((ours - theirs) / theirs).abs().amax()) if theirs.numel() else 0.0


def undisturbed(tensor: Tensor) -> Tensor:
    """The tensor as it was recorded."""
    return tensor


def disturbed(seed: int, amount: float = DISTURBANCE) -> Disturb:
    """Adds Gaussian noise of this standard deviation, as the recording did to its latents."""
    generator = torch.Generator().manual_seed(seed)

    def disturb(tensor: Tensor) -> Tensor:
        return tensor + amount * torch.randn(tensor.shape, generator=generator)

    return disturb


@dataclass(frozen=True)
class Wanted:
    """A recorded tensor, and how a computed one is held to it.

    Attributes:
        recorded: the reference's tensor.
        tolerance: for the deviation; it grows where a disturbance shows that it must.
        deviation: of (computed, recorded), a number.
        name: of the figure, if it is not the key; of equal names the worst is shown.
        where: told when the figure is above its tolerance.
    """

    recorded: Tensor
    tolerance: float = FLOOR
    deviation: Callable[[Tensor, Tensor], float] = relative
    name: str = ""
    where: str = ""


def compare(
    compute: Callable[[Disturb], Mapping[str, Tensor]],
    wanted: Mapping[str, Wanted],
    *,
    amount: float = DISTURBANCE,
) -> tuple[Figure, ...]:
    """A figure for every computed tensor that was recorded too.

    If a figure is above its tolerance, the computation is repeated with disturbed inputs, and the
    tolerance becomes `MARGIN` times what the disturbance does to that figure on this machine. Other
    processors and libraries round differently, and L1 makes much of it: it takes the sign of every
    difference, also of one that is smaller than its own rounding error.

    Args:
        compute: tensors by name; it applies its argument to every tensor that it starts from.
        wanted: the recorded tensors by the same names.
        amount: of the disturbance.
    """
    ours = compute(undisturbed)
    wanted = {name: wish for name, wish in wanted.items() if name in ours}
    errors = {name: wish.deviation(ours[name], wish.recorded) for name, wish in wanted.items()}
    limits = {name: wish.tolerance for name, wish in wanted.items()}
    for seed in range(NUM_PROBES):
        if all(error <= limits[name] for name, error in errors.items()):
            break
        others = compute(disturbed(seed, amount))
        for name, wish in wanted.items():
            limits[name] = max(limits[name], MARGIN * wish.deviation(others[name], ours[name]))
    return tuple(
        Figure(wish.name or name, errors[name], limits[name], wish.where)
        for name, wish in wanted.items()
    )


def assert_equal_up_to_rounding(
    compute: Callable[[Disturb], Mapping[str, Tensor]], wanted: Mapping[str, Wanted | Tensor]
) -> None:
    """Fails where a computed tensor is farther from the wanted one than rounding explains.

    Args:
        compute: as in `compare`; every wanted tensor must be among what it gives.
        wanted: a tensor alone is held to `FLOOR`, relative to its largest element.
    """
    wishes = {
        name: wish if isinstance(wish, Wanted) else Wanted(wish) for name, wish in wanted.items()
    }
    figures = compare(compute, wishes)
    assert len(figures) == len(wishes), "something that is wanted was not computed"
    assert all(figure.ok for figure in figures), " | ".join(map(str, figures))


def assert_equal_but_for_a_few_signs(ours: Tensor, theirs: Tensor, *, learning_rate: float) -> None:
    """Latents after the first Adam step: nearly all agree, none differs by more than two steps.

    The step moves an element by the learning rate, in the direction that the sign of its gradient
    gives. If the gradient is as small as its rounding error, rounding decides the sign.
    """
    deviations = (ours - theirs).abs()
    assert float(deviations.median()) <= FLOOR
    assert float((deviations > FLOOR).float().mean()) <= 0.02
    assert float(deviations.max()) <= 2.01 * learning_rate
