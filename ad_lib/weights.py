"""Where a backbone's weights are, and exactly which weights they are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ad_lib.errors import BackboneError

EMBEDDED = "embedded"
HUB_IDS = {"sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5"}

_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


@dataclass(frozen=True)
class Weights:
    """A diffusers folder on this machine.

    Attributes:
        model_id: what the user asked for: `embedded`, a hub id, or the folder.
        revision: the hub's commit, or `sha256:` and a digest of the folder's files.
        path: the folder.
    """

    model_id: str
    revision: str
    path: Path


def find_weights(name: str, revision: str | None = None) -> Weights:
    """Resolves `embedded`, `sd15`, a hub id or a diffusers folder; downloads a hub id if needed.

    Args:
        name: what to load.
        revision: the commit or tag of a hub id.

    Raises:
        BackboneError: nothing of that name, or a folder that is not a diffusers folder.
    """
    folder = Path(__file__).parent / "embedded" if name == EMBEDDED else Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise BackboneError(f"revision {revision!r} means a hub id, but {name!r} is a folder")
        _check_folder(name, folder)
        return Weights(name, _digest(folder.resolve()), folder)
    if name in HUB_IDS or (name.count("/") == 1 and not name.startswith((".", "/", "~"))):
        return _download(HUB_IDS.get(name, name), revision)
    raise BackboneError(
        f"no backbone {name!r}: give {EMBEDDED!r}, {', '.join(map(repr, HUB_IDS))}, "
        "a hub id such as 'owner/name', or a diffusers folder"
    )


def _check_folder(name: str, folder: Path) -> None:
    missing = [part for part in _PARTS if not (folder / part).is_dir()]
    if missing:
        raise BackboneError(
            f"{name!r} is not a Stable Diffusion 1.5 folder in diffusers layout: "
            f"it lacks {', '.join(missing)}"
        )
    for part in ("unet", "vae", "text_encoder"):
        if not any((folder / part).glob("*.safetensors")):
            raise BackboneError(
                f"{name!r} holds no safetensors for its {part}: pickled weights are refused; "
                "convert them with diffusers' save_pretrained"
            )
    vocabularies = ("tokenizer.json", "vocab.json")
    if not any((folder / "tokenizer" / file).is_file() for file in vocabularies):
        raise BackboneError(
            f"the tokenizer of {name!r} has no vocabulary: it lacks {' and '.join(vocabularies)}"
        )


def _download(hub_id: str, revision: str | None) -> Weights:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
        StableDiffusionPipeline,
    )

    try:
        path = Path(
            StableDiffusionPipeline.download(hub_id, revision=revision, use_safetensors=True)
        )
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise BackboneError(
            f"backbone {hub_id!r} could not be fetched ({first_line}): check the id and the "
            "network, or give a local diffusers folder"
        ) from None
    _check_folder(hub_id, path)
    return Weights(hub_id, path.name, path)


@cache
def _digest(folder: Path) -> str:
    total = hashlib.sha256()
    files = (path for part in _PARTS for path in (folder / part).rglob("*") if path.is_file())
    for path in sorted(files):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return f"sha256:{total.hexdigest()[:40]}"
