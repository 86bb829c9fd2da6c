"""The README is held to the code, so that it cannot rot."""

from __future__ import annotations

import importlib
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel
from typer.core import TyperGroup

from ad_lib.presets import PRESETS
from ad_lib.settings import Settings
from flows.cli import app
from manifests.job import Job, load_job
from manifests.schema import METADATA_SCHEMA

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_job_of_the_readme_is_a_job_with_each_part_that_is_shown_later(tmp_path: Path):
    job, *parts = blocks("yaml")
    for part in ("", *parts):
        (tmp_path / "job.yaml").write_text(job + part)
        assert load_job(tmp_path / "job.yaml").task in PRESETS


def test_the_python_of_the_readme_compiles():
    for block in blocks("python"):
        compile(block, "README.md", "exec")


def test_the_commands_of_the_readme_exist_with_their_options():
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    lines = [line.strip() for block in blocks("console") for line in block.splitlines()]
    called = [
        shlex.split(line[2:], comments=True) for line in lines if line.startswith("$ stylefarm")
    ]
    assert called
    for _, name, *arguments in called:
        if name.startswith("-"):
            assert name in {option for parameter in group.params for option in parameter.opts}
            continue
        command = group.commands[name]
        if isinstance(command, TyperGroup):
            command = command.commands[arguments[0]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {argument for argument in arguments if argument.startswith("-")} <= known


def keys_of(model: type[BaseModel], prefix: str = "") -> set[str]:
    keys: set[str] = set()
    for name, field in model.model_fields.items():
        options = getattr(field.annotation, "__args__", (field.annotation,))
        models = [one for one in options if isinstance(one, type) and issubclass(one, BaseModel)]
        keys |= keys_of(models[0], f"{name}.") if models and not prefix else {prefix + name}
    return keys


def test_every_key_of_a_job_stands_in_the_readme():
    table = README.partition("### Every key of a job")[2].partition("###")[0]
    for key in keys_of(Job) - {"settings"}:
        group, _, name = key.rpartition(".")
        assert any(f"`{written}`" in table for written in (key, f".{name}", group)), key
    for setting in Settings.__dataclass_fields__:
        assert f"`settings.{setting}`" in table


def test_every_column_of_the_metadata_stands_in_the_readme():
    table = README.partition("| column | meaning |")[2].partition("\n\n")[0]
    assert set(METADATA_SCHEMA.names) <= set(re.findall(r"`([a-z0-9_]+)`", table)) | {"attempt_id"}


def test_every_preset_stands_in_the_readme():
    for preset in PRESETS:
        assert f"`{preset}`" in README


@pytest.mark.parametrize("name", ["ad_lib", "manifests", "infra", "tasks", "flows"])
def test_our_packages_are_ours(name: str):
    found = importlib.import_module(name).__file__
    assert found is not None
    assert Path(found).is_relative_to(ROOT)


def test_the_wheel_ships_every_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shipped = set(project["tool"]["setuptools"]["packages"])
    rooms = ("ad_lib", "manifests", "infra", "tasks", "flows")
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for room in rooms
        for path in (ROOT / room).rglob("__init__.py")
    }
    assert shipped == found
