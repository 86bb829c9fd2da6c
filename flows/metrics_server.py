"""Where does a worker serve its figures, so that Prometheus finds them?

At `compute.metrics_port` plus the worker's number, on every interface of its machine, as Prometheus
asks from another one; where that port is taken, at the next free one, and a sentence says so. The
figures are for reading only, and no work ever ends for want of a port.
"""

from __future__ import annotations

import logging
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def metrics_served(
    run_uri: str, compute: Compute, number: int, tell: Callable[[WorkEvent], None]
) -> Iterator[Callable[[WorkEvent], None]]:
    """Serves a worker's figures until the end of the block, where its job asks for that.

    Args:
        run_uri: the run folder.
        compute: of the job; `metrics_port` is where the first worker serves.
        number: of the worker among those of its command.
        tell: is told what happens.

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
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    """An HTTP server whose slow or broken clients concern nobody else."""

    daemon_threads = True

    def server_bind(self) -> None:
        """Binds, and asks no name server what this machine is called, which may take long."""
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request: object, client_address: object) -> None:
        """Notes that a client has gone away."""
        logger.debug("a client of the metrics has gone away", exc_info=True)


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
