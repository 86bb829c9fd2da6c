"""Is this the same item, the same run? Hashes over everything that changes pixels, nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from manifests.items import Input
from manifests.job import Job

NOT_IDENTITY = {
    "name": "a label for people",
    "inputs": "where images lie does not matter, and which they are stands in the plan",
    "output.uri": "where results go does not change them",
    "backbone.name": "the revision says which weights they are, whatever they are called",
    "backbone.revision": "replaced by the revision that was found",
    "backbone.config": "the revision covers it",
    "backbone.controlnet": "the revision covers it",
    "backbone.controlnet_revision": "the revision covers it",
    "backbone.dtype": "replaced by the precision that was resolved, `dtype`",
    "limits.max_failed": "judges a run, does not change it",
    "limits.stop_when_failing": "stops a run, does not change it",
    "compute": "speed only; the frozen plan keeps its shards, and `device_type` says the kind",
    "settings": "replaced by the preset's settings with these in them",
    "external": "its names stand under `settings.sweep`, and its pictures are inputs of items",
    "sweep": "replaced by the settings of every entry, under `settings.sweep`",
}
"""Fields of a job that its fingerprint leaves out, each with the reason."""

_FIRST_FIGURES = (
    *("style_loss_first", "style_loss", "content_loss", "swd_patch", "gram_raw", "color_emd"),
    *("chroma_gain", "spectrum_slope", "seam_ratio_x", "seam_ratio_y", "patch_copy"),
    *("autocorr_peak", "ssim_luma", "edge_f1"),
)

ALWAYS_HASHED = frozenset(
    [
        *("task", "seed", "variants"),
        *("output.codec", "output.quality", "output.size", "output.resize_mode"),
        *("pairing.mode", "pairing.styles_per_content", "pairing.seed"),
        *("limits.max_items", "limits.max_pixels", "quality", "quality.retries"),
        *(f"quality.{name}{end}" for name in _FIRST_FIGURES for end in ("", ".min", ".max")),
    ]
)
"""Fields of a job that its fingerprint covers even where they are at their default.

The list is closed. A field that is added to jobs later is hashed only where it is not at its
default, so that a new version continues the runs of an earlier one.
"""

ALWAYS_HASHED_SETTINGS = frozenset(
    [
        *("num_inference_steps", "num_optimization_steps", "learning_rate", "content_weight"),
        *("attn_scale", "layers", "style_weights", "reference_size", "timesteps"),
        *("guidance_scale", "adain", "start_time", "variant", "init"),
        *("controlnet_conditioning_scale", "seamless", "view_size", "view_stride", "view_shift"),
        *("view_batch_size", "colors", "decoder_epochs"),
    ]
)
"""Settings that ids and fingerprint cover even where they are at their default; closed as well."""


SET_BY_PRESETS_LATER = {
    "noise": "presets draw by number; earlier versions drew from one stream, the class's default",
}
"""Settings that presets changed when they were added, each with what was so before; closed.

A run that began before has none of them in `run.json`, and goes on with their defaults.
"""

MAX_DIFFERENCES = 20
MAX_SHOWN_LETTERS = 80
"""Maximum fields, and letters of a value, in the message that says how two runs differ."""


def canonical_json(value: Any) -> str:
    """JSON text of a value, always the same for equal values: keys sorted, no spaces, UTF-8."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(value: Any) -> str:
    """sha256 of a value's canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def item_id(
    inputs: Sequence[Input],
    *,
    task: str,
    params: Mapping[str, Any],
    model_revision: str,
    seed: int,
    variant: int,
    prompt: str | None = None,
    negative_prompt: str | None = None,
    noise_of: str | None = None,
    external: str | None = None,
) -> str:
    """32 hex digits that identify an item: its inputs, its settings and the model.

    An item of a sweep uses the noise of the item `noise_of`, so that the two can be compared. One
    that shows a picture of another program has the name of that as `external`: two programs may
    have made the same picture, or both none.
    """
    words = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "noise_of": noise_of,
        "external": external,
    }
    identity: dict[str, Any] = {
        "inputs": [input_identity(item_input) for item_input in inputs],
        "task": task,
        "params": params,
        "model_revision": model_revision,
        "seed": seed,
        "variant": variant,
        **{name: text for name, text in words.items() if text is not None},
    }
    return digest(identity)[:32]


def hashed_settings(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that ids and fingerprint cover.

    Args:
        settings: all of a task, by name.
        defaults: what each is where no preset and no job says otherwise.

    Returns:
        Those of `ALWAYS_HASHED_SETTINGS`, and of the others those that are not at their default:
        a setting that is added later leaves the ids and seeds of the items that do not use it.
    """
    return {
        name: value
        for name, value in settings.items()
        if name in ALWAYS_HASHED_SETTINGS or value != defaults.get(name)
    }


def settings_before(recorded: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a run's version did not know and presets have changed since.

    Args:
        recorded: the settings in `run.json`.
        defaults: what each is where no preset and no job says otherwise.
    """
    return {name: defaults[name] for name in SET_BY_PRESETS_LATER if name not in recorded}


def input_identity(item_input: Input) -> list[str]:
    """What an input is to the item that uses it: its role, and its bytes or, unread, its place."""
    return [item_input.role, item_input.sha256 or f"uri:{item_input.full_uri}"]


def seed_of(item: str, retry: int = 0) -> int:
    """The seed that follows from an item's id and the number of a retry: 64 bits of their hash."""
    text = f"{item}seed{retry or ''}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def job_identity(job: Job) -> dict[str, Any]:
    """The fields of a job that change its pictures, flat, by dotted name.

    Those of `ALWAYS_HASHED` are always there, the others only where they are not at their default.
    """
    fields = _flat(job.model_dump(mode="json"))
    chosen = _flat(job.model_dump(mode="json", exclude_defaults=True)).keys()
    return {
        name: value
        for name, value in fields.items()
        if not _is_left_out(name) and (name in ALWAYS_HASHED or name in chosen)
    }


def stated_identity(job: Job) -> dict[str, Any]:
    """What the identity of a job's run says, as far as the job states it.

    A run of the first layout covers the precision as it was named, a later one as it was resolved;
    what `auto` becomes cannot be told without the weights.
    """
    dtype, device = job.backbone.dtype, job.compute.device
    resolved = {"dtype": dtype, "device_type": device.partition(":")[0]}
    stated = {name: value for name, value in resolved.items() if value != "auto"}
    return {**job_identity(job), "backbone.dtype": dtype, **stated}


def run_identity(
    job: Job,
    *,
    settings: Mapping[str, Any],
    model_revision: str,
    rendering_revision: int,
    dtype: str,
    device_type: str,
) -> dict[str, Any]:
    """Every field that makes a run what it is, flat, by dotted name.

    It says what is done, not which files it is done with: those may grow (see `generations`).

    Args:
        job: as written; its fields that change pictures are covered.
        settings: as `hashed_settings` gives them.
        model_revision: exactly which weights.
        rendering_revision: of stylefarm's own code.
        dtype: the precision of the networks, resolved: `float32`, `bfloat16` or `float16`.
        device_type: the kind of device, resolved: `cpu`, `cuda` or `mps`.
    """
    return {
        **job_identity(job),
        **_flat({"settings": dict(settings)}),
        "model_revision": model_revision,
        "rendering_revision": rendering_revision,
        "dtype": dtype,
        "device_type": device_type,
    }


def in_first_layout(
    identity: Mapping[str, Any], job: Job, stored: Mapping[str, Any]
) -> dict[str, Any]:
    """A job's identity as run folders of the first layout (schema 1 of `run.json`) wrote it.

    There the precision is the one that the job names, the kind of device is not covered, and a
    digest of each source is. Sources may grow, so those that the folder recorded are taken over.

    Args:
        identity: of the job, as `run_identity` gives it.
        job: the job.
        stored: the identity in the run folder.
    """
    resolved = ("dtype", "device_type")
    sources = {name: value for name, value in stored.items() if name.startswith("sources.")}
    kept = {name: value for name, value in identity.items() if name not in resolved}
    return {**kept, "backbone.dtype": job.backbone.dtype, **sources}


def has_fast_kernels_as_default(stored: Mapping[str, Any], deterministic: bool) -> bool:
    """Whether a version made a run for which `backbone.deterministic` was false unless given.

    Both versions leave the default out of the identity and state it in `run.json`.

    Args:
        stored: the identity in the run folder.
        deterministic: what `run.json` states.
    """
    return ("backbone.deterministic" in stored) is deterministic


def with_fast_kernels_as_default(identity: Mapping[str, Any], job: Job) -> dict[str, Any]:
    """A job's identity as versions wrote it in which `backbone.deterministic` was false by default.

    A job that does not state it goes on with the kernels that the run began with.
    """
    kept = {name: value for name, value in identity.items() if name != "backbone.deterministic"}
    stated = "deterministic" in job.backbone.model_fields_set and job.backbone.deterministic
    return {**kept, **({"backbone.deterministic": True} if stated else {})}


def fingerprint(identity: Mapping[str, Any]) -> str:
    """sha256 of a run's identity, in hex."""
    return digest(identity)


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """One line for each field in which two identities differ, `MAX_DIFFERENCES` at most."""
    names = [name for name in sorted({*stored, *wanted}) if stored.get(name) != wanted.get(name)]
    lines = [
        f"  {_shortened(name)}: the run folder has {_shortened(repr(stored.get(name)))}, "
        f"the job says {_shortened(repr(wanted.get(name)))}"
        for name in names[:MAX_DIFFERENCES]
    ]
    more = len(names) - len(lines)
    return [*lines, f"  and {more} more fields"] if more else lines


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_LETTERS else f"{text[: MAX_SHOWN_LETTERS - 1]}…"


def _is_left_out(name: str) -> bool:
    return any(name == left or name.startswith(f"{left}.") for left in NOT_IDENTITY)


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            flat.update(_flat(inner, f"{prefix}{name}."))  # pyright: ignore[reportUnknownArgumentType]
        else:
            flat[f"{prefix}{name}"] = inner
    return flat
