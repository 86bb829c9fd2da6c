"""`stylefarm init` writes a job that is sound wherever the folder has what the task takes."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from PIL import Image

from ad_lib.presets import PRESETS, Preset
from ad_lib.settings import Settings
from flows.initial_job import InitialJob, chosen_preset
from flows.meanings import meanings
from infra.store import open_store
from manifests.errors import JobError
from manifests.job import BackboneChoice, Compute, Job, Limits, Output, Pairing, load_job
from tasks.inputs.folder_contents import contents_of
from tasks.inputs.resolving import ResolvedJob, resolve_job
from tasks.plans.planning import plan_items
from tests.conftest import picture
from tests.flows.conftest import Stylefarm
from tests.s3_server import S3Server

TASKS = [preset for preset in PRESETS.values() if preset.name != "external"]

FOLDERS = {"source_mask": "masks/source", "target_mask": "masks/target", "content": "photos"}
"""Where roles lie, of those whose folder has not their name."""


def write_images(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        image = Image.fromarray(picture(seed=ord(name[0])))
        if "mask" in str(folder):
            image = Image.new("RGB", image.size, "red")
        image.save(folder / f"{name}.png")


def write_inputs(folder: Path, preset: Preset) -> Path:
    """A folder that has all that a task takes."""
    for role in preset.roles:
        write_images(folder / FOLDERS.get(role, role), "a", "b")
    if preset.takes_prompt:
        (folder / "prompts.txt").write_text("a lighthouse\na boat\n\na hill\n")
    return folder


def resolved(path: Path) -> ResolvedJob:
    return resolve_job(load_job(path), str(path.parent), check=lambda model: None)


@pytest.mark.parametrize("preset", TASKS, ids=lambda preset: preset.name)
def test_what_init_writes_is_a_job_of_that_task_on_what_lies_there(
    stylefarm: Stylefarm, tmp_path: Path, preset: Preset
):
    write_inputs(tmp_path / "shoot", preset)
    answer = stylefarm("init", preset.name, "shoot", "--output", "jobs.yaml")
    assert (answer.code, answer.err) == (0, "")
    written = (tmp_path / "jobs.yaml").read_text()
    job = resolved(tmp_path / "jobs.yaml")
    assert job.preset == preset
    assert {role: len(files) for role, files in job.inputs.files.items()} == dict.fromkeys(
        preset.roles, 2
    )
    assert written.count("# 2 images") == len(preset.roles)
    if preset.takes_prompt:
        assert "# 3 prompts" in written
        assert "prompt: prompts.txt (3 prompts)" in answer.out
        assert len(job.inputs.prompts) == 3
    plan = plan_items(job)
    assert plan.num_items > 0
    assert not list(plan.problems()), [item.problem for item in plan.problems()]
    named = set(re.findall(r"(?m)^#  (\w+):", written.partition("#settings:")[2]))
    assert {one.name for one in fields(Settings) if preset.uses(one.name)} <= named

    (tmp_path / "all.yaml").write_text(re.sub(r"(?m)^( *)#(?! [^ ])", r"\1", written))
    uncommented = resolved(tmp_path / "all.yaml")  # the defaults are the defaults
    assert uncommented.settings == preset.settings
    assert uncommented.fingerprint == job.fingerprint
    assert uncommented.job.compute == Compute()


def test_a_file_is_replaced_only_where_that_is_asked_for(stylefarm: Stylefarm, tmp_path: Path):
    (tmp_path / "job.yaml").write_text("mine")
    answer = stylefarm("init", "texture-sample")
    assert answer.code == 2
    assert "'job.yaml' is there already: give --force" in answer.err
    assert (tmp_path / "job.yaml").read_text() == "mine"
    assert stylefarm("init", "texture-sample", "--force").code == 0
    assert "task: texture-sample" in (tmp_path / "job.yaml").read_text()


@pytest.mark.parametrize("preset", TASKS, ids=lambda preset: preset.name)
def test_what_is_missing_is_named_by_init_and_refused_by_the_check_of_the_job(
    preset: Preset, tmp_path: Path
):
    job = InitialJob(preset, contents_of(str(tmp_path)), tmp_path)
    assert job.missing == [*preset.roles, *(["prompt"] if preset.takes_prompt else [])]
    (tmp_path / "job.yaml").write_text(job.text())
    with pytest.raises(JobError, match=r"inputs\.\w+: .*PUT-[A-Z-]+-HERE"):
        resolved(tmp_path / "job.yaml")


def test_unknown_tasks_and_folders_are_named_with_the_way_out(stylefarm: Stylefarm):
    assert "did you mean 'style-transfer'?" in stylefarm("init", "stile-transfer").err
    assert "there is no folder" in stylefarm("init", "texture-sample", "nowhere").err
    assert "renders nothing" in stylefarm("init", "external").err


@pytest.mark.parametrize(
    ("folders", "task"),
    [
        (["photos", "paintings"], "style-transfer"),
        (["data/Content", "data/Style"], "style-transfer"),
        (["textures"], "texture-optimize"),
        (["textures", "masks/source", "masks/target"], "texture-masked"),
        (["layouts", "textures"], "texture-layout"),
        (["style", "prompts.txt"], "style-t2i"),
        (["cats", "paintings"], "style-transfer"),
        ([], "style-transfer"),
    ],
)
def test_the_task_that_fits_to_the_folder_is_chosen(folders: list[str], task: str, tmp_path: Path):
    for name in folders:
        if name.endswith(".txt"):
            (tmp_path / name).write_text("a boat\n")
        else:
            write_images(tmp_path / name, "a")
    contents = contents_of(str(tmp_path))
    preset = chosen_preset(contents)
    assert preset.name == task
    assert bool(InitialJob(preset, contents, tmp_path).missing) is not bool(folders)


def test_without_arguments_it_says_what_it_chose_for_the_folder_it_is_in(
    stylefarm: Stylefarm, tmp_path: Path
):
    write_inputs(tmp_path, PRESETS["texture-layout"])
    out = stylefarm("init").out
    assert "job.yaml: a job of the task texture-layout, which fits best" in out
    assert "layout: layout (2 images)" in out
    assert "Next: stylefarm run job.yaml --dry-run" in out


def test_a_table_that_is_refused_is_named_with_what_to_mend(stylefarm: Stylefarm, tmp_path: Path):
    (tmp_path / "pairs.csv").write_text("content,style,password\na.png,b.png,hunter2\n")
    answer = stylefarm("init")
    assert (answer.code, answer.err) == (0, "")
    assert "To be mended first: inputs.table:" in answer.out
    written = (tmp_path / "job.yaml").read_text()
    for told in (answer.out, written):
        assert "the column 'password' is named like a password" in told
        assert "hunter2" not in told
    with pytest.raises(JobError, match="the column 'password' is named like a password"):
        resolved(tmp_path / "job.yaml")


def test_a_table_that_has_the_columns_is_taken_and_another_is_not(tmp_path: Path):
    write_images(tmp_path / "pictures", "a", "b")
    (tmp_path / "labels.csv").write_text("name,label\na,cat\n")
    (tmp_path / "pairs.csv").write_text("content,style\npictures/a.png,pictures/b.png\n")
    job = InitialJob(PRESETS["style-transfer"], contents_of(str(tmp_path)), tmp_path)
    assert "  table: pairs.csv                 # 1 row" in job.text()
    assert (job.found(), job.missing) == (["table: pairs.csv (1 row)"], [])
    (tmp_path / "job.yaml").write_text(job.text())
    assert len(resolved(tmp_path / "job.yaml").inputs.table) == 1


def test_tars_runs_odd_names_and_pictures_beside_folders_are_named_so_that_they_are_read(
    tmp_path: Path, demo_tars: Path
):
    write_images(tmp_path, "x", "y")  # the contents lie beside the folder of styles
    write_images(tmp_path / "style: {old} #1", "p", "q", "r")
    job = InitialJob(PRESETS["style-transfer"], contents_of(str(tmp_path)), tmp_path)
    (tmp_path / "job.yaml").write_text(job.text())
    files = resolved(tmp_path / "job.yaml").inputs.files
    assert {role: len(found) for role, found in files.items()} == {"content": 2, "style": 3}

    of_tars = InitialJob(PRESETS["style-transfer"], contents_of(str(demo_tars)), tmp_path)
    (tmp_path / "tars.yaml").write_text(of_tars.text())
    files = resolved(tmp_path / "tars.yaml").inputs.files
    assert {role: len(found) for role, found in files.items()} == {"content": 2, "style": 1}


@pytest.fixture
def demo_tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tars")
    for name in ("content-000", "content-001", "style-000"):
        (folder / f"{name}.tar").write_bytes(bytes(10240))
    return folder


def test_a_second_job_has_a_run_folder_of_its_own(tmp_path: Path):
    (tmp_path / "runs" / "texture-sample").mkdir(parents=True)
    write_images(tmp_path / "texture", "a")
    job = InitialJob(PRESETS["texture-sample"], contents_of(str(tmp_path)), tmp_path)
    assert "uri: runs/texture-sample-2" in job.text()


@pytest.mark.s3
def test_a_prefix_on_s3_is_looked_at_like_a_folder(
    tmp_path: Path, s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
):
    for name, value in s3_server.env().items():
        monkeypatch.setenv(name, value)
    write_images(tmp_path, "a")
    uri = f"s3://{s3_bucket}/night"
    for key in ("texture/a.png", "texture/b.png", "else/c.png"):
        open_store(uri).put(key, tmp_path / "a.png")
    job = InitialJob(PRESETS["texture-sample"], contents_of(uri), tmp_path)
    (tmp_path / "job.yaml").write_text(job.text())
    found = resolved(tmp_path / "job.yaml")
    assert [file.uri for file in found.inputs.files["texture"]] == [
        f"{uri}/texture/a.png",
        f"{uri}/texture/b.png",
    ]
    assert found.output_uri == f"{uri}/runs/texture-sample"
    with pytest.raises(JobError, match="nothing lies below"):
        contents_of(f"s3://{s3_bucket}/nowhere")


@pytest.mark.parametrize("part", [Settings, Output, Pairing, Limits, Compute, BackboneChoice, Job])
def test_every_key_has_a_meaning_in_the_docstring_of_its_class(part: type):
    known = set(getattr(part, "model_fields", None) or part.__dataclass_fields__)
    unsaid = (
        {"inputs", "output", "backbone", "pairing", "limits", "compute"} if part is Job else set()
    )
    assert known - unsaid <= set(meanings(part))
