"""The warm backbone of this process: loaded once, kept for the next shard.

This is a plain imported module because a global in a module of tasks is reset by task runners.
"""

from __future__ import annotations

import threading
import time

import torch

from ad_lib.backbone import Backbone
from ad_lib.loading import load_backbone
from ad_lib.weights import find_weights
from manifests.errors import RunFolderError

_lock = threading.Lock()
_warm: dict[tuple[str, str, str, str], Backbone] = {}


def warm_backbone(name: str, *, revision: str, dtype: str, device: str) -> tuple[Backbone, float]:
    """The backbone of a run, and the seconds that loading it took just now.

    Args:
        name: `embedded`, a hub id, or a folder.
        revision: the revision that the run was planned with.
        dtype: `auto` or a torch dtype's name.
        device: `auto` or a torch device.

    Raises:
        RunFolderError: the weights are not those that the run was planned with.
    """
    key = (name, revision, dtype, device)
    with _lock:
        if key in _warm:
            return _warm[key], 0.0
        started = time.perf_counter()
        commit = None if revision.startswith("sha256:") else revision
        found = find_weights(name, commit)
        if found.revision != revision:
            raise RunFolderError(
                f"the run was planned with backbone {name!r} at {revision}, but here it is at "
                f"{found.revision}: install the planned weights, or start a new run folder"
            )
        backbone = load_backbone(
            name,
            revision=commit,
            dtype=None if dtype == "auto" else getattr(torch, dtype),
            device=None if device == "auto" else device,
        )
        _warm.clear()  # one model at a time: a worker's memory holds the current run's
        _warm[key] = backbone
        return backbone, time.perf_counter() - started
