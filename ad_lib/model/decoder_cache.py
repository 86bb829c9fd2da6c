"""Which fine-tuned decoders are there already, and where are they kept?

A decoder is found by what it depends on: the picture, the weights, the precision, the steps.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from pathlib import Path

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from ad_lib.model.tuned_decoder import TunedDecoder, finetune_decoder


class DecoderCache:
    """Fine-tuned decoders: for the same picture and weights the work is done once.

    The least recently used ones leave memory; in a folder they stay, one safetensors file each,
    and other processes find them. For one rendering thread at a time.

    Args:
        capacity: decoders held in memory; one of Stable Diffusion takes 200 MB.
        folder: where they are kept too; None is nowhere.
    """

    def __init__(self, capacity: int = 4, folder: Path | None = None) -> None:
        self.capacity = capacity
        self.folder = folder
        self._held: OrderedDict[str, TunedDecoder] = OrderedDict()

    def tuned(
        self,
        vae: AutoencoderKL,
        image: Float[Tensor, "1 3 h w"],
        *,
        revision: str,
        num_epochs: int = 75,
        learning_rate: float = 1e-4,
    ) -> TunedDecoder:
        """The decoder tuned to a picture, by `finetune_decoder` where it is not known yet.

        Args:
            vae: as in `finetune_decoder`.
            image: as in `finetune_decoder`.
            revision: which weights the autoencoder has, such as `Backbone.weights.revision`.
            num_epochs: as in `finetune_decoder`.
            learning_rate: as in `finetune_decoder`.
        """
        key = _key(image, revision, str(vae.dtype), num_epochs, learning_rate)
        decoder = self._held.pop(key, None) or self._stored(key)
        if decoder is None:
            decoder = finetune_decoder(
                vae, image, num_epochs=num_epochs, learning_rate=learning_rate
            )
            self._store(key, decoder)
        self._held[key] = decoder
        while len(self._held) > self.capacity:
            self._held.popitem(last=False)
        return decoder

    def _stored(self, key: str) -> TunedDecoder | None:
        if self.folder is None or not (path := self.folder / f"{key}.safetensors").exists():
            return None
        weights = load_file(path)
        return TunedDecoder(losses=weights.pop("losses"), weights=weights)

    def _store(self, key: str, decoder: TunedDecoder) -> None:
        """Under its name only when it is complete; of two writers the last one stays."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{key}.{os.getpid()}.partial"
        save_file({**decoder.weights, "losses": decoder.losses}, partial)
        partial.replace(self.folder / f"{key}.safetensors")


def _key(image: Tensor, *identity: object) -> str:
    digest = hashlib.sha256(repr((tuple(image.shape), *identity)).encode())
    digest.update(image.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
