"""What every test shares: a tiny backbone of the real classes, a real S3 server, one thread.

Small networks are several times faster on one thread; OMP_NUM_THREADS sets another number.
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("DO_NOT_TRACK", "1")

import hypothesis
import pytest
import torch
from PIL import Image

from ad_lib.model.backbone import Backbone
from ad_lib.model.loading import load_backbone
from tasks.estimating.remembered import speeds_path
from tests.bad_images import picture
from tests.command_line import cli
from tests.prefect_server import prefect_server
from tests.s3_server import s3_bucket, s3_server
from tests.tasks.compared import compared_runs

__all__ = ["cli", "compared_runs", "prefect_server", "s3_bucket", "s3_server"]

GOLDEN = Path(__file__).parent / "golden" / "public"
TINY_BACKBONE = GOLDEN / "models" / "tiny-sd"

hypothesis.settings.register_profile("whatever the load", deadline=None)
hypothesis.settings.load_profile("whatever the load")
torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--shapes", action="store_true", help="check the shapes in ad_lib's signatures as it runs"
    )


def pytest_configure(config: pytest.Config) -> None:
    """No test reads or writes the cache folder of the person who runs it."""
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="stylefarm-cache-")
    if config.getoption("--shapes"):
        from jaxtyping import install_import_hook

        install_import_hook("ad_lib", "beartype.beartype")


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(os.environ["XDG_CACHE_HOME"], ignore_errors=True)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was imported stays until the end: no collection of garbage looks through it again."""
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_was_measured_before() -> None:
    """What another test has rendered does not tell this one how fast the machine is."""
    speeds_path().unlink(missing_ok=True)


@pytest.fixture(scope="session")
def tiny_backbone() -> Backbone:
    """Stable Diffusion 1.5's topology at a few thousand channels in all; random but calibrated."""
    return load_backbone(str(TINY_BACKBONE), device="cpu")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with `content/` (a, b, c) and `style/` (x, y), 96x128 PNG pictures."""
    return write_pictures(tmp_path)


def write_pictures(folder: Path) -> Path:
    """The same in a folder of one's own."""
    for role, names in (("content", "abc"), ("style", "xy")):
        (folder / role).mkdir()
        for name in names:
            Image.fromarray(picture(seed=ord(name))).save(folder / role / f"{name}.png")
    return folder
