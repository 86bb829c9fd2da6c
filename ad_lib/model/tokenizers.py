"""How is a tokenizer loaded from an untrusted folder? Its own files are read, and no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ad_lib.model.weight_files import UnsoundFile, named_in_errors, read_json
from ad_lib.model.weights import Weights

_REFUSED_KEYS = ("fast_tokenizer_files", "gguf_file", "init_inputs", "tokenizer_object")
"""Keys of a tokenizer's configuration that would make it open other files."""


def load_tokenizer(
    weights: Weights, part: str, tokenizer_class: Any, check: Callable[[Any], None]
) -> Any:
    """A tokenizer of a class of transformers.

    Args:
        weights: where the folder of the part is.
        part: such as `tokenizer`.
        tokenizer_class: of transformers.
        check: tries it; raises `UnsoundFile` where it does not fit its text encoder.

    Raises:
        BackboneError: it cannot be loaded, or the check found something.
    """
    folder = weights.config_folder / part
    with named_in_errors(weights.model_id, part):
        if (config := folder / "tokenizer_config.json").is_file():
            _check_config(read_json(config))
        tokenizer = tokenizer_class.from_pretrained(folder, local_files_only=True)
        check(tokenizer)
    return tokenizer


def check_known(tokens: list[int], vocab_size: int) -> None:
    """Refuses tokens that a text encoder has no vector for.

    Raises:
        UnsoundFile: there are some; the message names one.
    """
    if max(tokens, default=0) >= vocab_size:
        raise UnsoundFile(
            f"it gives the token {max(tokens)}, but its text encoder knows {vocab_size}"
        )


def _check_config(config: dict[str, Any]) -> None:
    for key in _REFUSED_KEYS:
        if config.get(key) is not None:
            raise UnsoundFile(f"its tokenizer_config.json has {key!r}, which is not supported")
