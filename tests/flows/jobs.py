"""Small jobs for tests: the tiny backbone, two steps, 64 pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.conftest import TINY_BACKBONE


def write_job(folder: Path, **changes: Any) -> Path:
    """A job over `content/` and `style/` of the folder, as a file there."""
    job: dict[str, Any] = {
        "task": "style-transfer",
        "settings": {"num_inference_steps": 2},
        "backbone": str(TINY_BACKBONE),
        "inputs": {"content": "content", "style": "style"},
        "output": {"uri": "run", "size": 64},
        "compute": {"shard_items": 2, "batch_size": 2, "device": "cpu"},
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job | changes))
    return path
