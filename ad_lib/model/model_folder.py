"""Is a folder a whole model in diffusers' layout, and of which family?

Configurations and the headers of weights are read, no tensor is. Importing this module loads
neither torch nor diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ad_lib.errors import BackboneError
from ad_lib.model.families import FAMILIES
from ad_lib.model.families.family import Family
from ad_lib.model.weight_files import (
    INDEX_SUFFIX,
    SINGLE_FILE,
    UnsoundFile,
    check_text_files,
    named_in_errors,
    quoted,
    read_headers,
    read_json,
    read_network_config,
    weight_files,
)

NETWORK_FILES = {
    "ControlNet": "diffusion_pytorch_model",
    **{part: stem for family in FAMILIES.values() for part, stem in family.networks.items()},
}
"""The parts that are networks, each with the name of its weights without `.safetensors`."""


def parts_of(folder: Path) -> tuple[str, ...]:
    """The names of the parts that a backbone has, by the configuration of its denoiser.

    Raises:
        UnsoundFile: the configuration is damaged, or of no family.
    """
    return family_of(folder).parts


def family_of(folder: Path) -> Family:
    """The family of a diffusers folder; of one without any denoiser the first family there is.

    Raises:
        UnsoundFile: its configuration is damaged, or of no family.
    """
    denoiser = _denoiser_of(folder)
    if not (config := folder / denoiser / "config.json").is_file():
        return next(iter(FAMILIES.values()))
    return _owner(denoiser, read_json(config))


def _denoiser_of(folder: Path) -> str:
    denoisers = list(dict.fromkeys(family.denoiser for family in FAMILIES.values()))
    there = [part for part in denoisers if (folder / part / "config.json").is_file()]
    return (there or denoisers)[0]


def _owner(denoiser: str, config: Mapping[str, Any]) -> Family:
    for family in FAMILIES.values():
        if family.denoiser == denoiser and family.owns(config):
            return family
    known = ", ".join(family.title for family in FAMILIES.values())
    raise UnsoundFile(
        f"its class is {quoted(config.get('_class_name'))}, and families are {known}: "
        "give one of them"
    )


def check_folder(name: str, folder: Path) -> None:
    """Refuses a folder that lacks a part or that has a damaged file.

    Args:
        name: of the model, as the user wrote it.
        folder: where its parts are.

    Raises:
        BackboneError: the message says what is missing or damaged.
    """
    check_parts(name, folder)
    for part in parts_of(folder):
        if part in NETWORK_FILES:
            _check_weights(name, part, folder / part)


def check_controlnet(name: str, folder: Path) -> None:
    """Refuses a folder that is not a whole ControlNet.

    Raises:
        BackboneError: the message says what is missing or damaged.
    """
    if not (folder / "config.json").is_file():
        raise BackboneError(
            f"{quoted(name)} is not a ControlNet in diffusers layout: it lacks config.json"
        )
    with named_in_errors(name, "ControlNet"):
        read_network_config(folder / "config.json")
    _check_weights(name, "ControlNet", folder)


def _check_weights(name: str, part: str, folder: Path) -> None:
    """Refuses a network whose files are missing, pickled, cut short or damaged."""
    stem = NETWORK_FILES[part]
    names = (f"{stem}{SINGLE_FILE}", f"{stem}{SINGLE_FILE}{INDEX_SUFFIX}")
    if not any((folder / file_name).exists() for file_name in names):
        raise BackboneError(
            f"{quoted(name)} holds no safetensors for its {part} (it lacks {stem}{SINGLE_FILE}): "
            "pickled weights are refused; convert them with diffusers' save_pretrained"
        )
    with named_in_errors(name, part):
        read_headers(weight_files(folder, stem))


def check_parts(name: str, folder: Path) -> None:
    """Refuses missing parts, damaged configurations and tokenizers without a vocabulary.

    The weights themselves are not looked at.

    Raises:
        BackboneError: the message says what is missing or damaged.
    """
    with named_in_errors(name, _denoiser_of(folder)):
        family = family_of(folder)
    parts = family.parts
    missing = [part for part in parts if not (folder / part).is_dir()]
    if missing:
        raise BackboneError(
            f"{quoted(name)} is not a folder of {family.title} in diffusers layout: "
            f"it lacks {', '.join(missing)}"
        )
    for part in parts:
        with named_in_errors(name, part):
            if part in NETWORK_FILES:
                read_network_config(folder / part / "config.json")
            else:
                check_text_files(folder / part)
        if part.startswith("tokenizer"):
            _check_vocabulary(name, folder / part)
    if (index := folder / "model_index.json").exists():
        with named_in_errors(name, index.name):
            read_json(index)


def _check_vocabulary(name: str, tokenizer: Path) -> None:
    vocabularies = ("tokenizer.json", "vocab.json")
    if not any((tokenizer / file).is_file() for file in vocabularies):
        raise BackboneError(
            f"the {tokenizer.name} of {quoted(name)} has no vocabulary: "
            f"it lacks {' and '.join(vocabularies)}"
        )


def files_of(folder: Path) -> dict[str, Path]:
    """Every file that a picture can depend on, by its path within the folder."""
    inside = [path for part in parts_of(folder) for path in (folder / part).rglob("*")]
    files = [path for path in (folder / "model_index.json", *inside) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path for path in files}


def network_patterns(part: str) -> list[str]:
    """The files of a network on the hub, without its copies in other precisions and layouts."""
    stem = NETWORK_FILES[part]
    weights = [f"{stem}{SINGLE_FILE}", f"{stem}-0*{SINGLE_FILE}"]
    return ["config.json", *weights, f"{stem}{SINGLE_FILE}{INDEX_SUFFIX}"]
