"""Which run folder does a job write: the one that it names, or one of several with dates?

`output.uri` may hold `{date}` once: `runs/{date}` is `runs/2026-11-26`, the day in UTC, and
`runs/2026-11-26-2` for a second run of that day. `runs/latest` leads to the run that was begun or
gone on with last: a link in a local folder, an object that holds the URI on S3.
"""

from __future__ import annotations

import logging
import unicodedata
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from infra.store import ObjectNotFound, Store, UriError, join_uri, local_path, open_store
from manifests.commits import RunRecord
from manifests.errors import JobError, RunFolderError
from tasks.inputs.output_place import DATE, LATEST, OutputPlace
from tasks.inputs.sources import resolve_uri
from tasks.runs.run_folder import find_run, has_pending_shards

logger = logging.getLogger(__name__)

MAX_URI_LETTERS = 1000

MAX_LOOKED_AT = 100
"""So many run folders with dates, the newest, are looked at for one to go on with."""


def output_place(uri: str, base: str) -> OutputPlace:
    """Where a job's runs lie.

    Args:
        uri: `output.uri` of the job.
        base: the folder that relative paths start from.

    Raises:
        JobError: no folder can have this name, or it holds other braces than `{date}`.
    """
    try:
        found = resolve_uri(uri, base)
    except UriError as error:
        raise JobError(f"output.uri: {error}") from None
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in found):
        raise JobError(
            f"output.uri: a name with control characters cannot be a run folder; got {uri[:200]!r}"
        )
    if len(found) > MAX_URI_LETTERS:
        raise JobError(
            f"output.uri: the name of a run folder has at most {MAX_URI_LETTERS} letters; got "
            f"{len(found)}, {found[:40]!r}…"
        )
    if not found.strip("/."):
        raise JobError(f"output.uri: {uri!r} cannot be a run folder: name a folder of its own")
    rest = uri.replace(DATE, "", 1)
    if "{" in rest or "}" in rest:
        raise JobError(
            f"output.uri: the only braces that it may hold are one {DATE}, which becomes the day; "
            f"got {uri[:200]!r}"
        )
    return OutputPlace(found)


def dated_runs(place: OutputPlace, *, complete_too: bool) -> Iterator[tuple[str, RunRecord]]:
    """The run folders of a place with dates, the newest first; damaged ones are left alone.

    Args:
        place: one that is dated.
        complete_too: whether those are among them that have no shard pending.
    """
    for folder in list(reversed(_folders(place)))[:MAX_LOOKED_AT]:
        uri = place.run_uri(folder)
        store = open_store(uri)
        try:
            run = find_run(store)
            if run is not None and (complete_too or has_pending_shards(store, run)):
                yield uri, run
        except RunFolderError as error:
            logger.warning("%s is not gone on with: %s", uri, error)


def new_run_uri(place: OutputPlace) -> str:
    """The run folder of today that no run has yet.

    Two who ask at the same moment get the same; whoever writes `run.json` first has it.
    """
    today = datetime.now(UTC).date().isoformat()
    pattern = place.folder_pattern()
    taken = [0]
    for folder in _folders(place):
        name = pattern.fullmatch(folder)
        if name and name[1] == today and _is_taken(open_store(place.run_uri(folder))):
            taken.append(int(name[2] or 1))
    return place.dated(today, max(taken) + 1)


def point_latest(place: OutputPlace, run_uri: str) -> None:
    """Makes `latest` lead to a run of a place with dates; what is not ours is left as it is."""
    if not place.is_dated:
        return
    path = local_path(place.latest_uri)
    try:
        if path is None:
            _put_latest(place, run_uri)
        else:
            _link_latest(Path(path), place.folder_of(run_uri))
    except OSError as error:
        logger.warning("%s cannot be made to lead to %s: %s", place.latest_uri, run_uri, error)


def follow_latest(uri: str) -> str:
    """The run folder that a URI with a part `latest` means now; other URIs as they are.

    It is followed once, when a command begins, so that a later run changes nothing under it.

    Raises:
        UriError: no store can hold it.
        StoreError: the store refuses or does not answer.
    """
    path = local_path(uri)
    parts = (uri if path is None else path).split("/")
    for number, part in enumerate(parts):
        if part == LATEST and number:
            parent = "/".join(parts[:number])
            found = _stored_latest(parent) if path is None else _linked_latest(parent)
            if found is not None:
                return "/".join([found, *parts[number + 1 :]])
    return uri


def _folders(place: OutputPlace) -> list[str]:
    """The folders with dates, by day and number."""
    pattern = place.folder_pattern()
    before = place.uri.partition(DATE)[0].rpartition("/")[2]
    found = [pattern.fullmatch(name) for name in open_store(place.parent or "/").folders(before)]
    names = [name for name in found if name]
    return [name[0] for name in sorted(names, key=lambda name: (name[1], int(name[2] or 1)))]


def _is_taken(store: Store) -> bool:
    try:
        return find_run(store) is not None
    except RunFolderError:
        return True


def _link_latest(link: Path, folder: str) -> None:
    if link.exists() and not link.is_symlink():
        raise FileExistsError("something else has this name: move it away")
    made = link.with_name(f".{LATEST}-{uuid.uuid4().hex}")
    made.symlink_to(folder, target_is_directory=True)
    try:
        made.replace(link)
    finally:
        made.unlink(missing_ok=True)


def _put_latest(place: OutputPlace, run_uri: str) -> None:
    store = open_store(place.parent)
    target = join_uri(place.parent, place.folder_of(run_uri))
    try:
        found = store.get_range(LATEST, 0, MAX_URI_LETTERS + 1)
    except ObjectNotFound:
        found = b""
    if found and not found.startswith(f"{place.parent}/".encode()):
        raise FileExistsError("something else has this name: move it away")
    store.put(LATEST, f"{target}\n".encode())


def _stored_latest(parent: str) -> str | None:
    """The folder that an object `latest` on S3 names; it must lie beside the object."""
    if not parent.removeprefix("s3://"):
        return None
    try:
        found = open_store(parent).get_range(LATEST, 0, MAX_URI_LETTERS + 1)
    except ObjectNotFound:
        return None
    target = found.decode(errors="replace").strip()
    folder = target.removeprefix(f"{parent}/")
    is_beside = target != folder and "/" not in folder and folder not in ("", ".", "..")
    return target if is_beside else None


def _linked_latest(parent: str) -> str | None:
    link = Path(parent or "/") / LATEST
    return str(link.parent / link.readlink()) if link.is_symlink() else None
