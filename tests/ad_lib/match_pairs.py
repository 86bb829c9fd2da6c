"""Does a figure tell pairs whose matches are known to be good from those known to be bad?

    python -m tests.ad_lib.match_pairs                  # held-out pairs
    python -m tests.ad_lib.match_pairs --choose FOLDER  # those that the choice was made on
    python -m tests.ad_lib.match_pairs --results 5      # after rendering, beside before

Pairs are made of pictures in `content`, `style` and `texture` of a folder (without one, those of
`manifests/examples/images`) and of procedural scenes. Good: the style is the content in other
colours, under a filter, in another crop; another crop of one texture; two scenes of one kind and
palette. Bad: a photograph beside a texture; two unrelated pictures, also in the same colours; two
kinds of scenes; the content with its blocks shuffled and turned. The area under the ROC curve is
the share of (bad, good) in which the bad pair has the higher figure: 0.5 is guessing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps
from rich.console import Console
from rich.table import Table
from torch import Tensor

import ad_lib
from ad_lib.algorithm.features import AttentionFeatures
from ad_lib.algorithm.matches import TIMESTEP, match_uncertainty
from ad_lib.model.backbone import Backbone
from ad_lib.pictures.tensors import image_to_tensor
from ad_lib.settings import UNSURE
from training import procedural

EXAMPLES = Path("manifests/examples/images")
GOOD = ("recoloured", "filtered", "cropped", "texture", "kind")
BAD = ("photo and texture", "unrelated", "in its colours", "other kind", "shuffled")
SCENES = tuple(dict.fromkeys(procedural.SCENES))
NUM_BOOTSTRAPS = 1000

Figures = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    kind: str
    content: Image.Image
    style: Image.Image

    @property
    def is_bad(self) -> bool:
        return self.kind in BAD


# -------------------------------------------------------------------------- pairs


class Pictures:
    """Photographs, paintings, textures and drawn scenes, none of which another draw repeats."""

    def __init__(self, folder: Path, side: int, seed: int) -> None:
        self.side, self.rng = side, np.random.default_rng(seed)
        self._seed = 10**7 * seed
        self.photos = [*self._files(folder / "content"), *self._files(folder / "style")]
        self.textures = self._files(folder / "texture")

    @staticmethod
    def _files(folder: Path) -> list[Image.Image]:
        return [ad_lib.decode_image(path.read_bytes()) for path in sorted(folder.iterdir())]

    def scene(self, number: int, side: int, brush: procedural.Brush | None = None) -> Image.Image:
        """A scene of a kind, in a palette of its own or in that of a brush."""
        self._seed += 1
        rng = np.random.default_rng(self._seed)
        own = procedural.new_brush(rng, side)
        names, colours = (brush.names, brush.colours) if brush else (own.names, own.colours)
        picture, _ = SCENES[number](procedural.Brush(rng, side, names, colours))
        return Image.fromarray(np.uint8(255 * procedural._finish(rng, np.clip(picture, 0, 1))))

    def any(self) -> tuple[Image.Image, object]:
        """A picture with room for crops, and what it is."""
        if self.rng.random() < 0.5:
            number = int(self.rng.integers(len(self.photos)))
            return self.photos[number], ("photo", number)
        number = int(self.rng.integers(len(SCENES)))
        return self.scene(number, 3 * self.side // 2), ("scene", number)

    def square(self, picture: Image.Image) -> Image.Image:
        return ImageOps.fit(picture, (self.side, self.side), Image.Resampling.LANCZOS)

    def crop(self, picture: Image.Image, at: float, share: float) -> Image.Image:
        """A square whose corner lies at a share of the room that there is."""
        side = int(min(picture.size) * share)
        left, top = (int(at * (length - side)) for length in picture.size)
        box = (left, top, left + side, top + side)
        return picture.resize((self.side, self.side), Image.Resampling.LANCZOS, box)


def pairs(pictures: Pictures, count: int) -> Iterator[Pair]:
    """So many pairs of every kind."""
    for _ in range(count):
        for kind, make in MAKERS.items():
            yield Pair(kind, *make(pictures))


def _recoloured(of: Pictures) -> tuple[Image.Image, Image.Image]:
    content = of.square(of.any()[0])
    bands = [(1, 2, 0), (2, 0, 1), (1, 0, 2), (2, 1, 0)][of.rng.integers(4)]
    values = (np.asarray(content)[..., bands] / 255) ** of.rng.uniform(0.6, 1.6)
    return content, Image.fromarray(np.uint8(255 * values))


def _filtered(of: Pictures) -> tuple[Image.Image, Image.Image]:
    content = of.square(of.any()[0])
    filters: Sequence[Callable[[], Image.Image]] = (
        lambda: content.filter(ImageFilter.MedianFilter(5)),
        lambda: ImageOps.posterize(content, 2),
        lambda: content.filter(ImageFilter.CONTOUR),
    )
    return content, filters[of.rng.integers(3)]()


def _cropped(of: Pictures) -> tuple[Image.Image, Image.Image]:
    picture, _ = of.any()
    return of.crop(picture, 0.1 * of.rng.random(), 0.8), of.crop(picture, 0.9, 0.7)


def _texture(of: Pictures) -> tuple[Image.Image, Image.Image]:
    kinds = [
        n for n, scene in enumerate(SCENES) if scene.__name__ not in ("still_life", "landscape")
    ]
    picture = of.textures[of.rng.integers(len(of.textures))]
    if of.rng.random() < 0.5:
        picture = of.scene(int(of.rng.choice(kinds)), 2 * of.side)
    return of.crop(picture, 0.0, 0.5), of.crop(picture, 1.0, 0.5)


def _kind(of: Pictures) -> tuple[Image.Image, Image.Image]:
    number = int(of.rng.integers(len(SCENES)))
    brush = procedural.new_brush(np.random.default_rng(of.rng.integers(10**9)), of.side)
    return of.scene(number, of.side, brush), of.scene(number, of.side, brush)


def _photo_and_texture(of: Pictures) -> tuple[Image.Image, Image.Image]:
    photo, texture = (found[of.rng.integers(len(found))] for found in (of.photos, of.textures))
    return of.square(photo), of.square(texture)


def _unrelated(of: Pictures) -> tuple[Image.Image, Image.Image]:
    (one, name), (other, other_name) = of.any(), of.any()
    while name == other_name:
        other, other_name = of.any()
    return of.square(one), of.square(other)


def _in_its_colours(of: Pictures) -> tuple[Image.Image, Image.Image]:
    content, style = _unrelated(of)
    mine, theirs = (np.asarray(one, np.float64) for one in (content, style))
    scaled = (theirs - theirs.mean((0, 1))) / (theirs.std((0, 1)) + 1e-3)
    values = scaled * mine.std((0, 1)) + mine.mean((0, 1))
    return content, Image.fromarray(values.clip(0, 255).astype(np.uint8))


def _other_kind(of: Pictures) -> tuple[Image.Image, Image.Image]:
    one, other = of.rng.choice(len(SCENES), 2, replace=False)
    return of.scene(int(one), of.side), of.scene(int(other), of.side)


def _shuffled(of: Pictures) -> tuple[Image.Image, Image.Image]:
    content, count = of.square(of.any()[0]), 8
    side = of.side // count
    blocks = np.asarray(content).reshape(count, side, count, side, 3).swapaxes(1, 2)
    blocks = blocks.reshape(-1, side, side, 3)[of.rng.permutation(count**2)]
    blocks = np.stack([np.rot90(block, int(of.rng.integers(4))) for block in blocks])
    rows = blocks.reshape(count, count, side, side, 3).swapaxes(1, 2)
    return content, Image.fromarray(np.ascontiguousarray(rows.reshape(of.side, of.side, 3)))


MAKERS: Mapping[str, Callable[[Pictures], tuple[Image.Image, Image.Image]]] = dict(
    zip(
        (*GOOD, *BAD),
        (
            *(_recoloured, _filtered, _cropped, _texture, _kind),
            *(_photo_and_texture, _unrelated, _in_its_colours, _other_kind, _shuffled),
        ),
        strict=True,
    )
)


# -------------------------------------------------------------------------- figures


def _weights(query: Tensor, key: Tensor) -> Tensor:
    return (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)


def _entropy(weights: Tensor) -> Tensor:
    return -(weights * weights.clamp_min(1e-12).log()).sum(-1) / log(weights.shape[-1])


def _places(num_tokens: int) -> Tensor:
    side = torch.linspace(0, 1, round(num_tokens**0.5))
    return torch.cartesian_prod(side, side)


def others(mine: AttentionFeatures, theirs: AttentionFeatures) -> dict[str, Tensor]:
    """The definitions that were not chosen, for one layer, with whole matrices."""
    there, back = _weights(mine.query, theirs.key), _weights(theirs.query, mine.key)
    own = _weights(mine.query, mine.key)
    out, target = own @ mine.value, there @ theirs.value
    places = _places(mine.query.shape[2])
    looked_at = (there @ places).unflatten(2, (round(len(places) ** 0.5), -1))
    steps = [looked_at.diff(dim=axis).norm(dim=-1).mean() for axis in (2, 3)]
    returned = there @ (back @ places)
    logits = mine.query @ theirs.key.mT, mine.query @ mine.key.mT
    scale = mine.query.shape[-1] ** 0.5
    at_home, away = ((one / scale).logsumexp(-1) for one in (logits[1], logits[0]))
    both = (there * back.mT).sum(-1)
    return {
        "entropy of the attention": _entropy(there).mean(),
        "jumps between neighbours' places": (steps[0] + steps[1]) / 2,
        "how far from its place a round trip ends": (returned - places).norm(dim=-1).mean(),
        "log probability of coming back": -both.log().mean(),
        "few tokens are looked at by all": 1 - _entropy(there.mean(2)).mean(),
        "share that goes to its own tokens, not the style's": torch.sigmoid(at_home - away).mean(),
        "the style loss, relative": (target - out).abs().mean() / out.abs().mean(),
    }


CHOSEN = "round trip in looks (match_uncertainty)"


@torch.no_grad()
def figures_of(backbone: Backbone, made: Sequence[Pair]) -> dict[str, Figures]:
    """Every definition for every pair, as a mean over the default layers."""
    extract, timestep = backbone.feature_extractor(), torch.tensor(TIMESTEP)
    rows: list[dict[str, float]] = []
    for pair in made:
        mine, theirs = (
            extract(backbone.encode(image_to_tensor(one)), timestep)
            for one in (pair.content, pair.style)
        )
        of_layers = [others(*layer) for layer in zip(mine, theirs, strict=True)]
        row = {name: float(np.mean([one[name] for one in of_layers])) for name in of_layers[0]}
        rows.append({CHOSEN: match_uncertainty(mine, theirs).item(), **row})
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def area(bad: Figures, good: Figures) -> float:
    """Under the ROC curve."""
    above = (bad[:, None] > good).mean()
    return float(above + 0.5 * (bad[:, None] == good).mean())


def interval(bad: Figures, good: Figures) -> tuple[float, float]:
    """The middle 95 % of areas over pairs drawn with replacement."""
    rng = np.random.default_rng(0)
    areas = [
        area(rng.choice(bad, len(bad)), rng.choice(good, len(good))) for _ in range(NUM_BOOTSTRAPS)
    ]
    low, high = np.percentile(areas, [2.5, 97.5])
    return float(low), float(high)


# -------------------------------------------------------------------------- what is printed


def told(figures: Figures, is_bad: NDArray[np.bool_]) -> list[str]:
    bad, good = figures[is_bad], figures[~is_bad]
    low, high = interval(bad, good)
    return [f"{area(bad, good):.3f}", f"{low:.3f} to {high:.3f}"]


def show(console: Console, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]):
    table = Table(*headings, title=title)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def by_kind(figures: Figures, kinds: NDArray[np.str_]) -> list[list[str]]:
    """The area of each good kind against each bad one, and means."""
    rows = [
        [
            good,
            *(f"{area(figures[kinds == bad], figures[kinds == good]):.2f}" for bad in BAD),
            f"{figures[kinds == good].mean():.3f}",
        ]
        for good in GOOD
    ]
    means = (f"{figures[kinds == bad].mean():.3f}" for bad in BAD)
    return [*rows, ["mean figure", *means, ""]]


def rendered(backbone: Backbone, made: Sequence[Pair]) -> Figures:
    """The figure of the pictures that come out, 50 steps each, taken as the queries."""
    found = []
    extract, timestep = backbone.feature_extractor(), torch.tensor(TIMESTEP)
    for pair in made:
        request = ad_lib.Request.preset(
            *("style-transfer",),
            content=pair.content,
            styles=[pair.style],
            num_inference_steps=50,
        )
        (result,) = ad_lib.render(backbone, [request])
        mine, theirs = (
            extract(backbone.encode(image_to_tensor(one)), timestep)
            for one in (result.image, pair.style)
        )
        found.append(match_uncertainty(mine, theirs).item())
    return np.array(found)


def main() -> None:
    """Prints the tables of docs/LIMITS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--choose", type=Path, metavar="FOLDER")
    parser.add_argument("--pairs", type=int, default=24, help="of every kind")
    parser.add_argument("--size", type=int, default=128, help="pixels, a multiple of 64")
    parser.add_argument("--results", type=int, metavar="PAIRS", help="of every kind; render them")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=140)
    seed = 1 if asked.choose else 2
    pictures = Pictures(asked.choose or EXAMPLES, asked.size, seed)
    made = list(pairs(pictures, asked.results or asked.pairs))
    is_bad, kinds = np.array([one.is_bad for one in made]), np.array([one.kind for one in made])
    backbone = ad_lib.load_backbone("embedded")
    figures = figures_of(backbone, made)
    title = f"{len(made)} pairs, {is_bad.sum()} bad, {asked.size} pixels"
    areas = [[name, *told(values, is_bad)] for name, values in figures.items()]
    if asked.results:
        areas = [*areas[:1], ["the same of the result", *told(rendered(backbone, made), is_bad)]]
    show(console, title, ("figure", "area", "95 %"), areas)
    chosen = figures[CHOSEN]
    easy = kinds != "shuffled"
    show(
        console,
        "without shuffled",
        ("figure", "area", "95 %"),
        [[CHOSEN, *told(chosen[easy], is_bad[easy])]],
    )
    show(console, CHOSEN, ("good against bad", *BAD, "mean"), by_kind(chosen, kinds))
    alarms = chosen > UNSURE
    console.print(
        f"above {UNSURE}: {alarms[is_bad].mean():.0%} of bad pairs, "
        f"{alarms[~is_bad].mean():.0%} of good ones"
    )


if __name__ == "__main__":
    main()
