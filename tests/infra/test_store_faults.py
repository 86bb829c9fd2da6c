"""What a store owes its users when the network, the server or the settings fail them."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.s3_store import NUM_TRIES, S3Settings, S3Store
from infra.store import (
    AccessDenied,
    BucketNotFound,
    ObjectNotFound,
    StoreBusy,
    StoreError,
    StoreUnreachable,
)
from tests.fault_proxy import Fault, FaultProxy
from tests.s3_server import S3Server

pytestmark = pytest.mark.s3

OPERATIONS: dict[str, Callable[[S3Store], object]] = {
    "put": lambda store: store.put("key", b"data"),
    "put_if_absent": lambda store: store.put_if_absent("key", b"data"),
    "get": lambda store: store.get("key"),
    "get_range": lambda store: store.get_range("key", 0, 1),
    "list": lambda store: list(store.list()),
    "delete": lambda store: store.delete("key"),
    "unfinished": lambda store: list(store.unfinished()),
    "now": lambda store: store.now(),
}
each_operation = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
WAYS = ["put", "put_if_absent", "get", "list"]  # through the module, for what costs time
each_way = pytest.mark.parametrize("operation", [OPERATIONS[way] for way in WAYS], ids=WAYS)


@pytest.fixture(scope="module")
def one_proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(s3_server.port) as proxy:
        yield proxy


@pytest.fixture
def proxy(one_proxy: FaultProxy) -> FaultProxy:
    one_proxy.faults = []
    return one_proxy


@pytest.fixture
def direct(s3_bucket: str) -> S3Store:
    """The objects as others see them."""
    return S3Store(f"s3://{s3_bucket}/run")


SILENT = 120
"""Seconds that a server says nothing, far more than any patience of ours."""


@pytest.fixture
def store(direct: S3Store, proxy: FaultProxy) -> S3Store:
    """The same objects through the proxy, with little patience."""
    hasty = S3Settings(endpoint_url=proxy.url, connect_timeout=1, read_timeout=1.5, num_attempts=2)
    return S3Store(direct.uri, hasty)


@each_way
@pytest.mark.parametrize("kind", ["error500", "reset", "ack_lost"])
def test_one_fault_goes_unnoticed(store, direct, proxy, operation, kind):
    direct.put("key", b"data")
    proxy.faults = [Fault(kind, first=1)]
    operation(store)
    assert proxy.num_injected == 1


@pytest.mark.parametrize("kind", ["hang", "latency"])  # it never arrives; it arrives too late
def test_a_commit_without_an_answer_in_time_is_settled(store, direct, proxy, kind):
    proxy.faults = [Fault(kind, method="PUT", first=1, seconds=2)]
    assert store.put_if_absent("key", b"data")
    assert direct.get("key") == b"data"


def test_a_server_that_asks_us_to_slow_down_is_asked_again(store, direct, proxy):
    proxy.faults = [Fault("slowdown", first=1)]
    assert store.put_if_absent("key", b"data")
    assert direct.get("key") == b"data"


def assert_told_as_transient(store, proxy, operation, error, sentence):
    with pytest.raises(error, match=sentence) as caught:
        operation(store)
    assert caught.value.transient
    assert proxy.url in str(caught.value)
    assert store.uri in str(caught.value)


@each_operation
def test_a_lasting_loss_of_the_line_is_told_as_transient(store, proxy, operation):
    proxy.faults = [Fault("reset")]
    sentence = r"does not answer .*: check AWS_ENDPOINT_URL and the network$"
    assert_told_as_transient(store, proxy, operation, StoreUnreachable, sentence)


@each_way
@pytest.mark.parametrize(
    ("kind", "code"), [("slowdown", "SlowDown"), ("error500", "InternalError")]
)
def test_a_lasting_refusal_to_work_is_told_as_transient(store, proxy, operation, kind, code):
    proxy.faults = [Fault(kind)]
    sentence = rf"put off .* \({code}\): try again later$"
    assert_told_as_transient(store, proxy, operation, StoreBusy, sentence)


@pytest.mark.parametrize("num_lost", [1, None])
def test_a_commit_whose_answer_is_lost_is_known_to_be_ours(store, direct, proxy, num_lost):
    # The first is boto3's own trap: it tries again, and is refused because of our own write.
    proxy.faults = [Fault("ack_lost", method="PUT", first=num_lost)]
    assert store.put_if_absent("commits/1.json", b"ours")
    assert direct.get("commits/1.json") == b"ours"
    assert [method for method, _ in proxy.requests] == ["PUT", "PUT", "GET"]


@pytest.mark.parametrize("num_lost", [0, 1, None])
def test_a_commit_that_came_second_is_known_to_be_theirs(store, direct, proxy, num_lost):
    direct.put("commits/1.json", b"theirs")
    proxy.faults = [Fault("ack_lost", method="PUT", first=num_lost)]
    assert not store.put_if_absent("commits/1.json", b"ours")
    assert direct.get("commits/1.json") == b"theirs"


def test_a_commit_that_never_arrived_is_written_again(store, direct, proxy):
    proxy.faults = [Fault("reset", method="PUT", first=3)]  # one more than boto3 bears
    assert store.put_if_absent("commits/1.json", b"ours")
    assert direct.get("commits/1.json") == b"ours"


def test_a_commit_that_cannot_be_read_back_is_not_decided(store, direct, proxy):
    proxy.faults = [Fault("ack_lost", method="PUT"), Fault("reset", method="GET")]
    with pytest.raises(StoreUnreachable):
        store.put_if_absent("commits/1.json", b"ours")
    proxy.faults = []
    assert store.put_if_absent("commits/1.json", b"ours")  # the same attempt, later
    assert direct.get("commits/1.json") == b"ours"


def test_a_commit_that_never_arrives_says_so(store, direct, proxy):
    proxy.faults = [Fault("error500", method="PUT", path="/commits/")]
    with pytest.raises(StoreBusy, match=r"may or may not be stored: repeat the same write"):
        store.put_if_absent("commits/1.json", b"ours")
    assert list(direct.list()) == []


def test_racing_commits_through_a_bad_network_have_one_winner(direct, proxy):
    patient = S3Settings(endpoint_url=proxy.url, num_attempts=6)
    store = S3Store(direct.uri, patient)
    proxy.faults = [Fault("ack_lost", method="PUT", every=3), Fault("reset", every=5)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: store.put_if_absent("key", b"%d" % n), range(8)))
    assert won.count(True) == 1
    assert direct.get("key") == b"%d" % won.index(True)
    assert proxy.num_injected


@pytest.mark.parametrize("num_bytes", [700, 50_000])  # soon after the head; in mid-body
def test_a_body_that_breaks_off_is_read_again_or_not_at_all(store, direct, proxy, num_bytes):
    data = os.urandom(100_000)
    direct.put("key", data)
    proxy.faults = [Fault("truncate", method="GET", first=NUM_TRIES - 1, num_bytes=num_bytes)]
    assert store.get("key") == data
    assert proxy.num_injected == NUM_TRIES - 1
    proxy.faults = [Fault("truncate", method="GET", num_bytes=num_bytes)]
    with pytest.raises(StoreUnreachable, match=r"broke off .*: try again later"):
        store.get_range("key", 1, 99_000)


def test_a_large_file_that_loses_a_part_for_good_leaves_nothing(store, direct, proxy, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(bytes(20 << 20))
    proxy.faults = [Fault("reset", method="PUT", path="partNumber=2")]
    with pytest.raises(StoreUnreachable):
        store.put("data/large.tar", source)
    assert list(direct.list()) == []
    assert list(direct.unfinished()) == []
    proxy.faults = [Fault("reset", method="PUT", path="partNumber=2", first=1)]
    store.put("data/large.tar", source)
    assert [found.size for found in direct.list()] == [20 << 20]


def test_an_upload_that_somebody_gives_up_is_begun_again(store, direct, proxy, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(bytes(20 << 20))
    proxy.faults = [Fault("latency", method="PUT", path="partNumber=2", first=1, seconds=1.0)]
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(store.put, "data/large.tar", source)
        while not (found := list(direct.unfinished())):
            assert not written.done()
        direct.delete_unfinished(found[0])
        written.result()
    assert [found.size for found in direct.list()] == [20 << 20]
    assert list(direct.unfinished()) == []


@each_operation
def test_a_bucket_that_does_not_exist_is_named(s3_server, s3_bucket, operation):
    with pytest.raises(BucketNotFound) as caught:
        operation(S3Store("s3://no-such-bucket/run"))
    assert str(caught.value) == (
        f"bucket 'no-such-bucket' does not exist at {s3_server.endpoint_url}: "
        "create it or correct the URI"
    )


@each_way
@pytest.mark.parametrize("wrong", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_refused_credentials_are_told_without_the_secret(direct, monkeypatch, operation, wrong):
    monkeypatch.setenv(wrong, "not-the-right-one")
    with pytest.raises(AccessDenied) as caught:
        operation(direct)
    message = str(caught.value)
    assert message.startswith(f"credentials refused for {direct.uri}/")
    assert message.endswith(": check AWS_ACCESS_KEY_ID / AWS_SECRET_ACCESS_KEY")
    told = "".join(traceback.format_exception(caught.value))
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in told
    assert "botocore" not in told
    assert not caught.value.transient


@each_way
@pytest.mark.parametrize("lacking", ["credentials", "profile"])
def test_missing_credentials_are_told(direct, monkeypatch, tmp_path, operation, lacking):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    if lacking == "profile":
        monkeypatch.setenv("AWS_PROFILE", "nobody")
    else:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(AccessDenied, match=f"^no credentials for {direct.uri}/.*: set AWS_ACCESS"):
        operation(direct)


@each_way
def test_an_endpoint_that_is_not_there_is_told(direct, monkeypatch, operation):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", url.replace("//", "//user:hidden@"))
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
        with pytest.raises(StoreUnreachable) as caught:
            operation(direct)
    assert str(caught.value).startswith(f"{url} does not answer for {direct.uri}/")
    assert "hidden" not in "".join(traceback.format_exception(caught.value))


def test_a_server_that_stays_silent_is_left_after_the_timeout(store, proxy):
    proxy.faults = [Fault("hang", seconds=SILENT)]
    start = time.monotonic()
    with pytest.raises(StoreUnreachable):
        store.get("key")
    assert time.monotonic() - start < SILENT


@pytest.mark.parametrize("url", ["http://anna:hunter2/x@store_1:9000", "http://h:1/?key=hunter2"])
def test_an_endpoint_that_is_none_is_refused_and_not_repeated(direct, monkeypatch, url):
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    with pytest.raises(StoreError, match="AWS_ENDPOINT_URL takes http://host:port") as refused:
        direct.get("key")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("url", ["not a url", "http://"])
def test_settings_that_make_no_client_are_told(direct, monkeypatch, url):
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    with pytest.raises(StoreError, match=r"no S3 client .*: check AWS_ENDPOINT_URL and AWS_DEF"):
        direct.get("key")


def test_credentials_that_come_later_are_seen(s3_server, direct, monkeypatch, tmp_path):
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for known in ("nothing", "an old secret", "the secret"):
        with pytest.raises(ObjectNotFound if known == "the secret" else AccessDenied):
            direct.get("key")
        file.write_text(
            f"[default]\naws_access_key_id = {s3_server.access_key}\n"
            f"aws_secret_access_key = {'old' if known == 'nothing' else s3_server.secret_key}\n"
        )


def test_an_error_crosses_a_process_boundary(direct):
    with pytest.raises(ObjectNotFound) as caught:
        direct.get("missing")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), str(copy)) == (ObjectNotFound, str(caught.value))
    assert str(copy) == f"{direct.uri}/missing is not there: check the name"


def test_the_server_ends_with_whoever_started_it(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from tests.s3_server import start_s3_server\n"
        "server = next(start := start_s3_server(Path(sys.argv[1])))\n"
        "print(server.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    died = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, check=False
    )
    assert died.returncode == -9
    deadline = time.monotonic() + 60
    while Path(f"/proc/{int(died.stdout)}/cmdline").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{int(died.stdout)}/cmdline").exists()


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_proxy_is_not_asked_for_a_server_on_this_machine(direct, monkeypatch, name):
    for other in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr("infra.s3_store._clients", {})  # no client from before
    direct.put("key", b"data")
    assert direct.get("key") == b"data"
