"""Which artifacts does Prefect keep of a run? How far it is, its counts, what failed, and its page.

Each kind has one key, so that Prefect's page of artifacts lists it once, with those of earlier flow
runs behind it. Within a flow run it is brought up to date where it is.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from prefect.artifacts import Artifact, LinkArtifact, ProgressArtifact, TableArtifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from flows.progress import Snapshot, counted_words
from infra.store import Link, join_uri, open_store
from manifests.commits import REPORT_NAME, Counts
from manifests.wording import safe_line
from tasks.keeping.overview import Failures
from tasks.results.contact_sheet import CONTACT_SHEET_NAME

PROGRESS_KEY = "stylefarm-progress"
COUNTS_KEY = "stylefarm-counts"
FAILURES_KEY = "stylefarm-failures"
REPORT_KEY = "stylefarm-report"

MAX_MESSAGE_LETTERS = 500


class Artifacts:
    """The artifacts of the flow run that calls this, each made when it is first shown."""

    def __init__(self) -> None:
        self._ids: dict[str, UUID] = {}

    def show(self, artifact: Artifact) -> None:
        """Shows an artifact in place of the last one of its key."""
        key = str(artifact.key)
        if key not in self._ids:
            self._ids[key] = artifact.create(_sync=True).id  # pyright: ignore
            return
        update = ArtifactUpdate(
            data=artifact.format(_sync=True),  # pyright: ignore
            description=artifact.description,
        )
        get_client(sync_client=True).update_artifact(self._ids[key], update)


def progress_artifact(now: Snapshot, end: str | None = None) -> Artifact:
    """How far a run is, or was when it ended so."""
    return ProgressArtifact(
        key=PROGRESS_KEY,
        progress=100 * now.done / max(1, now.total),
        description=end or f"{now.phase} · {now.figures} · ETA {now.eta}",
    )


def counts_artifact(run_uri: str, counts: Counts, errors: dict[str, int]) -> Artifact:
    """How many items of a run became what, as its commits say now."""
    return TableArtifact(
        key=COUNTS_KEY,
        table=[counts.model_dump()],
        description=f"{counted_words(counts, errors)}, {_now():%Y-%m-%d %H:%M} UTC, in {run_uri}",
    )


def failures_artifact(run_uri: str, failures: Sequence[Failures]) -> Artifact:
    """What failed in a run, by class, with an example of each."""
    rows = [
        {
            "class": one.error_class,
            "items": one.num_items,
            "example": one.key or "",
            "message": safe_line(one.message or "", MAX_MESSAGE_LETTERS),
        }
        for one in failures
    ]
    num_items = sum(one.num_items for one in failures)
    every = f"Failed items by class, {num_items} in all; `stylefarm failures {run_uri}` lists them."
    return TableArtifact(
        key=FAILURES_KEY,
        table=rows,
        description=every if rows else f"No item of {run_uri} has failed.",
    )


def report_artifact(run_uri: str) -> Artifact:
    """A link to the page of a run, and where it has a contact sheet, to that.

    Raises:
        StoreError: there are no credentials to sign it with, or the store does not answer.
    """
    store = open_store(run_uri)
    link = store.link(REPORT_NAME)
    sentences = [_how_long(link, run_uri), join_uri(run_uri, REPORT_NAME)]
    if store.find(CONTACT_SHEET_NAME):
        sentences.append(f"Side by side: [the sheet]({store.link(CONTACT_SHEET_NAME).url}).")
    return LinkArtifact(
        key=REPORT_KEY,
        link=link.url,
        link_text="Report with pictures",
        description="\n\n".join(sentences),
    )


def _how_long(link: Link, run_uri: str) -> str:
    if link.expires is None:
        return (
            f"A file on {socket.gethostname()}. Browsers follow no link from here to a file: copy "
            "the path into the address bar there."
        )
    words = f"Until {link.expires:%Y-%m-%d %H:%M} UTC"
    if not link.is_sure:
        words += " at most (the temporary credentials that signed it may end sooner)"
    words += ", whoever has this link can open the page"
    return f"{words}. After that, `stylefarm report {run_uri} --open` opens it."


def _now() -> datetime:
    return datetime.now(UTC)
