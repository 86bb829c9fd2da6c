from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from infra.store import open_store
from manifests.examples.pack import IMAGES, pack
from manifests.job import load_job
from tests.audit import audit
from tests.command_line import Cli
from tests.conftest import TINY_BACKBONE

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
def test_every_example_runs_as_it_is_written(cli: Cli, examples: Path, name: str):
    answer = cli("run", examples / name, *SMALL)
    assert answer.code == 0, answer
    audit(examples / load_job(examples / name).output.uri)


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
