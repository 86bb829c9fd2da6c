"""A complete S3 server in one process: OpenStack Swift with its S3 API, data in one folder.

Run `python tests/infra/swift_server.py FOLDER` with `swift` installed; once it answers, it prints
one line of JSON with its endpoint and port. Swift's four servers (account, container, object and
proxy) share the process, on loopback and on free ports that they keep from the start, so nothing
can take a port between its choice and its use.

Two filters are ours and stand for what a cluster would have: `memory_cache` for memcached, and
`conditional_writes` for a store that lets one conditional writer at a time touch a path. Swift
itself checks `If-None-Match` before it takes the body, so several racing writers can all win. A
bucket's name chooses what a test wants to see:

    racing-*     Swift itself, with bodies that arrive slowly: all racing writers win
    careless-*   a store that ignores If-None-Match
    anything     one winner, as AWS documents for its own
"""

from __future__ import annotations

import argparse
import getpass
import json
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import eventlet
import eventlet.hubs
import eventlet.wsgi
from eventlet.semaphore import Semaphore
from swift.common import utils

WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

PROXY = """\
[DEFAULT]
swift_dir = {folder}
user = {user}
log_level = ERROR
log_address = {folder}/no-syslog
client_timeout = 10

[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck memory_cache listing_formats s3api tempauth \
conditional_writes copy slo dlo versioned_writes symlink proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
node_timeout = 60
recoverable_node_timeout = 60
conn_timeout = 10
# There is one replica: ten errors must not banish it.
error_suppression_limit = 1000000000

[filter:memory_cache]
paste.filter_factory = swift_server:memory_cache
[filter:conditional_writes]
paste.filter_factory = swift_server:conditional_writes

[filter:s3api]
use = egg:swift#s3api
location = us-east-1
s3_acl = false
[filter:tempauth]
use = egg:swift#tempauth
user_{account}_{name} = {secret_key} .admin .reseller_admin

[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
allow_async_delete = false
[filter:dlo]
use = egg:swift#dlo
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
[filter:symlink]
use = egg:swift#symlink
"""

BACKEND = """\
[DEFAULT]
swift_dir = {folder}
user = {user}
devices = {folder}/devices
mount_check = false
disable_fallocate = true
fallocate_reserve = 0
log_level = ERROR
log_address = {folder}/no-syslog

[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
# An object is acknowledged when its listing is written; the default waits for that one second only.
container_update_timeout = 60
node_timeout = 60
"""

CLUSTER = """\
[swift-hash]
swift_hash_path_prefix = {prefix}
[storage-policy:0]
name = only
default = yes
"""


class Cache:
    """The part of a memcached client that Swift uses, in this process's memory."""

    def __init__(self) -> None:
        """Start empty."""
        self._entries: dict[str, tuple[Any, float]] = {}

    def get(self, key: str, raise_on_error: bool = False) -> Any:
        """Return the value, or None when there is none or it has expired."""
        value, expires = self._entries.get(key, (None, 0.0))
        return value if not expires or expires > time.time() else None

    def set(self, key: str, value: Any, time: float = 0, **_: Any) -> None:
        """Keep a value, for `time` seconds unless that is 0."""
        self._entries[key] = (value, _now() + time if time else 0.0)

    def incr(self, key: str, delta: int = 1, time: float = 0, **_: Any) -> int:
        """Add to a counter that never goes below 0."""
        value = max(0, int(self.get(key) or 0) + delta)
        self.set(key, value, time)
        return value

    def decr(self, key: str, delta: int = 1, time: float = 0, **_: Any) -> int:
        """Subtract from a counter that never goes below 0."""
        return self.incr(key, -delta, time)

    def delete(self, key: str, server_key: str | None = None) -> None:
        """Forget a value."""
        self._entries.pop(key, None)

    def set_multi(self, mapping: dict[str, Any], *_: Any, time: float = 0, **__: Any) -> None:
        """Keep several values."""
        for key, value in mapping.items():
            self.set(key, value, time)

    def get_multi(self, keys: Iterable[str], *_: Any, **__: Any) -> list[Any]:
        """Return several values, None where there is none."""
        return [self.get(key) for key in keys]


_now = time.time


def memory_cache(global_conf: dict[str, str], **_: str) -> Callable[[WSGIApp], WSGIApp]:
    """Paste filter: give Swift a cache without a memcached."""
    cache = Cache()

    def make(app: WSGIApp) -> WSGIApp:
        def serve(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            environ["swift.cache"] = cache
            return app(environ, start_response)

        return serve

    return make


class SlowBody:
    """A request's body that keeps its reader waiting."""

    def __init__(self, body: Any) -> None:
        """Wrap the body."""
        self._body = body

    def read(self, *size: int) -> bytes:
        """Read after a while."""
        eventlet.sleep(0.1)  # pyright: ignore[reportArgumentType]
        return self._body.read(*size)

    def __getattr__(self, name: str) -> Any:
        """Be the body in all else."""
        return getattr(self._body, name)


def conditional_writes(global_conf: dict[str, str], **_: str) -> Callable[[WSGIApp], WSGIApp]:
    """Paste filter: one conditional writer per path at a time, unless the bucket asks for less."""
    waiting: dict[str, tuple[Semaphore, int]] = {}

    def enter(path: str) -> Semaphore:
        lock, count = waiting.get(path, (Semaphore(1), 0))
        waiting[path] = (lock, count + 1)
        lock.acquire()
        return lock

    def leave(path: str) -> None:
        lock, count = waiting.pop(path)
        if count > 1:
            waiting[path] = (lock, count - 1)
        lock.release()

    def make(app: WSGIApp) -> WSGIApp:
        def serve(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
            path = environ["PATH_INFO"]  # /v1/<account>/<bucket>/<key>
            bucket = (path.split("/") + [""] * 4)[3]
            conditional = environ["REQUEST_METHOD"] == "PUT" and "HTTP_IF_NONE_MATCH" in environ
            if conditional and bucket.startswith("careless-"):
                del environ["HTTP_IF_NONE_MATCH"]
            if conditional and bucket.startswith("racing-"):
                environ["wsgi.input"] = SlowBody(environ["wsgi.input"])
            if not conditional or bucket.startswith(("careless-", "racing-")):
                return iter(app(environ, start_response))
            enter(path)
            try:
                body = app(environ, start_response)
            except BaseException:
                leave(path)
                raise
            return held_until_sent(path, body)

        return serve

    def held_until_sent(path: str, body: Iterable[bytes]) -> Iterator[bytes]:
        try:
            yield from body
        finally:
            getattr(body, "close", lambda: None)()
            leave(path)

    return make


def write_configuration(
    folder: Path, ports: dict[str, int], access_key: str, secret_key: str
) -> dict[str, Path]:
    """Write what Swift reads: its cluster file, a ring per backend, a file per server."""
    from swift.common.ring import RingBuilder

    account, _, name = access_key.partition(":")
    (folder / "devices" / "disk").mkdir(parents=True, exist_ok=True)
    cluster = folder / "swift.conf"
    if not cluster.exists():  # a new prefix would lose the objects of an earlier start
        cluster.write_text(CLUSTER.format(prefix=secrets.token_hex(8)))
    utils.SWIFT_CONF_FILE = str(cluster)
    files = {}
    for kind, port in ports.items():
        files[kind] = folder / f"{kind}-server.conf"
        files[kind].touch(mode=0o600)
        template = PROXY if kind == "proxy" else BACKEND
        files[kind].write_text(
            template.format(
                folder=folder,
                user=getpass.getuser(),
                kind=kind,
                account=account,
                name=name,
                secret_key=secret_key,
            )
        )
        if kind == "proxy":
            continue
        device = {"id": 0, "region": 1, "zone": 1, "weight": 1, "device": "disk"}
        here = {"ip": "127.0.0.1", "port": port}
        builder = RingBuilder(4, 1, 0)  # 16 partitions, one replica
        builder.add_dev({**device, **here, "replication_ip": here["ip"], "replication_port": port})
        builder.rebalance()
        builder.get_ring().save(str(folder / f"{kind}.ring.gz"))
    return files


def serve(folder: Path, port: int, access_key: str, secret_key: str) -> None:
    """Start the four servers in green threads and say so on standard output."""
    sockets = {
        kind: eventlet.listen(("127.0.0.1", 0)) for kind in ("account", "container", "object")
    }
    sockets["proxy"] = eventlet.listen(("127.0.0.1", port), backlog=256)
    ports = {kind: sock.getsockname()[1] for kind, sock in sockets.items()}
    files = write_configuration(folder, ports, access_key, secret_key)

    from swift.common.http_protocol import SwiftHttpProtocol  # only now: Swift reads swift.conf
    from swift.common.wsgi import loadapp  # when it is imported

    utils.validate_hash_conf()
    for kind, sock in sockets.items():
        app = loadapp(str(files[kind]), global_conf={"log_name": kind})
        eventlet.spawn(
            eventlet.wsgi.server,
            sock,
            app,
            utils.NullLogger(),
            protocol=SwiftHttpProtocol,
            custom_pool=eventlet.GreenPool(1024),
            socket_timeout=60,
            capitalize_response_headers=False,  # clients look for "ETag", not "Etag"
        )
    ready = {"endpoint_url": f"http://127.0.0.1:{ports['proxy']}", "port": ports["proxy"]}
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Read the command line, serve until interrupted or until standard input closes."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0, help="0, the default, is any free port")
    parser.add_argument("--access-key", default="stylefarm:local", help="account:user")
    parser.add_argument("--secret-key", default="only-on-loopback")
    parser.add_argument("--until-stdin-closes", action="store_true", help="die with the starter")
    options = parser.parse_args()
    utils.monkey_patch()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    serve(folder, options.port, options.access_key, options.secret_key)
    if options.until_stdin_closes:
        eventlet.hubs.trampoline(sys.stdin.fileno(), read=True)
    else:
        eventlet.sleep(2**31)


if __name__ == "__main__":
    main()
