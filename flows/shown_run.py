"""Which run is shown: where does it lie, and what does Prefect know it by?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True)
class ShownRun:
    """A run that is shown.

    Attributes:
        uri: its folder.
        fingerprint: what it is, wherever its folder lies.
    """

    uri: str
    fingerprint: str

    @property
    def resource_id(self) -> str:
        """What events name it by."""
        return f"stylefarm.run.{self.fingerprint[:12]}"

    def labels(self) -> dict[str, str]:
        """The run as a resource of events."""
        return {
            "prefect.resource.id": self.resource_id,
            "prefect.resource.name": PurePosixPath(self.uri).name,
            "stylefarm.run_uri": self.uri,
        }
