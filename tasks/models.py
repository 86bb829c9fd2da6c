"""The backbone of this process: loaded once, and kept for the next shard.

This is an imported module without Prefect tasks, because task runners reset the globals of a module
that has some.
"""

from __future__ import annotations

import threading
import time

import torch

from ad_lib.backbone import Backbone
from ad_lib.loading import load_backbone
from manifests.errors import RunFolderError
from tasks.weights import find_model

_lock = threading.Lock()
_warm: dict[tuple[str | None, ...], Backbone] = {}


def warm_backbone(
    name: str,
    *,
    revision: str,
    dtype: str,
    device: str,
    config: str | None = None,
    controlnet: str | None = None,
) -> tuple[Backbone, float]:
    """The backbone of a run, and the seconds that loading it took just now.

    Args:
        name: `embedded`, a hub id, a folder, or a `.safetensors` file.
        revision: the revision that the run was planned with, its ControlNet's included.
        dtype: `auto` or a torch dtype's name.
        device: `auto` or a torch device.
        config: of a single file, where its configuration is.
        controlnet: a hub id or a folder.

    Raises:
        RunFolderError: the weights are not those that the run was planned with.
        BackboneError: weights that cannot be loaded, or a device that is not there.
    """
    key = (name, revision, dtype, device, config, controlnet)
    with _lock:
        if key in _warm:
            return _warm[key], 0.0
        started = time.perf_counter()
        commit, _, control_commit = revision.partition("+")
        pinned = {"revision": _hub_commit(commit), "config": config, "controlnet": controlnet}
        pinned["controlnet_revision"] = _hub_commit(control_commit)
        found = find_model(name, **pinned)
        if found.revision != revision:
            raise RunFolderError(
                f"the run was planned with backbone {name!r} at {revision}, but here it is at "
                f"{found.revision}: install the planned weights, or start a new run folder"
            )
        _warm.clear()  # before the next one is loaded: two may not fit into memory
        backbone = load_backbone(
            name,
            **pinned,
            dtype=None if dtype == "auto" else getattr(torch, dtype),
            device=None if device == "auto" else device,
        )
        _warm[key] = backbone
        return backbone, time.perf_counter() - started


def _hub_commit(revision: str) -> str | None:
    """The commit to fetch; what lies in a folder has a digest instead, and is not fetched."""
    return None if not revision or revision.startswith("sha256:") else revision
