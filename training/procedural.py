"""An endless, seeded stream of captioned pictures that belong to nobody.

`draw(seed, size)` is a pure function: the same seed gives the same picture and the same caption.
Each scene paints itself with a palette of named colours, and the finish (light, tone, grain, warp,
brushwork) is common to all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from training.fields import Field, coordinates, fractal, perlin, sample, stretch, worley

Picture = NDArray[np.floating]  # (size, size, 3) in [0, 1]

COLOURS = {
    "black": (0.06, 0.06, 0.07),
    "white": (0.95, 0.94, 0.92),
    "grey": (0.5, 0.5, 0.5),
    "red": (0.80, 0.13, 0.12),
    "crimson": (0.55, 0.05, 0.16),
    "orange": (0.92, 0.50, 0.10),
    "yellow": (0.95, 0.83, 0.20),
    "ochre": (0.72, 0.52, 0.22),
    "cream": (0.94, 0.88, 0.72),
    "brown": (0.38, 0.24, 0.14),
    "green": (0.18, 0.50, 0.20),
    "olive": (0.42, 0.43, 0.18),
    "mint": (0.62, 0.87, 0.72),
    "teal": (0.05, 0.48, 0.50),
    "sky blue": (0.50, 0.74, 0.92),
    "blue": (0.12, 0.27, 0.70),
    "navy": (0.06, 0.10, 0.30),
    "purple": (0.42, 0.18, 0.55),
    "pink": (0.95, 0.62, 0.70),
    "skin": (0.87, 0.68, 0.55),
}


@dataclass(frozen=True)
class Brush:
    """What a scene paints with."""

    rng: np.random.Generator
    size: int
    names: tuple[str, ...]
    colours: NDArray[np.floating]  # (n, 3)

    def ramp(self, field: Field) -> Picture:
        """Colour a field in [0, 1] by going through the palette."""
        stops = np.linspace(0, 1, len(self.colours))
        bands = [np.interp(field, stops, self.colours[:, band]) for band in range(3)]
        return np.stack(bands, -1).astype(np.float32)

    def pick(self, labels: NDArray[np.int64], spread: float = 0.06) -> Picture:
        """Give each label a colour of the palette, varied a little from label to label."""
        count = int(labels.max()) + 1
        table = self.colours[self.rng.integers(len(self.colours), size=count)]
        table = (
            table
            + self.rng.normal(0, spread, (count, 1))
            + self.rng.normal(0, spread / 2, (count, 3))
        )
        return np.clip(table, 0, 1).astype(np.float32)[labels]

    def words(self, count: int = 2) -> str:
        """Name the first colours of the palette."""
        return " and ".join(self.names[:count])


Scene = Callable[[Brush], tuple[Picture, str]]


def new_brush(rng: np.random.Generator, size: int) -> Brush:
    """Draw a palette of two to five named colours, each slightly off its name."""
    names = tuple(str(n) for n in rng.choice(list(COLOURS), size=rng.integers(2, 6), replace=False))
    colours = np.array([COLOURS[name] for name in names], np.float32)
    colours = np.clip(colours + rng.normal(0, 0.05, colours.shape), 0, 1)
    return Brush(rng, size, names, colours.astype(np.float32))


def dead_leaves(brush: Brush) -> tuple[Picture, str]:
    """Occluding shapes of all sizes (power law), each with its own grain and shade."""
    rng, size = brush.rng, brush.size
    kind = str(rng.choice(["discs", "blocks", "leaves", "shards"]))
    canvas = Image.new("I", (size, size))
    pen, count = ImageDraw.Draw(canvas), int(rng.integers(60, 500))
    smallest = rng.uniform(0.008, 0.03)
    radii = smallest * (1 - rng.random(count) * (1 - (smallest / 0.35) ** 2)) ** -0.5
    for label, radius in enumerate(np.sort(radii)[::-1] if rng.random() < 0.5 else radii, start=1):
        outline = _outline(rng, kind) * radius + rng.random(2)
        pen.polygon([tuple(point) for point in (outline * size).tolist()], fill=label)
    labels = np.asarray(canvas, np.int64)
    grain = fractal(rng, size, rng.uniform(0.3, 1.5))[..., None] - 0.5
    strength = np.abs(rng.normal(0, 0.5, count + 1)).astype(np.float32)[labels][..., None]
    slant = rng.normal(0, 0.5, (2, count + 1)).astype(np.float32)
    y, x = coordinates(size)
    shade = (slant[0][labels] * (y - 0.5) + slant[1][labels] * (x - 0.5))[..., None]
    return brush.pick(labels) + strength * grain + 0.4 * shade, f"{brush.words(3)} {kind}"


def _outline(rng: np.random.Generator, kind: str) -> NDArray[np.float64]:
    corners = {"discs": 20, "blocks": 4, "leaves": 18, "shards": int(rng.integers(3, 7))}[kind]
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    if kind == "shards":
        angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
    points = np.stack([np.cos(angle), np.sin(angle)], -1) * [1, rng.uniform(0.35, 1)]
    if kind == "leaves":
        points[:, 1] *= 0.6 * np.abs(np.sin(angle / 2))
    turn = rng.uniform(0, 2 * np.pi)
    return points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])


def clouds(brush: Brush) -> tuple[Picture, str]:
    """Fractal noise from smooth to rough, one field through the palette or two crossed."""
    slope = brush.rng.uniform(0.8, 2.2)
    field = stretch(fractal(brush.rng, brush.size, slope))
    picture = brush.ramp(field)
    if brush.rng.random() < 0.5:
        other = fractal(brush.rng, brush.size, slope)[..., None]
        picture = picture * (0.5 + other)
    return picture, f"{'soft' if slope > 1.5 else 'rough'} {brush.words()} clouds"


def plasma(brush: Brush) -> tuple[Picture, str]:
    """Perlin noise in hard or soft bands, as in maps and agate."""
    field = perlin(brush.rng, brush.size, int(brush.rng.integers(2, 12)))
    bands = brush.rng.uniform(1, 6)
    saw = field * bands % 1.0
    hard = brush.rng.random() < 0.4
    return brush.ramp(
        saw if hard else np.abs(2 * saw - 1)
    ), f"{brush.words(3)} {'agate' if hard else 'ripples'}"


def cells(brush: Brush) -> tuple[Picture, str]:
    """Worley cells as a mosaic, as cobblestones with joints, or as cracked ground."""
    kind = str(brush.rng.choice(["mosaic", "cobblestones", "cracked earth"]))
    border, cell = worley(brush.rng, brush.size, int(brush.rng.integers(15, 140)))
    edge = np.clip(border / brush.rng.uniform(0.04, 0.2), 0, 1)[..., None]
    if kind == "cracked earth":
        return brush.ramp(fractal(brush.rng, brush.size, 1.2)) * (
            0.2 + 0.8 * edge
        ), f"{brush.words()} {kind}"
    tiles = brush.pick(cell) * (1 if kind == "mosaic" else (0.45 + 0.55 * np.sqrt(edge)))
    joint = brush.colours[0] * 0.6
    grain = 0.5 * (fractal(brush.rng, brush.size, 0.9)[..., None] - 0.5)
    return np.where(edge < 0.25, joint, tiles + grain), f"{brush.words(3)} {kind}"


def bricks(brush: Brush) -> tuple[Picture, str]:
    """Courses of bricks in running bond with mortar."""
    rng, (y, x) = brush.rng, coordinates(brush.size)
    rows, aspect = int(rng.integers(4, 16)), rng.uniform(1.5, 3)
    wobble = 0.15 * (fractal(rng, brush.size, 1.5) - 0.5)
    v = y * rows + wobble
    course = np.floor(v).astype(np.int64)
    u = x * rows / aspect + 0.5 * (course % 2) + wobble
    column = np.floor(u).astype(np.int64)
    depth = np.minimum(np.minimum(v % 1, 1 - v % 1), aspect * np.minimum(u % 1, 1 - u % 1))
    face = brush.pick((course - course.min()) * 64 + column - column.min(), 0.05)
    face = face + 0.6 * (fractal(rng, brush.size, 0.7)[..., None] - 0.5)
    joint = rng.uniform(0.04, 0.14)
    mortar = brush.colours[-1] + 0.2 * (fractal(rng, brush.size, 0.3)[..., None] - 0.5)
    return np.where((depth < joint)[..., None], mortar, face), f"{brush.words()} brick wall"


def weave(brush: Brush) -> tuple[Picture, str]:
    """Over-and-under threads: cloth, wicker, carpet."""
    rng, (y, x) = brush.rng, coordinates(brush.size)
    count = int(rng.integers(6, 40))
    bend = 0.3 * (fractal(rng, brush.size, 1.8) - 0.5)
    v, u = y * count + bend, x * count + bend
    over = (np.floor(v).astype(int) + np.floor(u).astype(int)) % 2 == 0
    profile = np.where(over, np.abs(np.sin(np.pi * v)), np.abs(np.sin(np.pi * u)))[..., None]
    stripe = np.where(over, np.floor(v), np.floor(u)).astype(np.int64)
    thread = brush.pick(stripe - stripe.min() + np.where(over, 0, 64)) * (0.35 + 0.65 * profile)
    kind = "wicker" if count < 14 else "woven cloth"
    return thread * (
        0.75 + 0.5 * fractal(rng, brush.size, 0.5)[..., None]
    ), f"{brush.words()} {kind}"


def wood(brush: Brush) -> tuple[Picture, str]:
    """Planks with rings and fine grain along the board."""
    rng, (y, x) = brush.rng, coordinates(brush.size)
    board = np.floor(y * rng.integers(1, 7)).astype(np.int64)
    offset = rng.random(8)[board % 8]
    warp = fractal(rng, brush.size, 1.8, stretch_x=rng.uniform(4, 9))
    rings = (np.hypot((y + offset) * 4, 0.4 * (x + offset)) * rng.uniform(3, 8) + 3 * warp) % 1.0
    fine = fractal(rng, brush.size, 0.6, stretch_x=12)
    picture = brush.ramp(np.clip(0.75 * rings + 0.5 * (fine - 0.5), 0, 1)) * (
        0.8 + 0.4 * offset[..., None]
    )
    return picture, f"{brush.words()} wood grain"


def marble(brush: Brush) -> tuple[Picture, str]:
    """Veins: a sine whose phase is turbulence."""
    rng, (y, x) = brush.rng, coordinates(brush.size)
    phase = rng.uniform(2, 8) * (np.cos(a := rng.uniform(0, 6.3)) * x + np.sin(a) * y)
    field = np.abs(np.sin(np.pi * (phase + rng.uniform(1, 5) * fractal(rng, brush.size, 1.5))))
    return brush.ramp(field ** rng.uniform(0.3, 1.2)), f"{brush.words()} marble"


def stripes(brush: Brush) -> tuple[Picture, str]:
    """Stripes, waves, checks, dots and rings, hard or soft."""
    rng, (y, x) = brush.rng, coordinates(brush.size)
    kind = str(rng.choice(["stripes", "waves", "checks", "polka dots", "rings"]))
    a, count = rng.uniform(0, np.pi), rng.uniform(3, 24)
    u, v = np.cos(a) * x + np.sin(a) * y, np.cos(a) * y - np.sin(a) * x
    waves = {
        "stripes": np.sin(2 * np.pi * count * u),
        "waves": np.sin(
            2 * np.pi * (count * u + rng.uniform(0.3, 1.5) * np.sin(2 * np.pi * 4 * v))
        ),
        "checks": np.sign(np.sin(2 * np.pi * count * u) * np.sin(2 * np.pi * count * v)),
        "polka dots": 1 - 4 * np.hypot(count * u % 1 - 0.5, count * v % 1 - 0.5),
        "rings": np.sin(2 * np.pi * count * np.hypot(x - rng.random(), y - rng.random())),
    }
    field = np.clip(waves[kind] * rng.choice([0.5, 2.0, 8.0]), -0.5, 0.5) + 0.5
    return brush.ramp(field.astype(np.float32)), f"{brush.words()} {kind}"


def still_life(brush: Brush) -> tuple[Picture, str]:
    """Lit spheres with highlights and soft shadows on a graded ground."""
    rng, (y, x) = brush.rng, coordinates(brush.size)
    picture = brush.ramp(np.clip(y + 0.2 * (fractal(rng, brush.size, 1.6) - 0.5), 0, 1))
    light = rng.normal((0, 0, 1.5), 1)
    light = light / np.linalg.norm(light)
    count = int(rng.integers(1, 12))
    for cy, cx, radius in zip(
        rng.random(count), rng.random(count), rng.uniform(0.04, 0.3, count), strict=True
    ):
        u, v = (x - cx) / radius, (y - cy) / radius
        shadow = np.exp(-3 * np.maximum(np.hypot(u + light[0], 2 * (v - 0.9)) - 0.4, 0))
        picture = picture * (1 - 0.5 * shadow[..., None])
        height = np.sqrt(np.clip(1 - u * u - v * v, 0, 1))
        diffuse = np.clip(light[0] * u + light[1] * v + light[2] * height, 0, 1)
        colour = brush.colours[rng.integers(len(brush.colours))]
        ball = colour * (0.25 + 0.85 * diffuse[..., None]) + (diffuse**30)[..., None]
        picture = np.where((u * u + v * v < 1)[..., None], ball, picture)
    return picture, f"{count} {brush.words(3)} spheres with shadows"


def landscape(brush: Brush) -> tuple[Picture, str]:
    """A graded sky, ranges of hills that fade with distance, sometimes a sun."""
    rng, size, (y, x) = brush.rng, brush.size, coordinates(brush.size)
    sky, haze = brush.colours[0], brush.colours[1]
    picture = (
        sky + (haze - sky) * y[..., None] + 0.3 * (fractal(rng, size, 1.7, 0.5)[..., None] - 0.5)
    )
    if rng.random() < 0.5:
        glow = np.exp(-8 * np.hypot(x - rng.random(), y - rng.uniform(0, 0.5)))[..., None]
        picture = picture + glow * np.array([1.0, 0.9, 0.6], np.float32)
    layers = int(rng.integers(2, 7))
    for layer in range(layers):
        near = (layer + 1) / layers
        ridge = (
            0.3 + 0.6 * near - rng.uniform(0.1, 0.5) * (fractal(rng, size, 1.3 + near / 2)[0] - 0.3)
        )
        colour = haze + (brush.colours[layer % len(brush.colours)] * 0.7 - haze) * near
        slope = colour + near * (fractal(rng, size, 1.0)[..., None] - 0.5)
        picture = np.where((y > ridge)[..., None], slope, picture)
    return picture, f"landscape with {layers} {brush.words()} hills"


def drawing(brush: Brush) -> tuple[Picture, str]:
    """Pen lines on paper: hatching, scribbles and outlines."""
    rng, size = brush.rng, brush.size
    paper = np.clip(brush.colours[0] * 0.4 + 0.7, 0, 1) if rng.random() < 0.7 else brush.colours[0]
    canvas = Image.new("RGB", (2 * size, 2 * size), _rgb(paper))
    pen, count = ImageDraw.Draw(canvas), int(rng.integers(30, 400))
    heading, reach = rng.uniform(0, 6.3), rng.uniform(0.05, 0.5)
    for _ in range(count):
        turns = np.cumsum(rng.normal(0, rng.choice([0.02, 0.5]), 8)) + heading + rng.normal(0, 0.4)
        path = (
            rng.random(2) + np.cumsum(np.stack([np.cos(turns), np.sin(turns)], -1), 0) * reach / 8
        )
        colour = brush.colours[rng.integers(1, len(brush.colours))]
        pen.line(
            [tuple(p) for p in (path * 2 * size).tolist()],
            fill=_rgb(colour),
            width=int(rng.integers(1, 8)),
        )
    picture = np.asarray(canvas.resize((size, size), Image.Resampling.BOX), np.float32) / 255
    return picture, f"{brush.names[1]} pen drawing on {brush.names[0]} paper"


SCENES: tuple[Scene, ...] = (
    dead_leaves,
    dead_leaves,
    clouds,
    plasma,
    cells,
    bricks,
    weave,
    wood,
    marble,
    stripes,
    still_life,
    landscape,
    landscape,
    drawing,
    drawing,
)


def brushwork(rng: np.random.Generator, picture: Picture) -> Picture:
    """Paint `picture` again with strokes that follow a smooth field, from broad to fine."""
    size = picture.shape[0]
    canvas = Image.fromarray(_bytes(picture))
    pen, heading = ImageDraw.Draw(canvas), fractal(rng, size, 1.8) * rng.uniform(2, 10)
    broad = rng.uniform(0.01, 0.04)
    for scale, count in ((1.0, 300), (0.5, 900), (0.25, 1500)):
        length, width = 5 * broad * scale * size, max(1, round(broad * scale * size))
        for y, x in rng.integers(size, size=(count, 2)):
            a = float(heading[y, x]) + rng.normal(0, 0.2)
            dx, dy = np.cos(a) * length / 2, np.sin(a) * length / 2
            colour = picture[y, x] + rng.normal(0, 0.06)
            pen.line([(x - dx, y - dy), (x + dx, y + dy)], fill=_rgb(colour), width=width)
    return np.asarray(canvas, np.float32) / 255


def _rgb(colour: NDArray[np.floating]) -> tuple[int, ...]:
    return tuple(int(value) for value in _bytes(colour))


def _bytes(picture: NDArray[np.floating]) -> NDArray[np.uint8]:
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def _collage(rng: np.random.Generator, size: int) -> tuple[Picture, str]:
    """One scene, or two of them parted by a smooth border."""
    brush = new_brush(rng, size)
    picture, caption = SCENES[rng.integers(len(SCENES))](brush)
    if rng.random() < 0.3:
        other, words = SCENES[rng.integers(len(SCENES))](new_brush(rng, size))
        share = np.clip((fractal(rng, size, 2.0) - 0.5) * rng.choice([6, 60]) + 0.5, 0, 1)[
            ..., None
        ]
        picture, caption = picture * share + other * (1 - share), f"{caption} beside {words}"
    return picture, caption


def _warp(rng: np.random.Generator, picture: Picture) -> Picture:
    size = picture.shape[0]
    y, x = coordinates(size)
    bend = rng.uniform(0, 0.3)
    dy, dx = (bend * (fractal(rng, size, 2.2) - 0.5) for _ in range(2))
    a, zoom = rng.choice([0.0, rng.uniform(0, 6.3)]), rng.uniform(0.6, 1.0)
    u, v = (x - 0.5) * zoom, (y - 0.5) * zoom
    return sample(
        picture, v * np.cos(a) - u * np.sin(a) + dy + 0.5, u * np.cos(a) + v * np.sin(a) + dx + 0.5
    )


def _finish(rng: np.random.Generator, picture: Picture) -> Picture:
    """Light, tone and grain."""
    size = picture.shape[0]
    light = 1 + rng.uniform(0, 1.2) * (fractal(rng, size, 2.0)[..., None] - 0.5)
    tone = np.clip(picture * light, 0, 1) ** rng.uniform(0.6, 1.6)
    tone = (tone - 0.5) * rng.uniform(0.6, 1.6) + rng.uniform(0.4, 0.6)
    grain = rng.normal(0, rng.choice([0.0, 0.01, 0.04]), (size, size, 1))
    return np.clip(tone + grain, 0, 1).astype(np.float32)


def draw(seed: int, size: int = 256) -> tuple[NDArray[np.uint8], str]:
    """Paint picture number `seed`: (size, size, 3) bytes, and its caption."""
    rng = np.random.default_rng(seed)
    picture, caption = _collage(rng, size)
    if rng.random() < 0.5:
        picture = _warp(rng, picture)
    if rng.random() < 0.3:
        picture = brushwork(rng, np.clip(picture, 0, 1))
        caption = f"painting of {caption}"
    return _bytes(_finish(rng, picture)), caption
