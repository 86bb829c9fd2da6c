"""Run folders with dates: which one a job goes on with, and what `latest` leads to."""

from __future__ import annotations

import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from infra.store import open_store
from manifests.errors import JobError
from tasks.inputs.dated_output import follow_latest, output_place, point_latest
from tasks.inputs.resolving import ResolvedJob, resolve_job
from tasks.inputs.run_outputs import outputs_of
from tasks.plans.planning import PreparedRun, open_prepared, plan_items, store_plan
from tests.tasks.runs import make_job, prepare

DATED = "runs/{date}"


def resolve(base: Path | str, uri: str = DATED, *, for_extension: bool = False, **changes):
    job = make_job(output__uri=uri, **changes)
    return resolve_job(job, str(base), for_extension=for_extension)


def begin(resolved: ResolvedJob) -> PreparedRun:
    return store_plan(resolved, plan_items(resolved))


def commit_all(run: PreparedRun) -> None:
    """Makes a run look complete to whoever counts its commits."""
    for shard in run.plan.shards:
        open_store(run.uri).put(f"commits/{shard}.json", b"{}")


def day(run_uri: str) -> str:
    """The folder with the date, without the day."""
    return re.sub(r"\d{4}-\d{2}-\d{2}", "DAY", run_uri.rpartition("/runs/")[2])


def test_a_job_with_a_date_goes_on_with_its_run_until_it_is_complete(pictures):
    before = datetime.now(UTC).date()
    run = begin(resolve(pictures))
    date = datetime.strptime(Path(run.uri).name, "%Y-%m-%d").date()
    assert before <= date <= datetime.now(UTC).date()
    again = prepare(pictures, output__uri=DATED)
    assert (again.uri, again.is_new) == (run.uri, False)
    commit_all(run)
    assert day(resolve(pictures).output_uri) == "DAY-2"
    assert resolve(pictures, for_extension=True).output_uri == run.uri


def test_the_newest_incomplete_run_of_the_same_job_is_gone_on_with(pictures):
    for name, seed in (("2020-01-02", 0), ("2020-01-03", 1)):
        run = begin(resolve(pictures, seed=seed))
        Path(run.uri).rename(pictures / "runs" / name)
    for number in (2, 10):
        shutil.copytree(
            pictures / "runs" / "2020-01-02", pictures / "runs" / f"2020-01-02-{number}"
        )
    assert Path(resolve(pictures).output_uri).name == "2020-01-02-10"
    assert Path(resolve(pictures, seed=1).output_uri).name == "2020-01-03"
    assert day(resolve(pictures, seed=2).output_uri) == "DAY"


def test_a_damaged_run_folder_is_neither_gone_on_with_nor_in_the_way(pictures, caplog):
    run = begin(resolve(pictures))
    (Path(run.uri) / "run.json").write_text("{")
    assert day(resolve(pictures).output_uri) == "DAY-2"
    assert f"{run.uri} is not gone on with: run.json is damaged" in caplog.text


def test_a_new_run_has_a_number_after_all_of_its_day(pictures):
    run = begin(resolve(pictures))
    third = Path(run.uri).rename(f"{run.uri}-3")
    assert resolve(pictures).output_uri == str(third)
    assert day(resolve(pictures, seed=1).output_uri) == "DAY-4"


def test_two_that_begin_at_the_same_moment_share_the_run_of_one_job(pictures):
    one, two = resolve(pictures), resolve(pictures)
    assert one.output_uri == two.output_uri
    first, second = begin(one), begin(two)
    assert (second.uri, second.run) == (first.uri, first.run)


def test_two_jobs_that_begin_at_the_same_moment_get_a_run_each(pictures):
    one, two, three = (resolve(pictures, seed=seed) for seed in range(3))
    assert day(begin(one).uri) == "DAY"
    assert open_prepared(two) is None  # as the command asks before it plans
    assert [day(begin(each).uri) for each in (two, three)] == ["DAY-2", "DAY-3"]


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("runs/night-{date}.d", r"runs/night-DAY(-2)?\.d"),
        ("runs/{date}/styled", "runs/DAY(-2)?/styled"),
    ],
)
def test_a_date_may_stand_anywhere_in_a_path(pictures, uri, expected):
    names = []
    for _ in range(2):
        run = begin(resolve(pictures, uri))
        commit_all(run)
        point_latest(resolve(pictures, uri).place, run.uri)
        names.append(re.sub(r"\d{4}-\d{2}-\d{2}", "DAY", run.uri.removeprefix(f"{pictures}/")))
        inside = "/styled" if uri.endswith("styled") else ""
        assert follow_latest(f"{pictures}/runs/latest{inside}") == run.uri
    assert all(re.fullmatch(expected, name) for name in names)
    assert len(set(names)) == 2


@pytest.mark.parametrize("uri", ["runs/{day}", "runs/{date}-{date}", "runs/{a,b}", "runs/}", "{"])
def test_other_braces_are_refused_with_the_value(tmp_path, uri):
    with pytest.raises(JobError, match=rf"only braces .* {{date}}.*got '{re.escape(uri)}'"):
        output_place(uri, str(tmp_path))


def test_latest_is_a_link_that_is_replaced_and_no_other_thing_is(tmp_path, caplog):
    place = output_place(DATED, str(tmp_path))
    for name in ("2026-01-01", "2026-01-02"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        point_latest(place, f"{tmp_path}/runs/{name}")
        assert (tmp_path / "runs" / "latest").resolve().name == name
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        *("2026-01-01", "2026-01-02", "latest")
    ]
    shutil.move(tmp_path / "runs", tmp_path / "moved")
    assert follow_latest(f"{tmp_path}/moved/latest") == f"{tmp_path}/moved/2026-01-02"
    (tmp_path / "moved" / "latest").unlink()
    (tmp_path / "moved" / "latest").mkdir()
    point_latest(output_place("moved/{date}", str(tmp_path)), f"{tmp_path}/moved/2026-01-01")
    assert not (tmp_path / "moved" / "latest").is_symlink()
    assert "something else has this name: move it away" in caplog.text


@pytest.mark.parametrize("uri", ["/a/latest", "/a/latest/b", "runs", "/a/b", "/latest"])
def test_what_is_no_latest_of_ours_is_taken_as_it_is(uri):
    assert follow_latest(uri) == uri


def test_neither_a_job_s_earlier_runs_nor_latest_are_its_inputs(pictures):
    run = begin(resolve(pictures))
    earlier = Path(run.uri).rename(pictures / "runs" / "2020-01-02")
    for folder in (pictures / "runs" / "other", earlier):
        folder.mkdir(exist_ok=True)
        (folder / "a.png").write_bytes(b"")
    point_latest(resolve(pictures).place, str(earlier))
    is_output = outputs_of(f"{pictures}/{DATED}", str(pictures))
    outputs = {
        key: is_output(f"runs/{key}")
        for key in ("2020-01-02/a.png", "latest/a.png", "other/a.png", "2020-01-02x/a.png")
    }
    assert outputs == {
        **{"2020-01-02/a.png": True, "latest/a.png": True},
        **{"other/a.png": False, "2020-01-02x/a.png": False},
    }
    inside = outputs_of(f"{pictures}/{DATED}", str(earlier))
    assert [inside(key) for key in ("data/a.tar", "a.png")] == [True, False]
    (earlier / "data").mkdir()
    (earlier / "data" / "a.tar").write_bytes(b"")
    with pytest.raises(JobError, match="lies in the run folder of this job"):
        resolve(pictures, inputs={"content": "content", "style": "runs/2020-01-02/data/a.tar"})


@pytest.mark.s3
def test_on_s3_latest_is_an_object_that_names_the_run(s3_bucket, pictures):
    uri = f"s3://{s3_bucket}/out/{DATED}"
    run = begin(resolve(pictures, uri))
    assert day(run.uri) == "DAY"
    assert resolve(pictures, uri).output_uri == run.uri
    point_latest(resolve(pictures, uri).place, run.uri)
    latest = f"s3://{s3_bucket}/out/runs/latest"
    assert follow_latest(latest) == run.uri
    commit_all(run)
    second = begin(resolve(pictures, uri))
    assert day(second.uri) == "DAY-2"
    point_latest(resolve(pictures, uri).place, second.uri)
    assert follow_latest(latest) == second.uri
    is_output = outputs_of(uri, f"s3://{s3_bucket}/out")
    assert [is_output(f"runs/{key}") for key in ("latest", "2020-01-01/a.png", "latest.png")] == [
        *(True, True, False)
    ]
    for foreign in (b"a", b"s3://elsewhere/runs/a", f"s3://{s3_bucket}/out/runs/../a".encode()):
        open_store(f"s3://{s3_bucket}/out/runs").put("latest", foreign)
        assert follow_latest(latest) == latest
