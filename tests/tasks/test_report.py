"""The page that a person opens, and the index behind it."""

from __future__ import annotations

import base64
import io
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from infra.store import open_store
from manifests.amounts import money, plain_number
from manifests.errors import RunFolderError
from manifests.generations import Generation, generation_name
from manifests.plan import cut_into_shards
from manifests.plan_table import item_tables
from tasks.plans.planning import put_plan, written_plan
from tasks.results.publishing import publish
from tasks.results.report import MAX_PICTURES, _evenly
from tasks.runs.committed import read_commits
from tasks.runs.run_folder import load_plan, open_run, pending_shards
from tests.audit import audit
from tests.tasks.runs import files_of, finish, prepare, render_pending

VOID = {"meta", "link", "img", "input", "br", "hr"}


class Page(HTMLParser):
    """A page whose tags must nest; its pictures, figure captions and texts."""

    def __init__(self, run_uri: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, Any]] = []
        self.texts: dict[str, list[str]] = {}
        self.articles: list[str] = []
        self.feed((Path(run_uri) / "report.html").read_text(encoding="utf-8"))
        self.close()
        assert self.open == [], "a tag is left open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "article":
            self.articles.append(dict(attrs)["class"] or "")
        assert tag in KNOWN_TAGS, f"<{tag}> is none of the page's"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.texts.setdefault(self.open[-1], []).append(data.strip())


KNOWN_TAGS = {
    *VOID,
    *("html", "head", "title", "style", "body", "main", "article", "nav", "details", "summary"),
    *("h1", "h2", "p", "div", "span", "dl", "dt", "dd", "label", "figure", "figcaption"),
    *("pre", "code", "a"),
}


def size_of(image: dict[str, Any]) -> tuple[int, int]:
    data = image["src"].removeprefix("data:image/jpeg;base64,")
    return Image.open(io.BytesIO(base64.b64decode(data))).size


def test_the_page_shows_each_item_with_a_figure_for_every_role_and_the_result(pictures):
    run = prepare(pictures, limits={"max_items": 3})
    finish(run)
    page = Page(run.uri)
    assert page.articles == ["ok"] * 3
    assert page.texts["figcaption"] == ["content", "style", "result"] * 3
    assert len(page.images) == 9
    for number, image in enumerate(page.images):
        assert image["alt"].split(" of ")[0] == ("content", "style", "result")[number % 3]
        assert size_of(image) == ((64, 64) if number % 3 == 2 else (128, 96))
    assert set(page.texts["h2"]) == {item.key for item in run.plan.iter_items()}


def test_the_page_tells_the_counts_and_every_problem(pictures):
    (pictures / "content" / "b.png").write_bytes(b"")
    run = prepare(pictures)
    finish(run)
    page = Page(run.uri)
    counts = dict(zip(page.texts["dt"], page.texts["dd"], strict=False))
    assert counts["planned"] == "6"
    assert (counts["ok"], counts["failed"], counts["pending"]) == ("4", "2", "0")
    assert counts["decode"] == "2"
    assert sorted(page.articles) == ["failed"] * 2 + ["ok"] * 4
    errors = [text for text in page.texts["div"] if text.startswith("decode: ")]
    assert errors == [f"decode: {pictures}/content/b.png: the file is empty (0 bytes)"] * 2


def test_the_page_tells_what_the_run_has_taken(pictures):
    run = prepare(pictures, compute__price_per_hour=3600)
    stats = finish(run).stats
    page = Page(run.uri)
    figures = dict(zip(page.texts["dt"], page.texts["dd"], strict=False))
    assert figures["worker-hours"] == plain_number(stats.device_seconds / 3600)
    assert figures["cost"] == f"{money(stats.device_seconds)} (at 3600 an hour)"
    assert figures["peak memory"] == f"{stats.peak_memory_bytes / 1e9:.2f} GB"
    for phase, seconds in stats.seconds_by_phase.items():
        assert figures[phase.replace("_", " ")] == f"{seconds:.1f} s"


def test_a_hostile_file_name_is_text_and_nothing_else(pictures):
    hostile = "<b>&\"x'{{7*7}}.png"
    (pictures / "style" / "x.png").rename(pictures / "style" / hostile)
    (pictures / "content" / "<script>alert(1)<").mkdir()
    (pictures / "content" / "<script>alert(1)<" / hostile).write_bytes(b"")
    run = prepare(pictures, name="</title><b>&")
    finish(run)
    page = Page(run.uri)
    assert any(hostile in text for text in page.texts["div"])
    assert page.texts["title"] == ["</title><b>& · stylefarm"]
    text = (Path(run.uri) / "report.html").read_text()
    assert "<script" not in text
    assert "<b>" not in text
    assert audit(run.uri).counts["failed"] == 2


def test_publishing_twice_writes_nothing(pictures):
    run = prepare(pictures)
    first = finish(run)
    before = {path: path.stat() for path in Path(run.uri).rglob("*") if path.is_file()}
    assert publish(run.uri) == first
    after = {path: path.stat() for path in Path(run.uri).rglob("*") if path.is_file()}
    assert {path: (s.st_ino, s.st_mtime_ns) for path, s in before.items()} == {
        path: (s.st_ino, s.st_mtime_ns) for path, s in after.items()
    }


def test_index_and_page_can_be_made_again_from_the_commits(pictures):
    run = prepare(pictures)
    finish(run)
    before = files_of(run.uri)
    for name in ("index.json", "report.html"):
        (Path(run.uri) / name).unlink()
    publish(run.uri)
    assert files_of(run.uri) == before


def test_an_unfinished_run_can_be_looked_at_and_says_what_is_pending(pictures):
    run = prepare(pictures)
    index = publish(run.uri)
    assert (index.counts.planned, index.counts.pending, index.complete) == (6, 6, False)
    Page(run.uri)
    store, record = open_run(run.uri)
    plan = load_plan(store, record)
    assert list(pending_shards(store, plan)) == ["00000", "00001", "00002"]
    found = audit(run.uri, complete=False)
    assert found.counts == {"planned": 6, "ok": 0, "failed": 0, "skipped": 0, "pending": 6}


def test_an_input_that_is_gone_leaves_a_gap_and_no_error(pictures):
    run = prepare(pictures, limits={"max_items": 1})
    render_pending(run)
    shutil.rmtree(pictures / "style")
    (Path(run.uri) / "report.html").unlink()
    publish(run.uri)
    page = Page(run.uri)
    assert "no longer there" in page.texts["div"]
    assert page.texts["figcaption"] == ["content", "style", "result"]
    assert len(page.images) == 2


def test_pending_shards_come_with_the_longest_first_and_without_committed_ones(pictures):
    run = prepare(pictures, compute={"shard_items": 4})
    store = open_store(run.uri)
    assert {name: one.num_items for name, one in pending_shards(store, run.plan).items()} == {
        "00000": 4,
        "00001": 2,
    }
    assert next(iter(pending_shards(store, run.plan))) == "00000"
    store.put_if_absent("commits/00000.json", b"{}")
    assert list(pending_shards(store, run.plan)) == ["00001"]


def test_a_folder_without_a_run_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(RunFolderError, match=r"is not a run folder \(it has no run.json\): plan"):
        publish(str(tmp_path))


def test_a_damaged_commit_is_named(pictures):
    run = prepare(pictures)
    open_store(run.uri).put("commits/00001.json", b'{"shard": ')
    with pytest.raises(RunFolderError, match=r"commits/00001.json is damaged .*: restore it, or"):
        publish(run.uri)


@pytest.mark.parametrize("number", [0, 1, MAX_PICTURES - 1, MAX_PICTURES, 1000])
def test_a_long_run_is_shown_by_an_even_sample(number):
    shown = _evenly(range(number), MAX_PICTURES)
    assert len(shown) <= MAX_PICTURES
    assert len(shown) >= min(number, MAX_PICTURES // 2)


@pytest.mark.s3
def test_publishing_twice_on_s3_writes_nothing(pictures, s3_bucket):
    uri = f"s3://{s3_bucket}/run"
    run = prepare(pictures, output__uri=uri, limits={"max_items": 1})
    finish(run)
    before = {one.key: (one.etag, one.modified) for one in open_store(uri).list()}
    publish(uri)
    assert {one.key: (one.etag, one.modified) for one in open_store(uri).list()} == before


def test_rows_of_a_superseded_shard_count_no_more_and_its_files_are_not_missed(pictures):
    job: dict[str, Any] = {"inputs": {"content": "content", "style": "style/x.png"}}
    run = prepare(pictures, **job)
    before = finish(run)
    store = open_store(run.uri)
    again = cut_into_shards(run.plan.items("00000"), shard_seconds=300, shard_items=9, generation=1)
    plan = put_plan(store, written_plan(item_tables(again), generation=1))
    repair = Generation(
        **dict(plan),
        number=1,
        kind="repair",
        fingerprint=run.run.fingerprint,
        superseded=("00000",),
        created_by="a test",
        created_at="now",
    )
    store.put(generation_name(1), repair.to_bytes())
    commit = read_commits(store)["00000"]
    store.delete(commit.parquet.name)
    index = publish(run.uri)
    assert not index.complete
    assert (index.counts.ok, index.counts.pending) == (1, 2)
    assert [one.shard for one in index.shards if one.superseded] == ["00000"]
    index = finish(prepare(pictures, **job))
    assert index.complete
    assert index.counts == before.counts
    assert index.content_digest == before.content_digest
