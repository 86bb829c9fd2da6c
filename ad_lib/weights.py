"""Where a backbone's weights are, and exactly which weights they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ad_lib.errors import BackboneError

EMBEDDED = "embedded"
EMBEDDED_FOLDER = Path(__file__).parent / "embedded"
HUB_IDS = {
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
}
SINGLE_FILE = ".safetensors"

_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_SDXL_PARTS = (*_PARTS, "text_encoder_2", "tokenizer_2")
_FAMILY_NAMES = {"sd15": "Stable Diffusion 1.5", "sdxl": "SDXL"}
_TEXT_ENCODER_KEYS = {
    "sd15": "cond_stage_model.transformer.",
    "sdxl": "conditioner.embedders.0.transformer.",
}
_PICKLED = (".ckpt", ".pt", ".pth", ".bin")
_NOT_NEEDED: dict[str, Any] = dict.fromkeys(
    ("safety_checker", "feature_extractor", "image_encoder")
)


@dataclass(frozen=True)
class Weights:
    """Weights on this machine.

    Attributes:
        model_id: what the user asked for: `embedded`, a hub id, a folder, or a file.
        revision: the hub's commit, or `sha256:` and a digest of the files.
        path: the diffusers folder, or the single file; random weights have none, and an empty path.
        config: of a single file, the diffusers folder with its configuration and tokenizers.
    """

    model_id: str
    revision: str
    path: Path
    config: Path | None = None

    @property
    def config_folder(self) -> Path:
        """The folder with the configuration and the tokenizers."""
        return self.config or self.path


def find_weights(name: str, revision: str | None = None, config: str | None = None) -> Weights:
    """Resolves `embedded`, `sd15`, a hub id, a diffusers folder or one `.safetensors` file.

    Args:
        name: what to load; a hub id is downloaded if needed.
        revision: the commit, tag or branch of a hub id.
        config: for a single file, the hub id or diffusers folder of its family.

    Raises:
        BackboneError: nothing of that name, or not a backbone; the message says what to give.
    """
    path = EMBEDDED_FOLDER if name == EMBEDDED else Path(name).expanduser()
    if not path.is_dir() and path.suffix in (SINGLE_FILE, *_PICKLED):
        return _single_file(name, path, revision, config)
    if config is not None:
        raise BackboneError(f"config is for one {SINGLE_FILE} file; drop config={config!r}")
    if path.is_dir():
        check_no_revision(name, revision)
        _check_folder(name, path)
        return Weights(name, digest(_files(path)), path)
    if name in HUB_IDS or is_hub_id(name):
        return _download(HUB_IDS.get(name, name), revision)
    raise BackboneError(
        f"no backbone {name!r}: give {EMBEDDED!r}, {', '.join(map(repr, HUB_IDS))}, "
        f"a hub id such as 'owner/name', a diffusers folder, or a {SINGLE_FILE} file"
    )


def parts_of(folder: Path) -> tuple[str, ...]:
    """The parts that the U-Net's configuration asks for."""
    return _SDXL_PARTS if _family_of_folder(folder) == "sdxl" else _PARTS


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a hub id: 'owner/name'."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def check_no_revision(name: str, revision: str | None) -> None:
    """Refuses the revision of what has none.

    Raises:
        BackboneError: a revision is given.
    """
    if revision is not None:
        raise BackboneError(f"revision {revision!r} means a hub id, but {name!r} is a local path")


@contextmanager
def fetched(hub_id: str, kind: str = "backbone") -> Iterator[None]:
    """Turns what goes wrong with the hub into one sentence.

    Raises:
        BackboneError: the download failed.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise BackboneError(
            f"{kind} {hub_id!r} could not be fetched ({first_line}): check the id and the "
            "network, or give a local diffusers folder"
        ) from None


def digest(files: Mapping[str, Path]) -> str:
    """`sha256:` and a digest of files by their names."""
    total = hashlib.sha256()
    for name, path in sorted(files.items()):
        content = _content(path.resolve(), path.stat().st_mtime_ns)
        total.update(f"{name} {content}\n".encode())
    return f"sha256:{total.hexdigest()[:40]}"


@cache
def _content(path: Path, changed_at: int) -> str:
    """The digest of a file; asked for again only when the file changed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> dict[str, Path]:
    """Every file that pictures depend on, by its name in the folder."""
    inside = [path for part in parts_of(folder) for path in (folder / part).rglob("*")]
    files = [path for path in (folder / "model_index.json", *inside) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path for path in files}


def _family_of_folder(folder: Path) -> str:
    config = folder / "unet" / "config.json"
    needs_pooled_text = config.is_file() and b'"text_time"' in config.read_bytes()
    return "sdxl" if needs_pooled_text else "sd15"


def _check_folder(name: str, folder: Path) -> None:
    _check_parts(name, folder)
    for part in parts_of(folder):
        is_network = part != "scheduler" and not part.startswith("tokenizer")
        if is_network and not any((folder / part).glob("*.safetensors")):
            raise BackboneError(
                f"{name!r} holds no safetensors for its {part}: pickled weights are refused; "
                "convert them with diffusers' save_pretrained"
            )


def _check_parts(name: str, folder: Path) -> None:
    """Every part has its folder, and every tokenizer its words; weights are another question."""
    parts = parts_of(folder)
    missing = [part for part in parts if not (folder / part).is_dir()]
    if missing:
        family = _FAMILY_NAMES[_family_of_folder(folder)]
        raise BackboneError(
            f"{name!r} is not a folder of {family} in diffusers layout: "
            f"it lacks {', '.join(missing)}"
        )
    for part in parts:
        if part.startswith("tokenizer"):
            _check_vocabulary(name, folder / part)


def _check_vocabulary(name: str, tokenizer: Path) -> None:
    vocabularies = ("tokenizer.json", "vocab.json")
    if not any((tokenizer / file).is_file() for file in vocabularies):
        raise BackboneError(
            f"the {tokenizer.name} of {name!r} has no vocabulary: "
            f"it lacks {' and '.join(vocabularies)}"
        )


def _download(hub_id: str, revision: str | None) -> Weights:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    with fetched(hub_id):
        folder = DiffusionPipeline.download(
            hub_id, revision=revision, use_safetensors=True, **_NOT_NEEDED
        )
    path = Path(folder)
    _check_folder(hub_id, path)
    return Weights(hub_id, path.name, path)  # a snapshot's name is its commit


def _single_file(name: str, file: Path, revision: str | None, config: str | None) -> Weights:
    if file.suffix in _PICKLED:
        raise BackboneError(
            f"{name!r} is a pickled checkpoint, which can run code when it is opened: get it as "
            f"{SINGLE_FILE}, or convert it where you trust it with diffusers' save_pretrained"
        )
    if not file.is_file():
        raise BackboneError(f"no file {name!r}: give a {SINGLE_FILE} file that is there")
    check_no_revision(name, revision)
    family = _family_of_file(name, file)
    folder = _find_config(config or family)
    if _family_of_folder(folder) != family:
        raise BackboneError(
            f"{name!r} is a checkpoint of {_FAMILY_NAMES[family]}, but config {config!r} is of "
            f"{_FAMILY_NAMES[_family_of_folder(folder)]}: give a config of its family"
        )
    # The configuration and the words decide on pictures as the weights do.
    files = {n: path for n, path in _files(folder).items() if n.endswith((".json", ".txt"))}
    files = {n: path for n, path in files.items() if not n.endswith(".index.json")}
    return Weights(name, digest(files | {"": file}), file, folder)


def _family_of_file(name: str, file: Path) -> str:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            keys = list(opened.keys())
    except (OSError, SafetensorError) as error:
        raise BackboneError(
            f"{name!r} is not a sound {SINGLE_FILE} file ({error}): fetch it again"
        ) from None
    for family, prefix in _TEXT_ENCODER_KEYS.items():
        if any(key.startswith(prefix) for key in keys):
            return family
    raise BackboneError(
        f"{name!r} is not a whole checkpoint of Stable Diffusion 1.5 or SDXL: it has no "
        f"{' and no '.join(map(repr, _TEXT_ENCODER_KEYS.values()))}; give such a file, or a "
        "diffusers folder"
    )


def _find_config(config: str) -> Path:
    """A folder with a family's configuration and tokenizers, of this machine or of the hub."""
    folder = Path(config).expanduser()
    if not folder.is_dir():
        folder = _download_config(HUB_IDS.get(config, config))
    _check_parts(config, folder)
    return folder


def _download_config(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download

    with fetched(hub_id, "config"):
        return Path(snapshot_download(hub_id, allow_patterns=["*.json", "*.txt"]))
