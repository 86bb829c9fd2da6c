"""Which items do the combinations of inputs become? Sizes, seeds, keys, costs and problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from ad_lib.images import scaled_size
from ad_lib.presets import Preset
from ad_lib.weights import EMBEDDED
from manifests.errors import JobError
from manifests.identity import canonical_json, item_id, seed_of
from manifests.items import ErrorClass, Input, Item, Problem, distinct_slug, slug
from manifests.job import Output
from tasks.requests import refusal
from tasks.resolving import ResolvedJob, Variation
from tasks.tables import TableRow

SECONDS_PER_STEP = {(True, "cpu"): 1.0, (True, "cuda"): 0.02, (False, "cpu"): 40.0}
"""Rough seconds of one step at 512x512 by (is embedded, device); used only to size the shards."""
SECONDS_PER_STEP_ELSEWHERE = 0.05

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


def make_items(resolved: ResolvedJob, rows: Sequence[TableRow]) -> Iterator[Item]:
    """Every item of the inspected rows: each variation and variant of each, in that order.

    Raises:
        JobError: two items would have the same key.
    """
    twins: Counter[str] = Counter()
    keys: dict[str, TableRow] = {}
    for row in rows:
        for variation in resolved.variations:
            for variant in range(resolved.job.variants):
                item = _item(resolved, row, variation, variant)
                rank = twins[item.item_id]
                twins[item.item_id] += 1
                if rank:
                    # The same bytes under other names: the items differ in their rank in key order.
                    item = _item(resolved, row, variation, variant, rank)
                if item.key in keys:
                    raise JobError(
                        f"inputs.table: two rows would be stored under the key {item.key!r} "
                        f"({keys[item.key].key!r} and {row.key!r}): make the keys differ in "
                        "letters, digits, '_' or '-'"
                    )
                keys[item.key] = row
                yield item


def _item(
    resolved: ResolvedJob, row: TableRow, variation: Variation, variant: int, rank: int = 0
) -> Item:
    numbers = [str(variant)] if variant else []
    variant += rank * resolved.job.variants
    width, height = _result_size(resolved.job.output, variation.preset, row.inputs)
    params = _params(variation, width, height)
    identity, seed = _identity_and_seed(resolved, row, variation, variant)
    item = Item(
        item_id=identity,
        key=_sample_key(row, variation, numbers, identity),
        seed=seed,
        task=variation.preset.name,
        params=canonical_json(params),
        variant=variant,
        width=width,
        height=height,
        inputs=row.inputs,
        cost_seconds=_cost_seconds(resolved, variation, width, height),
        prompt=row.prompt,
        negative_prompt=row.negative_prompt,
        label=variation.label,
        user=row.user,
        problem=row.problem,
    )
    return replace(item, problem=_problem(item))


def _params(variation: Variation, width: int, height: int) -> dict[str, object]:
    return {"settings": asdict(variation.settings), "width": width, "height": height}


def _identity_and_seed(
    resolved: ResolvedJob, row: TableRow, variation: Variation, variant: int
) -> tuple[str, int]:
    """An item's id, and the seed that follows from it.

    In a sweep it follows from the id that the item would have without one, so that all columns
    start from the same noise and differ in nothing but what is swept.
    """
    unswept = Variation("", "", resolved.preset, resolved.settings)
    base = _identity(resolved, row, unswept, variant)
    if (variation.preset, variation.settings) == (unswept.preset, unswept.settings):
        return base, seed_of(base)
    return _identity(resolved, row, variation, variant, noise_of=base), seed_of(base)


def _identity(
    resolved: ResolvedJob,
    row: TableRow,
    variation: Variation,
    variant: int,
    noise_of: str | None = None,
) -> str:
    size = _result_size(resolved.job.output, variation.preset, row.inputs)
    return item_id(
        row.inputs,
        task=variation.preset.name,
        params=_params(variation, *size),
        model_revision=resolved.model.revision,
        seed=resolved.job.seed,
        variant=variant,
        prompt=row.prompt,
        negative_prompt=row.negative_prompt,
        noise_of=noise_of,
    )


def _sample_key(row: TableRow, variation: Variation, numbers: list[str], identity: str) -> str:
    """A readable name: the row's own key, or the keys of its inputs and ten digits of the id."""
    swept = [variation.suffix] if variation.suffix else []
    room = MAX_KEY_LETTERS - NUMBER_LETTERS - sum(len(suffix) + 1 for suffix in swept)
    if row.key:
        own = distinct_slug(row.key, min(MAX_OWN_KEY_LETTERS, room))
        return "-".join([own, *swept, *numbers])
    names = [slug(item_input.key) for item_input in row.inputs]
    names += [slug(row.prompt, MAX_PROMPT_LETTERS)] if row.prompt else []
    readable = "-".join(dict.fromkeys(names))[:room].strip("-")
    return "-".join([readable, *swept, identity[:10]])


def _result_size(output: Output, preset: Preset, inputs: Sequence[Input]) -> tuple[int, int]:
    size = output.size or (preset.size, preset.size)
    mode = output.resize_mode or ("center_crop" if output.size else "keep_ratio")
    of_role = {item_input.role: item_input for item_input in inputs}
    shaping = next((of_role[role] for role in SHAPING_ROLES if role in of_role), None)
    if shaping is None or not shaping.width or not shaping.height:
        return size
    if mode == "keep_ratio":
        return scaled_size(shaping.width, shaping.height, min(size))
    if mode == "no":
        return shaping.width, shaping.height
    return size


def _problem(item: Item) -> Problem | None:
    found = item.problem or next((found.problem for found in item.inputs if found.problem), None)
    if found is not None:
        return found
    width, height = item.width, item.height
    if not MIN_SIDE <= min(width, height) <= max(width, height) <= MAX_SIDE:
        return Problem(
            ErrorClass.UNSUPPORTED,
            f"{item.inputs[0].full_uri}: the result would be {width}x{height}, but sides lie in "
            f"{MIN_SIDE}..{MAX_SIDE}; use output.resize_mode center_crop",
        )
    return refusal(item)


def _cost_seconds(resolved: ResolvedJob, variation: Variation, width: int, height: int) -> float:
    compute = resolved.job.compute
    if compute.seconds_per_item is not None:
        return compute.seconds_per_item
    device = compute.device.partition(":")[0]
    if device == "auto":
        device = _default_device()
    kind = (resolved.model.backbone.model_id == EMBEDDED, device)
    settings = variation.settings
    steps = settings.num_inference_steps * max(1, settings.num_optimization_steps)
    if variation.preset.algorithm == "expand":  # views overlap: so often is each pixel computed
        steps *= (settings.view_size / settings.view_stride) ** 2
    per_step = SECONDS_PER_STEP.get(kind, SECONDS_PER_STEP_ELSEWHERE)
    return round(steps * per_step * width * height / 512**2, 3)


def _default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
