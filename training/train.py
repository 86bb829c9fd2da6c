"""The training command: `python -m training.train vae`, then `... unet`.

Both can be stopped at any moment; the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ad_lib.embedded.picture_files import list_pictures
from training.autoencoder import VaeRecipe, settled_vae, train_vae
from training.data import PictureStream
from training.denoiser import UnetRecipe, train_unet
from training.resumable import Training

MINUTES = {"vae": 120.0, "unet": 70.0}
"""What the weights that ship were given, about, on two CPU cores; a GPU does more with it."""


class Bar:
    """Progress bar that shows running means of a training's figures, and keeps their curve.

    Every 100 steps a line of JSON goes to `curve`: stage, seconds, step and the means.
    """

    def __init__(self, curve: Path) -> None:
        self.curve = curve
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        self.task = self.progress.add_task("", total=1.0, figures="")
        self.stage = ""
        self.means: dict[str, float] = {}

    def __call__(self, training: Training, **figures: float) -> None:
        clock = training.clock
        if training.stage != self.stage:
            self.stage, self.means = training.stage, {}
        for name, value in figures.items():
            self.means[name] = 0.99 * self.means.get(name, value) + 0.01 * value
        text = " ".join(f"{name} {value:.3f}" for name, value in self.means.items())
        if clock.steps % 10 == 0:
            self.progress.update(
                self.task,
                description=training.stage,
                completed=clock.share,
                figures=f"step {clock.steps} {text}",
            )
        if clock.steps % 100 == 0:
            self._keep(training)
            if not self.progress.console.is_terminal:
                self.progress.console.print(
                    f"{training.stage}: {clock.seconds:.0f} s, step {clock.steps}, {text}"
                )

    def _keep(self, training: Training) -> None:
        point = {
            "stage": training.stage,
            "seconds": round(training.clock.seconds),
            "step": training.clock.steps,
            **{name: round(value, 4) for name, value in self.means.items()},
        }
        with self.curve.open("a", encoding="utf-8") as file:
            file.write(json.dumps(point) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """Run a training from the command line; 2 where something that it needs is not there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("network", choices=["vae", "unet"])
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("build/embedded"),
        help="where checkpoints and curves go; resumed from there (%(default)s)",
    )
    parser.add_argument(
        "--minutes", type=_minutes, help="time to train, earlier runs included (vae 120, unet 70)"
    )
    parser.add_argument(
        "--photographs", type=Path, nargs="*", default=[], help="files or folders to mix in"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 for torch's choice")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    options.minutes = options.minutes or MINUTES[options.network]
    options.folder.mkdir(parents=True, exist_ok=True)
    try:
        _train(options)
    except FileNotFoundError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 0 < minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"minutes must be above 0; got {text}")
    return minutes


def _train(options: argparse.Namespace) -> None:
    pictures = list_pictures(options.photographs)
    vae = settled_vae(options.folder) if options.network == "unet" else None
    stream = PictureStream(pictures, seed=options.seed)
    common = {"minutes": options.minutes, "seed": options.seed, "device": options.device}
    bar = Bar(options.folder / "curves.jsonl")
    with bar.progress:
        if vae is None:
            train_vae(options.folder, stream, VaeRecipe(**common), bar)
        else:
            train_unet(options.folder, vae, stream, UnetRecipe(**common), bar)


if __name__ == "__main__":
    sys.exit(main())
