"""Looking for many named files: the same answers as one by one, in few requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.store import LocalStore, StoredObject, open_store
from manifests.job import Source
from tasks.inputs import named_files
from tasks.inputs.named_files import known_objects, look_up
from tasks.inputs.sources import list_files


class CountingStore(LocalStore):
    """A folder that answers as a bucket does, and counts the answers of a listing."""

    num_pages = 0

    def list(self, prefix: str = "", **options: Any) -> Iterator[StoredObject]:
        found = sorted(super().list(prefix, **options), key=lambda one: one.key.encode())
        for start in range(0, max(len(found), 1), named_files.PAGE):
            self.num_pages += 1
            yield from found[start : start + named_files.PAGE]


names = st.text("ab~/é", min_size=1, max_size=4).filter(
    lambda name: all(name.split("/"))  # no key has empty parts
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("store")


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    stored=st.sets(names, max_size=12),
    wanted=st.sets(names, min_size=1, max_size=8),
    page=st.integers(1, 3),
)
def test_the_first_object_at_or_after_each_key_is_found_in_few_pages(
    folder, monkeypatch, stored, wanted, page
):
    monkeypatch.setattr(named_files, "PAGE", page)
    store = CountingStore(folder / str(len(list(folder.iterdir()))))
    Path(store.uri).mkdir()
    kept = [name for name in sorted(stored) if not any(o.startswith(f"{name}/") for o in stored)]
    for name in kept:
        store.put(name, b"")
    found = named_files._firsts(store, wanted)
    prefix = named_files.os.path.commonprefix(sorted(wanted))
    below = sorted((n for n in kept if n.startswith(prefix)), key=str.encode)
    for key in wanted:
        expected = next((name for name in below if name.encode() >= key.encode()), None)
        assert (found[key] and found[key].key) == expected
    assert store.num_pages <= 2 * len(wanted)
    assert store.num_pages <= len(below) // page + 1 + len(wanted)


def test_many_objects_between_two_names_are_passed_over_and_not_listed(folder, monkeypatch):
    monkeypatch.setattr(named_files, "PAGE", 3)
    store = CountingStore(folder / "many")
    for number in range(30):
        store.put(f"{number:02d}", b"")
    found = named_files._firsts(store, ["02", "27", "27x"])
    assert [found[key] and found[key].key for key in ("02", "27", "27x")] == ["02", "27", "28"]
    assert store.num_pages <= 4


@pytest.fixture
def requests(s3_bucket) -> list[str]:
    """The requests that are sent to the server from here on."""
    from infra.s3_store import S3Settings, _shared_client

    sent: list[str] = []
    client = _shared_client(S3Settings())
    name = f"count-{s3_bucket}"
    client.meta.events.register(
        "before-send.s3", lambda request, **_: sent.append(request.url), unique_id=name
    )
    yield sent
    client.meta.events.unregister("before-send.s3", unique_id=name)


@pytest.mark.s3
def test_many_named_files_of_a_prefix_cost_the_pages_of_its_listing(s3_bucket, requests):
    store = open_store(f"s3://{s3_bucket}/in")
    for number in range(20):
        store.put(f"{number:02d}.png", b"x" * (number + 1))
    store.put("30.png/a.png", b"")
    requests.clear()
    source = Source(uri=("{00..50}.png",))
    files = list_files("style", source, f"s3://{s3_bucket}/in")
    assert len(requests) <= 5  # two looks, the one folder, and whether braces are names
    assert [file.size for file in files[:20]] == [number + 1 for number in range(20)]
    assert all(file.etag for file in files[:20])
    assert [file.size for file in files[20:30]] == [None] * 10
    assert [file.name for file in files[30:]] == ["a.png", *(f"{n}.png" for n in range(31, 51))]


@pytest.mark.s3
def test_a_single_named_file_costs_one_request_and_no_listing(s3_bucket, requests):
    open_store(f"s3://{s3_bucket}").put("a.png", b"x")
    requests.clear()
    list_files("style", Source(uri=("a.png",)), f"s3://{s3_bucket}")
    (request,) = requests
    assert "max-keys=1&" in request


@pytest.mark.s3
@pytest.mark.parametrize("num_more", [0, 30])
def test_names_are_found_alike_one_by_one_and_together(s3_bucket, num_more):
    bucket = f"s3://{s3_bucket}"
    for key in ("a/b.png", "a//c.png", "é.png", "z"):
        boto3.client("s3").put_object(Bucket=s3_bucket, Key=key, Body=key.encode())
    names = ["a/b.png", "a//c.png", "é.png", "e.png", "a/b", "a", "z"]
    more = [f"more/{number}" for number in range(num_more)]
    uris = [f"{bucket}/{name}" for name in [*names, *more]]
    found = {uri: one and one.size for uri, one in look_up(uris).objects.items()}
    assert [found[f"{bucket}/{name}"] for name in names] == [7, 8, 6, None, None, None, 1]
    assert look_up(uris).is_folder(f"{bucket}/a")
    assert not look_up(uris).is_folder(f"{bucket}/z")


def test_what_is_known_of_named_files_leaves_out_those_that_cannot_be_asked_for(tmp_path):
    (tmp_path / "a.png").write_bytes(b"12")
    uris = [f"{tmp_path}/a.png", f"{tmp_path}/b.png", f"{tmp_path}/a.png/c.png", "s3://b", "/"]
    found = known_objects(uris)
    assert {uri: one.size for uri, one in found.items()} == {f"{tmp_path}/a.png": 2}
