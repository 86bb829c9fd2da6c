"""Which weights a job names: those of the backbone and of its ControlNet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ad_lib.model.families.family import Family
from ad_lib.model.model_folder import NETWORK_FILES, family_of, parts_of
from ad_lib.model.weight_files import weight_files
from ad_lib.model.weights import EMBEDDED, Weights, find_controlnet, find_weights

LARGE_BYTES = 256 << 20
"""Weights of so many bytes and more are rendered with on CUDA unless the job says otherwise."""


@dataclass(frozen=True)
class FoundModel:
    """The weights of a run.

    Attributes:
        backbone: the diffusion model.
        controlnet: the network that the control image goes into, if there is one.
    """

    backbone: Weights
    controlnet: Weights | None = None

    @property
    def family(self) -> Family:
        """What kind of model the backbone is."""
        return family_of(self.backbone.config_folder)

    @property
    def config(self) -> str | None:
        """Of a single file, what finds its configuration again: a folder, or a hub id's commit."""
        return self.backbone.config_id

    @property
    def revision(self) -> str:
        """The backbone's revision, followed by `+` and the ControlNet's if there is one."""
        parts = (self.backbone, self.controlnet)
        return "+".join(part.revision for part in parts if part is not None)

    @property
    def is_large(self) -> bool:
        """Whether a CPU is no place for it: other weights than the embedded, 256 MiB in all."""
        if self.backbone.model_id == EMBEDDED:
            return False
        networks = _network_files(self.backbone)
        if self.controlnet is not None:
            networks += weight_files(self.controlnet.path, NETWORK_FILES["ControlNet"])
        return sum(file.stat().st_size for file in networks) >= LARGE_BYTES


def find_model(
    name: str,
    revision: str | None = None,
    *,
    config: str | None = None,
    controlnet: str | None = None,
    controlnet_revision: str | None = None,
) -> FoundModel:
    """Looks up the weights by their names; hub ids are downloaded if needed.

    Args:
        name: of the backbone.
        revision: commit, tag or branch of its hub id.
        config: of a single file, the hub id (with a commit, tag or branch after an `@`, if wanted)
            or folder with its configuration.
        controlnet: a hub id or a folder.
        controlnet_revision: commit, tag or branch of its hub id.

    Raises:
        BackboneError: nothing of that name, or files that are not sound.
    """
    return FoundModel(
        backbone=find_weights(name, revision, config),
        controlnet=find_controlnet(controlnet, controlnet_revision) if controlnet else None,
    )


def pinned(wanted: str | None, named: object, commit: str) -> str | None:
    """The revision of a hub id to look up, where a run folder has recorded a commit of it.

    Args:
        wanted: the revision that a job names, if it does.
        named: what the job of the run named.
        commit: what was found for it then; a digest where it was no hub id.
    """
    is_commit = commit and not commit.startswith("sha256:")
    return commit if is_commit and wanted in (None, named) else wanted


def check_model(model: FoundModel) -> None:
    """Checks that the weights of a run fit their networks, without reading the weights.

    Raises:
        BackboneError: weights that do not fit their configuration, or networks that do not fit
            each other.
    """
    from ad_lib.model.loading import check_backbone  # loads torch and diffusers

    check_backbone(model.backbone, model.controlnet)


def _network_files(weights: Weights) -> list[Path]:
    """The files that the networks of a backbone are read from, and no others beside them."""
    if weights.config is not None:  # a single file
        return [weights.path]
    parts = [part for part in parts_of(weights.path) if part in NETWORK_FILES]
    return [
        file for part in parts for file in weight_files(weights.path / part, NETWORK_FILES[part])
    ]
