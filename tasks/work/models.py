"""The warm model of one device: loaded once, and kept from shard to shard.

It is the planned one: weights are held to the revision that the run was planned with. While it is
kept, this process computes with the kernels that the run was planned with.
"""

from __future__ import annotations

import gc
import time
from contextlib import ExitStack

import torch

from ad_lib.encoded import EncodedPictures
from ad_lib.model.backbone import Backbone
from ad_lib.model.kernels import using_kernels
from ad_lib.model.loading import load_backbone
from manifests.errors import RunFolderError
from tasks.inputs.weights import find_model
from tasks.work.shard_work import PlannedModel


class ModelCache:
    """The model of one device, and whether that device has rendered since it was fresh.

    Attributes:
        encoded: pictures that it has encoded, from shard to shard; they go with it.
        is_fresh: nothing was rendered to its end since the model was loaded.
    """

    def __init__(self) -> None:
        self._loaded: tuple[PlannedModel, str] | None = None
        self._backbone: Backbone | None = None
        self._kernels = ExitStack()
        self.encoded = EncodedPictures()
        self.is_fresh = True

    def holds(self, model: PlannedModel, device: str) -> bool:
        """Whether this model is on this device already."""
        return self._loaded == (model, device)

    def backbone(self, model: PlannedModel, device: str) -> tuple[Backbone, float]:
        """The model on a device, and the seconds that loading it took just now.

        Raises:
            RunFolderError: the weights are not those that the run was planned with.
            BackboneError: weights that cannot be loaded, or a device that is not there.
        """
        if self._backbone is not None and self.holds(model, device):
            return self._backbone, 0.0
        started = time.perf_counter()
        self.clear()  # before the next one is loaded: two may not fit into memory
        self._backbone = _load(model, device)
        self._kernels.enter_context(
            using_kernels(self._backbone.device.type, deterministic=model.deterministic)
        )
        self._loaded = (model, device)
        return self._backbone, time.perf_counter() - started

    def clear(self) -> None:
        """Forgets the model and its kernels, and gives its memory back."""
        self._kernels.close()
        self._loaded = self._backbone = None
        self.encoded.clear()
        self.is_fresh = True
        free_memory()


def free_memory() -> None:
    """Gives back what was allocated and is not used any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _load(model: PlannedModel, device: str) -> Backbone:
    commit, _, control_commit = model.revision.partition("+")
    pinned = {
        "revision": _hub_commit(commit),
        "config": model.config,
        "controlnet": model.controlnet,
        "controlnet_revision": _hub_commit(control_commit),
    }
    found = find_model(model.model_id, **pinned)
    if found.revision != model.revision:
        raise RunFolderError(
            f"the run was planned with backbone {model.model_id!r} at {model.revision}, but here "
            f"it is at {found.revision}: install the planned weights, or start a new run folder"
        )
    return load_backbone(
        model.model_id,
        **pinned,
        dtype=None if model.dtype == "auto" else getattr(torch, model.dtype),
        device=None if device == "auto" else device,
        is_checked=True,  # when they were planned with
    )


def _hub_commit(revision: str) -> str | None:
    """The commit to fetch; what lies in a folder has a digest instead, and is not fetched."""
    return None if not revision or revision.startswith("sha256:") else revision
