"""What is installed: every package with its data, and neither the training nor the tests."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tests.wheels import ROOT, build_wheel, packages, top_folders

STAYS_IN_THE_CHECKOUT = {"tests", "training"}
RECIPES = {"compose.env.example", "compose.yaml", "docker", "iam-policy.json", "kubernetes"}
RECIPES |= {"prefect.yaml", "ray", "slurm", "systemd"}
"""What of `infra/` no command reads: people copy these from the checkout that they build from."""


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> set[Path]:
    """What is in the wheel, without what setuptools says of it."""
    wheel = build_wheel(tmp_path_factory.mktemp("built"))
    files = {Path(name) for name in zipfile.ZipFile(wheel).namelist()}
    return {file for file in files if not file.parts[0].endswith(".dist-info")}


def test_every_package_ships_but_the_training_and_the_tests():
    folders = {file.parent.relative_to(ROOT) for file in ROOT.glob("[a-z]*/**/__init__.py")}
    written = {".".join(f.parts) for f in folders if f.parts[0] not in STAYS_IN_THE_CHECKOUT}
    assert written == set(packages())


def test_every_file_of_a_package_ships_but_recipes_and_pages_for_people(shipped):
    found = {file for top in top_folders() for file in (ROOT / top).rglob("*") if file.is_file()}
    files = {file.relative_to(ROOT) for file in found if "__pycache__" not in file.parts}
    assert shipped <= files
    left = {file for file in files - shipped if file.suffix != ".md"}
    assert {
        file for file in left if file.parts[0] != "infra" or file.parts[1] not in RECIPES
    } == set()


@pytest.mark.parametrize(
    "file",
    [
        "ad_lib/py.typed",
        "ad_lib/embedded/README.md",
        "ad_lib/embedded/evaluate.py",
        "ad_lib/embedded/model_index.json",
        "ad_lib/embedded/networks.py",
        "ad_lib/embedded/tokenizer/tokenizer.json",
        "ad_lib/embedded/unet/diffusion_pytorch_model.safetensors",
        "manifests/examples/demo.yaml",
        "tasks/results/report.html.j2",
    ],
)
def test_weights_examples_and_templates_ship(shipped, file):
    assert Path(file) in shipped
