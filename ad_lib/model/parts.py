"""How is one network loaded from a diffusers folder or from a single file?

A network is built without numbers from its configuration, and then gets its tensors; one that lacks
a tensor is refused. That is the same for all layouts of files. `from_pretrained` of diffusers and
transformers is not used: it would also open adapters, pickled checkpoints and files that a
configuration names.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers.models.model_loading_utils import load_model_dict_into_meta
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.modules.module import register_module_parameter_registration_hook

from ad_lib.errors import BackboneError
from ad_lib.model.model_folder import NETWORK_FILES
from ad_lib.model.weight_files import (
    UnsoundFile,
    named_in_errors,
    quoted,
    read_headers,
    read_network_config,
    weight_files,
)
from ad_lib.model.weights import Weights

Tensors = dict[str, Tensor]


def _as_they_are(network: Any, tensors: Tensors) -> Tensors:
    return tensors


def _in_no_checkpoint(network: Any, tensors: Tensors) -> Tensors:
    raise UnsoundFile("a single file does not hold this network")


@dataclass(frozen=True, kw_only=True)
class Network:
    """A kind of network: how one is built, and how its files name its tensors.

    Attributes:
        build: makes one without numbers from its checked configuration.
        named: (network, tensors of its own files) -> the same by their names in the network.
        translated: (network, tensors of a whole checkpoint in the original layout) -> those of
            this network, by the names of its own files.
    """

    build: Callable[[dict[str, Any]], Any]
    named: Callable[[Any, Tensors], Tensors] = _as_they_are
    translated: Callable[[Any, Tensors], Tensors] = _in_no_checkpoint


def diffusers_network(
    network_class: Any, translated: Callable[[Any, Tensors], Tensors] = _in_no_checkpoint
) -> Network:
    """A network of a class of diffusers."""

    def named(network: Any, tensors: Tensors) -> Tensors:
        network._fix_state_dict_keys_on_load(tensors)  # older VAEs have other names for attention
        return tensors

    return Network(build=network_class.from_config, named=named, translated=translated)


LoadPart = Callable[[Network, str, torch.dtype], Any]
"""(kind, name of the part, dtype) -> the network."""

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The dtypes that weights may be stored in, by their names in safetensors."""
_TENSORS_IN_ONE = 3
"""How many tensors of a network a checkpoint may store as one: query, key and value."""


def part_loader(weights: Weights) -> LoadPart:
    """A callable that loads a network of these weights on the CPU; a single file is read once.

    Raises:
        BackboneError: from this and from the callable: damaged or incomplete weights.
    """
    return partial(_load, weights, _reader(weights, load_file))


def empty_part_loader(weights: Weights) -> LoadPart:
    """A callable that builds a network of these weights on the meta device; no tensor is read.

    Every tensor that the configuration asks for must be in the headers of the files with the same
    shape. Building stops as soon as a network has more parameters than the files can hold.

    Raises:
        BackboneError: from this and from the callable: weights that do not fit the configuration.
    """
    return partial(_load_empty, weights, _reader(weights, _read_empty))


def _load(
    weights: Weights,
    read: Callable[[str], Tensors],
    kind: Network,
    part: str,
    dtype: torch.dtype,
) -> Any:
    with named_in_errors(weights.model_id, part):
        with init_empty_weights():
            network = _built(weights, kind, part)
        tensors: Any = _named_as_in(network, weights, kind, read(part))
        load_model_dict_into_meta(network, tensors, dtype=dtype)
    # A tensor that is not in the file is still on the meta device, without numbers.
    missing = [name for name, tensor in network.state_dict().items() if tensor.is_meta]
    _check_whole(weights, part, missing)
    if hasattr(network, "tie_weights"):
        network.tie_weights()  # what is one tensor in the file becomes one again
    copy_into_own_memory(network)
    return network


def _load_empty(
    weights: Weights,
    read: Callable[[str], Tensors],
    kind: Network,
    part: str,
    dtype: torch.dtype,
) -> Any:
    with named_in_errors(weights.model_id, part):
        stored = read(part)
        with _at_most(_TENSORS_IN_ONE * len(stored)), torch.device("meta"):
            network = _built(weights, kind, part)
        tensors = _named_as_in(network, weights, kind, stored)
        wanted: Tensors = network.state_dict()
        _check_whole(weights, part, wanted.keys() - tensors.keys())
        for name, tensor in wanted.items():
            if tensor.shape != tensors[name].shape:
                raise UnsoundFile(
                    f"its configuration asks for {name!r} in the shape {tuple(tensor.shape)}, "
                    f"but in the file it is {tuple(tensors[name].shape)}"
                )
            if tensor.is_floating_point() and not tensors[name].is_floating_point():
                raise UnsoundFile(
                    f"{name!r} must be stored in one of {', '.join(_DTYPES)}; quantised weights "
                    "are not supported"
                )
        return torch.nn.Module.to(network, dtype)


def _reader(weights: Weights, read: Callable[[Path], Tensors]) -> Callable[[str], Tensors]:
    """A callable from the name of a part to the tensors of its files, or of the single file."""
    if weights.config is not None:
        with named_in_errors(weights.model_id, "file"):
            checkpoint = read(weights.path)
        return lambda part: dict(checkpoint)

    def read_part(part: str) -> Tensors:
        tensors: Tensors = {}
        for file in weight_files(part_folder(weights, part), NETWORK_FILES[part]):
            tensors |= read(file)
        return tensors

    return read_part


def _read_empty(file: Path) -> Tensors:
    """The tensors of a file on the meta device: names, shapes and dtypes from its header."""
    with torch.device("meta"):
        return {
            name: torch.empty(header.shape, dtype=_DTYPES.get(header.dtype, torch.int8))
            for name, header in read_headers([file]).items()
        }


def part_folder(weights: Weights, part: str) -> Path:
    """The folder with the configuration of a part; a ControlNet has a folder of its own."""
    return weights.config_folder if part == "ControlNet" else weights.config_folder / part


def _built(weights: Weights, kind: Network, part: str) -> Any:
    return kind.build(read_network_config(part_folder(weights, part) / "config.json"))


def _named_as_in(network: Any, weights: Weights, kind: Network, tensors: Tensors) -> Tensors:
    """The tensors of a file by their names in the network."""
    if weights.config is not None:
        tensors = kind.translated(network, tensors)
    return kind.named(network, tensors)


@contextmanager
def _at_most(num_parameters: int) -> Iterator[None]:
    """Refuses a network with more parameters than this while it is being built in this thread."""
    thread, num_built = threading.get_ident(), 0

    def count(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        nonlocal num_built
        if threading.get_ident() != thread:
            return
        num_built += 1
        if num_built > num_parameters:
            raise UnsoundFile("its configuration asks for more layers than its files hold")
        if parameter is not None and not parameter.numel():
            raise UnsoundFile(f"its configuration asks for a {name} of the size 0")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def vae_dtype(config: Mapping[str, Any], dtype: torch.dtype) -> torch.dtype:
    """What a VAE of this configuration computes in: float32 instead of float16, if it says so.

    SDXL's own VAE overflows in float16 and gives black pictures; diffusers calls it `force_upcast`.
    """
    is_too_short = dtype == torch.float16 and config.get("force_upcast", True)
    return torch.float32 if is_too_short else dtype


def _check_whole(weights: Weights, part: str, missing_names: Iterable[str]) -> None:
    if missing := sorted(missing_names):
        raise BackboneError(
            f"the {part} of {quoted(weights.model_id)} lacks {len(missing)} of its weights, such "
            f"as {missing[0]!r}: fetch or convert it again"
        )


def copy_into_own_memory(network: torch.nn.Module) -> None:
    """Copies every parameter and buffer into memory that torch allocates, one tensor at a time.

    Loaders map a file into memory and leave the tensors there, at addresses that depend on the
    layout of the file. Some matrix kernels round differently at different alignments, so the same
    weights would give slightly different pictures from a folder and from a single file. torch
    allocates at multiples of 64 bytes. A tensor that several modules share stays shared.
    """
    for tensor in chain(network.parameters(), network.buffers()):
        tensor.data = tensor.data.clone()
