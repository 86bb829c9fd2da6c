"""Where a backbone's weights are, and exactly which weights they are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ad_lib.errors import BackboneError

EMBEDDED = "embedded"
EMBEDDED_FOLDER = Path(__file__).parent / "embedded"
HUB_IDS = {
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
}

_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_SDXL_PARTS = (*_PARTS, "text_encoder_2", "tokenizer_2")


@dataclass(frozen=True)
class Weights:
    """A diffusers folder on this machine.

    Attributes:
        model_id: what the user asked for: `embedded`, a hub id, or the folder.
        revision: the hub's commit, or `sha256:` and a digest of the folder's files.
        path: the folder; random weights have none, and an empty path.
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
    folder = EMBEDDED_FOLDER if name == EMBEDDED else Path(name).expanduser()
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


def parts_of(folder: Path) -> tuple[str, ...]:
    """The parts that the U-Net's configuration asks for."""
    config = folder / "unet" / "config.json"
    needs_pooled_text = config.is_file() and b'"text_time"' in config.read_bytes()
    return _SDXL_PARTS if needs_pooled_text else _PARTS


def _check_folder(name: str, folder: Path) -> None:
    parts = parts_of(folder)
    missing = [part for part in parts if not (folder / part).is_dir()]
    if missing:
        family = "SDXL" if parts is _SDXL_PARTS else "Stable Diffusion 1.5"
        raise BackboneError(
            f"{name!r} is not a folder of {family} in diffusers layout: "
            f"it lacks {', '.join(missing)}"
        )
    for part in parts:
        if part.startswith("tokenizer"):
            _check_vocabulary(name, folder / part)
        elif part != "scheduler" and not any((folder / part).glob("*.safetensors")):
            raise BackboneError(
                f"{name!r} holds no safetensors for its {part}: pickled weights are refused; "
                "convert them with diffusers' save_pretrained"
            )


def _check_vocabulary(name: str, tokenizer: Path) -> None:
    vocabularies = ("tokenizer.json", "vocab.json")
    if not any((tokenizer / file).is_file() for file in vocabularies):
        raise BackboneError(
            f"the {tokenizer.name} of {name!r} has no vocabulary: "
            f"it lacks {' and '.join(vocabularies)}"
        )


def _download(hub_id: str, revision: str | None) -> Weights:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    try:
        path = Path(DiffusionPipeline.download(hub_id, revision=revision, use_safetensors=True))
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
    files = (path for part in parts_of(folder) for path in (folder / part).rglob("*"))
    for path in sorted(path for path in files if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return f"sha256:{total.hexdigest()[:40]}"
