"""The training command: `python -m ad_lib.embedded.train vae|unet --help`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ad_lib.embedded.autoencoder import VAE_STAGES, VaeRecipe, train_vae, trained_vae
from ad_lib.embedded.data import PictureStream, list_pictures
from ad_lib.embedded.denoiser import UnetRecipe, train_unet
from ad_lib.embedded.training import Clock


class Bar:
    """Progress bar that shows running means of a training's figures, and keeps their curve.

    Every 100 steps a line of JSON goes to `curve`: stage, seconds, step and the means.
    """

    def __init__(self, name: str, curve: Path) -> None:
        self.name, self.curve = name, curve
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        self.task = self.progress.add_task(name, total=1.0, figures="")
        self.means: dict[str, float] = {}

    def __call__(self, clock: Clock, **figures: float) -> None:
        for name, value in figures.items():
            self.means[name] = 0.99 * self.means.get(name, value) + 0.01 * value
        text = ""
        if clock.steps % 10 == 0:
            text = " ".join(f"{name} {value:.3f}" for name, value in self.means.items())
            self.progress.update(
                self.task, completed=clock.share, figures=f"step {clock.steps} {text}"
            )
        if clock.steps % 100 == 0:
            self._keep(clock)
            if not self.progress.console.is_terminal:
                self.progress.console.print(f"{clock.seconds:.0f} s, step {clock.steps}, {text}")

    def _keep(self, clock: Clock) -> None:
        means = {name: round(value, 4) for name, value in self.means.items()}
        point = {"stage": self.name, "seconds": round(clock.seconds), "step": clock.steps, **means}
        with self.curve.open("a") as file:
            file.write(json.dumps(point) + "\n")


def main() -> None:
    """Run a training from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=["vae", "unet"])
    parser.add_argument(
        "--folder", type=Path, required=True, help="where checkpoints go; resumed from there"
    )
    parser.add_argument(
        "--minutes", type=float, required=True, help="time to train, earlier runs included"
    )
    parser.add_argument(
        "--photographs", type=Path, nargs="*", default=[], help="files or folders to mix in"
    )
    parser.add_argument(
        "--stage", choices=VAE_STAGES, default="narrow", help="vae: narrow, then wide, then decoder"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 for torch's choice")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"

    stream = PictureStream(list_pictures(options.photographs), seed=options.seed)
    name = options.stage if options.network == "vae" else "unet"
    options.folder.mkdir(parents=True, exist_ok=True)
    bar = Bar(name, options.folder / "curves.jsonl")
    with bar.progress:
        if options.network == "vae":
            recipe = VaeRecipe(
                stage=options.stage,
                minutes=options.minutes,
                seed=options.seed,
                device=device,
            )
            train_vae(options.folder, stream, recipe, bar)
        else:
            recipe = UnetRecipe(minutes=options.minutes, seed=options.seed, device=device)
            train_unet(options.folder, trained_vae(options.folder), stream, recipe, bar)


if __name__ == "__main__":
    main()
