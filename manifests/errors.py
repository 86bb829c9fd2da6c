"""The errors of manifests, as a tree.

ValueError
└── ManifestError        one sentence (or one a line) with the value and the remedy
    ├── JobError         the job file, or the inputs that it names
    └── RunFolderError   a run folder that does not hold what it should
        ├── FingerprintMismatch   a run folder that belongs to another job
        └── NewerVersion   a record that a later version of stylefarm has written
"""

from collections.abc import Iterable
from difflib import get_close_matches

from manifests.wording import safe_line, safe_text

MAX_DIFFERENCES = 12
"""Differing fields that a message names."""

MEANT_KEYS = {
    "batch": "compute.batch_size",
    "batch_size": "compute.batch_size",
    "cfg": "settings.guidance_scale",
    "cfg_scale": "settings.guidance_scale",
    "checkpoint": "backbone.name",
    "codec": "output.codec",
    "content_weight": "settings.content_weight",
    "contents": "inputs.content",
    "content": "inputs.content",
    "csv": "inputs.table",
    "device": "compute.device",
    "dtype": "backbone.dtype",
    "ext": "output.codec",
    "extension": "output.codec",
    "folder": "output.uri",
    "format": "output.codec",
    "guidance": "settings.guidance_scale",
    "guidance_scale": "settings.guidance_scale",
    "images": "inputs.content",
    "image": "inputs.content",
    "input": "inputs",
    "iterations": "settings.num_optimization_steps",
    "lambda": "settings.content_weight",
    "learning_rate": "settings.learning_rate",
    "limit": "limits.max_items",
    "lr": "settings.learning_rate",
    "max_failed": "limits.max_failed",
    "max_items": "limits.max_items",
    "model": "backbone",
    "negative": "inputs.negative_prompt",
    "negative_prompt": "inputs.negative_prompt",
    "num_inference_steps": "settings.num_inference_steps",
    "num_optimization_steps": "settings.num_optimization_steps",
    "num_workers": "compute.io_threads",
    "options": "settings",
    "out": "output.uri",
    "out_dir": "output.uri",
    "output_dir": "output.uri",
    "parameters": "settings",
    "params": "settings",
    "path": "output.uri",
    "photos": "inputs.content",
    "precision": "backbone.dtype",
    "preset": "task",
    "prompt": "inputs.prompt",
    "prompts": "inputs.prompt",
    "repeats": "variants",
    "resize": "output.resize_mode",
    "resolution": "output.size",
    "samples": "variants",
    "size": "output.size",
    "steps": "settings.num_inference_steps",
    "style": "inputs.style",
    "styles": "inputs.style",
    "table": "inputs.table",
    "texture": "inputs.texture",
    "textures": "inputs.texture",
    "threads": "compute.io_threads",
    "type": "task",
    "workers": "compute.io_threads",
}
"""What a person means by a key that a job does not have, or has elsewhere."""


class ManifestError(ValueError):
    """Something that a user wrote or stored cannot be used as it is.

    The message is bounded and made safe to show when the error is made.
    """

    def __init__(self, message: str) -> None:
        super().__init__(safe_text(message))


class JobError(ManifestError):
    """The job file, or the inputs that it names, cannot be used."""


class RunFolderError(ManifestError):
    """A run folder does not hold what it should."""


class NewerVersion(RunFolderError):
    """A later version of stylefarm has written this record."""


class FingerprintMismatch(RunFolderError):
    """The run folder belongs to another job.

    Attributes:
        differences: one line per field that differs, the first `MAX_DIFFERENCES` of them.
    """

    def __init__(self, message: str, differences: list[str]) -> None:
        self.differences = [f"  {safe_line(line, 300)}" for line in differences[:MAX_DIFFERENCES]]
        if len(differences) > MAX_DIFFERENCES:
            self.differences.append(f"  and {len(differences) - MAX_DIFFERENCES} more fields")
        super().__init__("\n".join([message, *self.differences]))


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: what a person means by it, the nearest known one, or all."""
    names = sorted(known)
    meant = MEANT_KEYS.get(name.lower().replace("-", "_"), "")
    inside = meant.rpartition(".")[2]
    if meant and inside != name and inside in names:
        return f"did you mean {inside!r}?"
    near = get_close_matches(name, names, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(names)}"


def nearest_key(name: str, known: Iterable[str]) -> str:
    """The same for a key of a job's outermost level, which may belong into one of its parts."""
    meant = MEANT_KEYS.get(name.lower().replace("-", "_"))
    return f"did you mean {meant!r}?" if meant else nearest(name, known)
