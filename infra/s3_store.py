"""A prefix of a bucket as a store, on AWS or on any server that speaks S3."""

from __future__ import annotations

import contextlib
import ipaddress
import mimetypes
import os
import random
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from boto3.s3.transfer import TransferConfig
from botocore import exceptions as boto_errors
from botocore.config import Config

from infra.objects import (
    AccessDenied,
    AlreadyThere,
    BeyondEnd,
    BucketNotFound,
    Link,
    ObjectNotFound,
    ObjectUnreadable,
    StoreBusy,
    StoredObject,
    StoreError,
    StoreUnreachable,
    Unsupported,
    UriError,
    check_key,
    check_range,
    quoted,
)

NUM_TRIES = 4  # where boto3 does not try again: a body cut off, a commit of unknown outcome
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
PART_BYTES = 8 << 20
HTML = "text/html"
LINK_SECONDS = 7 * 24 * 3600
"""That a link works at most: signatures of version 4 allow no more."""

TRANSFER = TransferConfig(multipart_threshold=2 * PART_BYTES, multipart_chunksize=PART_BYTES)


class UploadGone(StoreBusy):
    """Somebody gave up an upload that was not finished, or an answer was lost at its end."""


@dataclass(frozen=True, kw_only=True)
class S3Settings:
    """Which server to speak to, and how patiently.

    Args:
        endpoint_url: None takes AWS_ENDPOINT_URL, the profile's, or that of AWS.
        connect_timeout: seconds until a connection is made.
        read_timeout: seconds between two pieces of an answer.
        num_attempts: of each request; None takes AWS_MAX_ATTEMPTS or 8, enough for 53 s of 503s.
    """

    endpoint_url: str | None = None
    connect_timeout: float = 5
    read_timeout: float = 60
    num_attempts: int | None = None


class S3Store:
    """A prefix of a bucket. It holds no connection, so it may be pickled, copied and forked."""

    def __init__(self, uri: str, settings: S3Settings = S3Settings()) -> None:
        self.bucket, _, prefix = uri.removeprefix("s3://").rstrip("/").partition("/")
        if not uri.startswith("s3://") or not BUCKET.fullmatch(self.bucket):
            raise UriError(f"an S3 store is s3://bucket or s3://bucket/prefix; got {quoted(uri)}")
        self.uri = uri.rstrip("/")
        self.settings = settings
        self._prefix = f"{prefix}/" if prefix else ""

    def put(self, key: str, data: bytes | Path) -> None:
        check_key(key)
        if isinstance(data, bytes):
            with self._client(key) as client:
                client.put_object(**self._place(key), Body=data)
            return
        for attempt in range(NUM_TRIES):
            _pause(attempt)
            with (
                contextlib.suppress(UploadGone),
                data.open("rb") as source,
                self._client(key) as client,
            ):
                client.upload_fileobj(source, **self._place(key), Config=TRANSFER)
                return
        raise UploadGone(f"{self.uri}/{key} was given up while it was written: try again later")

    def put_if_absent(self, key: str, data: bytes) -> bool:
        check_key(key)
        for attempt in range(NUM_TRIES):
            _pause(attempt)
            try:
                with self._client(key) as client:
                    client.put_object(**self._place(key), Body=data, IfNoneMatch="*")
                    return True
            except StoreError as error:
                if not (error.transient or isinstance(error, AlreadyThere)):
                    raise
            # The outcome is unknown: the answer was lost, or boto3 tried again and found our write.
            with contextlib.suppress(ObjectNotFound):  # never arrived, or deleted: write again
                return self.get(key) == data
        uri = f"{self.uri}/{key}"
        raise StoreBusy(f"{uri} may or may not be stored: repeat the same write")

    def get(self, key: str) -> bytes:
        return self._read(key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        check_range(start, length)
        try:
            return self._read(key, Range=f"bytes={start}-{start + length - 1}") if length else b""
        except BeyondEnd:
            return b""

    def list(
        self, prefix: str = "", *, max_depth: int | None = None, start_after: str = ""
    ) -> Iterator[StoredObject]:
        after = {"StartAfter": self._prefix + start_after} if start_after else {}
        with self._client(prefix) as client:
            pages = client.get_paginator("list_objects_v2").paginate(
                **self._places(prefix), **after
            )
            for found in (found for page in pages for found in page.get("Contents", ())):
                if found["Key"].endswith("/"):  # an empty object that a console shows as a folder
                    continue
                stored = self._stored(found)
                if max_depth is None or stored.key.count("/") < max_depth:
                    yield stored

    def folders(self, prefix: str = "") -> Iterator[str]:
        with self._client(prefix) as client:
            pages = client.get_paginator("list_objects_v2").paginate(
                **self._places(prefix), Delimiter="/"
            )
            for found in (found for page in pages for found in page.get("CommonPrefixes", ())):
                yield found["Prefix"].removeprefix(self._prefix).removesuffix("/")

    def find(self, key: str) -> StoredObject | None:
        with self._client(key) as client:
            page = client.list_objects_v2(**self._places(key), MaxKeys=1)
        found = [self._stored(found) for found in page.get("Contents", ())]  # the shortest is first
        return found[0] if found and found[0].key == key else None

    def link(self, key: str) -> Link:
        check_key(key)
        try:
            return _signed_link(self.settings, self._place(key))
        except (boto_errors.BotoCoreError, ValueError) as error:
            raise _from_setup_error(error, f"{self.uri}/{key}") from None

    def delete(self, key: str) -> None:
        with contextlib.suppress(ObjectNotFound), self._client(key) as client:
            client.delete_object(**self._place(key))

    def unfinished(self) -> Iterator[StoredObject]:
        with self._client("") as client:
            pages = client.get_paginator("list_multipart_uploads").paginate(**self._places(""))
            for upload in (upload for page in pages for upload in page.get("Uploads", ())):
                yield StoredObject(
                    key=upload["Key"].removeprefix(self._prefix),
                    size=0,
                    etag=upload["UploadId"],
                    modified=upload["Initiated"],
                )

    def delete_unfinished(self, found: StoredObject) -> None:
        with contextlib.suppress(ObjectNotFound, UploadGone), self._client(found.key) as client:
            client.abort_multipart_upload(**self._place(found.key), UploadId=found.etag)

    def now(self) -> datetime:
        with self._client("") as client:
            answer = client.list_objects_v2(**self._places(""), MaxKeys=1)
        told = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return told + timedelta(seconds=1)

    def _stored(self, found: Any) -> StoredObject:
        return StoredObject(
            key=found["Key"].removeprefix(self._prefix),
            size=found["Size"],
            etag=found["ETag"].strip('"'),
            modified=found["LastModified"],
        )

    def _place(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self._prefix + key}

    def _places(self, prefix: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Prefix": self._prefix + prefix}

    def _read(self, key: str, **options: str) -> bytes:
        for attempt in range(NUM_TRIES):
            _pause(attempt)
            with self._client(key) as client:
                answer = client.get_object(**self._place(key), **options)
                with contextlib.closing(answer["Body"]) as body, contextlib.suppress(*CUT_OFF):
                    return body.read()
        uri = f"{self.uri}/{key}"
        raise StoreUnreachable(f"{uri} broke off in each of {NUM_TRIES} reads: try again later")

    @contextlib.contextmanager
    def _client(self, key: str) -> Iterator[Any]:
        """Give the process's client for the current settings; its errors become StoreErrors."""
        uri = f"{self.uri}/{key}"
        try:
            client = _shared_client(self.settings)
        except (boto_errors.BotoCoreError, ValueError) as error:
            raise _from_setup_error(error, uri) from None
        try:
            yield client
        except (boto_errors.ClientError, boto_errors.BotoCoreError) as error:
            store_error = _from_boto_error(error, uri, _without_password(client.meta.endpoint_url))
            if isinstance(store_error, AccessDenied):
                _clients.clear()  # so that the next call sees newer credentials
            raise store_error from None


_clients: dict[Any, Any] = {}
_clients_lock = threading.Lock()


def _forget_clients() -> None:
    global _clients, _clients_lock
    _clients, _clients_lock = {}, threading.Lock()


# A forked child must not use its parent's connections.
os.register_at_fork(after_in_child=_forget_clients)


def _shared_client(settings: S3Settings) -> Any:
    """Return the process's client for these settings and the current AWS_* environment."""
    environment = frozenset(item for item in os.environ.items() if item[0].startswith("AWS_"))
    with _clients_lock:
        client = _clients.get((settings, environment)) or _make_client(settings)
        _clients[settings, environment] = client
        return client


def _signed_link(settings: S3Settings, place: dict[str, str]) -> Link:
    """Sign a link that shows an object, with credentials that are as fresh as can be."""
    session = boto3.Session()
    client = _make_client(settings, session)
    credentials = session.get_credentials()
    signed_at = datetime.now(UTC).replace(microsecond=0)
    is_fixed = credentials is None or credentials.get_frozen_credentials().token is None
    shown_as = {"ResponseContentDisposition": "inline"}
    kind, _ = mimetypes.guess_type(place["Key"])
    if kind:  # else a browser saves a page that was stored without its type
        shown_as["ResponseContentType"] = f"{kind}; charset=utf-8" if kind == HTML else kind
    url = client.generate_presigned_url(
        "get_object", Params=place | shown_as, ExpiresIn=LINK_SECONDS
    )
    client.close()
    end = signed_at + timedelta(seconds=LINK_SECONDS)
    known = getattr(credentials, "_expiry_time", None)  # of temporary ones that can be renewed
    parts = urlsplit(url)
    return Link(
        url=parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
        expires=end if known is None else min(end, known.astimezone(UTC)),
        is_sure=is_fixed or known is not None,
    )


def _make_client(settings: S3Settings, session: boto3.Session | None = None) -> Any:
    retries: Any = {"mode": "standard"}
    if settings.num_attempts or "AWS_MAX_ATTEMPTS" not in os.environ:
        retries["total_max_attempts"] = settings.num_attempts or 8
    config = Config(
        signature_version="s3v4",
        retries=retries,
        connect_timeout=settings.connect_timeout,
        read_timeout=settings.read_timeout,
        max_pool_connections=32,
        tcp_keepalive=True,
    )
    session = session or boto3.Session()
    place = {
        "region_name": session.region_name or "us-east-1",
        "endpoint_url": settings.endpoint_url,
    }
    client = session.client("s3", config=config, **place)
    endpoint = urlsplit(client.meta.endpoint_url)
    if endpoint.netloc.endswith((".amazonaws.com", ".amazonaws.com.cn")):
        return client
    # Other servers have no DNS name per bucket, unless the profile says so, and older ones refuse
    # checksums that they do not know; the payload's SHA-256 or TLS still guards the bytes. A proxy
    # is never asked for a server on this machine.
    client.close()
    style = session._session.get_scoped_config().get("s3", {}).get("addressing_style", "path")
    needs = Config(
        s3={"addressing_style": style},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        proxies={} if _is_loopback(endpoint.hostname or "") else None,
    )
    return session.client("s3", config=config.merge(needs), **place)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost" or host.endswith(".localhost")


def _without_password(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _pause(attempt: int) -> None:
    """Wait before another try: longer each time, by a random time that differs between workers."""
    if attempt:
        time.sleep(random.uniform(0.02, 0.05) * 3**attempt)


def _from_setup_error(error: Exception, uri: str) -> StoreError:
    if isinstance(error, NO_CREDENTIALS):
        return AccessDenied(f"no credentials for {uri}: {SIGN_IN}")
    return StoreError(f"no S3 client for {uri}: check AWS_ENDPOINT_URL and AWS_DEFAULT_REGION")


def _from_boto_error(error: Exception, uri: str, endpoint: str) -> StoreError:
    if isinstance(error, boto_errors.ClientError):
        return _from_answer(error, uri, endpoint)
    if isinstance(error, NO_CREDENTIALS):
        return AccessDenied(f"no credentials for {uri}: {SIGN_IN}")
    if isinstance(error, boto_errors.SSLError):
        return StoreUnreachable(f"no TLS connection to {endpoint} for {uri}: check its certificate")
    if isinstance(error, (boto_errors.ConnectionError, boto_errors.HTTPClientError, *CUT_OFF)):
        message = f"{endpoint} does not answer for {uri}: check AWS_ENDPOINT_URL and the network"
        return StoreUnreachable(message)
    if isinstance(error, boto_errors.EndpointProviderError):  # its words repeat a password
        return StoreError(
            f"no S3 server for {uri}: AWS_ENDPOINT_URL takes http://host:port, with a user and a "
            "password percent-encoded before the host and nothing behind the port"
        )
    return StoreError(f"{uri} cannot be used, check the URI and the AWS settings: {error}")


def _from_answer(error: boto_errors.ClientError, uri: str, endpoint: str) -> StoreError:
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code == "NoSuchBucket":
        bucket = uri.split("/")[2]
        message = f"bucket {bucket!r} does not exist at {endpoint}: create it or correct the URI"
        return BucketNotFound(message)
    if code in UNREADABLE:
        return ObjectUnreadable(f"{uri} cannot be read ({code}): {UNREADABLE[code]}")
    if code == "NoSuchUpload":
        return UploadGone(f"{uri} was given up while it was written: try again later")
    if status == 404:
        return ObjectNotFound(f"{uri} is not there: check the name")
    if code == "AccessDenied":
        return AccessDenied(f"no permission for {uri}: grant its reading, writing and listing")
    if status in (401, 403) or code in REMEDIES:
        remedy = REMEDIES.get(code, "check AWS_ACCESS_KEY_ID / AWS_SECRET_ACCESS_KEY")
        return AccessDenied(f"credentials refused for {uri} ({code or status}): {remedy}")
    if status == 412:
        return AlreadyThere(f"{uri} is already there")
    if status == 416:
        return BeyondEnd(f"{uri} ends before the range")
    if status == 501:
        return Unsupported(f"{endpoint} lacks what {uri} needs ({code}): use another store")
    if status >= 500 or status in (409, 429) or code == "RequestTimeout":
        return StoreBusy(f"{endpoint} put off {uri} ({code or status}): try again later")
    return StoreError(f"{endpoint} refused {uri} ({code or status}): check URI, region and size")


CUT_OFF = (
    boto_errors.ResponseStreamingError,
    boto_errors.IncompleteReadError,
    boto_errors.ReadTimeoutError,
)
NO_CREDENTIALS = (
    boto_errors.NoCredentialsError,
    boto_errors.PartialCredentialsError,
    boto_errors.CredentialRetrievalError,
    boto_errors.ProfileNotFound,
    boto_errors.TokenRetrievalError,
    boto_errors.SSOError,
    boto_errors.LoginError,
)
SIGN_IN = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile that exists"
UNREADABLE = {
    "InvalidObjectState": "restore it from the archive first",
    "KeyTooLongError": "a key has 1024 bytes at most",
}
REMEDIES = {
    "ExpiredToken": "sign in again",
    "RequestTimeTooSkewed": "set this machine's clock",
}
