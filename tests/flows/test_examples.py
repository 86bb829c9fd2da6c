from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from ad_lib.presets import find_preset
from flows.verbs.options import pairs_of
from infra.store import open_store
from manifests.examples.pack import IMAGES, pack
from manifests.job import Job, load_job
from tasks.inputs.resolving import resolve_job
from tasks.plans.planning import plan_items, store_plan
from tests.ad_lib.requests_of_every_task import SMALL as SMALL_SETTINGS
from tests.audit import audit
from tests.command_line import Cli
from tests.conftest import TINY_BACKBONE
from tests.flows.conftest import Stylefarm
from tests.tasks.runs import finish

EXAMPLES = IMAGES.parent
SMALL = [
    "--set", "settings.num_inference_steps=1", "--set", "output.size=64",
    "--set", f"backbone={TINY_BACKBONE}", "--limit", "4",
]  # fmt: skip


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """The examples' folder as a newcomer has it after packing the demo's shards."""
    shutil.copytree(EXAMPLES, tmp_path / "manifests" / "examples")
    pack(tmp_path / "runs" / "demo-shards")
    return tmp_path / "manifests" / "examples"


LOCAL = sorted(path.name for path in EXAMPLES.glob("*.yaml") if path.name != "s3.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("name", LOCAL)
def test_every_example_runs_as_it_is_written(stylefarm: Stylefarm, examples: Path, name: str):
    answer = stylefarm("run", examples / name, *SMALL)
    assert answer.code == 0, answer
    audit(examples / load_job(examples / name).output.uri)


RECIPES = sorted(path.name for path in (EXAMPLES / "paper").glob("*.yaml"))
FEW = {"num_inference_steps": 1, "num_optimization_steps": 1, "decoder_epochs": 1}


def with_few_steps(task: str, settings: dict[str, Any], number: int = 1) -> dict[str, Any]:
    """Settings with which a task takes hardly a step, other ones for each number."""
    few = {name: value for name, value in FEW.items() if find_preset(task).uses(name)}
    few |= {"num_inference_steps": 1 + number} if "num_inference_steps" in few else {}
    few["decoder_epochs"] = min(1, settings.get("decoder_epochs", 0))
    return {**settings, **few, **SMALL_SETTINGS.get(task, {})}


def small_recipe(name: str, uri: Path) -> Job:
    """A recipe of the paper at a size and number of steps that a test can wait for."""
    path = EXAMPLES / "paper" / name
    written = yaml.safe_load(path.read_text())
    task, swept = written["task"], written["sweep"]
    settings = written.get("settings", {})
    if isinstance(swept, list):
        swept = [
            with_few_steps(entry.get("task", task), entry, number)
            for number, entry in enumerate(swept)
        ]
    else:
        settings = with_few_steps(task, settings)
    changes = {
        **{"backbone": str(TINY_BACKBONE), "output.uri": str(uri), "output.size": "64"},
        **{"limits.max_items": "1", "variants": "1", "compute.device": "cpu"},
        **{name: in_line(value) for name, value in (("settings", settings), ("sweep", swept))},
    }
    return load_job(path, changes)


def in_line(value: Any) -> str:
    """A value as YAML that a command line may hold."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000)


def test_every_experiment_of_the_paper_has_its_recipe():
    shown = {name.removesuffix(".yaml").partition("-")[0] for name in RECIPES if name[:3] == "fig"}
    figures = [11, 14, 15, 16, 17, 19, 20, 21, 22, 23, 24, 25, 26]
    assert shown == {f"fig{number}" for number in figures}
    assert {"fig16-top.yaml", "fig16-bottom.yaml"} < set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_of_the_paper_makes_its_contact_sheet(name: str, tmp_path: Path):
    job = small_recipe(name, tmp_path / "run")
    resolved = resolve_job(job, str(EXAMPLES / "paper"))
    index = finish(store_plan(resolved, plan_items(resolved)))
    assert index.counts.ok == index.counts.planned == len(job.sweep_entries)
    assert {row["variant"] for row in audit(tmp_path / "run").rows} == {0}, "one row of the sheet"
    with Image.open(tmp_path / "run" / "contact_sheet.jpg") as sheet:
        assert sheet.width > 256 * len(job.sweep_entries)


def published_command(path: Path) -> list[str]:
    """The words of the command in a recipe's comment, after `stylefarm run`."""
    lines = [
        line.removeprefix("#").strip() for line in path.read_text().splitlines() if line[:1] == "#"
    ]
    text = "\n".join(lines).replace("\\\n", " ")
    (command,) = (line for line in text.splitlines() if line.startswith("stylefarm run "))
    return shlex.split(command)[2:]


TINY = {"sd15": TINY_BACKBONE, "sdxl": TINY_BACKBONE.parent / "tiny-sdxl"}
OWN_NUMBERS = {"fig16-bottom.yaml": {"num_inference_steps": 50, "num_optimization_steps": 4}}
"""Where the paper tries other numbers than its default ones."""


def test_the_folders_of_rivals_that_a_recipe_names_enter_it_where_a_person_has_them(tmp_path: Path):
    text = (EXAMPLES / "paper" / "fig23.yaml").read_text()
    head, _, tail = text.partition("# external:")
    job = tmp_path / "job.yaml"
    job.write_text(f"{head}external:{tail.replace('#   ', '  ')}")
    labels = [column.label for column in load_job(job).columns]
    assert labels[-4:] == ["GPDM", "SWD", "Self-Rectification", "GCD"]


@pytest.mark.parametrize("name", RECIPES)
def test_the_command_in_a_recipe_asks_for_the_published_numbers(name: str):
    """Everything but the weights, which are tiny ones of the same classes."""
    path, *options = published_command(EXAMPLES / "paper" / name)
    assert path == f"manifests/examples/paper/{name}"
    assert options[0] == "--output"
    assert set(options[2::2]) == {"--set"}
    changes = pairs_of(options[3::2])
    assert TINY.keys() >= {changes["backbone"]}
    changes |= {"backbone": str(TINY[changes["backbone"]]), "compute.device": "cpu"}
    job = load_job(EXAMPLES / "paper" / name, changes)
    resolved = resolve_job(job, str(EXAMPLES / "paper"))
    own = resolved.preset.settings.updated(OWN_NUMBERS.get(name, {}))
    assert resolved.settings == own
    items = list(plan_items(resolved).iter_items())
    assert not any(item.problem for item in items)
    sides = {min(item.width, item.height) for item in items}
    wanted = 4096 if name == "fig26.yaml" else resolved.preset.size
    assert sides == {wanted}


@pytest.mark.slow
def test_a_recipe_is_one_command(stylefarm: Stylefarm, examples: Path):
    recipe = examples / "paper" / "fig16-bottom.yaml"
    few = ("--set", "settings.num_optimization_steps=1", "--limit", "1")
    answer = stylefarm("run", recipe, *SMALL[:6], *few)
    assert answer.code == 0, answer
    (sheet,) = (examples.parents[1] / "runs" / "paper" / "fig16-bottom").glob("contact_sheet.jpg")
    assert "side by side:" in answer.out
    assert sheet.name in answer.out


@pytest.mark.slow
@pytest.mark.s3
def test_the_s3_example_runs_against_a_real_server(
    cli: Cli, examples: Path, s3_bucket: str, tmp_path: Path
):
    store = open_store(f"s3://{s3_bucket}")
    for path in sorted((IMAGES / "content").glob("*.jpg")):
        store.put(f"photos/{path.name}", path)
    for number in range(2):
        store.put(
            f"paintings/00{number}.tar", tmp_path / "runs" / "demo-shards" / f"style-00{number}.tar"
        )
    job = examples / "s3.yaml"
    job.write_text(job.read_text().replace("my-bucket", s3_bucket))
    answer = cli("run", job, *SMALL)
    assert answer.code == 0, answer
    assert any(one.key == "runs/restyled/index.json" for one in store.list("runs/"))
