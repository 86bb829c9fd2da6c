"""How does `stylefarm study serve` speak to browsers? `study_site` says what it answers.

Off loopback every address begins with a token; without it there is one sentence. Nothing is
written about who asks: no address, no browser, no cookie. A request has a bounded length and time,
and whatever it holds, it gets an answer of one sentence or a closed connection.
"""

from __future__ import annotations

import hmac
import io
import ipaddress
import logging
import re
import secrets
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from flows.stopping import Stopping
from flows.study_site import Refusal, Reply, StudySite
from flows.terminal import Terminal, counted
from infra.store import open_store
from manifests.errors import ManifestError

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 << 10
MAX_CONNECTIONS = 400
REQUEST_SECONDS = 20.0
"""How long a request may take to arrive, and an answer to be taken."""

TOKEN = re.compile(r"[A-Za-z0-9_-]{8,128}")
NO_TOKEN = "This study opens with the whole link that you were given"
NOT_THIS_MACHINE = "Open this study as localhost, or serve it with --token"
"""Said where a page calls this machine by a name of its own, or a proxy hands requests on."""

LOOPBACK = re.compile(r"(localhost|127\.[0-9.]+|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
WAIT_SECONDS = 0.1


class StudyServer(ThreadingHTTPServer):
    """A site on a port, each connection in a thread.

    Attributes:
        token: what every address begins with, or empty.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, site: StudySite, host: str, port: int, token: str | None, stopping: Stopping
    ) -> None:
        """Listens; a token is made up where one is needed and none is given.

        Raises:
            ManifestError: the address cannot be used, or the token is no part of a link.
        """
        if token is not None and not TOKEN.fullmatch(token):
            raise ManifestError(
                f"--token is 8 to 128 letters, digits, '-' or '_'; got {len(token)} characters"
            )
        self.site, self.stopping = site, stopping
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        try:
            self.address_family, address = _address(host, port)
            super().__init__(address, _Handler)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ManifestError(
                f"cannot listen at --host {host} --port {port} ({reason}): give an address of this "
                "machine and a free port (0 finds one)"
            ) from None
        self.is_open = not ipaddress.ip_address(self._host()).is_loopback
        self.token = token or (secrets.token_hex(16) if self.is_open else "")

    @property
    def url(self) -> str:
        """The link to hand out."""
        host = _outward_address(self.address_family) if self._is_any() else self._host()
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self.server_port}/{self.token and self.token + '/'}"

    def server_bind(self) -> None:
        """Binds without asking what this machine is called, which can take long."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self._host(), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Gives a connection its thread, or closes it where there are too many."""
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answers what comes over a connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection broke off: its page asks again."""
        logger.debug("a connection ended early", exc_info=True)

    def _host(self) -> str:
        return str(self.server_address[0]).partition("%")[0]

    def _is_any(self) -> bool:
        return ipaddress.ip_address(self._host()).is_unspecified


class _Handler(BaseHTTPRequestHandler):
    """One connection, which may carry many requests."""

    protocol_version = "HTTP/1.1"

    @property
    def study(self) -> StudyServer:
        """What this is a connection to."""
        return cast(StudyServer, self.server)

    def setup(self) -> None:
        """Reads through a clock, so that nobody can hold a thread by sending slowly."""
        super().setup()
        self.rfile.close()
        self._arriving = _Arriving(self.connection)
        self.rfile = io.BufferedReader(self._arriving)

    def handle_one_request(self) -> None:
        """Answers one request, all of which has to come in time."""
        self._arriving.deadline = time.monotonic() + REQUEST_SECONDS
        super().handle_one_request()

    def do_GET(self) -> None:
        """Answers a request."""
        try:
            reply = self._reply()
        except Refusal as refusal:
            self._refuse(refusal.status, refusal.sentence)
        except OSError:
            self.close_connection = True  # the other side has gone, or takes too long
        except Exception:
            logger.exception("a request was not answered")
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, "This went wrong; nothing was saved")
        else:
            self._send(HTTPStatus.OK, reply)

    do_HEAD = do_POST = do_GET

    def _reply(self) -> Reply:
        path = self._path_below_token()
        if self.command != "POST":
            return self.study.site.answer("GET", path, b"")
        body = self._body()
        with self.study.stopping.step():
            return self.study.site.answer("POST", path, body)

    def _path_below_token(self) -> str:
        path = self.path.partition("?")[0].removeprefix("/")
        if not self.study.token:
            if not _is_this_machine(self.headers.get("Host", "localhost")):
                raise Refusal(HTTPStatus.FORBIDDEN, NOT_THIS_MACHINE)
            return path
        first, slash, rest = path.partition("/")
        if not hmac.compare_digest(first.encode(), self.study.token.encode()):
            raise Refusal(HTTPStatus.FORBIDDEN, NO_TOKEN)
        if not slash:
            raise Refusal(HTTPStatus.NOT_FOUND, "The link ends with a slash: add it")
        return rest

    def _body(self) -> bytes:
        """What a POST carries. JSON alone: another site's page cannot send that unasked."""
        if self.headers.get_content_type() != "application/json":
            raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Send JSON (application/json)")
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,9}", length):
            raise Refusal(HTTPStatus.LENGTH_REQUIRED, "Say how long the body is (Content-Length)")
        if int(length) > MAX_BODY_BYTES:
            sentence = f"A body has {MAX_BODY_BYTES} bytes at most"
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, sentence)
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise Refusal(HTTPStatus.BAD_REQUEST, "The body is shorter than Content-Length says")
        return body

    def _send(self, status: HTTPStatus, reply: Reply) -> None:
        if self.command != "POST" and self._has_body():
            self.close_connection = True  # a body that nobody reads is no request
        self.send_response(status)
        headers = {
            **HEADERS,
            "Cache-Control": reply.cache,
            "Content-Length": str(len(reply.body)),
            "Content-Type": reply.media_type,
        }
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        self.connection.settimeout(REQUEST_SECONDS)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    def _has_body(self) -> bool:
        headers: Any = getattr(self, "headers", None) or {}
        return "Transfer-Encoding" in headers or headers.get("Content-Length", "0") != "0"

    def _refuse(self, status: HTTPStatus, sentence: str) -> None:
        self.close_connection = True  # whatever else has come over it is not looked at
        logger.debug("refused with %d: %s", status, sentence)
        self._send(status, Reply("text/plain; charset=utf-8", sentence.encode()))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers what the standard library refuses: garbage, or an unknown method."""
        self.request_version = "HTTP/1.1"  # else whoever sent no version got no status line
        is_method = code == HTTPStatus.NOT_IMPLEMENTED
        if is_method:
            code = HTTPStatus.METHOD_NOT_ALLOWED
        elif code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            code = HTTPStatus.BAD_REQUEST  # a version of HTTP that is not spoken
        sentence = "GET, HEAD and POST are answered" if is_method else "This is no HTTP request"
        self._refuse(HTTPStatus(code), sentence)

    def version_string(self) -> str:
        """What serves: not which version of what."""
        return "stylefarm"

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: who asks is nobody's business."""


class _Arriving(io.RawIOBase):
    """What comes over a connection until a deadline."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self._connection = connection
        self.deadline = 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


def serve_study(
    terminal: Terminal, stopping: Stopping, uri: str, *, host: str, port: int, token: str | None
) -> None:
    """Shows a study until this process is told to stop; what is answered is on disk by then.

    Raises:
        ManifestError: there is no study that can be shown, or the address cannot be used.
        StoreError: the store refuses or does not answer.
    """
    site = StudySite(open_store(uri))
    with served(site, host, port, token, stopping) as server:
        study = site.study
        pages = counted(max(map(len, study.sessions)), "page")
        terminal.say(f"{study.title} · {counted(len(study.cases), 'case')}, {pages} a person")
        terminal.say(f"Open {server.url}", "bold")
        if server.is_open:
            terminal.say("Whoever has this link can take part; the connection is not encrypted.")
        again = f"--host {host} --port {server.server_port}"
        again += f" --token {server.token}" if server.token else ""
        terminal.say(f"The same link again, after a stop: {again}", "dim")
        terminal.say("Ctrl-C stops. Every vote is on disk before its page goes on.", "dim")
        while not stopping.asked():
            time.sleep(WAIT_SECONDS)


@contextmanager
def served(
    site: StudySite, host: str, port: int, token: str | None, stopping: Stopping
) -> Iterator[StudyServer]:
    """A server that answers in threads of its own until the block ends.

    Raises:
        ManifestError: the address cannot be used, or the token is no part of a link.
    """
    with StudyServer(site, host, port, token, stopping) as server:
        thread = threading.Thread(target=server.serve_forever, args=(WAIT_SECONDS,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def _is_this_machine(host: str) -> bool:
    """Whether a Host header names this machine; another name is somebody else's page."""
    return LOOPBACK.fullmatch(host) is not None


def _address(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """How a host is listened at; a name is looked up."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    return family, address


def _outward_address(family: int) -> str:
    """This machine's address as others may reach it, or its name; nothing is sent."""
    anywhere = "2001:db8::1" if family == socket.AF_INET6 else "192.0.2.1"
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((anywhere, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return socket.gethostname()
