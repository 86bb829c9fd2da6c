"""A wheel that is built from this checkout, for whoever looks at it or installs it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def packages() -> list[str]:
    """Those that pyproject.toml names."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return pyproject["tool"]["setuptools"]["packages"]


def top_folders() -> set[str]:
    return {name.partition(".")[0] for name in packages()}


def build_wheel(folder: Path) -> Path:
    """Builds the wheel into a folder; nothing of the checkout but what it needs is there."""
    with tempfile.TemporaryDirectory() as source:
        for name in {"pyproject.toml", "README.md", "LICENSE", *top_folders()}:
            (Path(source) / name).symlink_to(ROOT / name)
        build = f"from setuptools import build_meta; build_meta.build_wheel({str(folder)!r})"
        made = subprocess.run(
            [sys.executable, "-c", build], cwd=source, capture_output=True, text=True
        )
    assert made.returncode == 0, made.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel
