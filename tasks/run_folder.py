"""A run folder as its records tell it: what it is, what is planned, and what exists.

Invariant: a shard exists if and only if its commit does. Listings of `data/` mean nothing.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from infra.store import ObjectNotFound, Store, open_store
from manifests.commits import (
    INDEX_NAME,
    RUN_NAME,
    Commit,
    Index,
    RunRecord,
    build_index,
    commit_name,
    read_record,
)
from manifests.errors import RunFolderError
from manifests.items import Item
from manifests.plan import PLAN_NAME, Plan, read_plan

_READERS = 16


def find_run(store: Store) -> RunRecord | None:
    """The run that lives in a folder, or None where none has been planned."""
    try:
        data = store.get(RUN_NAME)
    except ObjectNotFound:
        return None
    return read_record(RunRecord, data, RUN_NAME)


def open_run(uri: str) -> tuple[Store, RunRecord]:
    """The run that lives in a folder.

    Raises:
        RunFolderError: there is none.
    """
    store = open_store(uri)
    run = find_run(store)
    if run is None:
        raise RunFolderError(
            f"{uri!r} is not a run folder (it has no {RUN_NAME}): plan one with 'stylefarm run'"
        )
    return store, run


def load_plan(store: Store, run: RunRecord) -> Plan:
    """The plan of a run, checked against its digest; kept in memory for the next call."""
    return _load_plan(store.uri, run.plan_digest)


@lru_cache(maxsize=2)
def _load_plan(uri: str, digest: str) -> Plan:
    return read_plan(open_store(uri).get(PLAN_NAME), expected_digest=digest)


def read_commits(store: Store) -> dict[str, Commit]:
    """Every commit of a run, by shard."""
    names = [one.key for one in store.list("commits/") if one.key.endswith(".json")]

    def read(name: str) -> Commit:
        return read_record(Commit, store.get(name), name)

    with ThreadPoolExecutor(_READERS) as pool:
        return {commit.shard: commit for commit in pool.map(read, names)}


def find_commit(store: Store, shard: str) -> Commit | None:
    """A shard's commit, or None where the shard does not exist yet."""
    try:
        data = store.get(commit_name(shard))
    except ObjectNotFound:
        return None
    return read_record(Commit, data, commit_name(shard))


def pending_shards(store: Store, plan: Plan) -> dict[str, list[Item]]:
    """The planned shards without a commit, the longest first."""
    committed = {one.key for one in store.list("commits/")}
    pending = {
        shard: items
        for shard, items in plan.shards().items()
        if commit_name(shard) not in committed
    }
    return dict(sorted(pending.items(), key=lambda entry: -sum(i.cost_seconds for i in entry[1])))


def last_failures(store: Store, plan: Plan) -> dict[str, str]:
    """For each shard that is still pending, the error of its latest failed attempt."""
    pending = pending_shards(store, plan)
    latest: dict[str, tuple[int, str]] = {}
    for one in store.list("attempts/"):
        _, shard, name = one.key.split("/")
        number = int(name.removesuffix(".json"))
        if shard in pending and number > latest.get(shard, (0, ""))[0]:
            latest[shard] = (number, one.key)
    return {shard: json.loads(store.get(key))["error"] for shard, (_, key) in latest.items()}


def current_index(store: Store, run: RunRecord) -> Index:
    """The index as the commits say now, whatever `index.json` says."""
    return build_index(run, read_commits(store).values())


def write_index(store: Store, index: Index) -> None:
    """Publishes the index, unless the one that is there says the same."""
    put_if_changed(store, INDEX_NAME, index.to_bytes())


def put_if_changed(store: Store, key: str, data: bytes) -> None:
    """Replaces a derived file, unless it holds these very bytes."""
    try:
        if store.get(key) == data:
            return
    except ObjectNotFound:
        pass
    store.put(key, data)
