"""Which weights does a job mean, exactly: the backbone's and its ControlNet's?"""

from __future__ import annotations

from dataclasses import dataclass

from ad_lib.weights import Weights, find_weights


@dataclass(frozen=True)
class FoundModel:
    """The weights of a run.

    Attributes:
        backbone: the diffusion model.
        controlnet: what sees the control image; None where there is none.
        config: where a single-file checkpoint has its configuration from, where a job says so.
    """

    backbone: Weights
    controlnet: Weights | None = None
    config: str | None = None

    @property
    def revision(self) -> str:
        """Exactly which weights: the backbone's revision, `+` and the ControlNet's if any."""
        found = [one.revision for one in (self.backbone, self.controlnet) if one is not None]
        return "+".join(found)


def find_model(
    name: str,
    revision: str | None = None,
    *,
    config: str | None = None,
    controlnet: str | None = None,
    controlnet_revision: str | None = None,
) -> FoundModel:
    """Looks up the weights by their names; hub ids are downloaded if needed.

    Raises:
        BackboneError: nothing of that name.
    """
    found_controlnet = None
    if controlnet:
        from ad_lib.controlnets import find_controlnet  # imports torch

        found_controlnet = find_controlnet(controlnet, controlnet_revision)
    return FoundModel(
        backbone=find_weights(name, revision, config),
        controlnet=found_controlnet,
        config=config,
    )
