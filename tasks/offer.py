"""How a packed shard reaches the run folder, however long its store is away.

The commit is the one decisive write, and comes last. Whatever happens, what was rendered is either
committed or kept: it waits in scratch, where the next worker of this machine finds it.
"""

from __future__ import annotations

from collections.abc import Callable

from infra.store import Store
from manifests.commits import Commit, commit_name
from manifests.errors import RunFolderError
from tasks.commit import PackedShard
from tasks.run_folder import find_commit


def offer(
    store: Store,
    packed: PackedShard,
    should_stop: Callable[[], bool],
    on_wait: Callable[[str], None],
) -> tuple[Commit, bool]:
    """Stores a packed shard and declares it.

    Args:
        store: of the run folder.
        packed: the shard.
        should_stop: asked while the store is waited for.
        on_wait: told why the store is waited for, and called at least twice a second meanwhile.

    Returns:
        The commit of the shard, and whether it is this one. Where another was first, this one is
        discarded.

    Raises:
        StoreTrouble: the store is full, read-only, or away for too long; the shard is kept.
        Stopped: `should_stop` said so; the shard is kept.
    """
    for file in packed.commit.files:
        store.put(file.name, packed.path_of(file))
    shard = packed.commit.shard
    if store.put_if_absent(commit_name(shard), packed.commit.to_bytes()):
        return packed.commit, True
    if winner := find_commit(store, shard):
        return winner, False
    raise RunFolderError(
        f"{commit_name(shard)} was refused by the store and is not there: does another "
        "program delete files of this run folder? Run the job again"
    )
