"""Credentials of the environment stand nowhere in what a night of runs leaves behind.

They are planted as a studio's machines have them; some runs succeed, some are refused. Then every
byte is looked through: what was printed, the bucket, Prefect's database, caches, metrics.
"""

from __future__ import annotations

import base64
import io
import logging
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from flows.logs import mask_prefect_logs
from infra.store import open_store
from tests.bad_images import write_truncated_jpeg
from tests.command_line import command_environment
from tests.conftest import TINY_BACKBONE, write_pictures
from tests.flows.test_metrics import free_ports, scrape
from tests.flows.test_observing import asked
from tests.prefect_server import full_server
from tests.s3_server import S3Server

PLANTED = {
    "session token": "PlantedSessionToken0123456789",
    "wrong key": "PLANTEDWRONGACCESSKEY",
    "wrong secret": "planted/wrong+secret0123456789",
    "endpoint": "planted-endpoint-password",
    "prefect url": "planted-prefect-password",
    "prefect": "planted-api-password",
    "hub": "hf_PlantedTokenPlantedToken0123456789",
    "proxy": "planted-proxy-password",
    "job": "planted/job+password",
    "table": "planted-table-password",
}

RUN_JOBS = """
import os, sys, traceback
from pathlib import Path
from flows.job import run_job
from manifests.job import load_job

path, uri, secret = Path(sys.argv[1]), *sys.argv[2:]
def run():
    try:
        run_job(load_job(path), overrides={"output.uri": uri}, base=str(path.parent))
    except BaseException:
        traceback.print_exc()
run()
os.environ["AWS_SECRET_ACCESS_KEY"] = secret
run()
"""
"""Flow runs of one process: a good one, and one with a wrong key."""


@dataclass
class Night:
    """What a night has left: files by name, what was printed by command, and Prefect's answers."""

    secrets: dict[str, str]
    printed: dict[str, str] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    metrics: list[str] = field(default_factory=list)
    prefect: dict[str, Any] = field(default_factory=dict)

    def everything(self) -> Iterator[tuple[str, str | bytes]]:
        yield from self.printed.items()
        yield from self.files.items()
        yield from ((f"metrics {number}", text) for number, text in enumerate(self.metrics))
        yield from ((name, repr(told)) for name, told in self.prefect.items())
        for name, data in self.files.items():
            if name.endswith(".parquet"):  # its pages are compressed
                table = pq.read_table(io.BytesIO(data))
                yield f"rows of {name}", repr((table.to_pylist(), table.schema.metadata))


def forms(secret: str) -> set[bytes]:
    """The ways in which a secret may be written down."""
    quoted = urllib.parse.quote(secret, safe="")
    return {one.encode() for one in (secret, quoted, base64.b64encode(secret.encode()).decode())}


class Commands:
    """Commands of one night, in a folder and an environment with all that is planted."""

    def __init__(self, night: Night, folder: Path, environment: dict[str, str]) -> None:
        self._night, self._folder, self._environment = night, folder, environment

    def __call__(self, name: str, *arguments: str | Path, **environment: str) -> None:
        self._run(name, ["-m", "flows.cli", *map(str, arguments)], environment)

    def python(self, name: str, *arguments: str | Path, **environment: str) -> None:
        self._run(name, ["-c", *map(str, arguments)], environment)

    def _run(self, name: str, arguments: list[str], environment: dict[str, str]) -> None:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self._folder,
            env=self._environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        self._night.printed[name], self._night.codes[name] = done.stdout, done.returncode


def write_job(folder: Path, name: str, port: int = 9400, **changes: Any) -> Path:
    job: dict[str, Any] = {
        "task": "style-transfer",
        "settings": {"num_inference_steps": 2},
        "sweep": {"content_weight": [0.1, 0.3]},
        "backbone": str(TINY_BACKBONE),
        "compute": {"device": "cpu", "price_per_hour": 1.5, "metrics_port": port},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(job | changes))
    return path


def planted_environment(server: S3Server, prefect_url: str, home: Path) -> dict[str, str]:
    """What is around a command; the proxy spares addresses of this machine."""

    def with_password(url: str, name: str) -> str:
        return url.replace("://", f"://user:{PLANTED[name]}@")

    proxy = with_password("http://127.0.0.1:9", "proxy")
    return {
        **command_environment(with_password(prefect_url, "prefect url")),
        **server.env(),
        "AWS_ENDPOINT_URL": with_password(server.endpoint_url, "endpoint"),
        "AWS_SESSION_TOKEN": PLANTED["session token"],
        "AWS_MAX_ATTEMPTS": "1",
        "PREFECT_API_AUTH_STRING": f"admin:{PLANTED['prefect']}",
        "HF_TOKEN": PLANTED["hub"],
        "HTTP_PROXY": proxy,
        "HTTPS_PROXY": proxy,
        "NO_PROXY": "127.0.0.1",
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "PREFECT_HOME": str(home / "prefect"),
        "TMPDIR": str(home),
    }


@pytest.fixture(scope="module")
def night(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Night:
    folder, home = (
        write_pictures(tmp_path_factory.mktemp("night")),
        tmp_path_factory.mktemp("home"),
    )
    write_truncated_jpeg(folder / "content")
    records = tmp_path_factory.mktemp("prefect")
    night = Night(PLANTED | {"secret key": s3_server.secret_key})
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.env().items():
            patch.setenv(name, value)
        bucket = f"s3://{s3_server.make_bucket()}"
        with full_server(records) as server:
            around = planted_environment(s3_server, server.url, home)
            _work(Commands(night, folder, around), folder, bucket, night)
            night.prefect = {
                name: asked(server.url, name) for name in ("flow_runs", "logs", "artifacts")
            }
        inputs = open_store(bucket)
        night.files |= {one.key: inputs.get(one.key) for one in inputs.list()}
    for place in (home, records, folder / "study"):
        found = [path for path in place.rglob("*") if path.is_file()]
        night.files |= {str(path): path.read_bytes() for path in found}
    return night


def _work(command: Commands, folder: Path, bucket: str, night: Night) -> None:
    """A night: runs that end, runs that are refused, and whoever looks at them afterwards."""
    store, port, run = open_store(f"{bucket}/in"), free_ports(1), f"{bucket}/run"
    for name in ("content/a.png", "content/truncated.jpg", "style/x.png"):
        store.put(name, folder / name)
    inputs = {"content": f"{bucket}/in/content", "style": f"{bucket}/in/style"}
    planted = f"s3://AKIA:{PLANTED['job']}@bucket/in"
    job = write_job(folder, "job", port=port, inputs=inputs, output={"uri": run, "size": 64})
    with metrics_scraped(port, night.metrics):
        command("run", "-vv", "run", job)
    command.python("flows", RUN_JOBS, job, f"{run}-2", PLANTED["wrong secret"])
    sides = (
        "--repeats",
        "0",
        "--attention",
        "0",
        "--ours",
        f"a={run}#content_weight 0.1",
        "--against",
        f"b={run}#content_weight 0.3",
    )
    command("study", "study", "build", folder / "study", *sides)
    stranger = {
        "AWS_ACCESS_KEY_ID": PLANTED["wrong key"],
        "AWS_SECRET_ACCESS_KEY": PLANTED["wrong secret"],
    }
    command("wrong key", "-vv", "status", run, **stranger)
    closed = {"AWS_ENDPOINT_URL": f"http://user:{PLANTED['endpoint']}@127.0.0.1:9"}
    command("closed", "-vv", "run", job, **closed)
    command("job", "-vv", "plan", job, "--set", f"inputs.content={planted}")
    (folder / "table.csv").write_text(f"content,style,password\na,b,{PLANTED['table']}\n")
    table = write_job(folder, "table", inputs={"table": "table.csv"}, output={"uri": "none"})
    command("table", "-vv", "plan", table)


@contextmanager
def metrics_scraped(port: int, pages: list[str]) -> Iterator[None]:
    """Scrapes a worker again and again until the end of the block."""
    over = threading.Event()

    def scrape_on() -> None:
        while not over.wait(0.1):
            with suppress(OSError):
                pages.append(scrape(port))

    scraping = threading.Thread(target=scrape_on)
    scraping.start()
    try:
        yield
    finally:
        over.set()
        scraping.join()


def test_the_log_of_a_flow_run_names_no_secret_where_a_bug_ended_it(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted/secret")
    mask_prefect_logs()
    log = logging.getLogger("prefect.flow_runs")
    try:
        raise LookupError("b'planted/secret'")
    except LookupError as error:
        why = (type(error), error, error.__traceback__)
        record = log.makeRecord(log.name, logging.ERROR, "", 1, "%r", (error,), why)
    assert log.filter(record)
    told = logging.Formatter().format(record)
    assert told.count("LookupError") > 1
    assert "planted/secret" not in told


@pytest.mark.slow
@pytest.mark.s3
def test_the_night_was_as_planned(night: Night):
    """Else the test below would look through nothing."""
    refused = dict.fromkeys(("wrong key", "closed", "job", "table"), 2)
    assert night.codes == {"run": 3, "flows": 0, "study": 0} | refused, night.printed
    assert "SignatureDoesNotMatch" in night.printed["flows"] + night.printed["wrong key"]
    assert any("stylefarm_items_total" in page for page in night.metrics)
    states = sorted(run["state"]["type"] for run in night.prefect["flow_runs"])
    assert states == ["FAILED"] * 3, "the command's and two of the process"
    names = {Path(name).suffix for name in night.files}
    assert names >= {".db", ".html", ".jpg", ".json", ".parquet", ".tar"}


@pytest.mark.slow
@pytest.mark.s3
def test_no_credential_stands_anywhere(night: Night):
    found = [
        f"the {name} in {place}"
        for place, told in night.everything()
        for name, secret in night.secrets.items()
        for form in forms(secret)
        if form in without_signed_links(told.encode() if isinstance(told, str) else told)
    ]
    assert not found


def without_signed_links(told: bytes) -> bytes:
    """A link that a browser opens names a temporary session; that is S3's own way to sign it."""
    return told.replace(f"X-Amz-Security-Token={PLANTED['session token']}".encode(), b"")
