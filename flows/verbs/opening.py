"""From what a person names to what a command works on: a run folder, or a job looked up.

What is wrong is told before anything large is imported.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import flows
from flows.verbs.options import pairs_of

if TYPE_CHECKING:
    from manifests.job import Job
    from tasks.inputs.resolving import ResolvedJob
    from tasks.work.fork_server import ForkServer

PACKAGES = ("ad_lib", "manifests", "infra", "tasks")


def run_folder(uri: str) -> str:
    """The full URI of a run folder.

    Raises:
        RunFolderError: there is no run, or its record is damaged.
    """
    from tasks.inputs.dated_output import follow_latest
    from tasks.runs.run_folder import open_run

    found = follow_latest(_absolute(uri))
    open_run(found)
    return found


def resolved_job(
    server: ForkServer,
    path: Path,
    overrides: list[str],
    limit: int | None,
    output: str | None,
    *,
    will_render: bool,
    for_extension: bool = False,
) -> ResolvedJob:
    """The job with everything looked up that it names.

    Args:
        server: forks the process that checks the model.
        path: the job file.
        overrides: keys of it that are replaced, as typed.
        limit: of the items that are planned.
        output: the run folder, as typed.
        will_render: this machine must have the job's device.
        for_extension: see `tasks.inputs.resolving.resolve_job`.

    Raises:
        ManifestError, RequestError, BackboneError, StoreError: something that it names is wrong,
            or cannot be used.
    """
    from ad_lib.presets import find_preset

    job = _load(path, overrides, limit, output)
    find_preset(job.task).settings_with(job.settings)
    from tasks.inputs.resolving import resolve_job
    from tasks.work.child import check_in_child

    _refuse_shadowed_packages()
    return resolve_job(
        job,
        str(path.absolute().parent),
        will_render=will_render,
        for_extension=for_extension,
        check=partial(check_in_child, server),
    )


def _load(path: Path, overrides: list[str], limit: int | None, output: str | None) -> Job:
    from manifests.job import load_job

    values = pairs_of(overrides)
    if limit is not None:
        values["limits.max_items"] = str(limit)
    if output is not None:
        values["output.uri"] = _absolute(output)
    return load_job(path, values)


def _absolute(uri: str) -> str:
    from infra.store import local_path

    path = local_path(uri)
    return uri if path is None else str(Path(path).absolute())


def _refuse_shadowed_packages() -> None:
    """Our packages have plain names; another distribution may ship one of them."""
    from manifests.errors import ManifestError

    home = Path(str(flows.__file__)).absolute().parent.parent
    for name in PACKAGES:
        found = Path(str(sys.modules[name].__file__)).absolute().parent.parent
        if found != home:
            raise ManifestError(
                f"the package {name!r} comes from {found}, not from stylefarm's {home}: another "
                "distribution ships that name; install stylefarm in an environment of its own"
            )
