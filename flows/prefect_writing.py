"""How do commands write into the configured Prefect server, and what do they say if it refuses?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from infra.prefect_api import PrefectUnavailable, configured_api

if TYPE_CHECKING:
    from httpx import Response
    from prefect.client.orchestration import SyncPrefectClient

MAX_REASON_LETTERS = 500


@contextmanager
def prefect_client() -> Iterator[SyncPrefectClient]:
    """A client of the configured server, until the end of the block.

    Raises:
        PrefectUnavailable: there is none, it does not answer, or it refuses what the block asks;
            the message names the server and its reason.
    """
    url = configured_api()
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException
    from prefect.settings import temporary_settings

    try:
        with temporary_settings({"api.url": url}), get_client(sync_client=True) as client:
            yield client
    except httpx.HTTPStatusError as error:
        raise PrefectUnavailable(
            f"the Prefect server {url} refuses: {_reason(error.response)}"
        ) from error
    except (httpx.HTTPError, PrefectException) as error:
        raise PrefectUnavailable(
            f"the Prefect server {url} has not done what was asked: "
            f"{str(error) or type(error).__name__}"
        ) from error


def _reason(response: Response) -> str:
    if response.status_code in (401, 403):
        return "set PREFECT_API_AUTH_STRING or PREFECT_API_KEY to what it asks for"
    try:
        told = response.json()
    except ValueError:
        told = response.reason_phrase
    if isinstance(told, dict):
        details = told.get("exception_detail") or [{}]
        told = details[0].get("msg") or told.get("detail") or told.get("exception_message") or told
    return str(told)[:MAX_REASON_LETTERS]
