"""What a generation keeps of its sources, so that a later one tells what is new."""

from __future__ import annotations

import json

from manifests.source_table import SourceRow
from tasks.inputs.listed_sources import listed_sources
from tasks.inputs.resolving import resolve_job
from tests.tasks.runs import make_job


def rows_of(base, **changes) -> list[SourceRow]:
    return listed_sources(resolve_job(make_job(**changes), str(base)).inputs)


def test_every_listed_file_is_kept_with_what_changes_when_its_bytes_do(pictures):
    before = rows_of(pictures)
    assert [(row.role, row.name) for row in before] == [
        *(("content", name) for name in ("a.png", "b.png", "c.png")),
        *(("style", name) for name in ("x.png", "y.png")),
    ]
    changed = pictures / "style" / "x.png"
    changed.write_bytes(b"y" * changed.stat().st_size)
    assert [old.name for old, new in zip(before, rows_of(pictures), strict=True) if old != new] == [
        "x.png"
    ]


def test_of_a_table_the_files_that_its_rows_name_are_kept_once_and_itself(pictures):
    lines = [
        {"content": "content/a.png", "style": "style/x.png"},
        {"content": "content/b.png", "style": "style/x.png"},
        {"content": "content/gone.png", "style": ""},
    ]
    (pictures / "t.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    rows = rows_of(pictures, inputs={"table": "t.jsonl"})
    named = {(row.role, row.uri.removeprefix(f"{pictures}/")): row for row in rows}
    assert len(rows) == len(named)
    assert named.keys() == {
        *(("content", f"content/{name}.png") for name in ("a", "b", "gone")),
        *(("style", "style/x.png"), ("table", "t.jsonl")),
    }
    size = (pictures / "style" / "x.png").stat().st_size
    assert named["style", "style/x.png"].size == size
    assert named["style", "style/x.png"].etag
    assert named["content", "content/gone.png"].size is None
