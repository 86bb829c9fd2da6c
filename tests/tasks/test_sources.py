"""What a job's sources hold, from folders, prefixes, tars and tables."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from infra.store import open_store
from manifests.errors import JobError
from manifests.items import ErrorClass, Input
from manifests.job import Source
from tasks.preflight import inspect_input
from tasks.sources import images_in, list_files, read_input, resolve_uri
from tests.bad_images import write_corrupt_member_tar, write_truncated_tar

PIXELS = 10**8


def images(uri: str | list[str], base: Path | str, **terms: str) -> list[Input]:
    source = Source.model_validate({"uri": uri, **terms})
    return [one for file in list_files("style", source, str(base)) for one in images_in(file)]


def keys(uri: str | list[str], base: Path | str) -> list[str]:
    return [one.key for one in images(uri, base)]


def write(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return write(path, file.getvalue())


# ---------------------------------------------------------------------------- folders


def test_a_folder_is_read_with_its_folders_and_keys_say_where(tmp_path):
    for name in ("b.png", "a.JPG", "d/a.png", "d/e/f.webp"):
        write(tmp_path / "style" / name)
    assert keys("style", tmp_path) == ["a", "b", "d/a", "d/e/f"]


def test_what_is_hidden_or_no_image_is_passed_over(tmp_path):
    for name in ("a.png", ".b.png", "notes.txt", "d/.c.png", ".cache/e.png", "._a.png", "f"):
        write(tmp_path / "style" / name)
    assert keys("style", tmp_path) == ["a"]


def test_a_hidden_folder_that_a_job_names_is_read(tmp_path):
    write(tmp_path / ".style" / "a.png")
    assert keys(".style", tmp_path) == ["a"]


def test_several_uris_are_one_source_and_its_terms_are_on_every_image(tmp_path):
    write(tmp_path / "one" / "a.png")
    write(tmp_path / "b.png")
    found = images(["one/", "b.png"], tmp_path, license="CC0", attribution="me")
    assert [one.key for one in found] == ["a", "b"]
    assert {(one.license, one.attribution) for one in found} == {("CC0", "me")}


def test_a_folder_that_is_not_there_is_refused_with_its_path(tmp_path):
    with pytest.raises(JobError, match=r"inputs.style: there is no folder '.*/nowhere': check"):
        images("nowhere", tmp_path)


def test_a_folder_without_images_is_an_empty_source(tmp_path):
    (tmp_path / "style").mkdir()
    assert images("style", tmp_path) == []


def test_an_image_that_is_named_and_not_there_is_that_images_problem(tmp_path):
    (found,) = images("nowhere.png", tmp_path)
    assert found.problem
    assert found.problem.error_class == ErrorClass.INPUT_MISSING
    assert found.problem.message == f"{tmp_path}/nowhere.png is not there"


@pytest.mark.parametrize(
    ("uri", "base", "expected"),
    [
        ("a/b", "/base", "/base/a/b"),
        ("/a/b", "/base", "/a/b"),
        ("../a", "/base/c", "/base/a"),
        ("s3://b/a", "/base", "s3://b/a"),
        ("a", "s3://b/base", "s3://b/base/a"),
        ("./a/../b", "s3://b/base", "s3://b/base/b"),
        ("../a", "s3://b/base", "s3://b/a"),
        ("s3://b/a/./c/../d//e", "/base", "s3://b/a/d//e"),
        ("file:///a%20b", "/base", "/a b"),
        ("a//b/", "/base", "/base/a/b"),
    ],
)
def test_a_relative_path_starts_where_it_is_written(uri, base, expected):
    assert resolve_uri(uri, base) == expected


@pytest.mark.s3
def test_an_s3_prefix_reads_like_a_folder(s3_bucket, tmp_path):
    store = open_store(f"s3://{s3_bucket}/in")
    for name in ("style/b.png", "style/d/a.png", "style/.c.png", "style/x.txt", "stylish/z.png"):
        store.put(name, name.encode())
    found = images("style", f"s3://{s3_bucket}/in")
    assert [one.key for one in found] == ["b", "d/a"]
    assert [read_input(one) for one in found] == [b"style/b.png", b"style/d/a.png"]


@pytest.mark.s3
def test_shards_on_s3_read_like_local_ones(s3_bucket, tmp_path):
    path = write_tar(tmp_path / "0.tar", {"a.png": b"one", "b.png": b"two"})
    open_store(f"s3://{s3_bucket}").put("in/0.tar", path)
    remote = images(f"s3://{s3_bucket}/in/{{0..0}}.tar", tmp_path)
    assert [read_input(one) for one in remote] == [b"one", b"two"]
    assert [one.offset for one in remote] == [one.offset for one in images("0.tar", tmp_path)]


# ---------------------------------------------------------------------------- shards


def test_a_brace_range_is_all_of_its_shards_in_order(tmp_path):
    for number in range(9, 12):
        write_tar(tmp_path / f"{number:03d}.tar", {f"{number}.png": b"x", f"{number}.json": b"{}"})
    assert keys("{009..011}.tar", tmp_path) == ["9", "10", "11"]


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("{0..2}.tar", r"inputs.style: there is no shard '.*/1.tar': check the path and braces"),
        ("{0..2.tar", r"inputs.style: unbalanced braces in '\{0..2.tar'"),
    ],
)
def test_a_shard_that_is_not_there_is_refused_before_anything_is_read(tmp_path, uri, message):
    write_tar(tmp_path / "0.tar", {"a.png": b"x"})
    with pytest.raises(JobError, match=message):
        images(uri, tmp_path)


def test_a_members_key_is_webdatasets_key_and_its_bytes_are_the_members(tmp_path):
    members = {"d/a.b.png": b"1", "c.JPEG": b"22", "c.json": b"{}", ".h.png": b"3", "e.cls": b"4"}
    write_tar(tmp_path / "0.tar", members)
    found = images("0.tar", tmp_path)
    assert [(one.key, one.member) for one in found] == [("d/a", "d/a.b.png"), ("c", "c.JPEG")]
    assert [read_input(one) for one in found] == [b"1", b"22"]
    assert found[0].full_uri == f"{tmp_path}/0.tar#d/a.b.png"


def test_a_corrupt_member_is_a_problem_of_that_image_alone(tmp_path):
    write_corrupt_member_tar(tmp_path / "0.tar")
    found = [inspect_input(one, max_pixels=PIXELS) for one in images("0.tar", tmp_path)]
    assert [one.problem and one.problem.error_class for one in found] == [None, "decode", None]
    assert found[1].problem
    assert found[1].problem.message.startswith(f"{tmp_path}/0.tar#000001.jpg: ")


def test_a_truncated_tar_is_refused_and_says_after_which_member(tmp_path):
    write_truncated_tar(tmp_path / "0.tar")
    with pytest.raises(JobError) as raised:
        images("0.tar", tmp_path)
    assert str(raised.value) == (
        f"inputs.style: {tmp_path}/0.tar is damaged or cut off after 000001.jpg (a member has "
        "2,713 bytes, but 1,356 are left): restore the shard, or take it out of the job"
    )


def boundaries(path: Path) -> list[int]:
    """Where members end, the end of the last one before the closing blocks included."""
    with tarfile.open(path) as tar:
        return [one.offset_data + -(-one.size // 512) * 512 for one in tar]


@pytest.mark.parametrize("num_members", [0, 1, 2])
@pytest.mark.parametrize("extra", [0, 1, 512, 700])
def test_a_tar_cut_between_members_is_not_read_as_a_shorter_one(tmp_path, num_members, extra):
    path = write_tar(tmp_path / "0.tar", {"a.png": b"1" * 600, "b.png": b"2" * 600})
    cut = [0, *boundaries(path)][num_members] + extra
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(
        JobError, match=r"0.tar is damaged or cut off after (its start|a.png|b.png)"
    ):
        images("0.tar", tmp_path)


def test_bytes_that_are_no_tar_are_refused(tmp_path):
    write(tmp_path / "0.tar", b"<html>404</html>" * 100)
    with pytest.raises(JobError, match=r"0.tar is damaged or cut off after its start"):
        images("0.tar", tmp_path)


def test_a_tar_without_images_is_an_empty_source(tmp_path):
    write_tar(tmp_path / "0.tar", {"a.txt": b"1"})
    assert images("0.tar", tmp_path) == []
