"""What a bad network does to a client: an HTTP proxy that breaks chosen requests.

Every byte passes untouched, `Host` included, so an S3 signature still verifies at the server behind
it. One connection carries one request.

    with FaultProxy(port) as proxy:
        proxy.faults = [Fault("ack_lost", method="PUT", path="/commits/", first=1)]
        ... AWS_ENDPOINT_URL=proxy.url ...
        assert proxy.num_injected == 1
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Literal, Self

Kind = Literal["slowdown", "error500", "denied", "reset", "hang", "latency", "truncate", "ack_lost"]
REPLIES = {
    "slowdown": ("503 Slow Down", "SlowDown"),
    "error500": ("500 Internal Server Error", "InternalError"),
    "denied": ("403 Forbidden", "AccessDenied"),
}


@dataclass(frozen=True)
class Fault:
    """What to do to which requests.

    Args:
        kind: `slowdown`, `error500` and `denied` answer in the server's place; `reset` cuts the
            line before the server hears of it; `hang` keeps silent for `seconds`, then cuts;
            `latency` adds `seconds`; `truncate` lets `num_bytes` of the response through, head
            included; `ack_lost` lets the server finish, then cuts the line.
        method: only this method; None means all.
        path: only requests whose path and query match this regular expression.
        first: only the first so many that match.
        every: only each n-th that matches.
        probability: only this share of them, drawn by the proxy's seed.
        seconds: for `hang` and `latency`.
        num_bytes: for `truncate`.
    """

    kind: Kind
    _: KW_ONLY
    method: str | None = None
    path: str = ""
    first: int | None = None
    every: int = 1
    probability: float = 1.0
    seconds: float = 0.0
    num_bytes: int = 0


class FaultProxy:
    """Listens on `host` and forwards to a port on loopback.

    The first of `faults` that wants a request gets it.
    """

    def __init__(
        self,
        upstream_port: int,
        faults: Sequence[Fault] = (),
        *,
        seed: int = 0,
        host: str = "127.0.0.1",
    ) -> None:
        self._upstream_port = upstream_port
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self.faults = faults

        handle = self._handle

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):  # either side may leave at any time
                    handle(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 128

        self._server = Server((host, 0), Handler)
        self.url = f"http://{host}:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def faults(self) -> Sequence[Fault]:
        """What is broken now; assigning forgets all counts."""
        return self._faults

    @faults.setter
    def faults(self, faults: Sequence[Fault]) -> None:
        with self._lock:
            self._faults = list(faults)
            self._num_matched = [0] * len(self._faults)
            self.num_injected = 0
            self.requests: list[
                tuple[str, str]
            ] = []  # (method, path with query), in order of arrival

    def _fault_for(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self.requests.append((method, path))
            for index, fault in enumerate(self._faults):
                if fault.method not in (None, method) or not re.search(fault.path, path):
                    continue
                self._num_matched[index] += 1
                nth = self._num_matched[index]
                due = nth % fault.every == 0 and (fault.first is None or nth <= fault.first)
                if due and self._random.random() < fault.probability:
                    self.num_injected += 1
                    return fault
        return None

    def _handle(self, client: socket.socket) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            chunk = client.recv(65536)
            if not chunk:
                return
            received += chunk
        head, body = received.split(b"\r\n\r\n", 1)
        method, path, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        fault = self._fault_for(method, path)
        kind = fault.kind if fault else None
        if fault and kind in REPLIES:
            _swallow(client, head, body)
            return client.sendall(_reply(*REPLIES[kind]))
        if fault and kind == "hang":
            self._closing.wait(fault.seconds)
        if kind in ("reset", "hang"):
            return _reset(client)
        if fault and kind == "latency":
            time.sleep(fault.seconds)
        with socket.create_connection(("127.0.0.1", self._upstream_port), 10) as server:
            server.settimeout(120)
            server.sendall(head + b"\r\nConnection: close\r\n\r\n" + body)
            threading.Thread(target=_pump, args=(client, server), daemon=True).start()
            if fault and kind == "ack_lost":
                _drop_answer(server, client)
            elif fault and kind == "truncate":
                _pump(server, client, fault.num_bytes)
            else:
                _pump(server, client)
        client.shutdown(socket.SHUT_RDWR)


def _pump(source: socket.socket, sink: socket.socket, limit: float = float("inf")) -> None:
    """Forward until the source ends or `limit` bytes have passed."""
    with contextlib.suppress(OSError):
        while limit > 0 and (chunk := source.recv(65536)):
            chunk = chunk[: int(min(limit, len(chunk)))]
            sink.sendall(chunk)
            limit -= len(chunk)


def _drop_answer(server: socket.socket, client: socket.socket) -> None:
    """Pass an interim `100 Continue` on, wait for the answer itself, and keep it."""
    answer = b""
    while not answer and (chunk := server.recv(65536)):
        answer = chunk
        if chunk.startswith(b"HTTP/1.1 100"):
            interim, answer = chunk.split(b"\r\n\r\n", 1)
            client.sendall(interim + b"\r\n\r\n")


def _swallow(client: socket.socket, head: bytes, body: bytes) -> None:
    """Read the request's body, unless the client waits for `100 Continue` and has not sent it."""
    length = re.search(rb"\r\ncontent-length: *(\d+)", head.lower())
    missing = int(length[1]) - len(body) if length and b"100-continue" not in head.lower() else 0
    while missing > 0 and (chunk := client.recv(65536)):
        missing -= len(chunk)


def _reply(status: str, code: str) -> bytes:
    body = f"<Error><Code>{code}</Code><Message>injected</Message></Error>"
    lines = (
        f"HTTP/1.1 {status}",
        "Content-Type: application/xml",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def _reset(client: socket.socket) -> None:
    """Close with a TCP reset."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
