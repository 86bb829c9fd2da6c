"""A run folder may hold anything: it is refused in one sentence that names the file, untouched."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from infra.store import StoreError, open_store
from manifests import parquet
from manifests.errors import JobError, RunFolderError
from manifests.identity import fingerprint
from manifests.job import job_from_dict
from manifests.records import MAX_RECORD_BYTES
from tasks.inputs.resolving import ResolvedJob, resolve_job
from tasks.keeping.overview import overview
from tasks.plans.planning import open_prepared
from tasks.results.publishing import publish
from tasks.runs.committed import current_index
from tasks.runs.run_folder import open_run, pending_shards
from tasks.runs.worker_identity import this_worker
from tasks.work.holding import take
from tests.audit import audit
from tests.bad_images import picture
from tests.command_line import command_environment
from tests.tasks.runs import files_of, finish, make_job, plan_path, prepare

Damage = Callable[[Path], None]
Change = dict[str, Any] | Callable[[dict[str, Any]], Any]
TableChange = Callable[[pa.Table], pa.Table]

CHANGES: dict[str, Any] = {
    "sweep": {"learning_rate": [0.01, 0.02]},
    "compute": {"shard_items": 1, "device": "cpu"},
}


@pytest.fixture(scope="session")
def sound(tmp_path_factory) -> Path:
    """A committed sweep of four shards with an item each; two of them have no picture."""
    home = tmp_path_factory.mktemp("sound")
    for folder, names in (("content", "ab"), ("style", "x")):
        (home / folder).mkdir()
        for name in names:
            Image.fromarray(picture(seed=ord(name))).save(home / folder / f"{name}.png")
    (home / "content" / "b.png").write_bytes(b"")
    assert finish(prepare(home, **CHANGES)).counts.ok == 2
    return home


@pytest.fixture
def run(sound, tmp_path) -> Path:
    """A copy of it."""
    folder = tmp_path / "run"
    shutil.copytree(sound / "run", folder)
    return folder


@pytest.fixture(scope="session")
def resolved_once(sound) -> ResolvedJob:
    return resolve_job(make_job(**CHANGES), str(sound))


@pytest.fixture
def resolved(resolved_once, run) -> ResolvedJob:
    """The job of the copied run folder."""
    return replace(resolved_once, output_uri=str(run))


def with_pictures(run: Path) -> dict[str, Any]:
    """The commit of the first shard that has a picture."""
    commits = (json.loads(path.read_bytes()) for path in sorted(run.glob("commits/*.json")))
    return next(commit for commit in commits if commit["counts"]["ok"])


def edit(name: str, change: Change) -> Damage:
    """Changes keys of a JSON record; `commit` is that of the first shard with a picture."""

    def damage(run: Path) -> None:
        path = run / (name if name != "commit" else f"commits/{with_pictures(run)['shard']}.json")
        content = json.loads(path.read_bytes())
        changed = change(content) if callable(change) else content | change
        path.write_text(json.dumps(content if changed is None else changed))

    return damage


def write(name: str, data: bytes) -> Damage:
    def damage(run: Path) -> None:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(data)

    return damage


def identity(**changes: Any) -> Damage:
    """Another identity in run.json, with its own fingerprint."""

    def change(record: dict[str, Any]) -> None:
        record["identity"] |= changes
        record["identity"] = {k: v for k, v in record["identity"].items() if v is not None}
        record["fingerprint"] = fingerprint(record["identity"])

    return edit("run.json", change)


def in_place_of_run_json(make: Callable[[Path], Any]) -> Damage:
    def damage(run: Path) -> None:
        (run / "run.json").unlink()
        make(run / "run.json")

    return damage


def sparse(name: str, size: int) -> Damage:
    """A file of that many zeros, which take no room on the disk."""

    def damage(run: Path) -> None:
        with (run / name).open("wb") as file:
            file.truncate(size)

    return damage


def table_bytes(table: pa.Table) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def forged_plan(change: Callable[[pa.Table], pa.Table | bytes], **record: Any) -> Damage:
    """Another plan, whose digest run.json and the commits name."""

    def damage(run: Path) -> None:
        changed = change(pq.read_table(plan_path(run)))
        data = changed if isinstance(changed, bytes) else table_bytes(changed)
        digest = {"plan_digest": hashlib.sha256(data).hexdigest()}
        name = f"plan/{digest['plan_digest'][:12]}.parquet"
        (run / name).write_bytes(data)
        edit("run.json", {**digest, "plan_name": name, **record})(run)
        for commit in run.glob("commits/*.json"):
            edit(f"commits/{commit.name}", digest)(run)

    return damage


def column(name: str, *values: Any) -> Callable[[pa.Table], pa.Table]:
    """The first values of a column replaced."""

    def change(table: pa.Table) -> pa.Table:
        place = table.column_names.index(name)
        told = [*values, *table.column(name).to_pylist()[len(values) :]]
        field = table.schema.field(name).with_nullable(True)
        return table.set_column(place, field, pa.array(told, field.type))

    return change


def input_field(name: str, value: Any) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        first, *others = table.column("inputs").to_pylist()[0]
        return column("inputs", [{**first, name: value}, *others])(table)

    return change


def params(change: Callable[[dict[str, Any]], Any]) -> Callable[[pa.Table], pa.Table]:
    """Other settings in every row."""

    def changed(text: str) -> str:
        content = json.loads(text)
        change(content)
        return json.dumps(content)

    return lambda table: column("params", *map(changed, table["params"].to_pylist()))(table)


def forged_file(kind: str, change: Callable[[bytes], bytes]) -> Damage:
    """Another tar or Parquet part, with the size and hash that its commit then states."""

    def damage(run: Path) -> None:
        commit = with_pictures(run)
        path = run / commit[kind]["name"]
        data = change(path.read_bytes())
        sha256 = hashlib.sha256(data).hexdigest()
        name = f"data/{commit['shard']}-{sha256[:12]}.{kind}"
        (run / name).write_bytes(data)
        edit("commit", {kind: {"name": name, "bytes": len(data), "sha256": sha256}})(run)

    return damage


def forged_part(change: Callable[[pa.Table], pa.Table]) -> Damage:
    return forged_file(
        "parquet", lambda data: table_bytes(change(pq.read_table(pa.BufferReader(data))))
    )


def output_field(name: str, value: Any) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        (output,) = table.column("outputs").to_pylist()[0]
        return column("outputs", [{**output, name: value}])(table)

    return change


def another_tar(change: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]) -> Damage:
    """A sound tar with other members."""

    def packed(data: bytes) -> bytes:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            held = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name, content in change(held):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return file.getvalue()

    return forged_file("tar", packed)


def of_file(kind: str, change: Callable[[Path], Any]) -> Damage:
    """Damage to the committed tar or Parquet part behind its commit's back."""
    return lambda run: change(run / with_pictures(run)[kind]["name"])


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


def newer(record: dict[str, Any]) -> dict[str, Any]:
    return {"schema_version": 7, "who knows": record}


def grown(change: Change | None = None, plan: TableChange = lambda table: table) -> Damage:
    """A retry of every item as a generation of its own, whose record and plan are then changed."""

    def damage(run: Path) -> None:
        table = pq.read_table(plan_path(run))
        names = [f"g0001-{name}" for name in table["shard"].to_pylist()]
        data = table_bytes(plan(column("shard", *names)(table)))
        digest = hashlib.sha256(data).hexdigest()
        write(f"plan/{digest[:12]}.parquet", data)(run)
        first = json.loads((run / "run.json").read_bytes())
        numbers = {name: first[name] for name in ("fingerprint", "num_items", "num_shards")}
        record = numbers | {
            "plan_name": f"plan/{digest[:12]}.parquet",
            "plan_digest": digest,
            "number": 1,
            "kind": "retry",
            "changes": {},
            "created_by": "a test",
            "created_at": "2026-11-26T00:00:00+00:00",
        }
        write(GENERATION, json.dumps(record).encode())(run)
        edit(GENERATION, change or {})(run)

    return damage


GENERATION = "generations/0001.json"


# ---------------------------------------------------------------------------- what is refused

RECORDS: dict[str, tuple[Damage, str]] = {
    "run-empty": (write("run.json", b""), r"^run.json is damaged"),
    "run-not-utf8": (write("run.json", b'{"fingerprint": "\xff"}'), r"^run.json is damaged"),
    "run-list": (write("run.json", b"[]"), r"^run.json is damaged \(it is not a JSON object"),
    "run-deep": (write("run.json", b'{"job":' + b"[" * 10**6), r"^run.json is damaged .*nested"),
    "run-deep-enough": (
        write("run.json", b'{"job":' + b"[" * 60 + b"]" * 60 + b"}"),
        r"^run.json is damaged .*nested more than 40 levels deep",
    ),
    "run-huge-int": (
        write("run.json", b'{"num_items": ' + b"9" * 10_000 + b"}"),
        r"^run.json is damaged",
    ),
    "run-nan": (edit("run.json", {"num_items": float("nan")}), r"^run.json is damaged \(NaN"),
    "run-infinite": (
        write("run.json", b'{"num_items": 1e999}'),
        r"^run.json is damaged \(",
    ),
    "run-surrogate": (
        edit("run.json", {"settings": {"x": "\ud800"}}),
        r"^run.json is damaged .*surrogates",
    ),
    "run-twice": (
        write("run.json", b'{"num_items": 1, "num_items": 2}'),
        r"^run.json is damaged \(a key stands twice",
    ),
    "run-large": (sparse("run.json", MAX_RECORD_BYTES + 1), r"^run.json is damaged .*larger"),
    "run-larger": (sparse("run.json", 1 << 40), r"^run.json is damaged .*larger"),
    "run-lacks": (
        edit("run.json", lambda record: record.pop("plan_digest") and None),
        r"^run.json is damaged \(plan_digest: Field required",
    ),
    "run-type": (edit("run.json", {"num_items": "4"}), r"^run.json is damaged \(num_items: "),
    "run-bool": (edit("run.json", {"num_items": True}), r"^run.json is damaged \(num_items: "),
    "run-negative": (edit("run.json", {"num_items": -1}), r"^run.json is damaged \(num_items: "),
    "run-no-items": (edit("run.json", {"num_items": 0}), r"^run.json is damaged \(num_items: "),
    "run-shards": (edit("run.json", {"num_shards": 99}), r"^run.json is damaged \(it has more"),
    "run-other-shards": (
        edit("run.json", {"num_shards": 3}),
        r"^(commits/ counts 4 items in 4 shards|plan/\w{12}.parquet is damaged)",
    ),
    "run-path-as-model": (edit("run.json", {"model_id": ["x"]}), r"^run.json is damaged \(model"),
    "run-long-model": (edit("run.json", {"model_id": "x" * 10**6}), r"^run.json is damaged"),
    "run-digest": (edit("run.json", {"plan_digest": "../x"}), r"^run.json is damaged \(plan_dig"),
    "run-fingerprint": (
        edit("run.json", {"fingerprint": "0" * 64}),
        r"^run.json is damaged \(its fingerprint is not that of its identity",
    ),
    "run-no-task": (identity(task=None), r"^run.json is damaged \(its identity names no task"),
    "run-task-number": (identity(task=5), r"^run.json is damaged \(its identity names no task"),
    "run-revision": (identity(model_revision="x"), r"^run.json is damaged \(its model_revision"),
    "run-newer": (edit("run.json", newer), r"^run.json was made by a newer stylefarm"),
    "run-folder": (in_place_of_run_json(Path.mkdir), r"run.json|is not a run folder"),
    "run-full-folder": (
        in_place_of_run_json(lambda path: (path / "x").mkdir(parents=True) or (path / "y").touch()),
        r"run.json .* is a folder",
    ),
    "run-pipe": (in_place_of_run_json(os.mkfifo), r"run.json is a device, a pipe or a socket"),
    "run-zero": (
        in_place_of_run_json(lambda path: path.symlink_to("/dev/zero")),
        r"run.json is a device, a pipe or a socket",
    ),
    "run-nowhere": (
        in_place_of_run_json(lambda path: path.symlink_to("nowhere")),
        r"run.json .* is a folder or a link to nowhere",
    ),
    "run-loop": (in_place_of_run_json(lambda path: path.symlink_to(path)), r"run.json"),
    "linked-data": (
        lambda run: (run / "data").rename(run / "x") and (run / "data").symlink_to(run / "x"),
        r"^data in .* is a link that leads elsewhere",
    ),
    "linked-attempts": (
        lambda run: (shutil.rmtree(run / "attempts"), (run / "attempts").symlink_to("/tmp")),
        r"^attempts in .* is a link that leads elsewhere",
    ),
    "commit-empty": (write("commits/00001.json", b""), r"^commits/00001.json is damaged"),
    "commit-list": (write("commits/00001.json", b"[]"), r"^commits/00001.json is damaged"),
    "commit-large": (sparse("commits/00001.json", 1 << 40), r"^commits/00001.json is damaged"),
    "commit-of-another-shard": (
        lambda run: shutil.copy(run / "commits/00000.json", run / "commits/00001.json") and None,
        r"^commits/00001.json is the commit of shard 00000",
    ),
    "commit-of-another-plan": (
        edit("commit", {"plan_digest": "0" * 64}),
        r"^commits/0000\d.json (belongs to another plan|does not belong to this run)",
    ),
    "commit-shard-path": (edit("commit", {"shard": "../../x"}), r"^commits/.* is damaged \(shard"),
    "commit-tar-elsewhere": (
        edit("commit", lambda commit: commit["tar"].update(name="../../secret.txt")),
        r"^commits/0000\d.json is damaged \('../../secret.txt' is not the name of its tar",
    ),
    "commit-part-absolute": (
        edit("commit", lambda commit: commit["parquet"].update(name="/etc/passwd")),
        r"^commits/0000\d.json is damaged \('/etc/passwd' is not the name",
    ),
    "commit-sha256": (
        edit("commit", lambda commit: commit["tar"].update(sha256="x" * 64)),
        r"^commits/0000\d.json is damaged \(tar.sha256: ",
    ),
    "commit-negative-size": (
        edit("commit", lambda commit: commit["tar"].update(bytes=-1)),
        r"^commits/0000\d.json is damaged \(tar.bytes: ",
    ),
    "commit-without-tar": (
        edit("commit", {"tar": None}),
        r"^commits/0000\d.json is damaged \(it counts 1 items as ok and names no tar",
    ),
    "commit-without-part": (edit("commit", {"parquet": None}), r"^commits/.* \(parquet"),
    "commit-counts": (
        edit("commit", lambda commit: commit["counts"].update(ok=99)),
        r"^commits/0000\d.json is damaged \(counts: its counts do not add up",
    ),
    "commit-pending": (
        edit("commit", lambda commit: commit["counts"].update(ok=0, pending=1)),
        r"^commits/0000\d.json is damaged \(a committed shard has items",
    ),
    "commit-huge-count": (
        edit("commit", {"counts": {"planned": 10**40, "ok": 10**40}}),
        r"^commits/0000\d.json is damaged \(counts.planned",
    ),
    "commit-too-many": (
        edit("commit", {"counts": {"planned": 50, "ok": 50}}),
        r"(commits/ counts 53 items|it counts 50 items)",
    ),
    "commit-errors": (
        edit("commit", lambda commit: commit["stats"].update(errors={"\x1b[31m": 1})),
        r"^commits/0000\d.json is damaged \(stats.errors",
    ),
    "commit-infinite-seconds": (
        edit("commit", lambda commit: commit["stats"].update(render_seconds=float("inf"))),
        r"^commits/0000\d.json is damaged \(Infinity",
    ),
    "commit-long-worker": (edit("commit", {"worker": "x" * 3000}), r"^commits/.* \(worker"),
    "generation-empty": (write(GENERATION, b""), r"^generations/0001.json is damaged"),
    "generation-list": (write(GENERATION, b"[]"), r"^generations/0001.json is damaged"),
    "generation-deep": (write(GENERATION, b"[" * 10**6), r"^generations/0001.json is damaged"),
    "generation-large": (
        lambda run: grown()(run) or sparse(GENERATION, 1 << 40)(run),
        r"^generations/0001.json is damaged .*larger",
    ),
    "generation-gap": (
        lambda run: grown()(run) or (run / GENERATION).rename(run / "generations/0002.json"),
        r"^generations/0001.json is missing",
    ),
    "generation-number": (grown({"number": 2}), r"^generations/0001.json is the record of gener"),
    "generation-of-another-run": (grown({"fingerprint": "0" * 64}), r"belongs to another run"),
    "generation-kind": (grown({"kind": "surprise"}), r"^generations/0001.json is damaged \(kind"),
    "generation-newer": (grown(newer), r"^generations/0001.json was made by a newer stylefarm"),
    "generation-plan-elsewhere": (
        grown({"plan_name": "../../secret.txt"}),
        r"^generations/0001.json is damaged",
    ),
    "generation-superseded-path": (
        grown({"superseded": ["../x"]}),
        r"^generations/0001.json is damaged \(superseded",
    ),
    "generation-odd-change": (
        grown({"changes": {"surprise": 1}}),
        r"^generations/0001.json is damaged .*'surprise'",
    ),
    "generation-pipe": (
        lambda run: (run / "generations").mkdir() or os.mkfifo(run / GENERATION),
        r"generations/0001.json",
    ),
    "linked-generations": (
        lambda run: (run / "generations").symlink_to("/tmp"),
        r"^generations in .* is a link that leads elsewhere",
    ),
    "commit-of-no-shard": (
        lambda run: (
            edit("commits/00001.json", {})(run)
            or (
                (run / "commits" / "00077.json").write_text(
                    json.dumps(
                        json.loads((run / "commits" / "00001.json").read_bytes())
                        | {"shard": "00077"}
                    )
                )
                and None
            )
        ),
        r"^commits/00077.json is damaged \('data/00001-",
    ),
}
"""Damaged records: whoever looks at the run refuses them."""

FILES: dict[str, tuple[Damage, str]] = {
    "tar-missing": (
        of_file("tar", Path.unlink),
        r"^data/0000\d-.*.tar is missing: .*'stylefarm verify'",
    ),
    "part-missing": (of_file("parquet", Path.unlink), r"^data/.*.parquet is missing: restore it"),
    "tar-short": (
        of_file("tar", lambda path: os.truncate(path, 512)),
        r"^data/.*.tar is damaged \(it has 512 bytes, its commit says \d+\): .*'stylefarm verify'",
    ),
    "tar-long": (
        of_file("tar", lambda path: path.write_bytes(path.read_bytes() + b"\0" * 512)),
        r"^data/.*.tar is damaged \(it has",
    ),
    "part-empty": (of_file("parquet", lambda path: path.write_bytes(b"")), r"it has 0 bytes"),
    "tar-pipe": (
        of_file("tar", lambda path: path.unlink() or os.mkfifo(path)),
        r"^data/.*.tar is (damaged|missing)",
    ),
    "plan-missing": (lambda run: plan_path(run).unlink(), r"^plan/\w{12}.parquet is m"),
    "plan-empty": (
        lambda run: plan_path(run).write_bytes(b"") and None,
        r"^plan/\w{12}.parquet has sha256",
    ),
    "plan-sparse": (
        lambda run: os.truncate(plan_path(run), 1 << 40),
        r"^plan/\w{12}.parquet is damaged .*large",
    ),
    "plan-changed": (
        lambda run: plan_path(run).write_bytes(flipped(plan_path(run).read_bytes(), 99)) and None,
        r"^plan/\w{12}.parquet has sha256 .*: the plan was changed or damaged; restore it",
    ),
    "plan-other-count": (edit("run.json", {"num_items": 5}), r"^plan/\w{12}.parquet is damaged"),
    "plan-no-parquet": (
        forged_plan(lambda table: b"PAR1" * 100),
        r"^plan/\w{12}.parquet is damaged",
    ),
    "plan-key-path": (
        forged_plan(column("key", "../../secret")),
        r"^plan/\w{12}.parquet is damaged \(row 1: the key '../../secret' is not",
    ),
    "plan-key-absolute": (
        forged_plan(column("key", "/tmp/x")),
        r"plan/.*parquet .*the key '/tmp/x'",
    ),
    "plan-key-empty": (forged_plan(column("key", "")), r"^plan/\w{12}.parquet .*the key ''"),
    "plan-key-dots": (forged_plan(column("key", "a.b")), r"^plan/\w{12}.parquet .*the key 'a.b'"),
    "plan-key-newline": (forged_plan(column("key", "a\n")), r"^plan/\w{12}.parquet .*the key"),
    "plan-key-long": (forged_plan(column("key", "x" * 5000)), r"^plan/\w{12}.parquet .*the key"),
    "plan-key-twice": (forged_plan(column("key", "a", "a")), r"\(row 2: the key a stands twice"),
    "plan-id-twice": (
        forged_plan(column("item_id", "0" * 32, "0" * 32)),
        r"\(row 2: the item_id 0+ stands twice",
    ),
    "plan-id": (forged_plan(column("item_id", "X" * 32)), r"plan/.*parquet .* is no item_id of 32"),
    "plan-null": (
        forged_plan(column("key", None)),
        r"plan/.*parquet .*the column key has an empty",
    ),
    "plan-shard-path": (forged_plan(column("shard", "../x")), r"'../x' is no name of a shard"),
    "plan-shard-order": (
        forged_plan(column("shard", "00001", "00000")),
        r"shard 00000 comes after shard 00001",
    ),
    "plan-width": (
        forged_plan(column("width", *[10**6] * 4)),
        r"\(row \d: 1000000x64 lies outside",
    ),
    "plan-negative-variant": (forged_plan(column("variant", -1)), r"the variant -1 is negative"),
    "plan-cost": (forged_plan(column("cost_seconds", float("nan"))), r"estimated time is nan"),
    "plan-user": (forged_plan(column("user", "[" * 10**5)), r"user holds no JSON object"),
    "plan-params": (forged_plan(column("params", "5")), r"params holds no JSON object"),
    "plan-no-settings": (
        forged_plan(params(lambda content: content.pop("settings"))),
        r"^plan/\w{12}.parquet cannot be used \(the settings",
    ),
    "plan-unknown-setting": (
        forged_plan(params(lambda content: content["settings"].update(surprise=1))),
        r"^plan/\w{12}.parquet cannot be used \(the settings of 'style-transfer': ",
    ),
    "plan-odd-setting": (
        forged_plan(params(lambda content: content["settings"].update(num_inference_steps="a"))),
        r"^plan/\w{12}.parquet cannot be used \(the settings",
    ),
    "plan-unknown-task": (
        forged_plan(column("task", *["x"] * 4)),
        r"^plan/\w{12}.parquet cannot be used \(the settings of 'x'",
    ),
    "plan-error-class": (
        forged_plan(column("error_class", *["surprise"] * 4)),
        r"^plan/\w{12}.parquet is damaged",
    ),
    "plan-half-a-problem": (
        forged_plan(column("error_message", *[None] * 4)),
        r"^plan/\w{12}.parquet is damaged .*without the other",
    ),
    "plan-role": (forged_plan(input_field("role", "x")), r"'x' is no role of an input"),
    "plan-no-role": (forged_plan(input_field("role", None)), r"has no role, key or URI"),
    "plan-long-uri": (forged_plan(input_field("uri", "x" * 9000)), r"has no usable URI"),
    "plan-nul-uri": (forged_plan(input_field("uri", "a\0b")), r"has no usable URI"),
    "plan-sha256": (forged_plan(input_field("sha256", "x")), r"'x' is no sha256"),
    "plan-no-place": (forged_plan(input_field("member", "x")), r"has no place in its tar"),
    "plan-no-input": (forged_plan(column("inputs", [None])), r"^plan/\w{12}.parquet is damaged"),
    "plan-lacks-column": (
        forged_plan(lambda table: table.drop_columns(["seed"])),
        r"it has no column seed",
    ),
    "plan-column-twice": (
        forged_plan(lambda table: table.append_column("key", table["key"])),
        r"it has no column key",
    ),
    "plan-column-type": (
        forged_plan(lambda table: table.set_column(3, "seed", pa.array(["x"] * 4))),
        r"its column seed is string, not uint64",
    ),
    "plan-too-few": (forged_plan(lambda table: table.slice(1)), r"it has 3 rows, but 4 were"),
    "plan-no-rows": (forged_plan(lambda table: table.slice(0, 0)), r"it has 0 rows, but 4 were"),
    "plan-encrypted": (forged_plan(lambda table: b"PARE" + b"\0" * 99 + b"PARE"), r"is damaged"),
    "generation-plan-missing": (
        lambda run: grown({"plan_digest": "0" * 64, "plan_name": f"plan/{'0' * 12}.parquet"})(run),
        r"^plan/000000000000.parquet is missing",
    ),
    "generation-plan-of-another": (
        grown(plan=column("shard", *[f"g0002-{number:05d}" for number in range(4)])),
        r"^plan/\w{12}.parquet is damaged .*g0002",
    ),
    "generation-plan-key-path": (
        grown(plan=column("key", "../../secret")),
        r"^plan/\w{12}.parquet is damaged .*the key '../../secret'",
    ),
    "generation-plan-count": (grown({"num_items": 5}), r"^plan/\w{12}.parquet is damaged"),
    "job-unknown-key": (
        edit("run.json", lambda record: record["job"].update(surprise=1)),
        r"^the job in run.json cannot be used \(surprise",
    ),
    "job-lacks": (
        edit("run.json", lambda record: record["job"].pop("task") and None),
        r"^the job in run.json cannot be used \(task",
    ),
    "job-type": (edit("run.json", {"job": {"task": 5}}), r"^the job in run.json cannot be used"),
    "job-of-another-identity": (
        edit("run.json", lambda record: record["job"]["output"].update(codec="jpg")),
        r"^run.json is damaged \(output.codec of its job is not that of its identity",
    ),
}
"""What `run`, `plan` and `report` refuse, and `status`, which reads commits alone, need not see."""

CONTENTS: dict[str, tuple[Damage, str]] = {
    "part-flipped": (
        of_file("parquet", lambda path: path.write_bytes(flipped(path.read_bytes(), 100))),
        r"^data/.*.parquet is damaged \(its sha256 is not its commit's\): .*'stylefarm verify'",
    ),
    "part-no-parquet": (forged_file("parquet", lambda data: b"x" * 99), r"^data/.* is damaged"),
    "part-fewer-rows": (forged_part(lambda table: table.slice(1)), r"it has 0 rows, but 1 were"),
    "part-lacks-column": (
        forged_part(lambda table: table.drop_columns(["style_loss"])),
        r"^data/.*.parquet is damaged \(it has no column style_loss",
    ),
    "part-other-item": (forged_part(column("item_id", "0" * 32)), r"its item_id is not as planned"),
    "part-other-key": (forged_part(column("key", "x")), r"its key is not as planned"),
    "part-status": (forged_part(column("status", "<b>")), r"'<b>' is no status"),
    "part-other-status": (forged_part(column("status", "failed")), r"cannot have these outputs"),
    "part-error-class": (forged_part(column("error_class", "x")), r"cannot have these outputs"),
    "part-output-path": (
        forged_part(output_field("name", "../x.png")),
        r"'../x.png' is not the name of an output",
    ),
    "part-output-null": (forged_part(output_field("sha256", None)), r"an output lacks a value"),
    "part-output-hash": (
        forged_part(output_field("sha256", "0" * 64)),
        r"its content_digest is not its commit's",
    ),
    "part-of-another-plan": (
        forged_part(lambda table: table.replace_schema_metadata({"plan_digest": "0" * 64})),
        r"^data/.*.parquet is damaged \(it belongs to another plan",
    ),
    "tar-flipped": (
        of_file("tar", lambda path: path.write_bytes(flipped(path.read_bytes(), 0))),
        r"^data/.*.tar is damaged",
    ),
    "tar-zeros": (forged_file("tar", lambda data: bytes(len(data))), r"^data/.*.tar is damaged"),
    "tar-no-tar": (forged_file("tar", lambda data: b"x" * 5000), r"^data/.*.tar is damaged"),
    "tar-without-end": (forged_file("tar", lambda data: data[:1024]), r"^data/.*.tar is damaged"),
    "tar-other-names": (
        another_tar(lambda held: [(f"x{name}", content) for name, content in held]),
        r"^data/.*.tar is damaged \(it lacks ",
    ),
    "tar-other-pictures": (
        another_tar(lambda held: [(name, content[::-1]) for name, content in held]),
        r"^data/.*.tar is damaged \(the sha256 of .* is not its row's",
    ),
    "tar-shorter-pictures": (
        another_tar(lambda held: [(name, content[:-1]) for name, content in held]),
        r"^data/.*.tar is damaged \(.* has \d+ bytes, its row says",
    ),
}
"""What shows when the files of a shard are opened, which `report` does."""

_REFUSED = (RunFolderError, StoreError)


@pytest.mark.parametrize("name", RECORDS)
def test_a_damaged_record_is_named_by_whoever_looks_at_the_run(run, resolved, name):
    damage, sentence = RECORDS[name]
    damage(run)
    before = listing(run)
    for look in (status, publish):
        with pytest.raises(_REFUSED, match=sentence) as refused:
            look(str(run))
        assert_is_a_sentence(refused.value)
    if name != "run-folder":  # an empty folder in the place of run.json shows when it is written
        with pytest.raises(_REFUSED, match=f"{sentence}|run of another job"):
            open_prepared(resolved)
    assert listing(run) == before


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_plan_job_or_file_is_named_by_run_and_whoever_publishes(run, resolved, name):
    damage, sentence = FILES[name]
    damage(run)
    forget_derived(run)
    before = listing(run)
    with pytest.raises(_REFUSED, match=sentence) as refused:
        publish(str(run))
    assert_is_a_sentence(refused.value)
    with pytest.raises(_REFUSED, match=sentence):
        open_prepared(resolved)
    if not name.startswith("generation"):  # what counts over generations stands in their plans
        assert status(str(run)).counts.planned == (5 if name == "plan-other-count" else 4)
    forget_derived(run)
    assert listing(run) == before


@pytest.mark.parametrize("name", CONTENTS)
def test_a_committed_file_that_does_not_hold_what_its_commit_says_is_named(run, resolved, name):
    damage, sentence = CONTENTS[name]
    damage(run)
    forget_derived(run)
    before = listing(run)
    with pytest.raises(_REFUSED, match=sentence) as refused:
        publish(str(run))
    assert_is_a_sentence(refused.value)
    assert status(str(run)).complete
    forget_derived(run)
    assert listing(run) == before


def forget_derived(run: Path) -> None:
    """Removes what publishing makes, so that it is made again from what lies in the folder."""
    for name in ("index.json", "report.html", "contact_sheet.jpg"):
        (run / name).unlink(missing_ok=True)
    shutil.rmtree(run / "metadata", ignore_errors=True)


def status(uri: str) -> Any:
    return current_index(*open_run(uri))


def assert_is_a_sentence(error: Exception) -> None:
    assert len(str(error)) < 1500
    assert "\n" not in str(error)


def listing(folder: Path) -> dict[str, Any]:
    """Every path of a folder, and around it, with its size and time."""
    paths = [path for path in folder.parent.rglob("*") if not path.is_dir()]
    stats = {path: path.lstat() for path in paths}
    return {str(path): (found.st_size, found.st_mtime_ns) for path, found in stats.items()}


# ---------------------------------------------------------------------------- what does no harm


def test_a_sound_generation_is_sound(run, resolved):
    grown()(run)
    index = publish(str(run))
    assert (index.counts.planned, index.counts.pending, index.complete) == (4, 0, False)
    assert audit(run, complete=False).uncommitted == {f"g0001-{number:05d}" for number in range(4)}


def test_the_sound_folder_is_sound_and_its_failed_shards_have_no_tars(run, resolved):
    assert audit(run).counts == {"planned": 4, "ok": 2, "failed": 2, "skipped": 0, "pending": 0}
    assert len(list(run.glob("data/*.tar"))) == 2
    before = files_of(run)
    assert publish(str(run)).complete
    prepared = open_prepared(resolved)
    assert prepared is not None
    assert files_of(run) == before


STRAY = (
    *("commits/.DS_Store", "commits/foo.json", "commits/00000.json.bak", "commits/00000.json~"),
    *("commits/a/00000.json", "commits/.json", "commits/00000.JSON", "commits/1.json"),
    *("attempts/x", "attempts/00000/readme.txt", "attempts/a/b/1.json", "attempts/00000/x.json"),
    *(
        "attempts/00000/99999999999999999999.json",
        "data/x",
        "data/00000.tar",
        "x",
        "plan/x.parquet",
    ),
    *("generations/x", "generations/1.json", "generations/0000.json", "generations/a/0001.json"),
    *("metadata/x", "sources/x.parquet", "index.json.tmp"),
)


@pytest.mark.parametrize("content", [b"", b"{}", b"[", b"\xff"])
def test_stray_files_are_left_alone(run, content):
    index = publish(str(run))
    for name in STRAY:
        write(name, content)(run)
    (run / "commits" / "x.json").mkdir()
    (run / "attempts" / "00000" / "2.json").mkdir()
    (run / "commits" / "nowhere").symlink_to("nowhere")
    (run / "data" / "nowhere.tar").symlink_to("nowhere")
    os.mkfifo(run / "attempts" / "00000" / "pipe")
    assert status(str(run)) == publish(str(run)) == index
    assert overview(str(run)).attempts == ()
    assert all((run / name).read_bytes() == content for name in STRAY)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"error": 5}', b'{"error": "\\ud800"}', b"[" * 9999, b"\xff"]
)
def test_a_note_of_an_attempt_that_cannot_be_read_is_told_and_stops_nothing(run, content):
    (run / "commits" / "00000.json").unlink()
    write("attempts/00000/7.json", content)(run)
    (told,) = overview(str(run)).attempts
    assert "attempts/00000/7.json is damaged" in told.record.error


def test_a_commit_taken_out_renders_its_shard_again(run, resolved):
    with_pictures_shard = with_pictures(run)["shard"]
    (run / "commits" / f"{with_pictures_shard}.json").unlink()
    (run / with_pictures_shard).touch()
    prepared = open_prepared(resolved)
    assert prepared is not None
    pending = pending_shards(open_store(str(run)), prepared.plan)
    assert list(pending) == [with_pictures_shard]
    before = files_of(run)
    finish(prepared)
    assert audit(run).counts["ok"] == 2
    assert before.items() <= {**files_of(run), **derived(before)}.items()


def derived(files: dict[str, bytes]) -> dict[str, bytes]:
    names = ("index.json", "report.html", "contact_sheet.jpg")
    return {name: files[name] for name in names if name in files}


def test_no_attempt_is_written_through_a_link(run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    shutil.rmtree(run / "attempts", ignore_errors=True)
    (run / "attempts").mkdir()
    (run / "attempts" / "00000").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunFolderError, match=r"attempts/00000 in .* is a link"):
        take(open_store(str(run)), "00000", 1, this_worker("cpu"))
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "pipe", "nowhere", "http", "gone", "text", "huge"])
def test_inputs_that_became_something_else_leave_a_gap_in_the_page(run, sound, tmp_path, kind):
    place = tmp_path / "input.png"
    if kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "nowhere":
        place.symlink_to("nowhere")
    elif kind == "text":
        place.write_text("root:x:0:0")
    elif kind == "huge":
        with place.open("wb") as file:
            file.truncate(1 << 40)
    uri = "http://127.0.0.1:9/x.png" if kind == "http" else str(place)
    forged_plan(
        lambda table: column(
            "inputs",
            *[
                [{**fields, "uri": uri} for fields in inputs]
                for inputs in table["inputs"].to_pylist()
            ],
        )(table)
    )(run)
    digest = json.loads((run / "run.json").read_bytes())["plan_digest"]
    for commit in run.glob("commits/*.json"):
        shard = json.loads(commit.read_bytes())
        path = run / shard["parquet"]["name"]
        table = pq.read_table(path)
        footer = {**(table.schema.metadata or {}), b"plan_digest": digest.encode()}
        data = table_bytes(table.replace_schema_metadata(footer))
        sha256 = hashlib.sha256(data).hexdigest()
        name = f"data/{shard['shard']}-{sha256[:12]}.parquet"
        (run / name).write_bytes(data)
        named = {"name": name, "bytes": len(data), "sha256": sha256}
        edit(f"commits/{commit.name}", {"parquet": named})(run)
    publish(str(run))
    assert "no longer there" in (run / "report.html").read_text()


@pytest.mark.parametrize(
    "uri", ["/", "/.", "a\0b", "a\nb", "a\x1b[31mb", "x" * 2000, "s3://bucket/" + "x" * 2000]
)
def test_a_run_folder_of_an_impossible_name_is_refused_before_anything_is_read(sound, uri):
    content = make_job(**CHANGES).model_dump(mode="json", exclude_unset=True)
    content["output"]["uri"] = uri
    with pytest.raises((JobError, StoreError, ValueError)) as refused:
        resolve_job(job_from_dict(content), str(sound))
    assert len(str(refused.value)) < 1500
    assert "\x1b" not in str(refused.value)
    assert "\0" not in str(refused.value)


def test_a_run_folder_that_is_a_file_is_refused(resolved, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="is a file"):
        open_run(str(tmp_path / "file"))
    with pytest.raises(StoreError, match="is a file"):
        open_prepared(replace(resolved, output_uri=str(tmp_path / "file")))


def test_a_value_that_every_row_repeats_is_unpacked_a_few_rows_at_a_time(monkeypatch):
    monkeypatch.setattr(parquet, "MAX_BATCH_BYTES", 1 << 20)
    schema = pa.schema([pa.field("text", pa.string(), nullable=False)])
    data = table_bytes(pa.table({"text": ["x" * (1 << 17)] * 256}, schema=schema))
    assert len(data) < 1 << 20
    before = pa.total_allocated_bytes()
    rows = parquet.parquet_rows(data, schema, "x", num_rows=256, way_out="restore it")
    for _ in range(256):
        assert len(next(rows)["text"]) == 1 << 17
        assert pa.total_allocated_bytes() - before < 8 << 20


@pytest.mark.parametrize("command", ["status", "report"])
def test_a_command_says_in_one_sentence_what_is_damaged_and_ends_with_2(run, command):
    edit("commit", lambda commit: commit["tar"].update(name="../../secret.txt"))(run)
    before = listing(run)
    environment = command_environment("http://127.0.0.1:9/api")
    done = subprocess.run(
        [sys.executable, "-O", "-m", "flows.cli", command, str(run)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: commits/0000")
    assert "Traceback" not in done.stderr + done.stdout
    assert listing(run) == before
