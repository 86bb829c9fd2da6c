"""Writing the checkpoint folder that ships: float16 safetensors, each file replaced whole."""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

from ad_lib.embedded import FOLDER
from ad_lib.embedded.evaluate import posterior_mean
from ad_lib.embedded.networks import build_scheduler
from ad_lib.embedded.picture_files import to_tensor
from training.autoencoder import settled_vae
from training.balance import balance_queries
from training.denoiser import trained_denoiser
from training.procedural import draw

COMPONENTS = {
    "scheduler": ("diffusers", "DDIMScheduler"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
}


QUERY_SHARES = (0.2,) * 13 + (1.4,) * 3
"""Size of the queries beside that of the outputs, layer by layer; see `balance`.

Where things are is best kept at full resolution, in the last three layers.
"""

NUM_PICTURES = 16
"""Drawings whose latents set the balance."""


def export(folder: Path, components: dict[str, Any]) -> None:
    """Save `components` (name -> model, tokenizer or scheduler) into `folder` and renew its index.

    Components that are not given stay as they are. Weights are cast to float16 in a copy, so that
    a model in training can be exported. A reader sees the old file or the new one, never a part.
    """
    for name, component in components.items():
        with tempfile.TemporaryDirectory() as scratch:
            _half_copy(component).save_pretrained(scratch)
            if name == "text_encoder":
                _load_as_float32(Path(scratch) / "config.json")
            _move_files(Path(scratch), folder / name)
    _write_index(folder)


def _half_copy(component: Any) -> Any:
    if not isinstance(component, torch.nn.Module):
        return component
    half: Any = copy.deepcopy(component)
    return half.half().to(memory_format=torch.contiguous_format)


def _load_as_float32(config_path: Path) -> None:
    # transformers loads in the dtype that the config names, diffusers in float32; let them agree.
    config = json.loads(config_path.read_text()) | {"dtype": "float32"}
    config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _move_files(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.rglob("*")):
        if path.is_file():
            path.chmod(0o644)
            shutil.copy2(path, target / f".{path.name}.new")
            (target / f".{path.name}.new").replace(target / path.name)


def _write_index(folder: Path) -> None:
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        **{name: list(where) for name, where in COMPONENTS.items()},
    }
    new = folder / ".model_index.json.new"
    new.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    new.replace(folder / "model_index.json")


def main() -> None:
    """Export what `train` left in a folder of checkpoints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the checkpoints")
    parser.add_argument("--to", type=Path, default=FOLDER, help="the diffusers folder to renew")
    options = parser.parse_args()
    try:
        components: dict[str, Any] = {
            "vae": settled_vae(options.folder),
            "scheduler": build_scheduler(),
        }
    except FileNotFoundError as error:
        parser.error(str(error))
    if (options.folder / "unet.pt").exists():
        model = trained_denoiser(options.folder)
        pictures = np.stack([draw(seed, 256)[0] for seed in range(NUM_PICTURES)])
        with torch.no_grad():
            latents = posterior_mean(components["vae"], to_tensor(pictures))
            balance_queries(model.unet, latents, model.embed([""]), QUERY_SHARES)
        components |= {
            "unet": model.unet,
            "text_encoder": model.text_encoder,
            "tokenizer": model.tokenizer,
        }
    export(options.to, components)


if __name__ == "__main__":
    main()
