"""Which weights does a name mean, and where are they on this machine?

A revision says exactly which: a commit of the hub, or a digest of the files. Importing this module
loads neither torch nor diffusers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ad_lib.errors import BackboneError
from ad_lib.model.families import FAMILIES
from ad_lib.model.families.family import Family
from ad_lib.model.hub import HUB_IDS, is_hub_id, snapshot
from ad_lib.model.model_folder import (
    NETWORK_FILES,
    check_controlnet,
    check_folder,
    check_parts,
    family_of,
    files_of,
    network_patterns,
)
from ad_lib.model.weight_files import (
    INDEX_SUFFIX,
    SINGLE_FILE,
    UnsoundFile,
    first_line,
    quoted,
    read_headers,
)

EMBEDDED = "embedded"
EMBEDDED_FOLDER = Path(__file__).parents[1] / "embedded"

MAX_BYTES = 128 * 2**30
"""Bytes of all files of a backbone at most; SDXL in float32, with all its variants, has 50 GB."""

_PICKLED = (".ckpt", ".pt", ".pth", ".bin")
_CONTROLNET_FILES = (
    "config.json",
    "diffusion_pytorch_model*.safetensors",
    "*.safetensors.index.json",
)


@dataclass(frozen=True)
class Weights:
    """Weights on this machine.

    Attributes:
        model_id: what the user asked for: `embedded`, a hub id, a folder, or a file.
        revision: the hub's commit, or `sha256:` and a digest of the files.
        path: the diffusers folder, or the single file; an empty path for random weights.
        config: of a single file, the diffusers folder with its configuration and tokenizers.
        config_id: what finds that folder again: its path, or a hub id with its commit after an `@`.
    """

    model_id: str
    revision: str
    path: Path
    config: Path | None = None
    config_id: str | None = None

    @property
    def config_folder(self) -> Path:
        """The folder with the configuration and the tokenizers."""
        return self.config or self.path


def find_weights(name: str, revision: str | None = None, config: str | None = None) -> Weights:
    """Resolves `embedded`, `sd15`, a hub id, a diffusers folder or one `.safetensors` file.

    The layout, every configuration and the headers of all weights are checked; no weight is read
    except for the digest of what lies in a local folder. Links are followed, so that snapshots of
    the hub's cache and shared files work.

    Args:
        name: what to load; a hub id is downloaded if needed.
        revision: the commit, tag or branch of a hub id.
        config: for a single file, the hub id or diffusers folder of its family; a hub id may have
            a commit, tag or branch after an `@`.

    Raises:
        BackboneError: nothing of that name, or not a backbone; the message says what to give.
    """
    with _readable(name, "backbone"):
        path = EMBEDDED_FOLDER if name == EMBEDDED else Path(name).expanduser()
        if not path.is_dir() and path.suffix in (SINGLE_FILE, *_PICKLED):
            return _single_file(name, path, revision, config)
        if config is not None:
            raise BackboneError(
                f"config is for one {SINGLE_FILE} file; drop config={quoted(config)}"
            )
        if path.is_dir():
            _check_no_revision(name, revision)
            check_folder(name, path)
            return Weights(name, _digest(name, files_of(path)), path)
    if name in HUB_IDS or is_hub_id(name):
        return _download(HUB_IDS.get(name, name), revision)
    raise BackboneError(
        f"no backbone {quoted(name)}: give {EMBEDDED!r}, {', '.join(map(repr, HUB_IDS))}, "
        f"a hub id such as 'owner/name', a diffusers folder, or a {SINGLE_FILE} file"
    )


def find_controlnet(name: str, revision: str | None = None) -> Weights:
    """Resolves the diffusers folder or hub id of a ControlNet; a hub id is downloaded if needed.

    Args:
        name: of the ControlNet.
        revision: the commit, tag or branch of a hub id.

    Raises:
        BackboneError: nothing of that name, or a folder that is no ControlNet.
    """
    with _readable(name, "ControlNet"):
        folder = Path(name).expanduser()
        if folder.is_dir():
            _check_no_revision(name, revision)
            check_controlnet(name, folder)
            found = [path for pattern in _CONTROLNET_FILES for path in folder.glob(pattern)]
            files = {path.name: path for path in found if path.is_file()}
            return Weights(name, _digest(name, files), folder)
    if not is_hub_id(name):
        raise BackboneError(
            f"no ControlNet {quoted(name)}: give a hub id such as 'owner/name', or a diffusers "
            "folder"
        )
    folder = snapshot(name, "ControlNet", revision, network_patterns("ControlNet"))
    check_controlnet(name, folder)
    return Weights(name, folder.name, folder)  # a snapshot's name is its commit


def _check_no_revision(name: str, revision: str | None) -> None:
    if revision is not None:
        raise BackboneError(
            f"revision {quoted(revision)} means a hub id, but {quoted(name)} is a local path"
        )


@contextmanager
def _readable(name: str, kind: str) -> Iterator[None]:
    """Turns errors of the file system into one sentence, such as missing rights or bad names."""
    try:
        yield
    except BackboneError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise BackboneError(f"the {kind} {quoted(name)} cannot be read: {reason}") from error


def _digest(name: str, files: Mapping[str, Path]) -> str:
    """`sha256:` and a digest of files by their names."""
    if sum(path.stat().st_size for path in files.values()) > MAX_BYTES:
        raise BackboneError(
            f"{quoted(name)} holds more than {MAX_BYTES >> 30} GB: give a folder that holds one "
            "backbone and nothing else"
        )
    total = hashlib.sha256()
    for file_name, path in sorted(files.items()):
        content = _content(path.resolve(), path.stat().st_mtime_ns)
        total.update(f"{file_name} {content}\n".encode("utf-8", "surrogateescape"))
    return f"sha256:{total.hexdigest()[:40]}"


@cache
def _content(path: Path, changed_at: int) -> str:
    """The digest of a file's content; it is computed again only when the file has changed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(hub_id: str, revision: str | None) -> Weights:
    networks = [f"{part}/{name}" for part in NETWORK_FILES for name in network_patterns(part)]
    others = [f"{part}/*" for family in FAMILIES.values() for part in family.others]
    patterns = [*networks, *dict.fromkeys(others), "model_index.json"]
    path = snapshot(hub_id, "backbone", revision, patterns)
    check_folder(hub_id, path)
    return Weights(hub_id, path.name, path)  # a snapshot's name is its commit


def _single_file(name: str, file: Path, revision: str | None, config: str | None) -> Weights:
    if file.suffix in _PICKLED:
        raise BackboneError(
            f"{quoted(name)} is a pickled checkpoint, which can run code when it is opened: get "
            f"it as {SINGLE_FILE}, or convert it where you trust it with diffusers' save_pretrained"
        )
    if not file.is_file():
        raise BackboneError(f"no file {quoted(name)}: give a {SINGLE_FILE} file that is there")
    _check_no_revision(name, revision)
    family = _family_of_file(name, file)
    folder, config_id = _find_config(config or family.name)
    if family_of(folder) != family:
        raise BackboneError(
            f"{quoted(name)} is a checkpoint of {family.title}, but config {quoted(config)} is of "
            f"{family_of(folder).title}: give a config of its family"
        )
    # Pictures depend on the configuration and the vocabulary too, so the digest covers them.
    files = {n: path for n, path in files_of(folder).items() if n.endswith((".json", ".txt"))}
    files = {n: path for n, path in files.items() if not n.endswith(INDEX_SUFFIX)}
    return Weights(name, _digest(name, files | {"": file}), file, folder, config_id)


def _family_of_file(name: str, file: Path) -> Family:
    try:
        keys = read_headers([file])
    except (OSError, UnsoundFile) as error:
        raise BackboneError(
            f"{quoted(name)} is not a sound {SINGLE_FILE} file ({first_line(error)}): fetch it "
            "again"
        ) from error
    readable = [family for family in FAMILIES.values() if family.checkpoint_key]
    for family in readable:
        if any(key.startswith(str(family.checkpoint_key)) for key in keys):
            return family
    raise BackboneError(
        f"{quoted(name)} is not a whole checkpoint of "
        f"{' or '.join(family.title for family in readable)}: it has no "
        f"{' and no '.join(repr(family.checkpoint_key) for family in readable)}; give such a file, "
        "or a diffusers folder"
    )


def _find_config(config: str) -> tuple[Path, str]:
    """A folder with a family's configuration and tokenizers, and what finds it again."""
    folder, config_id = Path(config).expanduser(), config
    if not folder.is_dir():
        name, _, revision = config.partition("@")
        hub_id = HUB_IDS.get(name, name)
        if not is_hub_id(hub_id):
            raise BackboneError(
                f"no config {quoted(config)}: give a hub id such as 'owner/name', or a diffusers "
                "folder"
            )
        folder = snapshot(hub_id, "config", revision or None, ["*.json", "*.txt"])
        config_id = f"{hub_id}@{folder.name}"  # a snapshot's name is its commit
    check_parts(config, folder)
    return folder, config_id
