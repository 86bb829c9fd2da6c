"""One network out of a diffusers folder or out of a single file: whole, or refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    create_diffusers_clip_model_from_ldm,
)
from diffusers.models.model_loading_utils import load_model_dict_into_meta
from safetensors.torch import load_file
from torch import Tensor

from ad_lib.errors import BackboneError
from ad_lib.weights import Weights

LoadPart = Callable[..., Any]
"""(class, part, dtype) -> the network, on the CPU."""

_TRANSLATIONS: dict[str, Callable[..., Any]] = {
    "unet": convert_ldm_unet_checkpoint,
    "vae": convert_ldm_vae_checkpoint,
}


def part_loader(weights: Weights) -> LoadPart:
    """A callable that loads one network after the other; a single file is read once for all.

    Raises:
        BackboneError: from this and from the callable: damaged or incomplete weights.
    """
    if weights.config is None:
        return partial(load_from_folder, weights)
    with named_in_errors(weights, "file"):
        checkpoint = load_file(weights.path)
    return partial(_load_from_file, weights, checkpoint)


def load_from_folder(
    weights: Weights, network_class: Any, part: str, dtype: torch.dtype, *, is_alone: bool = False
) -> Any:
    """A network from its subfolder, or from the folder itself if it is alone there.

    Raises:
        BackboneError: damaged or incomplete weights.
    """
    with named_in_errors(weights, part):
        network, info = network_class.from_pretrained(
            weights.path,
            subfolder=None if is_alone else part,
            torch_dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
        )
    return _finished(network, weights, part, info["missing_keys"])


def _load_from_file(
    weights: Weights,
    checkpoint: dict[str, Tensor],
    network_class: Any,
    part: str,
    dtype: torch.dtype,
) -> Any:
    """A network from the original layout, in diffusers' translation."""
    folder = str(weights.config)
    with named_in_errors(weights, part):
        if part in _TRANSLATIONS:
            network = _translated(checkpoint, network_class, folder, part, dtype)
        else:
            network = create_diffusers_clip_model_from_ldm(
                network_class, checkpoint, part, folder, dtype, local_files_only=True
            )
    # A tensor that is not in the file is still on the meta device, without numbers.
    missing = [name for name, tensor in network.state_dict().items() if tensor.is_meta]
    return _finished(network, weights, part, missing)


def _translated(
    checkpoint: dict[str, Tensor], network_class: Any, folder: str, part: str, dtype: torch.dtype
) -> Any:
    config = network_class.load_config(folder, subfolder=part)
    tensors = _TRANSLATIONS[part](checkpoint, config)
    with init_empty_weights():
        network = network_class.from_config(config)
    load_model_dict_into_meta(network, tensors, dtype=dtype)
    return network


def vae_dtype(config: Mapping[str, Any], dtype: torch.dtype) -> torch.dtype:
    """What a VAE of this configuration computes in: float32 instead of float16, if it says so.

    SDXL's own VAE overflows in float16 and gives black pictures; diffusers calls it `force_upcast`.
    """
    is_too_short = dtype == torch.float16 and config.get("force_upcast", True)
    return torch.float32 if is_too_short else dtype


@contextmanager
def named_in_errors(weights: Weights, part: str) -> Iterator[None]:
    """Turns whatever a loader raises into one sentence that names the part.

    Raises:
        BackboneError: the part cannot be loaded.
    """
    try:
        yield
    except Exception as error:  # damaged files make the loaders raise anything, bare Exception too
        first_line = (str(error).strip() or repr(error)).splitlines()[0]
        first_line = first_line.split(" If you want to instead")[0]  # advice for other callers
        raise BackboneError(
            f"the {part} of {weights.model_id!r} cannot be loaded: {first_line}"
        ) from None


def _finished(network: Any, weights: Weights, part: str, missing_keys: Iterable[str]) -> Any:
    """The loaded network in memory of its own; every network that is read from a file ends here.

    Raises:
        BackboneError: tensors are missing, which the loaders fill with random numbers or leave
            empty.
    """
    if missing := sorted(missing_keys):
        raise BackboneError(
            f"the {part} of {weights.model_id!r} lacks {len(missing)} of its weights, such as "
            f"{missing[0]!r}: fetch or convert it again"
        )
    copy_into_own_memory(network)
    return network


def copy_into_own_memory(network: torch.nn.Module) -> None:
    """Copies every parameter and buffer into memory that torch allocates, one tensor at a time.

    Loaders map a file into memory and leave the tensors there, at addresses that depend on the
    layout of the file. Some matrix kernels round differently at different alignments, so the same
    weights would give slightly different pictures from a folder and from a single file. torch
    allocates at multiples of 64 bytes. A tensor that several modules share stays shared.
    """
    for tensor in chain(network.parameters(), network.buffers()):
        tensor.data = tensor.data.clone()
