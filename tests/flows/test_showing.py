"""What Prefect is told of a run is bounded, and is what a person needs to see."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

import pytest

from flows.progress import RunEnd, Snapshot, counted_words
from flows.run_figures import RunFigures
from flows.telling import MAX_FAILED_ITEMS, MoreFailed, Telling
from manifests.commits import Counts
from tasks.keeping.overview import Figures
from tasks.work.events import ItemDone, Progress
from tests.bad_images import write_truncated_jpeg
from tests.command_line import Cli
from tests.flows.conftest import Finished
from tests.flows.jobs import write_job
from tests.flows.running import wait_until
from tests.flows.test_observing import Halfway, asked
from tests.s3_server import S3Server

END = RunEnd(is_good=True, message="done")


def test_the_first_failed_items_are_told_one_by_one_and_all_are_counted():
    telling, num_items = Telling(Halfway()), 10_000
    for number in range(num_items):
        telling.tell(ItemDone("a", str(number), "decode" if number % 2 else "oom", message="why"))
        telling.tell(ItemDone("a", f"good-{number}"))
        telling.tell(Progress("a", items=0.1))
    telling.end(END)
    told = [one for one in telling if not isinstance(one, Snapshot)]
    one_by_one = [one for one in told if isinstance(one, ItemDone)]
    more = [one for one in told if isinstance(one, MoreFailed)]
    assert [one.key for one in one_by_one] == [str(n) for n in range(MAX_FAILED_ITEMS)]
    assert sum(sum(one.by_class.values()) for one in more) == num_items - MAX_FAILED_ITEMS
    assert set(more[0].by_class) == {"decode", "oom"}
    assert len(more) < 10
    assert told[-1] == END


def test_counts_are_words_without_what_is_zero():
    counts = Counts(planned=9, ok=5, failed=3, pending=1)
    words = counted_words(counts, {"oom": 1, "decode": 2})
    assert words == "5 ok, 3 failed (2 decode, 1 oom), 1 pending of 9 items"
    assert counted_words(Counts(planned=1, ok=1), {}) == "1 ok of 1 item"


def test_the_figures_are_read_where_something_was_committed_and_then_not_for_a_while(
    finished: Finished,
):
    figures = RunFigures(str(finished.run))
    assert figures.look(0) is None
    figures.look(4)
    found: list[Figures] = []

    def is_found() -> bool:
        found.extend(filter(None, [figures.look(4)]))
        return bool(found)

    wait_until(is_found)
    assert (found[0].index.counts.ok, found[0].index.counts.failed) == (6, 2)
    (failures,) = found[0].failures
    assert (failures.error_class, failures.num_items) == ("decode", 2)
    assert failures.key
    assert "is truncated" in (failures.message or "")
    figures.look(5)  # too soon
    assert figures.look(5) is None
    assert figures.last() == found[0]
    assert RunFigures(str(finished.run.parent)).last() is None


@pytest.mark.s3
@pytest.mark.slow
def test_a_run_on_s3_shows_its_failures_and_a_link_that_opens_its_page_without_credentials(
    cli: Cli, pictures: Path, prefect_server: str, s3_server: S3Server, s3_bucket: str
):
    write_truncated_jpeg(pictures / "content")
    uri = f"s3://{s3_bucket}/runs/monet"
    job = write_job(pictures, name="on-s3", output={"uri": uri, "size": 64})
    around = s3_server.env() | {"PREFECT_API_URL": prefect_server}
    assert cli("run", job, env=around).code == 3
    (flow_run,) = [run for run in asked(prefect_server, "flow_runs") if run["name"] == "on-s3"]
    assert flow_run["state"]["name"] == "FailedItems"
    assert "6 ok, 2 failed (2 decode) of 8 items" in flow_run["state"]["message"]
    artifacts = {
        one["key"]: one
        for one in asked(prefect_server, "artifacts")
        if one["flow_run_id"] == flow_run["id"]
    }
    assert '"ok": 6' in artifacts["stylefarm-counts"]["data"]
    assert "truncated-" in artifacts["stylefarm-failures"]["data"]
    assert "is truncated" in artifacts["stylefarm-failures"]["data"]
    report = artifacts["stylefarm-report"]
    assert re.search(r"Until \d{4}-\d\d-\d\d \d\d:\d\d UTC", report["description"])
    assert s3_server.secret_key not in str(artifacts)
    link = report["data"].partition("](")[2].removesuffix(")")
    with urllib.request.urlopen(link) as answer:
        page = answer.read().decode()
    assert page.count('src="data:image/jpeg;base64,') >= 6
    assert not re.search(r'src="(?!data:)', page)  # one object is the whole page

    def ends() -> list[str]:
        chosen = {"event": {"prefix": ["stylefarm.run."]}}
        found = asked(prefect_server, "events", filter=chosen)
        return [one["event"] for one in found if one["payload"].get("run_uri") == uri]

    wait_until(lambda: bool(ends()))
    assert cli("work", uri, env=around).code == 0
    assert ends() == ["stylefarm.run.failed"]


@pytest.mark.slow
def test_a_run_that_was_killed_before_it_was_published_ends_when_it_is(
    cli: Cli, pictures: Path, prefect_server: str
):
    job, run = write_job(pictures), pictures / "run"
    assert cli("run", job).code == 0
    (run / "index.json").unlink()

    def ends() -> list[str]:
        chosen = {"event": {"prefix": ["stylefarm.run."]}}
        found = asked(prefect_server, "events", filter=chosen)
        return [one["event"] for one in found if one["payload"].get("run_uri") == str(run)]

    for _ in range(2):  # then there is nothing to tell
        assert "Nothing to do" in cli("run", job, env={"PREFECT_API_URL": prefect_server}).out
        wait_until(lambda: bool(ends()))
    assert ends() == ["stylefarm.run.complete"]
