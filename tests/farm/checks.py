"""What must be so after the nights; each check tells what it has found, or raises AssertionError.

The store is read with an S3 client and the run folder by the audit, which imports nothing of ours.
"""

from __future__ import annotations

import re
import shutil
import urllib.request
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

from tests.audit import Audit, Row, audit
from tests.farm.nights import LATE, PAINTINGS, PHOTOS, FlowRun
from tests.farm.studio import MACHINES, Say, Studio


def first_night(studio: Studio, say: Say) -> Audit:
    """Every picture that was there is made, once."""
    found = _audited(studio, "first")
    _check_items(found, PHOTOS)
    say(f"after the first tick: {_told(found)}")
    return found


def second_night(studio: Studio, before: Audit, say: Say) -> Audit:
    """The late file's pictures are made too, and nothing that was there is made again."""
    found = _audited(studio, "second")
    _check_items(found, (*PHOTOS, LATE))
    for shard, commit in before.commits.items():
        assert found.commits[shard] == commit, f"the commit of {shard} has changed"
    late = [row for row in found.rows if _made_of(row)[0] == LATE]
    assert {row["generation"] for row in late} == {1}, "the late file is of another generation"
    say(
        f"after the second tick: {_told(found)}; {len(late)} of them of {LATE}.jpg, which came late"
    )
    return found


def both_machines_worked(studio: Studio, runs: list[FlowRun], say: Say) -> None:
    """Each machine's flow runs have committed shards."""
    found = audit(studio.folder / "second")
    by_pid = Counter(row["worker"].rpartition(":")[2] for row in found.rows)
    for name in MACHINES:
        text = (studio.logs / f"{name}.log").read_text()
        taken = [run for run in runs if f"/runs/flow-run/{run['id']}" in text]  # it says so itself
        pids = [run["infrastructure_pid"].rpartition(":")[2] for run in taken]
        made = sum(by_pid[pid] for pid in pids)
        assert made, f"{name} has made nothing; its flow runs: {[run['name'] for run in taken]}"
        say(f"{name}: {len(taken)} flow runs, {made} pictures")


def prefect_is_on_postgresql(studio: Studio, runs: list[FlowRun], say: Say) -> None:
    """PostgreSQL itself holds the flow runs that the API tells of."""
    ids = "', '".join(run["id"] for run in runs)
    query = f"SELECT state_type, count(*) FROM flow_run WHERE id IN ('{ids}') GROUP BY 1"
    answer = studio.postgres.ask(query)
    assert answer == [["COMPLETED", str(len(runs))]], f"PostgreSQL has {answer}"
    version = studio.postgres.ask("SHOW server_version")[0][0]
    say(f"PostgreSQL {version} has {len(runs)} completed flow runs")


def report_is_fetched(studio: Studio, runs: list[FlowRun], say: Say) -> None:
    """The address that Prefect shows gives the bucket's report to whoever has that address."""
    wanted = {
        "artifacts": {
            "key": {"any_": ["stylefarm-report"]},
            "flow_run_id": {"any_": [run["id"] for run in runs]},
        },
        "sort": "UPDATED_DESC",
        "limit": 1,
    }
    (artifact,) = studio.ask("/artifacts/filter", wanted)
    found = re.search(r"\((http[^)]+)\)", artifact["data"])
    assert found, f"no link to the report in {artifact['data']!r}"
    page = _fetched(found[1])
    stored = studio.client().get_object(Bucket=studio.bucket, Key="runs/night/report.html")
    assert page == stored["Body"].read(), "the report that Prefect links to is not the bucket's"
    for photo in (*PHOTOS, LATE):
        assert photo in page.decode(), f"the report lacks the pictures of {photo}.jpg"
    kept = studio.folder / "report.html"
    kept.write_bytes(page)
    say(f"report, {len(page) / 1e6:.1f} MB, kept as {kept}; as Prefect links to it: {found[1]}")


def _fetched(address: str) -> bytes:
    no_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with no_proxy.open(address, timeout=30) as answer:
        return answer.read()


def _audited(studio: Studio, name: str) -> Audit:
    folder = studio.folder / name
    shutil.rmtree(folder, ignore_errors=True)
    _download(studio.client(), studio.bucket, "runs/night/", folder)
    return audit(folder)


def _download(client: Any, bucket: str, prefix: str, folder: Path) -> None:
    """A copy of what lies below a prefix; the next tick may take its own marks away meanwhile."""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for one in page.get("Contents", ()):
            path = folder / one["Key"].removeprefix(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(client.exceptions.NoSuchKey):
                path.write_bytes(client.get_object(Bucket=bucket, Key=one["Key"])["Body"].read())


def _check_items(found: Audit, photos: Sequence[str]) -> None:
    """Every picture once, in one committed shard, whose tar holds it; no file that nobody names."""
    wanted = Counter[tuple[str, str]](product(photos, PAINTINGS))
    made = Counter(_made_of(row) for row in found.all_rows)
    assert made == wanted, f"missing: {wanted - made}; too often: {made - wanted}"
    assert found.counts["ok"] == found.counts["planned"] == len(wanted), found.counts
    assert not found.orphans, f"files that no commit names: {found.orphans}"


def _made_of(row: Row) -> tuple[str, str]:
    """The photo and the painting of an item."""
    names = {one["role"]: PurePosixPath(one["uri"]).stem for one in row["inputs"]}
    return names["content"], names["style"]


def _told(found: Audit) -> str:
    num_workers = len({row["worker"] for row in found.rows})
    shards = f"{len(found.commits)} shards, by {num_workers} workers"
    return f"{found.counts['ok']} items ok, each once, in {shards}"
