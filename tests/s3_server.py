"""A real S3 server for tests: `s3_server`, one per session, and `s3_bucket`, fresh for each test.

The server is OpenStack Swift from PyPI, all of it in one child process on a free port, as
tests/infra/swift_server.py tells; it ends with the process that started it, however that one ends.
It needs `pip install swift==2.38.3`, in the tests' environment or in another one, whose interpreter
STYLEFARM_SWIFT_PYTHON names. With STYLEFARM_S3_SERVER=radosgw it is Ceph's gateway instead, as
tests/infra/radosgw_server.py tells; buckets that are worse on purpose are Swift's alone.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest

from tests.infra.radosgw_server import radosgw, why_not

PROGRAM = Path(__file__).parent / "infra" / "swift_server.py"
INTERPRETER = os.environ.get("STYLEFARM_SWIFT_PYTHON", sys.executable)
IS_RADOSGW = os.environ.get("STYLEFARM_S3_SERVER") == "radosgw"


@dataclass(frozen=True, kw_only=True)
class S3Server:
    """Where a running server is, where its files lie, and how to sign in."""

    endpoint_url: str
    access_key: str
    secret_key: str
    pid: int
    folder: Path
    region: str = "us-east-1"

    @property
    def port(self) -> int:
        """The port of `endpoint_url`, for a fault proxy to stand before."""
        port = urlsplit(self.endpoint_url).port
        assert port
        return port

    def env(self) -> dict[str, str]:
        """The environment in which boto3, PyArrow and our own code find the server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
        }

    def make_bucket(self, prefix: str = "test") -> str:
        """Make an empty bucket; `racing-` and `careless-` ones are worse stores on purpose."""
        if IS_RADOSGW and prefix in ("racing", "careless"):
            pytest.skip(f"radosgw has no {prefix} buckets")
        bucket = f"{prefix}-{uuid.uuid4().hex[:12]}"
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
        )
        client.create_bucket(Bucket=bucket)
        client.close()
        return bucket


def start_s3_server(folder: Path, access_key: str = "stylefarm:test") -> Iterator[S3Server]:
    """Yield a running server whose data lies in `folder`; stop it afterwards."""
    if IS_RADOSGW:
        with radosgw(folder) as (port, access_key, secret_key, pid):
            yield S3Server(
                endpoint_url=f"http://127.0.0.1:{port}",
                access_key=access_key,
                secret_key=secret_key,
                pid=pid,
                folder=folder,
            )
        return
    secret_key = secrets.token_hex(16)
    command = [INTERPRETER, "-W", "ignore", str(PROGRAM), str(folder), "--until-stdin-closes"]
    command += ["--access-key", access_key, "--secret-key", secret_key]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
    assert process.stdin
    assert process.stdout
    try:
        ready = process.stdout.readline()
        if not ready:
            raise RuntimeError(f"the S3 server did not start:\n{(folder / 'log').read_text()}")
        yield S3Server(
            endpoint_url=json.loads(ready)["endpoint_url"],
            access_key=access_key,
            secret_key=secret_key,
            pid=process.pid,
            folder=folder,
        )
    finally:
        process.stdin.close()  # the server leaves when its input ends
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def why_no_server() -> str | None:
    """Why there is no S3 server to test with; None where there is one."""
    if IS_RADOSGW:
        return why_not()
    if "STYLEFARM_SWIFT_PYTHON" in os.environ or importlib.util.find_spec("swift"):
        return None
    return "no S3 server to test with: pip install swift==2.38.3"


def memory_folder() -> Path | None:
    """A folder in memory, where Swift's thousands of small files come and go at once; else None."""
    folder = Path("/dev/shm")
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as probe:
            os.setxattr(probe.name, "user.probe", b"")  # Swift keeps an object's metadata so
            return folder if shutil.disk_usage(folder).free > 2 << 30 else None
    except (OSError, AttributeError):
        return None


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A running S3 server, shared by the session."""
    if reason := why_no_server():
        (pytest.skip if IS_RADOSGW else pytest.fail)(reason)
    with tempfile.TemporaryDirectory(
        prefix="s3-server-", dir=memory_folder(), ignore_cleanup_errors=True
    ) as folder:
        yield from start_s3_server(Path(folder))


@pytest.fixture
def s3_bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a fresh bucket; the environment leads every AWS client to its server."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    for name, value in s3_server.env().items():
        monkeypatch.setenv(name, value)
    return s3_server.make_bucket()
