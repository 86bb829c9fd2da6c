"""Which files of a model folder or checkpoint are read, and are they sound?

Configurations are parsed and the headers of safetensors files are checked; no tensor is read, and
torch is not imported. Every file that a loader opens has been checked here first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ad_lib.errors import BackboneError

MAX_TEXT_BYTES = 16 * 2**20
"""Maximum size of a configuration or vocabulary; the vocabularies of CLIP have 1 to 4 MB."""
MAX_HEADER_BYTES = 16 * 2**20
"""Maximum size of the header of a safetensors file; that of SDXL has 0.4 MB."""
MAX_TENSORS = 20_000
"""Maximum number of tensors in a file; a checkpoint of SDXL has 2,515."""
MAX_NUMBER = 1_000_000
"""Largest number in the configuration of a network; vocabularies of CLIP have 49,408 tokens."""

SINGLE_FILE = ".safetensors"
INDEX_SUFFIX = ".index.json"

_HEADER_LENGTH_BYTES = 8
_MAX_QUOTED = 200


@dataclass(frozen=True)
class TensorHeader:
    """What a safetensors file says about one of its tensors.

    Attributes:
        shape: of the tensor.
        dtype: by its name in safetensors, such as `F32` or `BF16`.
    """

    shape: tuple[int, ...]
    dtype: str


class UnsoundFile(ValueError):
    """A file that cannot be used; the message says why, and is completed with the model's name."""


def quoted(name: object) -> str:
    """A name for use in a message: in quotes, and shortened if it is long."""
    text = repr(str(name))
    return text if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]}…'"


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, shortened; its type if the message is empty."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 3 * _MAX_QUOTED else f"{text[: 3 * _MAX_QUOTED]}…"


@contextmanager
def named_in_errors(model_id: str, part: str) -> Iterator[None]:
    """Turns whatever a loader raises into one sentence that names the part.

    Args:
        model_id: what the user asked for.
        part: what is being loaded, such as `unet`.

    Raises:
        BackboneError: the part cannot be loaded.
    """
    try:
        yield
    except BackboneError:
        raise
    except BaseException as error:  # a panic in Rust code is a BaseException of its own
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = first_line(error).split(" If you want to instead")[0]  # advice for other callers
        raise BackboneError(
            f"the {part} of {quoted(model_id)} cannot be loaded: {reason}"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        UnsoundFile: no regular file, too large, or not a JSON object of finite numbers.
    """
    with path_checked(path).open("rb") as file:
        data = file.read(MAX_TEXT_BYTES + 1)
    if len(data) > MAX_TEXT_BYTES:
        raise UnsoundFile(f"{path.name} is larger than {MAX_TEXT_BYTES >> 20} MB")
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise UnsoundFile(f"{path.name} is nested too deeply") from None
    except ValueError as error:  # no UTF-8, no JSON, or a number of thousands of digits
        raise UnsoundFile(f"{path.name} is not sound JSON ({first_line(error)})") from None
    if not isinstance(value, dict):
        raise UnsoundFile(f"{path.name} must hold a JSON object, not {_kind(value)}")
    return value


def read_network_config(path: Path) -> dict[str, Any]:
    """The configuration of a network, its numbers within bounds.

    Raises:
        UnsoundFile: as `read_json`, or a number too large for any network, or quantised weights.
    """
    config = read_json(path)
    for key, value in config.items():
        for number in _numbers(value):
            if abs(number) > MAX_NUMBER:
                raise UnsoundFile(f"{path.name} has a {quoted(key)} beyond {MAX_NUMBER:,}")
    if config.get("quantization_config") is not None:
        raise UnsoundFile(f"{path.name} describes quantised weights, which are not supported")
    return config


def path_checked(path: Path) -> Path:
    """The path, if it leads to a regular file: pipes and devices are never opened.

    Raises:
        UnsoundFile: nothing there, a folder, or another kind of thing.
    """
    if not path.exists():
        raise UnsoundFile(f"it lacks {path.name}")
    if not path.is_file():
        raise UnsoundFile(f"{path.name} is not a regular file")
    return path


def weight_files(folder: Path, stem: str) -> list[Path]:
    """The safetensors files of a network: those that its index names, or the single one.

    Args:
        folder: of the network.
        stem: `model` for transformers, `diffusion_pytorch_model` for diffusers.

    Raises:
        UnsoundFile: no such file, or an index that names a file outside the folder.
    """
    name = f"{stem}.safetensors"
    index = folder / f"{name}{INDEX_SUFFIX}"
    if not index.exists():
        return [path_checked(folder / name)]
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UnsoundFile(f"{index.name} has no weight_map")
    names = sorted(set(map(str, weight_map.values())))
    for name in names:
        if not re.fullmatch(rf"{stem}[\w.-]*\.safetensors", name):
            raise UnsoundFile(
                f"{index.name} names {quoted(name)}: only files beside it are read that are named "
                f"like {stem}-00001-of-00002.safetensors"
            )
    return [path_checked(folder / name) for name in names]


def read_headers(files: Iterable[Path]) -> dict[str, TensorHeader]:
    """Every tensor of the files by its name; the tensors themselves are not read.

    Raises:
        UnsoundFile: a file that is cut short, is no safetensors file, or describes its tensors
            wrongly: outside the file, on top of each other, or with gaps between them.
    """
    found: dict[str, TensorHeader] = {}
    for file in files:
        found |= _header(file)
    return found


def check_text_files(folder: Path) -> None:
    """Checks the files of a part that has no weights, such as a tokenizer.

    Raises:
        UnsoundFile: a file is too large, or a JSON file is damaged.
    """
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise UnsoundFile(f"{path.name} is larger than {MAX_TEXT_BYTES >> 20} MB")
        if path.suffix == ".json":
            read_json(path)


def _header(file: Path) -> dict[str, TensorHeader]:
    from safetensors import SafetensorError, safe_open

    with path_checked(file).open("rb") as opened:
        length = int.from_bytes(opened.read(_HEADER_LENGTH_BYTES), "little")
    if length > MAX_HEADER_BYTES:
        raise UnsoundFile(f"{file.name} is not a sound safetensors file (its header is too large)")
    try:
        with safe_open(file, "np") as opened:
            names = list(opened.keys())
            if len(names) > MAX_TENSORS:
                raise UnsoundFile(f"{file.name} holds more than {MAX_TENSORS:,} tensors")
            slices = {name: opened.get_slice(name) for name in names}
            return {
                name: TensorHeader(tuple(part.get_shape()), str(part.get_dtype()))
                for name, part in slices.items()
            }
    except SafetensorError as error:
        raise UnsoundFile(
            f"{file.name} is not a sound safetensors file ({first_line(error)})"
        ) from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _kind(value: object) -> str:
    kinds = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _numbers(value: object) -> Iterator[float]:
    """Every number in a JSON value, at any depth."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for element in value:
            yield from _numbers(element)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value
