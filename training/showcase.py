"""The proving command: `python -m training.showcase FOLDER` uses the model on pictures.

FOLDER holds `content/`, `style/` and `texture/` with pictures that it was not trained on. Does
style transfer move patches to the style and keep the content, does a texture drawn from noise
resemble its example as its own halves resemble each other, and do the losses fall? Contact sheets
show what the figures mean.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from ad_lib.batch import Result, render
from ad_lib.embedded import FOLDER
from ad_lib.embedded.picture_files import list_pictures, open_picture
from ad_lib.model.backbone import Backbone
from ad_lib.model.loading import load_backbone
from ad_lib.pictures.images import fit_image
from ad_lib.pictures.patches import swd_patch
from ad_lib.pictures.structure import ssim_luma
from ad_lib.pictures.tensors import image_to_tensor, tensor_to_image
from ad_lib.requests import Request


@dataclass(frozen=True)
class Transfer:
    """One style transfer and what became of it.

    Attributes:
        before, after: patch distance to the style of the content and of the result.
        ssim: of the result with the content.
        losses: the total loss before the first and before the last step, and the style's part.
    """

    name: str
    content: Image.Image
    style: Image.Image
    result: Image.Image
    before: float
    after: float
    ssim: float
    losses: tuple[float, float]
    style_losses: tuple[float, float]

    @property
    def ok(self) -> bool:
        """At least half of the way to the style, with the content still there."""
        return self.after <= self.before / 2 and self.ssim > 0.35


@dataclass(frozen=True)
class Texture:
    """One texture drawn from noise.

    Attributes:
        halves: patch distance between the left and the right half of the example, and between its
            upper and its lower one.
        distance: patch distance of the result to the example.
        reconstruction: what the autoencoder makes of the example, the best that can be had.
    """

    name: str
    example: Image.Image
    reconstruction: Image.Image
    result: Image.Image
    halves: tuple[float, float]
    distance: float

    @property
    def ok(self) -> bool:
        """At most twice as far from the example as its halves are from each other."""
        return self.distance <= 2 * max(self.halves)


def pair_pictures(contents: Sequence[Path], styles: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Each content with a style and each style with a content; the shorter list comes round."""
    count = max(len(contents), len(styles))  # neither is empty
    return [(contents[i % len(contents)], styles[i % len(styles)]) for i in range(count)]


def transfers(
    backbone: Backbone, contents: Sequence[Path], styles: Sequence[Path], side: int
) -> list[Transfer]:
    """Style transfer with the preset's own settings, pair by pair."""
    pairs = pair_pictures(contents, styles)
    requests = [
        Request.preset(
            "style-transfer",
            content=_square(content, side),
            styles=[_square(style, side)],
            width=side,
            height=side,
        )
        for content, style in pairs
    ]
    results = render(backbone, requests)
    return [
        _transfer(f"{content.stem} + {style.stem}", request, result)
        for (content, style), request, result in zip(pairs, requests, results, strict=True)
    ]


def _transfer(name: str, request: Request, result: Result) -> Transfer:
    assert request.content is not None, "style transfer has a content"
    content, style, made = (
        image_to_tensor(image) for image in (request.content, request.styles[0], result.image)
    )
    total = [
        style_loss + request.settings.content_weight * kept
        for style_loss, kept in zip(result.style_losses, result.content_losses, strict=True)
    ]
    return Transfer(
        name,
        request.content,
        request.styles[0],
        result.image,
        before=swd_patch(content, style).item(),
        after=swd_patch(made, style).item(),
        ssim=ssim_luma(made, content).item(),
        losses=(total[0], total[-1]),
        style_losses=(result.style_losses[0], result.style_losses[-1]),
    )


def textures(backbone: Backbone, paths: Sequence[Path], side: int) -> list[Texture]:
    """Textures drawn from noise with the preset's own settings."""
    examples = [_square(path, side) for path in paths]
    requests = [
        Request.preset("texture-sample", styles=[example], width=side, height=side)
        for example in examples
    ]
    results = render(backbone, requests)
    return [
        _texture(backbone, path.stem, example, result.image)
        for path, example, result in zip(paths, examples, results, strict=True)
    ]


def _texture(backbone: Backbone, name: str, image: Image.Image, made: Image.Image) -> Texture:
    example = image_to_tensor(image)
    left, right = example.chunk(2, 3)
    upper, lower = example.chunk(2, 2)
    return Texture(
        name,
        image,
        tensor_to_image(backbone.decode(backbone.encode(example))[0]),
        made,
        halves=(swd_patch(left, right).item(), swd_patch(upper, lower).item()),
        distance=swd_patch(image_to_tensor(made), example).item(),
    )


def _square(path: Path, side: int) -> Image.Image:
    return fit_image(open_picture(path), side, side)


def contact_sheet(rows: Sequence[Sequence[Image.Image]], gap: int = 4) -> Image.Image:
    """Pictures of one size in rows and columns on white."""
    width, height = rows[0][0].size
    sheet = Image.new(
        "RGB",
        (max(map(len, rows)) * (width + gap) - gap, len(rows) * (height + gap) - gap),
        "white",
    )
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            sheet.paste(image, (column * (width + gap), row * (height + gap)))
    return sheet


def main() -> None:
    """Use a checkpoint on a folder of pictures, from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pictures", type=Path, help="holds content/, style/ and texture/")
    parser.add_argument("--model", type=Path, default=FOLDER)
    parser.add_argument("--side", type=int, default=256, help="pixels of every picture")
    parser.add_argument("--limit", type=int, default=6, help="pictures of each folder at most")
    parser.add_argument("--save", type=Path, help="folder for the contact sheets")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 for torch's choice")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        contents, styles, examples = (
            list_pictures([options.pictures / role])[: options.limit]
            for role in ("content", "style", "texture")
        )
    except FileNotFoundError as error:
        parser.error(str(error))
    backbone, console = load_backbone(str(options.model)), Console()

    made = transfers(backbone, contents, styles, options.side)
    _show_transfers(console, made)
    rows = [(one.content, one.style, one.result) for one in made]
    _save(options.save, "transfer.jpg", _in_two_columns(rows))

    drawn = textures(backbone, examples, options.side)
    _show_textures(console, drawn)
    rows = [(one.example, one.reconstruction, one.result) for one in drawn]
    _save(options.save, "texture.jpg", _in_two_columns(rows))


def _in_two_columns(rows: Sequence[Sequence[Image.Image]]) -> list[list[Image.Image]]:
    return [[*left, *right] for left, right in zip_longest(rows[::2], rows[1::2], fillvalue=())]


def _save(folder: Path | None, name: str, rows: Sequence[Sequence[Image.Image]]) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        contact_sheet(rows).save(folder / name, quality=88)


def _show_transfers(console: Console, made: Sequence[Transfer]) -> None:
    table = Table(
        "content + style",
        "swd_patch of content",
        "of result",
        "share",
        "ssim_luma",
        "loss",
        "style loss",
        "ok",
        title="style transfer",
    )
    for one in made:
        table.add_row(
            one.name,
            f"{one.before:.4f}",
            f"{one.after:.4f}",
            f"{one.after / one.before:.2f}",
            f"{one.ssim:.2f}",
            _fall(one.losses),
            _fall(one.style_losses),
            "yes" if one.ok else "NO",
        )
    console.print(table)


def _show_textures(console: Console, drawn: Sequence[Texture]) -> None:
    table = Table(
        "texture", "swd_patch of halves: sides", "top, bottom", "of result", "ok", title="textures"
    )
    for one in drawn:
        table.add_row(
            one.name,
            *(f"{distance:.4f}" for distance in one.halves),
            f"{one.distance:.4f}",
            "yes" if one.ok else "NO",
        )
    console.print(table)


def _fall(losses: tuple[float, float]) -> str:
    first, last = losses
    return f"{first:.3f} to {last:.3f} ({last / first:.2f})"


if __name__ == "__main__":
    main()
