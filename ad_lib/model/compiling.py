"""How are functions of tensors compiled, and what happens where that fails?

Invariant: a compiled function gives what the function itself gives, up to rounding, whether or not
it could be compiled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from ad_lib.model.compile_cache import CompileCache
from ad_lib.model.techniques import Techniques

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

SMALL_BATCH = 4 * 64 * 64
"""Cells of latents, four pictures of 512 pixels, up to which launching kernels is what takes time.

Larger batches gain nothing from CUDA graphs, which hold the memory of every shape.
"""
MAX_SHAPES = 64
"""Maximum graphs that one function is compiled to: of other sizes, batches, numbers."""


@dataclass(frozen=True)
class Compiled:
    """Compiles the functions of one render.

    Attributes:
        compiler: of the backbone.
        options: of inductor.
    """

    compiler: Compiler
    options: Mapping[str, Any]

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """The function, which is compiled when it is called with the first arguments of a shape."""
        return self.compiler.compiled(function, self.options)


class Compiler:
    """Compiles functions for one backbone; after a failure it runs them as they are written.

    Args:
        backend: of torch.compile.
        cache: where compiled kernels are kept for later processes.
    """

    def __init__(self, backend: Any = "inductor", cache: CompileCache | None = None) -> None:
        self._backend = backend
        self._cache = cache
        self.has_failed = False
        self._has_told_of_shapes = False

    def compiled(self, function: Callable[P, R], options: Mapping[str, Any]) -> Callable[P, R]:
        """A function that compiles itself, whole and for each shape, when it is called."""
        is_inductor = self._backend == "inductor"
        fast = torch.compile(
            function,
            backend=self._backend,
            fullgraph=True,
            dynamic=False,
            options=dict(options) if is_inductor else None,
        )
        captured = is_inductor and bool(options.get("triton.cudagraphs"))

        @wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            if self.has_failed:
                return function(*args, **kwargs)
            try:
                return self._run(fast, captured, *args, **kwargs)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                failure = error
            result = function(*args, **kwargs)  # an error of the function itself is raised here
            self._tell(failure)
            return result

        return run

    def _run(self, fast: Callable[P, R], captured: bool, *args: P.args, **kwargs: P.kwargs) -> R:
        from torch._dynamo import config  # loading it takes seconds

        if self._cache is not None:
            self._cache.load()
        with config.patch(trace_autograd_ops=True, recompile_limit=MAX_SHAPES):
            if captured:  # its outputs lie where the next replay writes
                torch.compiler.cudagraph_mark_step_begin()
                result = _cloned(fast(*args, **kwargs))
            else:
                result = fast(*args, **kwargs)
        if self._cache is not None:
            self._cache.save()
        return result

    def _tell(self, failure: Exception) -> None:
        from torch._dynamo.exc import FailOnRecompileLimitHit

        if isinstance(failure, FailOnRecompileLimitHit):
            if not self._has_told_of_shapes:
                logger.warning("more than %d shapes: further ones run uncompiled", MAX_SHAPES)
            self._has_told_of_shapes = True
            return
        self.has_failed = True
        reason = " ".join(str(failure).split("\n")[:2])  # a backend's own error is in line two
        logger.warning(
            "compiling failed, so this model runs uncompiled from here on (compile: off does so "
            "without a try): %s: %s",
            type(failure).__name__,
            reason,
        )


def inductor_options(techniques: Techniques, num_cells: int) -> dict[str, Any]:
    """What inductor is told.

    Args:
        techniques: with every choice made.
        num_cells: of the latents of a batch.
    """
    captured = techniques.cuda_graphs
    if captured is None:
        captured = techniques.compile == "reduce" or num_cells <= SMALL_BATCH
    tries = techniques.compile == "max"
    return {
        "triton.cudagraphs": captured,
        "max_autotune": tries,
        "coordinate_descent_tuning": tries,
        # No kernel is chosen by measuring then, which another day could choose another one.
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def _cloned(value: Any) -> Any:
    """The same structure with copies of its tensors."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_cloned, value))
    if isinstance(value, (tuple, list)):
        return type(value)(map(_cloned, value))
    if is_dataclass(value) and not isinstance(value, type):
        copies = {field.name: _cloned(getattr(value, field.name)) for field in fields(value)}
        return replace(value, **copies)
    return value
