"""What a studio has: a store, a Prefect server on PostgreSQL, and machines that take work.

All of it is real, listens on free ports of loopback, and ends with the process that started it.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3

from tests.farm.service import Service, ServiceFailed, answers, free_port, service
from tests.postgres_server import PostgresServer, postgres_server
from tests.s3_server import S3Server, memory_folder, start_s3_server

POOL = "gpu"
MACHINES = ("machine-a", "machine-b")
Say = Callable[[str], None]


@dataclass
class Studio:
    """Everything that runs.

    Attributes:
        folder: logs, and what machines keep on their disks.
        bucket: the only bucket of the store.
        prefect_url: of the server's API.
        services: by name; what must not end.
        metrics_port: where the first worker serves its figures; the second at the next one.
    """

    folder: Path
    s3: S3Server
    bucket: str
    postgres: PostgresServer
    prefect_url: str
    services: dict[str, Service] = field(default_factory=dict)
    metrics_port: int = field(default_factory=free_port)

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def pages(self) -> str:
        """Where a browser sees what the server shows."""
        return self.prefect_url.removesuffix("/api")

    @property
    def run_uri(self) -> str:
        return f"s3://{self.bucket}/runs/night"

    def client(self) -> Any:
        """A client of the store as any program has one."""
        return boto3.client(
            "s3",
            endpoint_url=self.s3.endpoint_url,
            aws_access_key_id=self.s3.access_key,
            aws_secret_access_key=self.s3.secret_key,
            region_name=self.s3.region,
        )

    def settings(self) -> dict[str, str]:
        """How a machine reaches the store and the server."""
        return {**self.s3.env(), "PREFECT_API_URL": self.prefect_url}

    def command(self, *arguments: str, seconds: float = 120.0) -> str:
        """What a command of an operator says, who sits at a machine of the name `desk`.

        Raises:
            ServiceFailed: it ended with an exit code that is not 0.
        """
        home, environment = _machine(self.folder, "desk", self.settings())
        try:
            done = subprocess.run(
                [sys.executable, "-m", *arguments],
                cwd=home,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired as late:
            raise ServiceFailed(str(late)) from late
        with (self.logs / "desk.log").open("a") as log:
            log.write(f"$ {shlex.join(arguments)}\n{done.stdout}{done.stderr}")
        if done.returncode:
            last = (done.stdout + done.stderr).strip()[-2000:]
            raise ServiceFailed(f"{shlex.join(arguments)} ended with {done.returncode}:\n{last}")
        return done.stdout

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """What the server's API answers; a POST where there is a body."""
        request = urllib.request.Request(
            f"{self.prefect_url}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        no_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with no_proxy.open(request, timeout=30) as answer:
            return json.load(answer)

    def ask_to_end(self) -> None:
        """Asks machines and server at once, so that one does not wait for the other."""
        for one in self.services.values():
            one.ask_to_end()

    def check(self) -> None:
        """Raises `ServiceFailed` where a service has ended."""
        for one in self.services.values():
            one.check()


@contextmanager
def studio(folder: Path, say: Say) -> Iterator[Studio]:
    """Starts store, database and server; no machine yet.

    Args:
        folder: takes everything but the data of store and database.
        say: is told addresses.
    """
    logs = folder / "logs"
    logs.mkdir(parents=True)
    with ExitStack() as stack:
        data = stack.enter_context(
            tempfile.TemporaryDirectory(
                prefix="farm-s3-", dir=memory_folder(), ignore_cleanup_errors=True
            )
        )
        s3 = stack.enter_context(contextmanager(start_s3_server)(Path(data)))
        bucket = s3.make_bucket("studio")
        say(f"store: {s3.endpoint_url}, bucket {bucket}")
        postgres = stack.enter_context(postgres_server(logs / "postgresql.log"))
        say(f"database: {postgres.address}")
        server, url = stack.enter_context(_prefect_server(folder, postgres))
        say(f"Prefect: {url.removesuffix('/api')} (user interface), {url} (API)")
        made = Studio(folder, s3, bucket, postgres, url, {server.name: server})
        _write_settings(made)
        yield made


@contextmanager
def _prefect_server(folder: Path, postgres: PostgresServer) -> Iterator[tuple[Service, str]]:
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    home, environment = _machine(folder, "server", {})
    environment |= {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": postgres.url(),
        "PREFECT_SERVER_UI_API_URL": url,  # its pages ask port 4200 otherwise
    }
    command = [sys.executable, "-m", "prefect", "server", "start"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    log = folder / "logs" / "prefect-server.log"
    with service("the Prefect server", command, log, environment=environment, folder=home) as one:
        one.wait_until(lambda: answers(port))
        yield one, url


@contextmanager
def machines(studio: Studio, say: Say) -> Iterator[None]:
    """Machines that take one flow run at a time each, with disks and homes of their own."""
    with ExitStack() as stack:
        for name in MACHINES:
            home, environment = _machine(studio.folder, name, studio.settings())
            command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL]
            command += ["--name", name, "--limit", "1"]
            log = studio.logs / f"{name}.log"
            one = service(name, command, log, environment=environment, folder=home)
            studio.services[name] = stack.enter_context(one)
            say(f"{name}: a worker of the pool {POOL}, log {log}")
        try:
            yield
        finally:
            studio.ask_to_end()


def _machine(folder: Path, name: str, settings: dict[str, str]) -> tuple[Path, dict[str, str]]:
    """A folder for a machine, and what its processes find around them: nothing of ours."""
    home = folder / name
    for part in ("home", "scratch", "prefect"):
        (home / part).mkdir(parents=True, exist_ok=True)
    kept = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "SSL_CERT_FILE")
    return home, {
        **{key: os.environ[key] for key in kept if key in os.environ},
        "HOME": str(home / "home"),
        "TMPDIR": str(home / "scratch"),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "DO_NOT_TRACK": "1",
        "NO_COLOR": "1",
        "OMP_NUM_THREADS": "1",
        **settings,
    }


def _write_settings(studio: Studio) -> None:
    """What a person needs in a shell to look around; keys are in it."""
    path = studio.folder / "environment.sh"
    path.touch(mode=0o600)
    settings = studio.settings() | {"DO_NOT_TRACK": "1"}
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in settings.items()]
    path.write_text("".join(lines))
