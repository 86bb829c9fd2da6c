"""How bytes get to where a run folder or an input lives: a local folder or a prefix on S3.

The one invariant: a key holds nothing, or one writer's bytes, whole. A commit rests on
`put_if_absent`: of all writers of a key, those whose bytes are stored hear True, all others False,
whatever became of the answers on the way. As an object cannot say who wrote it, equal bytes count
as ours; a commit therefore carries an id of its attempt.

Every error is one sentence that names the place and the way out, and `transient` says whether
trying later can help:

    StoreError
    ├── ObjectNotFound       nothing is stored under this key
    ├── BucketNotFound
    ├── AccessDenied         no credentials, refused ones, or too few rights
    ├── Unsupported          the store lacks something that we need, such as conditional writes
    ├── StoreBusy            transient: it answers, but not with what was asked, after all retries
    └── StoreUnreachable     transient: it does not answer, or breaks off

A key that could leave its folder is a ValueError; a source file that does not exist is an ordinary
FileNotFoundError.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatch
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import boto3
from boto3.s3.transfer import TransferConfig
from botocore import exceptions as boto_errors
from botocore.config import Config

NUM_TRIES = 4  # at what boto3 leaves to us: a body cut off, a commit whose outcome is unknown
TEMPORARY = ".stylefarm-{}.tmp"
PART_BYTES = 8 << 20
TRANSFER = TransferConfig(multipart_threshold=2 * PART_BYTES, multipart_chunksize=PART_BYTES)


class StoreError(Exception):
    """A store did not do what was asked; see the module for the kinds."""

    transient = False


class ObjectNotFound(StoreError):
    """Nothing is stored under this key."""


class BucketNotFound(StoreError):
    """The bucket does not exist."""


class AccessDenied(StoreError):
    """Credentials are missing, refused, or not enough."""


class Unsupported(StoreError):
    """The store lacks something that we need."""


class StoreBusy(StoreError):
    """The store answers, but not with what was asked."""

    transient = True


class StoreUnreachable(StoreError):
    """The store does not answer, or breaks off."""

    transient = True


class _AlreadyThere(StoreError):
    """A conditional write was refused; never leaves this module."""


class _BeyondEnd(StoreError):
    """A range begins where the object has ended; never leaves this module."""


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """One line of a listing; `key` is relative to the store, `etag` changes when the bytes do."""

    key: str
    size: int
    etag: str
    modified: datetime


class Store(Protocol):
    """Keys and bytes under one URI. Keys are relative paths with "/", on every store."""

    uri: str
    """"s3://bucket/prefix", or an absolute local path."""

    def put(self, key: str, data: bytes | Path) -> None:
        """Store bytes, or stream a local file, in place of what was there: whole or not at all."""
        ...

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Store bytes unless the key is taken; True if and only if it then holds these bytes."""
        ...

    def get(self, key: str) -> bytes:
        """Return the bytes of an object."""
        ...

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return `get(key)[start : start + length]` without fetching the rest."""
        ...

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yield all objects whose key begins with the prefix, in the order of their keys' UTF-8."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; one that is absent is fine."""
        ...

    def delete_unfinished(self, older_than: timedelta) -> int:
        """Remove what killed writers left half-written, which no listing shows; return how many."""
        ...


def open_store(uri: str) -> Store:
    """Open a local path, a `file://` URL or an `s3://bucket/prefix`; nothing is touched yet."""
    return S3Store(uri) if uri.startswith("s3://") else LocalStore(_local_path(uri))


def read_uri(uri: str) -> bytes:
    """Return the bytes of one object by its full path or URI."""
    parent, name = split_uri(uri)
    if uri.startswith("s3://"):  # from the bucket down: a stranger's key may hold "//"
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return S3Store(f"s3://{bucket}").get(key)
    return LocalStore(parent).get(name)


def join_uri(parent: str, key: str) -> str:
    """Return the full URI of a key in the store at `parent`."""
    return f"{_local_path(parent).rstrip('/')}/{key}"


def split_uri(uri: str) -> tuple[str, str]:
    """Split an object's URI into the store that holds it and its key there."""
    parent, slash, name = _local_path(uri).rpartition("/")
    if not name or parent == "s3:/":
        raise ValueError(f"an object's URI ends with the object's name; got {uri!r}")
    return parent or ("/" if slash else "."), name


def _local_path(uri: str) -> str:
    """Return a `file://` URL's path; anything else that is local, or on S3, as it is."""
    scheme, separator, rest = uri.partition("://")
    path = unquote(rest.removeprefix("localhost"))
    if not uri or (separator and scheme != "s3" and not (scheme == "file" and path[:1] == "/")):
        raise ValueError(f"a URI is a local path, file:///path or s3://bucket/prefix; got {uri!r}")
    return path if scheme == "file" and separator else uri


def honours_put_if_absent(store: Store, *, num_writers: int = 4, num_rounds: int = 3) -> bool:
    """Whether the store can carry a commit: of writers at the same time, and one later, one wins.

    A probe can only convict: a store may pass by luck, and none fails by accident. Each round
    writes one object under a key of its own and deletes it again.
    """
    with ThreadPoolExecutor(num_writers) as pool:
        return all(_has_one_winner(store, pool, num_writers) for _ in range(num_rounds))


def _has_one_winner(store: Store, pool: ThreadPoolExecutor, num_writers: int) -> bool:
    key = f"probe-{uuid.uuid4().hex}"
    writers = [b"writer %d" % n for n in range(num_writers)]
    try:
        told = [pool.submit(store.put_if_absent, key, data) for data in writers]
        wait(told)
        winners = [data for data, won in zip(writers, told, strict=True) if won.result()]
        return not store.put_if_absent(key, b"too late") and winners == [store.get(key)]
    except Unsupported:
        return False
    finally:
        store.delete(key)


def _check_key(key: str) -> None:
    if any(part in ("", ".", "..") for part in key.split("/")) or "\0" in key:
        raise ValueError(f"a key is a relative path without empty, '.' or '..' parts; got {key!r}")


def _check_range(start: int, length: int) -> None:
    if start < 0 or length < 0:
        raise ValueError(f"start and length count bytes from 0; got {start} and {length}")


class LocalStore:
    """A folder; a write reaches the disk under a temporary name beside its own, then takes it."""

    def __init__(self, path: str | Path) -> None:
        self._root = Path(path).expanduser().absolute()
        self.uri = str(self._root)

    def put(self, key: str, data: bytes | Path) -> None:
        path = self._path(key)
        with self._written(path, data) as temporary:
            temporary.replace(path)
            _sync_folder(path.parent)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        with self._written(path, data) as temporary:
            for _ in range(NUM_TRIES):
                with contextlib.suppress(FileExistsError):
                    _link(temporary, path)
                    _sync_folder(path.parent)
                    return True
                with contextlib.suppress(ObjectNotFound):  # deleted meanwhile: link again
                    return self.get(key) == data
        raise StoreBusy(f"{path} comes and goes while it is written: try again")

    def get(self, key: str) -> bytes:
        return self._read(key, 0, -1)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        _check_range(start, length)
        return self._read(key, start, length)

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        with _local_errors(self._root):
            yield from _walk(self._root, "", prefix, (self._root.resolve(),))

    def delete(self, key: str) -> None:
        path = self._path(key)
        with _local_errors(path):
            if path.is_file():
                path.unlink(missing_ok=True)

    def delete_unfinished(self, older_than: timedelta) -> int:
        num_deleted = 0
        with _local_errors(self._root):
            for path in self._root.rglob(TEMPORARY.format("*")):
                with contextlib.suppress(FileNotFoundError):  # its writer has just finished
                    if path.stat().st_mtime <= time.time() - older_than.total_seconds():
                        path.unlink()
                        num_deleted += 1
        return num_deleted

    def _path(self, key: str) -> Path:
        _check_key(key)
        return self._root / key

    def _read(self, key: str, start: int, length: int) -> bytes:
        path = self._path(key)
        with _local_errors(path):
            if not path.is_file():
                raise FileNotFoundError
            with path.open("rb") as file:
                file.seek(start)
                return file.read(length)

    @contextlib.contextmanager
    def _written(self, path: Path, data: bytes | Path) -> Iterator[Path]:
        """Give a file with these bytes, on disk, in the folder of `path`; it is gone afterwards."""
        temporary = path.with_name(TEMPORARY.format(uuid.uuid4().hex))
        with contextlib.ExitStack() as stack:
            source = data.open("rb") if isinstance(data, Path) else BytesIO(data)
            stack.enter_context(source)
            stack.enter_context(_local_errors(path))
            if path.is_dir():
                raise IsADirectoryError
            _make_folder(path.parent)
            stack.callback(temporary.unlink, missing_ok=True)
            with temporary.open("xb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
            yield temporary


def _walk(folder: Path, name: str, prefix: str, above: tuple[Path, ...]) -> Iterator[StoredObject]:
    """Yield the files below a folder in the order of their keys, as far as the prefix leads."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise StoreError(f"{folder} is a file: give the folder that holds it") from None
    keys = {name + entry.name + "/" * entry.is_dir(): entry for entry in entries}
    for key, entry in sorted(keys.items()):  # "a-b" before "a/c": a folder sorts with its slash
        if key.endswith("/"):
            real = Path(entry).resolve()
            if real not in above and (key.startswith(prefix) or prefix.startswith(key)):
                yield from _walk(Path(entry), key, prefix, (*above, real))
        elif key.startswith(prefix) and not fnmatch(entry.name, TEMPORARY.format("*")):
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile, or a link to nowhere
                found = entry.stat()
                yield StoredObject(
                    key=key,
                    size=found.st_size,
                    etag=f"{found.st_mtime_ns:x}-{found.st_size:x}",
                    modified=datetime.fromtimestamp(found.st_mtime, UTC),
                )


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it so that they outlast a power cut."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        message = f"{target} needs a filesystem with hard links: choose another folder"
        raise Unsupported(message) from None


@contextlib.contextmanager
def _local_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ObjectNotFound(f"nothing is stored at {path}: check the name") from None
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        message = f"{path} cannot be written, a file or folder is in its way: choose another name"
        raise StoreError(message) from None
    except OSError as error:
        raise _from_os_error(error, path) from None


def _from_os_error(error: OSError, path: Path) -> StoreError:
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return AccessDenied(f"no permission for {error.filename or path}: check its owner and mode")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(f"no room for {path}: free some, or choose another folder")
    if error.errno in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT):
        return StoreUnreachable(f"{path} does not answer ({error.strerror}): check the mount")
    return StoreError(f"{path} cannot be used, choose another place: {error.strerror}")


@dataclass(frozen=True, kw_only=True)
class S3Settings:
    """Which server to speak to, and how patiently.

    Args:
        endpoint_url: None, the rule, leaves it to AWS_ENDPOINT_URL, the profile, or AWS itself.
        connect_timeout: seconds until a connection stands.
        read_timeout: seconds between two pieces of an answer.
        num_attempts: at each request; None takes AWS_MAX_ATTEMPTS or 8, which bear 53 s of 503s.
    """

    endpoint_url: str | None = None
    connect_timeout: float = 5
    read_timeout: float = 60
    num_attempts: int | None = None


class S3Store:
    """A prefix of a bucket; holds no connection, so it may be pickled, copied and forked."""

    def __init__(self, uri: str, settings: S3Settings = S3Settings()) -> None:
        self.bucket, _, prefix = uri.removeprefix("s3://").rstrip("/").partition("/")
        if not uri.startswith("s3://") or not self.bucket:
            raise ValueError(f"an S3 store is s3://bucket or s3://bucket/prefix; got {uri!r}")
        self.uri = uri.rstrip("/")
        self.settings = settings
        self._prefix = f"{prefix}/" if prefix else ""

    def put(self, key: str, data: bytes | Path) -> None:
        _check_key(key)
        if isinstance(data, bytes):
            with self._client(key) as client:
                client.put_object(**self._place(key), Body=data)
            return
        with data.open("rb") as source, self._client(key) as client:
            client.upload_fileobj(source, **self._place(key), Config=TRANSFER)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        _check_key(key)
        for attempt in range(NUM_TRIES):
            _pause(attempt)
            try:
                with self._client(key) as client:
                    client.put_object(**self._place(key), Body=data, IfNoneMatch="*")
                    return True
            except StoreError as error:
                if not (error.transient or isinstance(error, _AlreadyThere)):
                    raise
            # Unknown: the answer may be lost, or boto3 may have tried again and met our own write.
            with contextlib.suppress(ObjectNotFound):  # never arrived, or deleted: write again
                return self.get(key) == data
        uri = join_uri(self.uri, key)
        raise StoreBusy(f"{uri} may or may not be stored: repeat the same write")

    def get(self, key: str) -> bytes:
        return self._read(key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        _check_range(start, length)
        try:
            return self._read(key, Range=f"bytes={start}-{start + length - 1}") if length else b""
        except _BeyondEnd:
            return b""

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        with self._client(prefix) as client:
            pages = client.get_paginator("list_objects_v2").paginate(**self._places(prefix))
            for page in pages:
                for found in page.get("Contents", ()):
                    if found["Key"].endswith("/"):  # a console's marker for a folder
                        continue
                    yield StoredObject(
                        key=found["Key"].removeprefix(self._prefix),
                        size=found["Size"],
                        etag=found["ETag"].strip('"'),
                        modified=found["LastModified"],
                    )

    def delete(self, key: str) -> None:
        with contextlib.suppress(ObjectNotFound), self._client(key) as client:
            client.delete_object(**self._place(key))

    def delete_unfinished(self, older_than: timedelta) -> int:
        num_deleted = 0
        with self._client("") as client:
            pages = client.get_paginator("list_multipart_uploads").paginate(**self._places(""))
            for upload in (upload for page in pages for upload in page.get("Uploads", ())):
                if upload["Initiated"] <= datetime.now(UTC) - older_than:
                    place = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
                    client.abort_multipart_upload(Bucket=self.bucket, **place)
                    num_deleted += 1
        return num_deleted

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
        uri = join_uri(self.uri, key)
        raise StoreUnreachable(f"{uri} broke off in each of {NUM_TRIES} reads: try again later")

    @contextlib.contextmanager
    def _client(self, key: str) -> Iterator[Any]:
        """Give the process's client for the settings of now; its errors come out as ours."""
        uri = join_uri(self.uri, key)
        try:
            client = _shared_client(self.settings)
        except (boto_errors.BotoCoreError, ValueError) as error:
            raise _from_setup_error(error, uri) from None
        try:
            yield client
        except (boto_errors.ClientError, boto_errors.BotoCoreError) as error:
            told = _from_boto_error(error, uri, _without_password(client.meta.endpoint_url))
            if isinstance(told, AccessDenied):
                _clients.clear()  # so that the next call sees newer credentials
            raise told from None


_clients: dict[Any, Any] = {}
_clients_lock = threading.Lock()


def _forget_clients() -> None:
    global _clients, _clients_lock
    _clients, _clients_lock = {}, threading.Lock()


# A child must not speak on its parent's connections.
os.register_at_fork(after_in_child=_forget_clients)


def _shared_client(settings: S3Settings) -> Any:
    """Return the process's client for these settings and the AWS_* environment of now."""
    environment = frozenset(item for item in os.environ.items() if item[0].startswith("AWS_"))
    with _clients_lock:
        client = _clients.get((settings, environment)) or _make_client(settings)
        _clients[settings, environment] = client
        return client


def _make_client(settings: S3Settings) -> Any:
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
    session = boto3.Session()
    place = {
        "region_name": session.region_name or "us-east-1",
        "endpoint_url": settings.endpoint_url,
    }
    client = session.client("s3", config=config, **place)
    if urlsplit(client.meta.endpoint_url).netloc.endswith((".amazonaws.com", ".amazonaws.com.cn")):
        return client
    # Other servers have no DNS name per bucket, unless the profile says so, and the older ones
    # refuse checksums that they do not know; the payload's SHA-256 or TLS still guards the bytes.
    client.close()
    style = session._session.get_scoped_config().get("s3", {}).get("addressing_style", "path")
    needs = Config(
        s3={"addressing_style": style},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return session.client("s3", config=config.merge(needs), **place)


def _without_password(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _pause(attempt: int) -> None:
    """Wait before a repetition, longer each time and never in step with others."""
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
    return StoreError(f"{uri} cannot be used, check the URI and the AWS settings: {error}")


def _from_answer(error: boto_errors.ClientError, uri: str, endpoint: str) -> StoreError:
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code == "NoSuchBucket":
        bucket = uri.split("/")[2]
        message = f"bucket {bucket!r} does not exist at {endpoint}: create it or correct the URI"
        return BucketNotFound(message)
    if status == 404:
        return ObjectNotFound(f"nothing is stored at {uri}: check the name")
    if code == "AccessDenied":
        return AccessDenied(f"no permission for {uri}: grant its reading, writing and listing")
    if status in (401, 403) or code in REMEDIES:
        remedy = REMEDIES.get(code, "check AWS_ACCESS_KEY_ID / AWS_SECRET_ACCESS_KEY")
        return AccessDenied(f"credentials refused for {uri} ({code or status}): {remedy}")
    if status == 412:
        return _AlreadyThere(f"{uri} is already there")
    if status == 416:
        return _BeyondEnd(f"{uri} ends before the range")
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
REMEDIES = {
    "ExpiredToken": "sign in again",
    "RequestTimeTooSkewed": "set this machine's clock",
}
