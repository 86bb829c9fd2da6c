"""Which run is shown: where does it lie, and what does Prefect know it by?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from manifests.commits import RunRecord
from tasks.runs.run_folder import recorded_job


@dataclass(frozen=True)
class ShownRun:
    """A run that is shown.

    Attributes:
        uri: its folder.
        fingerprint: what it is, wherever its folder lies.
        name: of its job, for people.
    """

    uri: str
    fingerprint: str
    name: str

    @property
    def resource_id(self) -> str:
        """What events name it by."""
        return f"stylefarm.run.{self.fingerprint[:12]}"

    def labels(self) -> dict[str, str]:
        """The run as a resource of events."""
        return {
            "prefect.resource.id": self.resource_id,
            "prefect.resource.name": self.name,
            "stylefarm.run_uri": self.uri,
        }


def shown_run(uri: str, run: RunRecord) -> ShownRun:
    """The run of a folder."""
    name = recorded_job(run).name or PurePosixPath(uri).name
    return ShownRun(uri, run.fingerprint, name)
