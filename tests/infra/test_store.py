"""What any store owes its users, held on a local folder and on a real S3 server alike."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import boto3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.store import (
    AccessDenied,
    LocalStore,
    ObjectNotFound,
    ObjectUnreadable,
    Store,
    StoreError,
    UriError,
    honours_put_if_absent,
    join_uri,
    open_store,
    read_uri,
    split_uri,
)

NAMES = ["plain", "a space", "a/deeper/key.json", "münchen/東京.png", "100%?#&+=;,'\"\\.txt", "~"]


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return open_store(str(tmp_path / "a run"))
    return open_store(f"s3://{request.getfixturevalue('s3_bucket')}/jobs/a run")


def keys(store: Store, prefix: str = "") -> list[str]:
    return [found.key for found in store.list(prefix)]


@pytest.mark.parametrize("key", NAMES)
def test_what_is_put_is_got_listed_and_deleted_under_its_key(store, key):
    store.put(key, key.encode())
    assert store.get(key) == key.encode()
    assert keys(store) == [key]
    assert read_uri(join_uri(store.uri, key)) == key.encode()
    store.delete(key)
    assert keys(store) == []
    with pytest.raises(ObjectNotFound, match="check the name"):
        store.get(key)


@pytest.mark.parametrize("key", NAMES)
def test_a_link_shows_its_object_to_whoever_has_it(store, key):
    store.put(key, key.encode())
    with urlopen(store.link(key).url) as answer:
        assert answer.read() == key.encode()


@pytest.mark.s3
def test_a_page_on_s3_is_shown_by_a_browser_and_not_saved(s3_server, s3_bucket, monkeypatch):
    host = s3_server.endpoint_url.removeprefix("http://")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://someone:s3cret@{host}")
    store = open_store(f"s3://{s3_bucket}/run")
    store.put("report.html", "<p>Größe</p>".encode())
    link = store.link("report.html")
    assert "someone" not in link.url
    assert s3_server.secret_key not in link.url
    with urlopen(link.url) as answer:
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["content-disposition"] == "inline"
        assert "Größe" in answer.read().decode()
    with pytest.raises(HTTPError, match="403"):
        urlopen(link.url.replace("report.html", "run.json"))


def test_a_link_says_how_long_it_works_and_whether_that_is_sure(monkeypatch):
    store = open_store("s3://bucket/run")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "key")
    week = datetime.now(UTC) + timedelta(days=7)
    fixed = store.link("report.html")
    assert fixed.expires is not None
    assert abs(fixed.expires - week) < timedelta(minutes=1)
    assert fixed.is_sure
    monkeypatch.setenv("AWS_SESSION_TOKEN", "temporary")
    assert not store.link("report.html").is_sure
    tonight = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", tonight.isoformat())
    temporary = store.link("report.html")
    assert (temporary.expires, temporary.is_sure) == (tonight, True)
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", (week + timedelta(days=9)).isoformat())
    longer = store.link("report.html").expires
    assert longer is not None
    assert abs(longer - week) < timedelta(minutes=1), "no signature is good for longer"
    assert LocalStore("run").link("report.html").expires is None


def test_a_link_needs_credentials(monkeypatch):
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    with pytest.raises(AccessDenied, match=r"no credentials for s3://bucket/run/report\.html"):
        open_store("s3://bucket/run").link("report.html")


def test_the_last_put_replaces_all_before(store):
    for data in (b"long" * 1000, b"", b"short"):
        store.put("key", data)
        assert store.get("key") == data
    assert [found.size for found in store.list()] == [5]


def test_what_is_replaced_while_it_is_read_is_read_whole(tmp_path, monkeypatch):
    store, opened = LocalStore(tmp_path), Path.open
    store.put("attempts/1.json", b"short")

    def replaced_first(path: Path, *args, **options):
        monkeypatch.setattr(Path, "open", opened)
        store.put("attempts/1.json", b"longer than before")
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", replaced_first)
    assert store.get("attempts/1.json") == b"longer than before"


@pytest.mark.parametrize("num_bytes", [0, 1, 20 << 20])  # the last needs several parts on S3
def test_a_local_file_arrives_byte_for_byte(store, tmp_path, num_bytes):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(num_bytes))
    store.put("data/file.tar", source)
    assert store.get("data/file.tar") == source.read_bytes()


def test_a_source_that_is_gone_leaves_the_key_as_it_was(store, tmp_path):
    store.put("old", b"old")
    for key in ("old", "new"):
        with pytest.raises(FileNotFoundError):
            store.put(key, tmp_path / "gone")
    assert keys(store) == ["old"]
    assert store.get("old") == b"old"


def test_put_if_absent_stores_once_and_never_replaces(store):
    assert store.put_if_absent("commits/0001.json", b"first")
    assert not store.put_if_absent("commits/0001.json", b"second")
    assert store.get("commits/0001.json") == b"first"
    store.delete("commits/0001.json")
    assert store.put_if_absent("commits/0001.json", b"third")


def test_the_same_bytes_again_are_ours(store):
    assert store.put_if_absent("key", b"attempt 7")
    assert store.put_if_absent("key", b"attempt 7")
    assert not store.put_if_absent("key", b"attempt")


def test_of_racing_threads_one_wins_and_the_others_read_its_bytes(store):
    for round_ in range(3):
        key = f"commits/{round_}"

        def race(data: bytes, key: str = key) -> tuple[bytes, bool, bytes]:
            return data, store.put_if_absent(key, data), store.get(key)

        with ThreadPoolExecutor(8) as pool:
            outcomes = list(pool.map(race, [b"%d" % n * 10_000 for n in range(8)]))
        [winner] = [data for data, won, _ in outcomes if won]
        assert {read for *_, read in outcomes} == {winner}


def race_in_process(store: Store, start: float, number: int) -> bool:
    time.sleep(max(0.0, start - time.time()))
    return store.put_if_absent("key", b"process %d" % number)


def test_of_racing_processes_one_wins(tmp_path):
    store = LocalStore(tmp_path)
    context = multiprocessing.get_context("spawn")
    with context.Pool(4) as pool:
        pool.starmap(len, [((),)] * 4)  # all are up
        won = pool.starmap(race_in_process, [(store, time.time() + 0.1, n) for n in range(8)])
        pool.close()
        pool.join()
    assert won.count(True) == 1
    assert store.get("key") == b"process %d" % won.index(True)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_and_its_parent_speak_at_the_same_time(store):
    def reads_its_own(key: str) -> bool:
        return all(store.get(key) == key.encode() for _ in range(20))

    for key in ("parent", "child"):
        store.put(key, key.encode())  # and the parent's connection stands
    child = os.fork()
    if not child:
        told = 1
        with contextlib.suppress(Exception):
            told = 0 if reads_its_own("child") else 1
        os._exit(told)
    assert reads_its_own("parent")
    assert os.waitpid(child, 0)[1] == 0


def test_a_store_can_be_pickled(store):
    store.put("key", b"data")
    copy = pickle.loads(pickle.dumps(store))
    assert (copy.uri, copy.get("key")) == (store.uri, b"data")


def test_listing_gives_every_key_once_and_sorted_beyond_one_page(store):
    names = {f"commits/{n:05d}.json" for n in range(1010)} | {"commits.json", "commits-old/1"}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(name, b""), names))
    assert keys(store) == sorted(names)


def test_a_prefix_is_a_beginning_of_the_key_not_a_folder(store):
    names = ["a-b/1", "a.txt", "a/b.txt", "a/d/c", "ab", "b"]
    for name in names:
        store.put(name, b"")
    for prefix in ["", "a", "a/", "a-", "a/b", "a/d", "a/d/", "a/d/c/e", "c", "/", "../"]:
        assert keys(store, prefix) == [name for name in names if name.startswith(prefix)]


def test_a_listing_tells_size_age_and_whether_the_bytes_changed(store):
    store.put("key", b"12345")
    [first] = store.list()
    assert first.size == 5
    assert abs(datetime.now(UTC) - first.modified) < timedelta(minutes=1)
    assert [first] == list(store.list())
    store.put("key", b"54321")
    [second] = store.list()
    assert second.etag != first.etag


def test_where_nothing_was_ever_stored_the_listing_is_empty(store):
    assert keys(store) == keys(store, "commits/") == []


@pytest.mark.parametrize(("start", "length"), [(0, 10), (3, 4), (9, 5), (10, 1), (99, 1), (4, 0)])
def test_a_range_is_a_slice(store, start, length):
    store.put("key", b"0123456789")
    assert store.get_range("key", start, length) == b"0123456789"[start : start + length]


def test_a_range_of_nothing_that_is_there_is_not_found(store):
    with pytest.raises(ObjectNotFound):
        store.get_range("key", 0, 1)


def test_a_range_does_not_count_from_the_end(store):
    store.put("key", b"0123456789")
    for start, length in ((-1, 1), (0, -1)):
        with pytest.raises(ValueError, match="count bytes from 0"):
            store.get_range("key", start, length)


def test_deleting_what_is_absent_is_fine(store):
    store.put("key", b"")
    for key in ("key", "key", "never/was"):
        store.delete(key)


@pytest.mark.parametrize("key", ["", "..", "../out", "a/../../out", "/etc/passwd", "a//b", "a/"])
def test_a_key_cannot_leave_its_store(store, key):
    for write in (store.put, store.put_if_absent):
        with pytest.raises(ValueError, match="a key is a relative path"):
            write(key, b"")
    assert keys(store) == []


def test_a_store_that_carries_commits_passes_the_probe_and_is_left_clean(store):
    store.put("key", b"")
    assert honours_put_if_absent(store)
    assert keys(store) == ["key"]


@pytest.mark.s3
@pytest.mark.parametrize("kind", ["careless", "racing"])
def test_a_store_that_cannot_carry_commits_fails_the_probe(s3_server, s3_bucket, kind):
    store = open_store(f"s3://{s3_server.make_bucket(kind)}")
    assert not honours_put_if_absent(store)
    assert keys(store) == []


@pytest.mark.s3
def test_an_upload_that_was_never_finished_is_not_listed_and_can_be_swept(s3_bucket):
    client = boto3.client("s3")
    for key in ("run/data/half.tar", "other/half.tar"):
        upload = client.create_multipart_upload(Bucket=s3_bucket, Key=key)
        part = {"PartNumber": 1, "UploadId": upload["UploadId"]}
        client.upload_part(Bucket=s3_bucket, Key=key, Body=b"half", **part)
    store = open_store(f"s3://{s3_bucket}/run")
    assert keys(store) == []
    [found] = store.unfinished()
    assert found.key == "data/half.tar"
    assert found.modified <= store.now() < found.modified + timedelta(minutes=2)
    for _ in range(2):  # whoever comes second finds it gone
        store.delete_unfinished(found)
    assert list(store.unfinished()) == []
    left = client.list_multipart_uploads(Bucket=s3_bucket)["Uploads"]
    assert [upload.get("Key") for upload in left] == ["other/half.tar"]
    client.close()


@pytest.mark.s3
def test_a_folder_marker_is_not_an_object_and_a_strangers_odd_key_can_be_read(s3_bucket):
    client = boto3.client("s3")
    for key in ("photos/", "photos/a//b.png", "photography.png"):
        client.put_object(Bucket=s3_bucket, Key=key, Body=b"")
    client.close()
    store = open_store(f"s3://{s3_bucket}/photos/")
    assert keys(store) == ["a//b.png"]
    assert store.get("a//b.png") == read_uri(f"s3://{s3_bucket}/photos/a//b.png") == b""


STOP_AT = """
import os, signal, sys
from pathlib import Path
from infra.store import LocalStore
store, event, method = LocalStore(sys.argv[1]), sys.argv[2], sys.argv[3]
sys.addaudithook(lambda name, _: name == event and os.kill(os.getpid(), signal.SIGKILL))
getattr(store, method)("commits/0001.json", b"data")
sys.exit("it was not killed")
"""


@pytest.mark.parametrize("held", [None, b"before"])
@pytest.mark.parametrize(("method", "event"), [("put", "os.rename"), ("put_if_absent", "os.link")])
def test_a_writer_killed_before_its_last_step_changes_nothing(tmp_path, method, event, held):
    store = LocalStore(tmp_path)
    if held:
        store.put("commits/0001.json", held)
    command = [sys.executable, "-c", STOP_AT, str(tmp_path), event, method]
    assert subprocess.run(command, check=False).returncode == -9
    assert len(list((tmp_path / "commits").iterdir())) == 1 + bool(held)  # the temporary file
    assert keys(store) == ["commits/0001.json"] * bool(held)
    [found] = store.unfinished()
    assert found.modified <= store.now()
    for _ in range(2):  # whoever comes second finds it gone
        store.delete_unfinished(found)
    assert len(list((tmp_path / "commits").iterdir())) == bool(held)
    assert store.put_if_absent("commits/0001.json", b"again") == (not held)
    assert store.get("commits/0001.json") == (held or b"again")


def test_what_a_writer_that_is_alive_has_not_finished_is_not_swept(tmp_path):
    store, source = LocalStore(tmp_path / "run"), tmp_path / "source"
    os.mkfifo(source)
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(store.put, "data/slow.tar", source)
        with source.open("wb") as file:
            while not any(store.uri in str(path) for path in tmp_path.rglob("*.tmp")):
                time.sleep(0.01)
            assert list(store.unfinished()) == []
            file.write(b"data")
        written.result()
    assert store.get("data/slow.tar") == b"data"


def test_a_folder_inside_a_folder_goes_with_its_last_object_and_comes_again(tmp_path):
    store = LocalStore(tmp_path)
    for _ in range(2):
        store.put("attempts/00000/1.json", b"")
        store.delete("attempts/00000/1.json")
        assert [path.name for path in tmp_path.rglob("*")] == ["attempts"]


def test_a_local_write_leaves_one_file_with_ordinary_permissions(tmp_path):
    mask = os.umask(0o027)
    try:
        LocalStore(tmp_path).put("key", b"")
        assert not LocalStore(tmp_path).put_if_absent("key", b"other")
    finally:
        os.umask(mask)
    [path] = tmp_path.iterdir()
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_file_that_stands_in_the_way_is_named(tmp_path):
    store = LocalStore(tmp_path)
    store.put("a", b"")
    store.put("b/c", b"")
    for write in (store.put, store.put_if_absent):
        for key in ("a/b", "b"):
            with pytest.raises(StoreError, match=f"{key} cannot be written.* choose another name"):
                write(key, b"")
    for key in ("a/b", "b"):
        with pytest.raises(ObjectNotFound):
            store.get(key)
        store.delete(key)
    assert keys(store) == ["a", "b/c"]


NO_ROOM = """
import resource, sys
from infra.store import LocalStore, StoreError
store = LocalStore(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
for write in (store.put, store.put_if_absent):
    try:
        write(sys.argv[2], bytes(20_000))
    except StoreError as error:
        assert "choose another place" in str(error)
    else:
        sys.exit("it fitted")
"""


@pytest.mark.parametrize("key", ["old", "new"])
def test_a_write_that_runs_out_of_room_changes_nothing(tmp_path, key):
    store = LocalStore(tmp_path)
    store.put("old", b"old")
    subprocess.run([sys.executable, "-c", NO_ROOM, str(tmp_path), key], check=True)
    assert [path.name for path in tmp_path.iterdir()] == keys(store) == ["old"]
    assert store.get("old") == b"old"


def test_a_file_given_as_a_folder_is_named(tmp_path):
    (tmp_path / "photo.png").touch()
    with pytest.raises(StoreError, match=r"photo.png is a file: give the folder"):
        keys(LocalStore(tmp_path / "photo.png"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_a_folder_without_permission_is_named(tmp_path):
    (tmp_path / "locked").mkdir(mode=0)
    with pytest.raises(AccessDenied, match="check its owner and mode"):
        LocalStore(tmp_path / "locked").put("key", b"")


def test_links_are_followed_once_and_one_to_nowhere_is_listed(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "linked").symlink_to("../photos")
    (tmp_path / "run" / "nowhere").symlink_to("missing")
    (tmp_path / "photos" / "loop").symlink_to(tmp_path / "run")
    store = LocalStore(tmp_path / "run")
    assert keys(store) == ["linked/a.png", "nowhere"]
    with pytest.raises(ObjectNotFound, match=r"nowhere is a link to missing, which is not there"):
        store.get("nowhere")


parts = st.text("ab-./é ", min_size=1, max_size=6).map(lambda text: f"x{text}x")


@settings(max_examples=50, deadline=None)
@given(names=st.sets(parts, max_size=8), prefix=st.text("xab-./é ", max_size=4))
def test_a_local_listing_is_the_sorted_keys_with_the_prefix(tmp_path_factory, names, prefix):
    store = LocalStore(tmp_path_factory.mktemp("run"))
    stored = []
    for name in sorted(names):
        try:
            store.put(name, b"")
        except (StoreError, ValueError):  # a file in its way, or no key at all
            continue
        stored.append(name)
    assert keys(store, prefix) == [name for name in stored if name.startswith(prefix)]


def test_uris_name_stores_and_objects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "a b"
    for uri in (str(folder), f"{folder}/", "a b", "./a b", f"file://{tmp_path}/a%20b"):
        store = open_store(uri)
        store.put("c.txt", uri.encode())
        assert read_uri(join_uri(uri, "c.txt")) == (folder / "c.txt").read_bytes() == uri.encode()
    for uri in ("s3://bucket", "s3://bucket/", "s3://bucket/a b", "s3://bucket/a%20b/"):
        assert open_store(uri).uri == uri.rstrip("/")
        assert split_uri(join_uri(uri, "c.png")) == (uri.rstrip("/"), "c.png")
    assert split_uri("c.png") == (".", "c.png")
    assert split_uri("/c.png") == ("/", "c.png")


@pytest.mark.parametrize("call", [open_store, read_uri, split_uri])
@pytest.mark.parametrize(
    "uri",
    [
        *("", "gs://bucket/a", "https://host/a.png", "file://host/a.png", "S3://bucket/a.png"),
        *("s3:/bucket/a.png", "pipe:cat a.png", "C:\\a.png", "file:a.png"),
    ],
)
def test_a_uri_that_we_cannot_serve_is_refused_with_those_that_we_can(
    call: Callable[[str], object], uri
):
    with pytest.raises(UriError, match=r"file:///path or s3://bucket/prefix; got") as caught:
        call(uri)
    assert repr(uri) in str(caught.value)


def test_a_uri_that_names_no_object_or_no_bucket_is_refused():
    for call in (split_uri, read_uri):
        for uri in ("s3://bucket", "s3://bucket/", "s3://bucket/folder/", "folder/"):
            with pytest.raises(ValueError, match="ends with the object's name"):
                call(uri)
    for uri in ("s3:///a", "s3://a b/c", "s3://user:word@host/c", "s3://-/c", "s3://é/c"):
        with pytest.raises(UriError, match=r"an S3 store is s3://bucket or s3://bucket/prefix"):
            open_store(uri)


def test_text_that_no_name_can_be_is_refused_shortened():
    for uri in ("a\0b", "\ud800", "file:///a%00", "~no-such-user-here/a", "gs://" + "x" * 5000):
        with pytest.raises(UriError) as caught:
            open_store(uri)
        assert len(str(caught.value)) < 500
        assert isinstance(caught.value, ValueError)


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a").write_bytes(b"home")
    assert read_uri("~/a") == b"home"
    assert open_store("~").uri == str(tmp_path)


def test_a_key_is_found_where_a_listing_has_it(store):
    for key in ("a", "a/b" if store.uri.startswith("s3://") else "c/d", "ab"):
        store.put(key, b"123")
    for key in ("a", "c/d", "ab", "b", "c", "c/d/e", "x" * 300, "a/"[:1]):
        listed = {found.key: found for found in store.list()}
        assert store.find(key) == listed.get(key)


def test_a_listing_goes_only_so_deep_as_is_asked(store):
    for key in ("a", "b/c", "b/d/e"):
        store.put(key, b"")
    assert [found.key for found in store.list(max_depth=1)] == ["a"]
    assert [found.key for found in store.list("b", max_depth=2)] == ["b/c"]


def test_a_listing_may_start_after_any_text(store):
    for key in ("a", "b/c", "b/d", "é"):
        store.put(key, b"")
    for after, expected in {"b": ["b/c", "b/d", "é"], "b/c": ["b/d", "é"], "z": ["é"]}.items():
        assert [found.key for found in store.list(start_after=after)] == expected
    assert [found.key for found in store.list("b/", start_after="b/c")] == ["b/d"]


def test_what_is_read_as_one_object_is_bounded(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert read_uri(f"{tmp_path}/a", max_bytes=5) == b"12345"
    with pytest.raises(ObjectUnreadable, match="is larger than"):
        read_uri(f"{tmp_path}/a", max_bytes=4)
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ObjectUnreadable, match="is larger than the 1 MiB that are read"):
        read_uri(f"{tmp_path}/huge", max_bytes=1 << 20)


def test_pipes_and_devices_are_listed_and_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "itself").symlink_to("itself")
    (tmp_path / "file").write_bytes(b"")
    store = LocalStore(tmp_path)
    assert [(found.key, found.size) for found in store.list()] == [
        (key, 0) for key in ("device", "file", "itself", "pipe")
    ]
    for key, message in (("pipe", "is a device, a pipe or a socket"), ("itself", "cannot be read")):
        with pytest.raises(ObjectUnreadable, match=message):
            store.get(key)
    with pytest.raises(ObjectUnreadable, match="is a device, a pipe or a socket"):
        store.get_range("device", 0, 10)
    with pytest.raises(ObjectUnreadable, match="File name too long"):
        store.get("x" * 300)
    with pytest.raises(ObjectNotFound, match="leads through a file"):
        store.get("file/x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_a_file_without_permission_is_that_objects_own_fault(tmp_path):
    (tmp_path / "locked").touch(mode=0)
    with pytest.raises(ObjectUnreadable, match="check its owner and mode"):
        LocalStore(tmp_path).get("locked")


def test_folders_that_are_linked_to_each_other_are_listed_once_below_themselves(tmp_path):
    for name in "abcdefgh":
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    for name in "abcdefgh":
        for other in "abcdefgh":
            (tmp_path / name / f"to-{other}").symlink_to(tmp_path / other)
    with pytest.raises(StoreError, match="more than 10000 links to folders: give a folder"):
        keys(LocalStore(tmp_path))


def test_a_deep_folder_and_a_date_beyond_reason_are_listed(tmp_path):
    key = "d/" * 60 + "a"
    LocalStore(tmp_path).put(key, b"")
    os.utime(tmp_path / key, (1 << 40, 1 << 40))
    assert keys(LocalStore(tmp_path)) == [key]


def test_the_room_knows_no_other_room():
    others = {"ad_lib", "manifests", "tasks", "flows", "torch", "prefect"}
    code = f"import sys, infra.store; sys.exit(bool({others} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
