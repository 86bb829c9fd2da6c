"""Which files of a source are outputs of stylefarm, which are never inputs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from functools import cache

from infra.store import local_path
from tasks.inputs.output_place import LATEST, OutputPlace

_WRITTEN = frozenset(
    (
        *("attempts", "commits", "data", "generations", "metadata", "plan", "sources"),
        *("contact_sheet.jpg", "index.json", "publishing.json", "report.html", "run.json"),
    )
)
"""What a run writes at the top of its folder; other things may lie beside them."""


def outputs_of(run_uri: str | None, root: str) -> Callable[[str], bool]:
    """A test of keys below the folder or prefix `root`: is it an output of a job?

    All that lies in its run folder is, or, where `root` itself lies in the run folder, all that a
    run writes there. Links are followed.

    Args:
        run_uri: the job's run folder; where it holds a date, all of its run folders are meant.
        root: where the keys are.
    """
    if run_uri is None:
        return lambda key: False
    place = OutputPlace(run_uri.rstrip("/"))
    top = place.parent if place.is_dated else place.uri
    top_path, root_path = local_path(top), local_path(root)
    if top_path is None or root_path is None:
        if top_path is root_path:  # both are on S3
            return _inside(_runs(place, top), root.rstrip("/"), lambda key: f"{root}/{key}")
        return lambda key: False
    if not os.path.isdir(top_path):  # noqa: PTH112 - no fault of a path ends it
        return lambda key: False
    real = cache(os.path.realpath)

    def lies(key: str) -> str:
        path = f"{root_path.rstrip('/')}/{key}"
        folder, _, name = path.rpartition("/")
        return os.path.realpath(path) if os.path.islink(path) else f"{real(folder or '/')}/{name}"  # noqa: PTH114

    return _inside(_runs(place, os.path.realpath(top_path)), os.path.realpath(root_path), lies)


def _runs(place: OutputPlace, top: str) -> re.Pattern[str]:
    """How the paths of a job's outputs begin, and the whole path of its `latest`."""
    if not place.is_dated:
        return re.compile(f"{re.escape(top)}/")
    folders = f"{place.folder_pattern().pattern}{re.escape(place.inside)}/"
    return re.compile(f"{re.escape(top.rstrip('/'))}/(?:{folders}|{LATEST}$)", re.ASCII)


def _inside(runs: re.Pattern[str], root: str, lies: Callable[[str], str]) -> Callable[[str], bool]:
    root_is_inside = runs.match(f"{root}/") is not None

    def is_output(key: str) -> bool:
        path = lies(key)
        beginning = runs.match(path)
        if beginning is None:
            return False
        return not root_is_inside or path[beginning.end() :].split("/")[0] in _WRITTEN

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
