"""Which files of a source are outputs of stylefarm, which are never inputs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import cache

from infra.store import local_path

_WRITTEN = frozenset(
    (
        *("attempts", "commits", "data", "generations", "metadata", "plan", "sources"),
        *("contact_sheet.jpg", "index.json", "report.html", "run.json"),
    )
)
"""What a run writes at the top of its folder; other things may lie beside them."""


def outputs_of(run_uri: str | None, root: str) -> Callable[[str], bool]:
    """A test of keys below the folder or prefix `root`: is it an output of the run in `run_uri`?

    All that lies in the run folder is, or, where `root` itself lies in the run folder, all that a
    run writes there. Links are followed.
    """
    if run_uri is None:
        return lambda key: False
    run_path, root_path = local_path(run_uri), local_path(root)
    if run_path is None or root_path is None:
        if run_path is root_path:  # both are on S3
            return _inside(run_uri.rstrip("/"), root.rstrip("/"), lambda key: f"{root}/{key}")
        return lambda key: False
    if not os.path.isdir(run_path):  # noqa: PTH112 - no fault of a path ends it
        return lambda key: False
    real = cache(os.path.realpath)

    def place(key: str) -> str:
        path = f"{root_path.rstrip('/')}/{key}"
        folder, _, name = path.rpartition("/")
        return os.path.realpath(path) if os.path.islink(path) else f"{real(folder or '/')}/{name}"  # noqa: PTH114

    return _inside(os.path.realpath(run_path), os.path.realpath(root_path), place)


def _inside(run: str, root: str, place: Callable[[str], str]) -> Callable[[str], bool]:
    root_is_inside = f"{root}/".startswith(f"{run}/")

    def is_output(key: str) -> bool:
        found = place(key)
        if not found.startswith(f"{run}/"):
            return False
        first = found.removeprefix(f"{run}/").split("/")[0]
        return first in _WRITTEN if root_is_inside else True

    return is_output


def run_folders_among(keys: Iterable[str]) -> set[str]:
    """The folders among these keys that hold a run, each with its slash; `` is the topmost."""
    with_run: set[str] = set()
    with_results: set[str] = set()
    for key in keys:
        folder, _, name = key.rpartition("/")
        if name in ("run.json", "index.json"):
            found = with_run if name == "run.json" else with_results
            found.add(f"{folder}/" if folder else "")
        elif name.endswith(".parquet") and (folder == "plan" or folder.endswith("/plan")):
            with_results.add(folder.removesuffix("plan"))
    return with_run & with_results
