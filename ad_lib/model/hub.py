"""Which names are hub ids, and where is a model of the hub on this machine?"""

from __future__ import annotations

import re
from pathlib import Path

from ad_lib.errors import BackboneError
from ad_lib.model.families import FAMILIES
from ad_lib.model.weight_files import first_line

HUB_IDS = {family.name: family.hub_id for family in FAMILIES.values()}
"""The hub id that a short name stands for."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]*\w", re.ASCII)
_MAX_HUB_ID = 96


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a hub id: 'owner/name'."""
    has_form = len(name) <= _MAX_HUB_ID and _HUB_ID.fullmatch(name) is not None
    return has_form and ".." not in name and "--" not in name


def snapshot(hub_id: str, kind: str, revision: str | None, patterns: list[str]) -> Path:
    """The folder of the hub's cache that holds these files of a commit, downloaded if needed."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns))
    except Exception as error:  # of the network, the hub or the cache on this machine
        raise BackboneError(
            f"{kind} {hub_id!r} could not be fetched ({first_line(error)}): check the id and the "
            "network, or give a local diffusers folder"
        ) from error
