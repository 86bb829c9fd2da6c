"""Run folders: damaged, forged, or with files in them that nobody put there."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.faults.fuzz import sound, sound_runs, words
from tests.faults.fuzz.cases import Case
from tests.faults.fuzz.damage import damaged

CODES = (0, 2, 3, 4, 5)
KEYS = (
    "../../secret",
    "/tmp/x",
    "a/b",
    "..",
    "",
    "a\0b",
    "\x1b[31m",
    "x" * 5000,
    "A",
    "é",
    "a.b",
    "\ud7ff",
)


def damaged_bytes(draw: random.Random, folder: Path) -> Case:
    """One file of a sound run folder is damaged."""
    run = _copy(draw, folder)
    file = draw.choice(_files(run))
    file.write_bytes(damaged(draw, file.read_bytes()))
    return _case(draw, f"{file.relative_to(run)} is damaged")


def json_values(draw: random.Random, folder: Path) -> Case:
    """A value of run.json, a commit, an attempt or the index is another one."""
    run = _copy(draw, folder)
    file = draw.choice([one for one in _files(run) if one.suffix == ".json"])
    if draw.random() < 0.4:
        file = run / "run.json"
    content = json.loads(file.read_bytes())
    for _ in range(draw.choice((1, 1, 2))):
        content = words.replaced_somewhere(draw, content)
    file.write_text(json.dumps(content))
    return _case(draw, f"{file.relative_to(run)} has another value")


def odd_files(draw: random.Random, folder: Path) -> Case:
    """A file is gone, a link, a pipe or a folder; or there are files that nobody put there."""
    run = _copy(draw, folder)
    if draw.random() < 0.5:
        return _case(draw, _stray_file(draw, run))
    file = draw.choice(_files(run))
    data = file.read_bytes()
    file.unlink()
    kind = draw.choice(("gone", "empty", "folder", "pipe", "nowhere", "secret", "zero", "loop"))
    if kind == "empty":
        file.write_bytes(b"")
    elif kind == "folder":
        file.mkdir()
        (file / "x.json").write_bytes(data)
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind != "gone":
        targets = {
            "nowhere": "nowhere",
            "secret": str(folder.parent / "secret.txt"),
            "zero": "/dev/zero",
        }
        file.symlink_to(targets.get(kind, file.name))
    return _case(draw, f"{file.relative_to(run)} is {kind}")


def hostile_plan(draw: random.Random, folder: Path) -> Case:
    """A plan with other values, types or columns, whose digest run.json names."""
    run = _copy(draw, folder)
    record = json.loads((run / "run.json").read_bytes())
    data = _changed_table(draw, (run / record["plan_name"]).read_bytes())
    record["plan_digest"] = hashlib.sha256(data).hexdigest()
    record["plan_name"] = f"plan/{record['plan_digest'][:12]}.parquet"
    (run / record["plan_name"]).write_bytes(data)
    (run / "run.json").write_text(json.dumps(record))
    for commit in (run / "commits").glob("*.json"):
        commit.write_text(
            json.dumps({**json.loads(commit.read_bytes()), "plan_digest": record["plan_digest"]})
        )
    return _case(draw, "a forged plan")


def hostile_parts(draw: random.Random, folder: Path) -> Case:
    """A shard's Parquet part or tar with other contents, whose digest the commit names."""
    run = _copy(draw, folder, "complete", "sweep")
    commit_file = draw.choice(sorted((run / "commits").glob("*.json")))
    commit = json.loads(commit_file.read_bytes())
    kind = draw.choice(("tar", "parquet", "parquet"))
    named = commit[kind]
    if not named:
        kind, named = "parquet", commit["parquet"]
    file = run / named["name"]
    data = file.read_bytes()
    if kind == "parquet":
        data = _changed_table(draw, data)
    elif draw.random() < 0.5:
        members = {
            draw.choice((*KEYS, "x.png")).replace("\0", "") or "x": draw.randbytes(50)
            for _ in range(3)
        }
        data = sound.tar_bytes(members)
    else:
        data = damaged(draw, data)
    digest = hashlib.sha256(data).hexdigest()
    name = named["name"] if draw.random() < 0.5 else f"data/{commit['shard']}-{digest[:12]}.{kind}"
    (run / name).write_bytes(data)
    commit[kind] = {"name": name, "bytes": len(data), "sha256": digest}
    commit_file.write_text(json.dumps(commit))
    return _case(draw, f"a forged {kind}")


def forged_commits(draw: random.Random, folder: Path) -> Case:
    """Commits that name files elsewhere, other shards, or counts that cannot be."""
    run = _copy(draw, folder, "complete", "half")
    file = draw.choice(sorted((run / "commits").glob("*.json")))
    commit = json.loads(file.read_bytes())
    secret = "../../secret.txt"
    change = draw.choice(
        (
            *(
                {"tar": {"name": secret, "bytes": 10, "sha256": "0" * 64}},
                {"tar": None},
                {"parquet": None},
            ),
            *(
                {"parquet": {"name": secret, "bytes": 10, "sha256": "0" * 64}},
                {"shard": draw.choice(KEYS)},
            ),
            *(
                {"counts": {"planned": -1, "ok": 10**30}},
                {"counts": {"planned": 1, "ok": 9, "failed": -8}},
            ),
            *(
                {"stats": {"errors": {"\x1b[31m": 10**30, "": -1}}},
                {"stats": {"render_seconds": 1e308}},
            ),
            *(
                {"plan_digest": "0" * 64},
                {"shard": "99999"},
                {"attempt_id": "\x1b[2J"},
                {"worker": "x" * 10**6},
            ),
        )
    )
    (run / "commits" / draw.choice((file.name, "99999.json", "x.json"))).write_text(
        json.dumps(commit | change)
    )
    return _case(draw, f"a forged commit: {change}"[:60])


def sound_folders(draw: random.Random, folder: Path) -> Case:
    """A run folder as it was left: all commands must do with it what they do."""
    _copy(draw, folder)
    return _case(draw, "nothing", (0, 3))


MAKERS = (
    *(damaged_bytes, damaged_bytes, json_values, json_values, odd_files, odd_files),
    *(hostile_plan, hostile_plan, hostile_parts, forged_commits, sound_folders),
)


def _case(draw: random.Random, told: str, codes: tuple[int, ...] = CODES) -> Case:
    command, may_write = draw.choice(
        (
            *(
                (("status", "run"), ()),
                (("report", "run"), ("run",)),
                (("report", "run"), ("run",)),
            ),
            *((("run", "job.yaml", "--dry-run"), ()), (("run", "job.yaml"), ("run",))),
            *((("run", "job.yaml"), ("run",)), (("plan", "job.yaml"), ("run",))),
            *((("verify", "run"), ("run",)), (("verify", "run", "--dry-run", "--json"), ())),
            (("failures", "run"), ()),
        )
    )
    if command[0] == "verify":
        codes = (*codes, 4)  # damage that can be mended
    return Case(told=told, command=command, codes=codes, may_write=may_write)


def _copy(draw: random.Random, folder: Path, *names: str) -> Path:
    """A copy of one of the sound runs, with its job; the inputs stay where they are."""
    made = sound_runs.home() / draw.choice(names or sound_runs.NAMES)
    shutil.copytree(made / "run", folder / "run")
    shutil.copy(made / "job.yaml", folder / "job.yaml")
    return folder / "run"


def _files(run: Path) -> list[Path]:
    return [one for one in sorted(run.rglob("*")) if one.is_file()]


def _stray_file(draw: random.Random, run: Path) -> str:
    name = draw.choice(
        (
            *(
                "commits/x.json",
                "commits/.x.json.tmp",
                "commits/a/b.json",
                "commits/00000.json~",
                "commits/.json",
            ),
            *(
                "attempts/x",
                "attempts/00000/x.json",
                "attempts/00000/1.json",
                "attempts/a/b/c.json",
                "attempts/00000",
            ),
            *(
                "data/x",
                "plan/x.parquet",
                "x",
                "commits/00001.JSON",
                "attempts/00001/99999999999999999999.json",
            ),
            *(
                "generations/0001.json",
                "generations/x",
                "metadata/x/y.parquet",
                "commits/\udcff.json",
                "contact_sheet.jpg",
            ),
        )
    )
    file = run / name
    if file.parent.is_file() or file.exists():
        file = run / "stray"
    file.parent.mkdir(parents=True, exist_ok=True)
    content = draw.choice(
        (
            b"",
            b"{}",
            b"[]",
            b"null",
            b"\xff",
            b'{"error": 5}',
            b'{"error": "\\u001b[31m"}',
            b"[" * 9999,
        )
    )
    if draw.random() < 0.15:
        file.mkdir()
    else:
        file.write_bytes(content)
    return f"a stray {name!r}"


def _changed_table(draw: random.Random, data: bytes) -> bytes:
    """The Parquet table with a value, a type, a column or the rows changed."""
    if draw.random() < 0.1:
        return damaged(draw, data)
    table = pq.read_table(pa.BufferReader(data))
    kind = draw.choice(("value", "value", "value", "column", "type", "rows"))
    name = draw.choice([*table.column_names, "key", "key", "shard"])
    place = table.column_names.index(name)
    if kind == "rows":
        table = draw.choice((table.slice(0, 0), table.slice(1), pa.concat_tables([table] * 3)))
    elif kind == "column":
        table = (
            table.remove_column(place)
            if draw.random() < 0.6
            else table.append_column(name, table.column(place))
        )
    elif kind == "type":
        column = draw.choice(
            (pa.nulls(len(table)), pa.array([2**40] * len(table)), pa.array([b"\xff"] * len(table)))
        )
        table = table.set_column(place, name, column)
    else:
        values = table.column(place).to_pylist()
        row = draw.randrange(len(values)) if values else 0
        values[row : row + 1] = [_hostile_value(draw, name, values[row] if values else None)]
        kind_of_column = table.schema.field(place).type
        try:
            column = pa.array(values, kind_of_column)
        except (pa.ArrowException, TypeError, ValueError, OverflowError, UnicodeError):
            column = pa.nulls(len(values))
        table = table.set_column(place, name, column)
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def _hostile_value(draw: random.Random, name: str, value: Any) -> Any:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [words.replaced_somewhere(draw, value[0]), *value[1:]]
    if isinstance(value, str):
        return draw.choice(
            (*KEYS, words.text(draw), "{}", "[1]", "5", "{" * 5000, '{"settings": 5}')
        )
    if isinstance(value, int | float):
        return draw.choice(words.NUMBERS)
    return words.value(draw)
