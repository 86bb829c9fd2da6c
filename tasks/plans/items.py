"""Which item does a combination of inputs become? Its size, seed, key, cost and problem."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ad_lib.model.weights import EMBEDDED
from ad_lib.pictures.images import scaled_size
from ad_lib.presets import Preset
from manifests.identity import item_id, seed_of
from manifests.items import ErrorClass, Input, Item, Problem, distinct_slug, slug
from manifests.job import Output
from tasks.inputs.resolving import ResolvedJob, Variation
from tasks.inputs.tables import TableRow
from tasks.plans.costs import estimated_seconds
from tasks.runs.item_settings import hashed_params_of, params_of
from tasks.runs.requests import refusal

MIN_SIDE, MAX_SIDE = 64, 8192

SHAPING_ROLES = ("content", "layout", "target_mask", "control")
"""The image that a result takes its proportions from: the first of these that an item has."""

MAX_PROMPT_LETTERS = 40
"""Maximum prompt characters in a sample key."""

MAX_KEY_LETTERS = 200
"""Maximum characters of a sample key; with a suffix, file systems and tars allow 255."""

MAX_OWN_KEY_LETTERS = 120
"""Maximum characters of a table's own key within a sample key."""

NUMBER_LETTERS = 12
"""Characters that a sample key keeps free for digits of its item's id or for a variant."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the items of one variation and one size have in common.

    Attributes:
        params: canonical JSON of the settings and the size.
        hashed_params: the part of it that ids cover.
    """

    task: str
    label: str
    params: str
    hashed_params: str
    width: int
    height: int
    cost_seconds: float


def make_item(
    resolved: ResolvedJob,
    row: TableRow,
    variation: Variation,
    variant: int,
    rank: int = 0,
    given: Input | None = None,
) -> Item:
    """The item of an inspected row; its shard is not known yet.

    Args:
        resolved: the job.
        row: the inputs, and what there is besides images.
        variation: what is done with the row.
        variant: which of the pictures of the variation.
        rank: how many items before it have the same inputs, under other names.
        given: the picture that another program has made of it, where the variation shows that.
    """
    shape = shape_of(resolved, variation, row.inputs)
    numbered = variant + rank * resolved.job.variants
    whole = row if given is None else replace(row, inputs=(*row.inputs, given))
    base = base_identity(resolved, row, numbered)
    identity = base
    if not is_unswept(resolved, variation):
        identity = _identity(resolved, whole, variation, numbered, noise_of=base)
    names = [slug(item_input.key) for item_input in row.inputs]
    return Item(
        item_id=identity,
        key=sample_key(row, key_stem(row, names, variation), variant, identity),
        seed=seed_of(base),
        task=shape.task,
        params=shape.params,
        variant=numbered,
        width=shape.width,
        height=shape.height,
        inputs=whole.inputs,
        cost_seconds=shape.cost_seconds,
        prompt=row.prompt,
        negative_prompt=row.negative_prompt,
        label=shape.label,
        user=row.user,
        problem=problem_of(whole, shape),
    )


def unswept(resolved: ResolvedJob) -> Variation:
    """The job without its sweep."""
    return Variation("", "", resolved.preset, resolved.settings)


def is_unswept(resolved: ResolvedJob, variation: Variation) -> bool:
    """Whether a variation does what the job would do without its sweep."""
    return (variation.preset, variation.settings) == (resolved.preset, resolved.settings)


def shaping_place(roles: Sequence[str]) -> int | None:
    """Which of an item's inputs, by their roles, the result takes its proportions from."""
    for role in SHAPING_ROLES:
        if role in roles:
            return len(roles) - 1 - roles[::-1].index(role)
    return None


def shape_of(resolved: ResolvedJob, variation: Variation, inputs: Sequence[Input]) -> Shape:
    """The shape of an item with these inputs."""
    place = shaping_place([item_input.role for item_input in inputs])
    shaping = None if place is None else inputs[place]
    width, height = result_size(resolved.job.output, variation.preset, shaping)
    return Shape(
        task=variation.preset.name,
        label=variation.label,
        params=params_of(variation.settings, width, height),
        hashed_params=hashed_params_of(variation.settings, width, height),
        width=width,
        height=height,
        cost_seconds=_cost_seconds(resolved, variation, width, height),
    )


def key_stem(row: TableRow, names: Iterable[str], variation: Variation) -> str:
    """The readable part of a sample key: the row's own key, or the names of its inputs.

    Args:
        row: of a table, or the words that the inputs go with.
        names: slugs of the inputs' keys.
        variation: its suffix tells the entries of a sweep apart.
    """
    swept = [variation.suffix] if variation.suffix else []
    room = MAX_KEY_LETTERS - NUMBER_LETTERS - sum(len(suffix) + 1 for suffix in swept)
    if row.key:
        own = distinct_slug(row.key, min(MAX_OWN_KEY_LETTERS, room))
        return "-".join([own, *swept])
    words = [slug(row.prompt, MAX_PROMPT_LETTERS)] if row.prompt else []
    readable = "-".join(dict.fromkeys([*names, *words]))[:room].strip("-")
    return "-".join([readable, *swept])


def sample_key(row: TableRow, stem: str, variant: int, identity: str) -> str:
    """A key: a row's own key with the variant, or readable names with ten digits of the id."""
    if row.key:
        return f"{stem}-{variant}" if variant else stem
    return f"{stem}-{identity[:10]}"


def problem_of(row: TableRow, shape: Shape) -> Problem | None:
    """Why an item cannot be rendered, as far as that shows without its pixels."""
    found = row.problem or next((found.problem for found in row.inputs if found.problem), None)
    if found is not None:
        return found
    width, height = shape.width, shape.height
    if not MIN_SIDE <= min(width, height) <= max(width, height) <= MAX_SIDE:
        return Problem(
            ErrorClass.UNSUPPORTED,
            f"{row.inputs[0].full_uri}: the result would be {width}x{height}, but sides lie in "
            f"{MIN_SIDE}..{MAX_SIDE}; use output.resize_mode center_crop",
        )
    return refusal(
        shape.task,
        shape.params,
        (width, height),
        row.inputs,
        prompt=row.prompt,
        negative_prompt=row.negative_prompt,
    )


def base_identity(resolved: ResolvedJob, row: TableRow, variant: int) -> str:
    """The id that an item has without a sweep.

    The seed of every column follows from it, so that all start from the same noise and differ in
    nothing but what is swept.
    """
    return _identity(resolved, row, unswept(resolved), variant)


def _identity(
    resolved: ResolvedJob,
    row: TableRow,
    variation: Variation,
    variant: int,
    noise_of: str | None = None,
) -> str:
    shape = shape_of(resolved, variation, row.inputs)
    return item_id(
        row.inputs,
        task=shape.task,
        params=json.loads(shape.hashed_params),
        model_revision=resolved.model.revision,
        seed=resolved.job.seed,
        variant=variant,
        prompt=row.prompt,
        negative_prompt=row.negative_prompt,
        noise_of=noise_of,
        external=variation.label if variation.is_external else None,
    )


def result_size(output: Output, preset: Preset, shaping: Input | None) -> tuple[int, int]:
    """Width and height of a result, which may take its proportions from an image."""
    size = output.size or (preset.size, preset.size)
    mode = output.resize_mode or ("center_crop" if output.size else "keep_ratio")
    if shaping is None or not shaping.width or not shaping.height:
        return size
    if mode == "keep_ratio":
        return scaled_size(shaping.width, shaping.height, min(size))
    if mode == "no":
        return shaping.width, shaping.height
    return size


def _cost_seconds(resolved: ResolvedJob, variation: Variation, width: int, height: int) -> float:
    given = resolved.job.compute.seconds_per_item
    if given is not None and not variation.is_external:
        return given
    return estimated_seconds(
        variation.preset,
        variation.settings,
        (width, height),
        is_embedded=resolved.model.backbone.model_id == EMBEDDED,
        device_type=resolved.device_type,
    )
