"""Would a flow run write into a folder that its worker removes behind it?

A Prefect worker of the type `process` gives each flow run a temporary folder to work in. Relative
paths of a job that has no other base start there.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from infra.store import local_path
from manifests.errors import JobError

_SUFFIX = "prefect"
"""The end of the names that Prefect gives to such folders."""


def refuse_workspace(run_uri: str) -> None:
    """Refuses a run folder that would be removed with everything in it.

    Raises:
        JobError: it is one.
    """
    folder, path = Path.cwd(), local_path(run_uri)
    temporary = Path(tempfile.gettempdir()).resolve()
    is_removed = folder.name.endswith(_SUFFIX) and folder.is_relative_to(temporary)
    if path is not None and is_removed and Path(path).resolve().is_relative_to(folder):
        raise JobError(
            f"the run folder {run_uri!r} would be removed when this flow run ends, with all "
            "pictures: its worker gives it a temporary folder. Set the parameter base to the full "
            "path that the job's relative paths start from, or give full paths"
        )
