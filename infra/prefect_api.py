"""Which Prefect API a run reports to: the configured one, or that of a private server.

A configured server may come late; whoever asks decides how long to wait for it.
"""

from __future__ import annotations

import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from infra.prefect_server import PrivateServer, ServerFailed, private_server

if TYPE_CHECKING:
    from prefect.settings import Settings

TRY_SECONDS, PAUSE_SECONDS = 3.0, 0.5
"""How long a configured server may take to answer one question, and the time between two."""

RECORDS = "stylefarm"
"""The folder in Prefect's own that holds the records of private servers."""


class PrefectUnavailable(RuntimeError):
    """No Prefect API answers; the message says what was tried and what to do."""


@dataclass(frozen=True)
class PrefectApi:
    """An API that has answered.

    Attributes:
        url: its URL.
        record: the SQLite file of a private server that keeps one for this run.
        loss: tells what has ended it for good, if anything has.
    """

    url: str
    record: Path | None
    loss: Callable[[], str | None]

    def silence(self) -> str | None:
        """Why it does not answer just now; None where it does. Takes `TRY_SECONDS` at most."""
        return _silence(self.url)


@contextmanager
def prefect_api(
    on_wait: Callable[[str], None],
    on_start: Callable[[], None] = lambda: None,
    on_answer: Callable[[], None] = lambda: None,
) -> Iterator[PrefectApi]:
    """An API that answers; Prefect uses it inside the block.

    Args:
        on_wait: is called again and again while a configured server does not answer, with what is
            the matter; it may raise.
        on_start: is called where the environment names no server, before Prefect is imported and
            perhaps a private server started, which takes some seconds.
        on_answer: is called where a configured server has answered, before Prefect is imported.

    Raises:
        PrefectUnavailable: Prefect's settings are damaged, or the private server did not start.
    """
    _spare_loopback_from_proxies()
    if not os.environ.get("PREFECT_API_URL"):
        on_start()
    configured = configured_url()
    if configured:
        configured = _without_password(configured)
        _wait_until_it_answers(configured, on_wait)
        on_answer()
        _settings()
        yield PrefectApi(configured, None, lambda: None)
        return
    from prefect.settings import temporary_settings

    with ExitStack() as open_parts:
        server = _private(open_parts)
        # Where the private server ends early, asking it again and again only delays the end.
        open_parts.enter_context(
            temporary_settings({"api.url": server.url, "client.max_retries": 1})
        )
        yield PrefectApi(server.url, server.record, server.loss)


def configured_url() -> str | None:
    """The API that the environment names, or else Prefect's settings, whose import takes a while.

    Raises:
        PrefectUnavailable: Prefect's settings are damaged.
    """
    return os.environ.get("PREFECT_API_URL") or _settings().api.url


def configured_api() -> str:
    """The URL of the API that the environment or Prefect's profile names, and that answers.

    Raises:
        PrefectUnavailable: none is named, it does not answer, or Prefect's settings are damaged.
    """
    _spare_loopback_from_proxies()
    url = configured_url()
    if not url:
        raise PrefectUnavailable(
            "no Prefect server is configured: start one with 'prefect server start', and name it "
            "with 'prefect config set PREFECT_API_URL=http://127.0.0.1:4200/api'"
        )
    if (reason := _silence(url)) is not None:
        raise PrefectUnavailable(_no_answer(_without_password(url), reason))
    _settings()
    return url


def _wait_until_it_answers(url: str, on_wait: Callable[[str], None]) -> None:
    while (reason := _silence(url)) is not None:
        on_wait(_no_answer(url, reason))
        time.sleep(PAUSE_SECONDS)


def _no_answer(url: str, reason: str) -> str:
    return (
        f"PREFECT_API_URL (in the environment or the active profile) names {url}, which does "
        f"not answer ({reason}); start that server, or remove PREFECT_API_URL"
    )


def _private(open_parts: ExitStack) -> PrivateServer:
    folder = _record_folder()
    try:
        return open_parts.enter_context(private_server(folder))
    except (ServerFailed, OSError) as error:
        way_out = (
            f"see whether {folder} can be written, or set PREFECT_HOME to another folder"
            if folder
            else "correct PREFECT_SERVER_DATABASE_CONNECTION_URL, or remove it"
        )
        raise PrefectUnavailable(f"{error}; {way_out}") from error


def _spare_loopback_from_proxies() -> None:
    """A proxy that the environment names cannot reach this machine's own addresses."""
    spared = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if spared.strip() != "*":
        names = [*filter(None, spared.split(",")), "127.0.0.1", "localhost"]
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(dict.fromkeys(names))


def _settings() -> Settings:
    """Prefect's settings; they are read when Prefect is first imported."""
    from pydantic import ValidationError

    try:
        from prefect.settings import get_current_settings

        return get_current_settings()
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        name = ".".join(map(str, wrong["loc"])) or "a setting"
        raise PrefectUnavailable(
            f"Prefect refuses its settings ({name}: {wrong['msg']}); correct the PREFECT_ "
            "variables of the environment and the profile"
        ) from error


def _record_folder() -> Path | None:
    """Where private servers keep their records; None where Prefect's settings name a database."""
    settings = _settings()
    url = settings.server.database.connection_url
    default = f"sqlite+aiosqlite:///{settings.home}/prefect.db"
    if url is not None and url.get_secret_value() != default:
        return None
    return settings.home / RECORDS


def _without_password(url: str) -> str:
    """The URL as it may be shown: Prefect's client itself knows the user and the password in it."""
    scheme, mark, rest = url.rpartition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"


def _silence(url: str) -> str | None:
    """Why a URL does not answer; None where something does."""
    if not url.startswith(("http://", "https://")):
        return "it is no http:// or https:// URL"
    try:
        health = f"{_without_password(url).rstrip('/')}/health"  # urllib takes all for the host
        urllib.request.urlopen(health, timeout=TRY_SECONDS).close()
    except urllib.error.HTTPError:
        return None  # something answers; Prefect's client says what is wrong with it
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        # Prefect has settings of its own for certificates.
        return None if isinstance(reason, ssl.SSLError) else str(reason) or type(reason).__name__
    return None
