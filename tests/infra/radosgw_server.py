"""A second real S3 server of another make: Ceph's radosgw, on one monitor and one store in memory.

It needs Debian's packages and nothing of a running system, no root either:

    apt install --no-install-recommends radosgw ceph-mon ceph-osd ceph-base ceph-common

All of it ends with the process that started it, however that one ends.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

PROGRAMS = ("radosgw", "radosgw-admin", "ceph-mon", "ceph-osd", "ceph", "monmaptool", "setpriv")
SECONDS_TO_START = 120.0
SECONDS_TO_END = 10.0

CONFIGURATION = """\
[global]
fsid = {fsid}
mon_host = [v2:127.0.0.1:{mon_port},v1:127.0.0.1:{old_mon_port}]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
# radosgw does not start without cephx.
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
auth_allow_insecure_global_id_reclaim = false
keyring = {folder}/keyring
run_dir = {folder}
admin_socket = {folder}/$name.asok
log_file = {folder}/$name.log
crash_dir = {folder}
mon_cluster_log_file = {folder}/cluster.log
mon_data = {folder}/mon
osd_data = {folder}/osd
rgw_data = {folder}/rgw
# A cluster of one is asked for nothing that needs a second.
paxos_propose_interval = 0.05
osd_pool_default_size = 1
osd_pool_default_min_size = 1
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false
osd_pool_default_pg_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_data_avail_crit = 1
osd_objectstore = memstore
memstore_device_bytes = 4294967296
osd_memory_target = 1073741824
rgw_frontends = beast endpoint=127.0.0.1:{port}
rgw_enable_usage_log = false
rgw_run_sync_thread = false
rgw_thread_pool_size = 32
"""

USERS = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
    "client.rgw": {"mon": "allow rw", "osd": "allow rwx", "mgr": "allow rw"},
    "osd.0": {"mon": "allow profile osd", "osd": "allow *", "mgr": "allow profile osd"},
}


def why_not() -> str | None:
    """Why there is no radosgw here; None where there is one."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if not missing:
        return None
    return (
        f"no radosgw to test with, {', '.join(missing)} are missing: apt install "
        "--no-install-recommends radosgw ceph-mon ceph-osd ceph-base ceph-common"
    )


@contextmanager
def radosgw(folder: Path) -> Iterator[tuple[int, str, str, int]]:
    """A running gateway whose files lie in `folder`: its port, access key, secret key and pid."""
    folder = folder.resolve()
    port, mon_port, old_mon_port = _free_ports(3)
    fsid, access_key, secret_key = str(uuid.uuid4()), "stylefarm", secrets.token_hex(16)
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir(parents=True, mode=0o700)
    (folder / "ceph.conf").write_text(
        CONFIGURATION.format(
            folder=folder, fsid=fsid, port=port, mon_port=mon_port, old_mon_port=old_mon_port
        )
    )
    _make_keys(folder)
    address = f"[v2:127.0.0.1:{mon_port},v1:127.0.0.1:{old_mon_port}]"
    _do("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, f"{folder}/monmap")
    mon_files = ("--monmap", f"{folder}/monmap", "--keyring", f"{folder}/keyring")
    _do("ceph-mon", "--mkfs", "-i", "a", *mon_files, folder=folder)
    with ExitStack() as servers:
        servers.enter_context(_server(folder, "ceph-mon", "-i", "a"))
        osd = str(uuid.uuid4())
        _do("ceph", "osd", "new", osd, folder=folder)
        _do("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd, folder=folder)
        servers.enter_context(_server(folder, "ceph-osd", "-i", "0"))
        keys = ("--access-key", access_key, "--secret-key", secret_key)
        user = ("user", "create", "--uid", "stylefarm", "--display-name", "stylefarm", *keys)
        _do("radosgw-admin", *user, folder=folder)
        gateway = servers.enter_context(_server(folder, "radosgw", "-n", "client.rgw"))
        _wait_for(port, access_key, secret_key, gateway)
        yield port, access_key, secret_key, gateway.pid


def make_user(folder: Path, name: str) -> tuple[str, str]:
    """Another user, who may do nothing: his access key and secret key.

    The first user may give him rights afterwards, by the IAM API.
    """
    access_key, secret_key = name, secrets.token_hex(16)
    keys = ("--access-key", access_key, "--secret-key", secret_key)
    _do(
        "radosgw-admin",
        "user",
        "create",
        "--uid",
        name,
        "--display-name",
        name,
        *keys,
        folder=folder,
    )
    caps = ("caps", "add", "--uid", "stylefarm", "--caps", "user-policy=*")
    _do("radosgw-admin", *caps, folder=folder)
    return access_key, secret_key


def _free_ports(number: int) -> list[int]:
    with ExitStack() as opened:
        sockets = [opened.enter_context(closing(socket.socket())) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _make_keys(folder: Path) -> None:
    keyring = folder / "keyring"
    _do("ceph-authtool", "--create-keyring", str(keyring))
    keyring.chmod(0o600)
    for name, rights in USERS.items():
        given = [word for what, right in rights.items() for word in ("--cap", what, right)]
        _do("ceph-authtool", str(keyring), "--gen-key", "-n", name, *given)


def _environment() -> dict[str, str]:
    """The system's own Python finds its own packages."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def _do(*command: str, folder: Path | None = None) -> None:
    """Runs a program to its end."""
    where = ["-c", f"{folder}/ceph.conf"] if folder else []
    done = subprocess.run(
        [*command, *where],
        env=_environment() | {"PATH": f"/usr/bin:/usr/sbin:{os.environ.get('PATH', '')}"},
        capture_output=True,
        text=True,
        timeout=SECONDS_TO_START,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} failed: {done.stderr[-1000:]}")


@contextmanager
def _server(folder: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server that runs until the end of the block, or of this process."""
    with (folder / f"{command[0]}.out").open("wb") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command, "-f", "-c", f"{folder}/ceph.conf"],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS_TO_END)
        process.kill()
        process.wait()


def _wait_for(
    port: int, access_key: str, secret_key: str, gateway: subprocess.Popen[bytes]
) -> None:
    """Waits until an object is stored: HTTP answers long before the store does."""
    with closing(
        boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            region_name="us-east-1",
            config=Config(retries={"total_max_attempts": 1}, read_timeout=SECONDS_TO_START),
        )
    ) as client:
        deadline = time.monotonic() + SECONDS_TO_START
        while True:
            try:
                client.create_bucket(Bucket="ready")
                client.put_object(Bucket="ready", Key="ready", Body=b"ready")
                return
            except (BotoCoreError, ClientError) as error:
                if gateway.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"radosgw does not store anything: {error}") from error
                time.sleep(0.2)
