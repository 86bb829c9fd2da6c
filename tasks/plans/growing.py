"""How new items become a generation of a run: a frozen plan, and one record that makes it binding.

Whoever is killed on the way leaves at worst files that nothing names; whoever loses the race for a
number has changed nothing, and plans again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from infra.store import Store
from manifests.commits import RunRecord
from manifests.errors import JobError, RunFolderError
from manifests.generations import MAX_GENERATIONS, Generation, Kind, generation_name
from manifests.items import Item
from manifests.job import Compute
from manifests.plan import cut_into_shards
from manifests.plan_table import item_tables
from tasks.plans.planning import put_back, put_plan, written_plan
from tasks.runs.environment import versions, worker_name

logger = logging.getLogger(__name__)


def add_generation(
    store: Store,
    run: RunRecord,
    items: Iterable[Item],
    *,
    number: int,
    kind: Kind,
    compute: Compute,
    reason: str,
    sources: bytes | None = None,
    changes: Mapping[str, Any] | None = None,
    superseded: Iterable[str] = (),
) -> Generation | None:
    """Freezes items as the next generation of a run.

    Args:
        store: of the run folder.
        run: the run.
        items: what it plans; their shards are cut here.
        number: of the generation, one more than the newest.
        kind: why there are items.
        compute: how large shards are.
        reason: for people.
        sources: what the sources list now, as `manifests.source_table` writes it.
        changes: what changes pixels in it.
        superseded: shards that no longer count, since it plans their items.

    Returns:
        The generation; None where somebody else has taken its number.

    Raises:
        RunFolderError: the run has as many generations as it can have.
        JobError: nobody could read such a plan again.
    """
    if number > MAX_GENERATIONS:
        raise RunFolderError(
            f"{store.uri} has {MAX_GENERATIONS} generations, and a run can have no more: choose "
            "another output.uri"
        )
    shards = cut_into_shards(
        items,
        shard_seconds=compute.shard_seconds,
        shard_items=compute.shard_items,
        generation=number,
    )
    try:
        plan = written_plan(item_tables(shards), generation=number)
    except RunFolderError as error:
        raise JobError(f"this cannot be planned ({error}): take that input out") from None
    generation = Generation(
        **dict(put_plan(store, plan, sources)),
        number=number,
        kind=kind,
        fingerprint=run.fingerprint,
        reason=reason,
        changes=dict(changes or {}),
        superseded=tuple(superseded),
        created_by=worker_name(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
    )
    if not store.put_if_absent(generation_name(number), generation.to_bytes()):
        logger.info("%s was taken by somebody else: planning again", generation_name(number))
        return None
    put_back(store, plan, sources)
    logger.info(
        "%s plans %d items in %d shards (%s)",
        *(generation_name(number), generation.num_items, generation.num_shards, reason),
    )
    return generation
