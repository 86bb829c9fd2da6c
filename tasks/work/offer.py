"""How a packed shard reaches the run folder, however long its store is away.

The commit is the one decisive write, and comes last. Whatever happens, what was rendered is either
committed or kept: it waits in scratch, where the next worker of this machine finds it.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Container
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from infra.store import Store, StoreError, local_path, open_store
from manifests.commits import RUN_NAME, Commit, commit_name, read_commit
from manifests.errors import RunFolderError
from tasks.runs.faults import ScratchFull, StoreTrouble
from tasks.runs.run_folder import find_commit
from tasks.runs.scratch import file_sha256, find_scratch, in_use, scratch_home
from tasks.work.commit import COMMIT_FILE, PackedShard
from tasks.work.patience import patiently

logger = logging.getLogger(__name__)

_KEPT = "kept-"
_RUN_URI = "run_uri"
"""Holds the URI of the run that a kept shard belongs to."""


def offer(
    store: Store,
    packed: PackedShard,
    should_stop: Callable[[], bool],
    on_wait: Callable[[str], None],
) -> tuple[Commit, bool]:
    """Stores a packed shard and declares it; a store that cannot take it is offered it again.

    Args:
        store: of the run folder.
        packed: the shard.
        should_stop: asked while the store is waited for.
        on_wait: told why the store is waited for, at least twice a second.

    Returns:
        The commit of the shard, and whether it is this one. Where another was first, this one is
        discarded.

    Raises:
        StoreTrouble: the store is full, read-only, or away for too long; the shard is kept.
        Stopped: `should_stop` said so; the shard is kept.
    """
    with in_use(packed.folder):  # nobody else's from here on, wherever it is moved to
        kept = _kept(store, packed)
        try:
            found = patiently(lambda: _declared(store, kept), should_stop, on_wait)
        except StoreTrouble as trouble:
            raise StoreTrouble(
                f"{trouble}; shard {kept.commit.shard} is rendered and waits in {kept.folder}: the "
                "next run on this machine stores it"
            ) from trouble
        shutil.rmtree(kept.folder, ignore_errors=True)
        return found


def keep(store: Store, packed: PackedShard) -> None:
    """Leaves a packed shard where the next worker of this machine finds it; stores nothing.

    Args:
        store: of the run folder.
        packed: the shard.
    """
    with in_use(packed.folder):
        kept = _kept(store, packed)
    logger.info("shard %s is rendered and waits in %s", kept.commit.shard, kept.folder)


def find_kept(run_uri: str, fingerprint: str, plan_digest: str, shard: str) -> PackedShard | None:
    """A shard of this run that is rendered and waits here, its files held to their hashes.

    Args:
        run_uri: the run folder, as its store names it.
        fingerprint: of the run.
        plan_digest: of the generation that planned the shard.
        shard: its name.
    """
    with suppress(OSError, ScratchFull):
        folder = scratch_home() / f"{_prefix(run_uri, fingerprint, plan_digest)}{shard}"
        if not folder.is_dir():
            return None
        with in_use(folder) as is_mine:
            if not is_mine:  # another worker is offering it
                return None
            if packed := _sound(folder, fingerprint, plan_digest, shard):
                return packed
            logger.warning("%s is damaged and is removed; its shard is rendered again", folder)
            shutil.rmtree(folder, ignore_errors=True)
    return None


def forget_kept(
    run_uri: str, fingerprint: str, plan_digest: str, committed: Container[str]
) -> None:
    """Removes the shards of a plan that wait here although they are committed."""
    with suppress(ScratchFull):
        for shard, folder in kept_shards(run_uri, fingerprint, plan_digest).items():
            if shard in committed:
                remove_kept(folder)


def kept_shards(run_uri: str, fingerprint: str, plan_digest: str) -> dict[str, Path]:
    """Where the shards of a plan wait here; see `find_kept`."""
    prefix = _prefix(run_uri, fingerprint, plan_digest)
    return {path.name.removeprefix(prefix): path for path in find_scratch(prefix)}


def kept_of_lost_runs() -> list[Path]:
    """Where shards wait here whose run folder is gone.

    One whose store does not answer is not gone; nor is one above which nothing is left, as that may
    be a disk that is not mounted.
    """
    folders: dict[str, list[Path]] = {}
    for folder in find_scratch(_KEPT):
        with suppress(OSError, UnicodeDecodeError):
            folders.setdefault((folder / _RUN_URI).read_text(), []).append(folder)
    return [folder for uri, found in folders.items() if _is_lost(uri) for folder in found]


def remove_kept(folder: Path) -> None:
    """Removes a shard that waits here, unless a worker is offering it."""
    with in_use(folder) as is_mine:
        if is_mine:
            shutil.rmtree(folder, ignore_errors=True)


def _is_lost(run_uri: str) -> bool:
    try:
        path = local_path(run_uri)
        if path is not None and not any(Path(path).parent.iterdir()):
            return False
        return open_store(run_uri).find(RUN_NAME) is None
    except (OSError, StoreError):
        return False


def _declared(store: Store, packed: PackedShard) -> tuple[Commit, bool]:
    """Stores the files, then the commit, which says how long the files took; safe to repeat."""
    shard = packed.commit.shard
    started = time.monotonic()
    try:
        for file in packed.commit.files:
            store.put(file.name, packed.path_of(file))
    except FileNotFoundError as error:  # another worker here had it kept, and has stored it
        if winner := find_commit(store, shard):
            return winner, False
        raise ScratchFull(f"{error.filename} is gone before it was stored") from None
    commit = _uploaded(packed.commit, time.monotonic() - started)
    if store.put_if_absent(commit_name(shard), commit.to_bytes()):
        return commit, True
    if winner := find_commit(store, shard):
        return winner, False
    raise RunFolderError(
        f"{commit_name(shard)} was refused by the store and is not there: does another "
        "program delete files of this run folder? Run the job again"
    )


def _uploaded(commit: Commit, seconds: float) -> Commit:
    stats = commit.stats.model_copy(update={"seconds_upload": seconds})
    return commit.model_copy(update={"stats": stats})


def _kept(store: Store, packed: PackedShard) -> PackedShard:
    """The shard at the place where the next worker looks for it, unless another one waits there."""
    commit = packed.commit
    with suppress(OSError, ScratchFull):
        prefix = _prefix(store.uri, packed.fingerprint, commit.plan_digest)
        place = scratch_home() / f"{prefix}{commit.shard}"
        if packed.folder == place:
            return packed
        with in_use(place) as is_mine:
            if is_mine:
                shutil.rmtree(place, ignore_errors=True)
        (packed.folder / _RUN_URI).write_text(store.uri)
        packed.folder.rename(place)
        return replace(packed, folder=place)
    return packed


def _prefix(run_uri: str, fingerprint: str, plan_digest: str) -> str:
    """How the names of folders begin that hold shards of this plan of this run."""
    text = "\n".join((run_uri, fingerprint, plan_digest))
    return f"{_KEPT}{hashlib.sha256(text.encode()).hexdigest()[:16]}-"


def _sound(folder: Path, fingerprint: str, plan_digest: str, shard: str) -> PackedShard | None:
    try:
        commit = read_commit((folder / COMMIT_FILE).read_bytes(), shard)
    except (OSError, RunFolderError):
        return None
    packed = PackedShard(commit, folder, fingerprint)
    if commit.plan_digest != plan_digest:
        return None
    for file in commit.files:
        path = packed.path_of(file)
        if not path.is_file() or file_sha256(path) != file.sha256:
            return None
    return packed
