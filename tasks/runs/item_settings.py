"""How do settings get into a row of the plan, and out of it?

One way: the overrides of a job become `Settings` when the job is resolved, `params_of` writes them
into the item's row, and `settings_of` makes `Settings` of the row where the item is rendered. What
comes out equals what went in.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from ad_lib.presets import find_preset
from ad_lib.settings import Settings
from manifests.identity import canonical_json, hashed_settings
from manifests.items import Item


def params_of(settings: Settings, width: int, height: int) -> str:
    """Canonical JSON of all settings and the size: the `params` of an item."""
    return _params(asdict(settings), width, height)


def hashed_params_of(settings: Settings, width: int, height: int) -> str:
    """The part of `params_of` that ids cover."""
    return _params(settings_in_ids(settings), width, height)


def settings_in_ids(settings: Settings) -> dict[str, Any]:
    """The settings that ids and fingerprint cover; see `manifests.identity.hashed_settings`."""
    return hashed_settings(asdict(settings), asdict(Settings()))


def settings_of(item: Item) -> Settings:
    """The settings that an item was planned with."""
    return settings_in(item.params)


@lru_cache(maxsize=256)
def settings_in(params: str) -> Settings:
    """The settings that `params_of` wrote; one that it did not know yet is at its default.

    Raises:
        RequestError, TypeError, LookupError: an unknown setting, or a wrong value.
    """
    return Settings(**json.loads(params)["settings"])


def check_settings(task: str, params: str) -> None:
    """Refuses the settings of a planned item that no version of ours could have written.

    Raises:
        RequestError, TypeError, LookupError: an unknown task or setting, or a wrong value.
    """
    find_preset(task).check(settings_in(params))


def _params(settings: dict[str, Any], width: int, height: int) -> str:
    return canonical_json({"settings": settings, "width": width, "height": height})
