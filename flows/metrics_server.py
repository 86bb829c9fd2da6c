"""Where does a worker serve its figures, so that Prometheus finds them?

At `compute.metrics_port` plus the worker's number, on every interface of its machine, as Prometheus
asks from another one; where that port is taken, at the next free one, and a sentence says so. The
figures are for reading only, and no work ever ends for want of a port. Whoever asks regularly, as
Prometheus does, is waited for at the end: its last figures are those of all commits.
"""

from __future__ import annotations

import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING

from flows.telling import tell_all
from manifests.job import Compute
from manifests.job_parts import MAX_WORKERS
from manifests.job_values import MAX_PORT
from tasks.work.events import WorkEvent

if TYPE_CHECKING:
    from tasks.work.metrics import WorkerMetrics

logger = logging.getLogger(__name__)

CLIENT_SECONDS = 10.0
"""A client that is silent for so long is left."""

LONGEST_INTERVAL = 65.0
"""Who asks less often than once in so many seconds is not waited for."""


@contextmanager
def metrics_served(
    run_uri: str,
    compute: Compute,
    number: int,
    tell: Callable[[WorkEvent], None],
    should_stop: Callable[[], bool],
) -> Iterator[Callable[[WorkEvent], None]]:
    """Serves a worker's figures until the end of the block, where its job asks for that.

    After a block that ended in order it stays until those who ask regularly have the last figures.

    Args:
        run_uri: the run folder.
        compute: of the job; `metrics_port` is where the first worker serves.
        number: of the worker among those of its command.
        tell: is told what happens.
        should_stop: asked while the last figures wait; ends that.

    Yields:
        What the worker shall tell instead: `tell` hears of it too.
    """
    if compute.metrics_port is None:
        yield tell
        return
    from tasks.work.metrics import WorkerMetrics

    metrics = WorkerMetrics(run_uri, compute.price_per_hour)
    server = _bound(compute.metrics_port + number, metrics)
    if server is None:
        yield tell
        return
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="metrics", daemon=True)
    thread.start()
    try:
        yield tell_all(metrics.tell, tell)
        server.wait_for_clients(metrics, should_stop)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass(frozen=True)
class _Client:
    """When somebody asked last, by `time.monotonic`, and how long after the time before."""

    asked: float
    interval: float


class _Server(ThreadingHTTPServer):
    """An HTTP server whose slow or broken clients concern nobody else."""

    daemon_threads = True
    allow_reuse_port = False  # of two who want a port, the second is told

    def server_bind(self) -> None:
        """Binds, and asks no name server what this machine is called, which may take long."""
        self._clients: dict[str, _Client] = {}
        socketserver.TCPServer.server_bind(self)

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """The next client; one that says nothing holds a file of this process for a while only."""
        client, address = super().get_request()
        client.settimeout(CLIENT_SECONDS)
        return client, address

    def finish_request(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: tuple[str, int]
    ) -> None:
        """Answers, and remembers who has asked."""
        host, now = client_address[0], time.monotonic()
        super().finish_request(request, client_address)
        before = self._clients.get(host)
        self._clients[host] = _Client(now, now - before.asked if before else float("inf"))

    def handle_error(self, request: object, client_address: object) -> None:
        """Notes that a client has gone away."""
        logger.debug("a client of the metrics has gone away", exc_info=True)

    def wait_for_clients(self, metrics: WorkerMetrics, should_stop: Callable[[], bool]) -> None:
        """Waits until those who ask regularly have asked once more since the last event."""
        is_told = False
        while not should_stop():
            due = [
                client.asked + client.interval + 1.0
                for client in list(self._clients.values())
                if client.asked < metrics.last_told and client.interval < LONGEST_INTERVAL
            ]
            seconds = max(due, default=0.0) - time.monotonic()
            if seconds <= 0:
                return
            if not is_told:
                is_told = True
                logger.info("the last figures wait %.0f s at most for Prometheus", seconds)
            time.sleep(0.1)


def _bound(wanted: int, metrics: WorkerMetrics) -> _Server | None:
    """A server at the port or the next free one above it; None, and a warning, where none is."""
    from prometheus_client import MetricsHandler

    handler = MetricsHandler.factory(metrics.registry)
    reason, last = None, min(wanted + MAX_WORKERS, MAX_PORT)
    for port in range(wanted, last + 1):
        try:
            server = _Server(("", port), handler)
        except OSError as error:
            reason = reason or error
            continue
        if reason is None:
            logger.info("metrics of this worker: port %d", port)
        else:
            logger.warning(
                "port %d is not free (%s): the metrics of this worker are served at port %d",
                *(wanted, reason.strerror, port),
            )
        return server
    logger.warning(
        "none of the ports %d to %d is free (%s): this worker serves no metrics; "
        "compute.metrics_port chooses others",
        *(wanted, last, reason and reason.strerror),
    )
    return None
