"""What a job's sources hold, from folders, prefixes, tars and tables."""

from __future__ import annotations

import io
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import boto3
import pytest

from infra.store import ObjectNotFound, ObjectUnreadable, StoreError, UriError, open_store
from manifests.errors import JobError
from manifests.items import ErrorClass, Input
from manifests.job import Source
from tasks.inputs.passed_over import PassedOver
from tasks.inputs.sources import images_in, list_files, read_input, resolve_uri
from tasks.plans.preflight import inspect_input
from tests.bad_images import write_corrupt_member_tar, write_truncated_tar

PIXELS = 10**8


def images(uri: str | list[str], base: Path | str, **terms: str) -> list[Input]:
    source = Source.model_validate({"uri": uri, **terms})
    return [image for file in list_files("style", source, str(base)) for image in images_in(file)]


def keys(uri: str | list[str], base: Path | str) -> list[str]:
    return [image.key for image in images(uri, base)]


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
    assert [image.key for image in found] == ["a", "b"]
    assert {(image.license, image.attribution) for image in found} == {("CC0", "me")}


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
    assert [image.key for image in found] == ["b", "d/a"]
    assert [read_input(image) for image in found] == [b"style/b.png", b"style/d/a.png"]


@pytest.mark.s3
def test_shards_on_s3_read_like_local_ones(s3_bucket, tmp_path):
    path = write_tar(tmp_path / "0.tar", {"a.png": b"one", "b.png": b"two"})
    open_store(f"s3://{s3_bucket}").put("in/0.tar", path)
    remote = images(f"s3://{s3_bucket}/in/{{0..0}}.tar", tmp_path)
    assert [read_input(image) for image in remote] == [b"one", b"two"]
    assert [image.offset for image in remote] == [
        image.offset for image in images("0.tar", tmp_path)
    ]


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
    assert [(image.key, image.member) for image in found] == [("d/a", "d/a.b.png"), ("c", "c.JPEG")]
    assert [read_input(image) for image in found] == [b"1", b"22"]
    assert found[0].full_uri == f"{tmp_path}/0.tar#d/a.b.png"


def test_a_corrupt_member_is_a_problem_of_that_image_alone(tmp_path):
    write_corrupt_member_tar(tmp_path / "0.tar")
    found = [inspect_input(image, max_pixels=PIXELS) for image in images("0.tar", tmp_path)]
    assert [image.problem and image.problem.error_class for image in found] == [
        None,
        "decode",
        None,
    ]
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
        return [member.offset_data + -(-member.size // 512) * 512 for member in tar]


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


# ---------------------------------------------------------------------------- places


@pytest.mark.parametrize(
    "uri",
    [
        "http://example.org/x.png",
        "https://example.org/x.png?a=b",
        "gs://bucket/photos",
        "hf://datasets/x/y",
        "az://container/x",
        "ftp://host/x.png",
        "file://host/x.png",
        "s3:/bucket/x.png",
        "S3://bucket/x.png",
        "pipe:curl x",
        "C:\\photos",
        "D:/photos/a.png",
        "http:x",
    ],
)
def test_a_place_that_is_not_read_is_refused_with_those_that_are(tmp_path, uri):
    with pytest.raises(JobError) as raised:
        images(uri, tmp_path)
    shown = uri.replace("?a=b", "?***")  # a query may carry a signature
    assert str(raised.value) == (
        f"inputs.style: a URI is a local path, file:///path or s3://bucket/prefix; got {shown!r}"
    )


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("~no-such-user-here/x.png", "no home folder is known for"),
        ("s3://", "an S3 store is s3://bucket"),
        ("s3:///x.png", "an S3 store is s3://bucket"),
        ("s3://a b/x.png", "an S3 store is s3://bucket"),
        ("s3://bucket/a/../../x.png", "leads out of its bucket"),
        ("s3://buc*/x.png", "an S3 store is s3://bucket"),
        ("x" * 5000, "there is no folder"),
        ("x" * 300 + ".tar", "there is no shard"),
    ],
)
def test_a_name_that_no_place_can_have_is_refused_in_a_short_sentence(tmp_path, uri, message):
    with pytest.raises((JobError, StoreError), match=message) as raised:
        images(uri, tmp_path)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("uri", ["a\0b.png", "\ud800.png", "file:///%00.png", "s3://b/\ud800"])
def test_text_that_no_name_can_be_is_refused(uri):
    with pytest.raises(UriError, match=r"NUL character|not text that UTF-8"):
        resolve_uri(uri, "/base")
    with pytest.raises(UriError, match=r"NUL character|not text that UTF-8"):
        resolve_uri("a.png", uri)


def test_a_file_that_is_named_is_taken_whatever_its_suffix(tmp_path):
    for name in ("IMG_0001", "x.dat", ".hidden.png", "~a.png"):
        write(tmp_path / name)
    assert keys(["IMG_0001", "x.dat", ".hidden.png", "./~a.png"], tmp_path) == [
        "IMG_0001",
        "x",
        ".hidden",
        "~a",
    ]


def test_rarer_suffixes_are_taken_where_no_other_picture_has_that_name(tmp_path):
    for name in ("a.jpg", "a.heic", "a.pgm", "b.HEIC", "c.jfif", "d.jpe", "e.tga", "f.psd"):
        write(tmp_path / "style" / name)
    passed_over = PassedOver()
    source = Source(uri=("style",))
    found = list_files("style", source, str(tmp_path), passed_over=passed_over)
    assert [file.name for file in found] == ["a.jpg", "b.HEIC", "c.jfif", "d.jpe", "e.tga"]
    assert str(passed_over) == (
        "3 files were passed over: 1 .heic, 1 .pgm, 1 .psd (a.heic, a.pgm, f.psd)"
    )


def test_a_folder_of_shards_alone_is_read_as_shards_and_beside_pictures_they_are_told(tmp_path):
    write_tar(tmp_path / "style" / "0.tar", {"a.png": b"x"})
    write_tar(tmp_path / "style" / "d" / "1.tar", {"b.png": b"x"})
    write(tmp_path / "style" / "README.txt")
    assert keys("style", tmp_path) == ["a", "b"]
    write(tmp_path / "style" / "c.png")
    passed_over = PassedOver()
    source = Source(uri=("style",))
    found = list_files("style", source, str(tmp_path), passed_over=passed_over)
    assert [file.name for file in found] == ["c.png"]
    assert "2 .tar" in str(passed_over)
    assert f"to read the shards of {tmp_path}/style, name them: *.tar" in str(passed_over)


def test_globs_name_files_below_a_folder_and_keys_say_where(tmp_path):
    for name in ("a.jpg", "b.png", "d/a.jpg", "d/e/f.jpg", ".h/x.jpg"):
        write(tmp_path / "p" / name)
    assert keys("p/*.jpg", tmp_path) == ["a"]
    assert keys("p/**/*.jpg", tmp_path) == ["a", "d/a", "d/e/f"]
    assert keys("p/{*.png,d/*.jpg}", tmp_path) == ["b", "a"]
    assert keys(f"file://{tmp_path}/p/?.png", tmp_path) == ["b"]
    for number in (0, 1):
        write_tar(tmp_path / "s" / f"{number}.tar", {f"{number}.png": b"x"})
    assert keys("s/*.tar", tmp_path) == ["0", "1"]
    with pytest.raises(JobError, match=r"inputs.style: no file matches 'p/\*.gif' below .*/p: che"):
        images("p/*.gif", tmp_path)


def test_a_file_or_folder_whose_own_name_has_braces_or_stars_is_meant_by_it(tmp_path):
    base = tmp_path / "{old,new}[1]*"
    for name in ("{x}/a.png", "[b].png", "{1..999999999}.png", "c.png", "s/*/d.png"):
        write(base / name)
    assert keys("{x}", base) == ["a"]
    assert keys(["[b].png", "{1..999999999}.png"], base) == ["[b]", "{1..999999999}"]
    assert keys("{c,[b]}.png", base) == ["c", "[b]"]
    assert keys("*.png", base) == ["[b]", "c", "{1..999999999}"]
    assert keys("s/*", base) == ["d"]


def test_what_is_no_regular_file_is_listed_and_its_reading_fails_at_once(tmp_path):
    folder = tmp_path / "style"
    write(folder / "a.png")
    os.mkfifo(folder / "b.png")
    (folder / "c.png").symlink_to("/nowhere/c.png")
    (folder / "d.png").symlink_to("d.png")
    (folder / "e.png").mkdir()
    write(folder / "e.png" / "f.png")
    (folder / "g.png").symlink_to("/dev/zero")
    found = {image.key: image for image in images("style", tmp_path)}
    assert sorted(found) == ["a", "b", "c", "d", "e.png/f", "g"]
    for key, kind, message in (
        ("b", ObjectUnreadable, "is a device, a pipe or a socket"),
        ("c", ObjectNotFound, "c.png is a link to /nowhere/c.png, which is not there"),
        ("d", ObjectUnreadable, "d.png' cannot be read .*links"),
        ("g", ObjectUnreadable, "is a device, a pipe or a socket"),
    ):
        with pytest.raises(kind, match=message):
            read_input(found[key])
        inspected = inspect_input(found[key], max_pixels=PIXELS)
        assert inspected.problem
        assert inspected.problem.error_class == ErrorClass.INPUT_MISSING
    assert read_input(found["a"]) == read_input(found["e.png/f"]) == b"x"


def test_a_file_that_is_larger_than_any_picture_is_not_read(tmp_path):
    for name, size in (("a.png", (1 << 30) + 1), ("b.png", 1 << 40)):
        with (tmp_path / name).open("wb") as file:
            try:
                file.truncate(size)
            except OSError:
                pytest.skip("this file system has no sparse files")
        (image,) = images(name, tmp_path)
        with pytest.raises(ObjectUnreadable, match="is larger than the 1024 MiB that are read"):
            read_input(image)
        with pytest.raises(ObjectUnreadable, match="larger than"):
            read_input(replace(image, member="m.png", offset=0, num_bytes=size))


@pytest.mark.parametrize("place", [(None, 1), (0, None), (-1, 1), (0, -1), (1 << 63, 1)])
def test_an_image_without_a_place_in_its_tar_is_not_read(tmp_path, place):
    write(tmp_path / "0.tar")
    image = Input("style", "a", f"{tmp_path}/0.tar", "a.png", *place)
    with pytest.raises(ObjectUnreadable, match="has no place in its tar"):
        read_input(image)


def listed(uri: str, base: Path, run_folder: str) -> tuple[list[str], str]:
    passed_over = PassedOver()
    source, run = Source(uri=(uri,)), resolve_uri(run_folder, str(base))
    files = list_files("style", source, str(base), run_folder=run, passed_over=passed_over)
    return [file.name for file in files], str(passed_over)


def make_run(folder: Path) -> None:
    for name in ("run.json", "plan/plan.parquet", "contact_sheet.jpg", "data/0.png"):
        write(folder / name)


def test_run_folders_are_never_inputs(tmp_path):
    write(tmp_path / "p" / "a.png")
    make_run(tmp_path / "p" / "out")
    make_run(tmp_path / "p" / "earlier" / "run")
    write(tmp_path / "p" / "out" / "other.png")
    (tmp_path / "p" / "link").symlink_to("out")
    names, told = listed("p", tmp_path, "p/out")
    assert names == ["a.png"]
    assert "14 written by runs" in told
    assert listed("**/*.png", tmp_path, "p/out")[0] == ["p/a.png"]
    (tmp_path / "p" / "b.jpg").symlink_to("out/contact_sheet.jpg")
    assert listed("p", tmp_path, "p/out")[0] == ["a.png"]
    assert listed("p", tmp_path, "p/out") == listed("p", tmp_path, str(tmp_path / "p/link"))


def test_sources_may_lie_in_the_run_folder_but_not_where_a_run_writes(tmp_path):
    make_run(tmp_path)
    write(tmp_path / "photos" / "a.png")
    assert listed("photos", tmp_path, ".")[0] == ["a.png"]
    assert listed(".", tmp_path, ".")[0] == ["photos/a.png"]
    for uri in ("data", "data/*.png"):
        with pytest.raises(JobError, match="nothing but what runs have written: keep sources"):
            listed(uri, tmp_path, ".")
    with pytest.raises(JobError, match=r"data/0.png' lies in the run folder of this job"):
        listed("data/0.png", tmp_path, ".")


def test_a_run_folder_as_a_source_is_refused_with_where_its_shards_are(tmp_path):
    make_run(tmp_path / "first")
    with pytest.raises(JobError, match=r"first is a run folder: name its shards, .*/data/\*.tar"):
        listed("first", tmp_path, "second")


@pytest.mark.s3
def test_s3_prefixes_are_listed_as_folders_are(s3_bucket, tmp_path):
    base = f"s3://{s3_bucket}/in"
    store = open_store(base)
    path = write_tar(tmp_path / "0.tar", {"a.png": b"one"})
    for name in ("p/a.png", "p/d/b.png", "p/{x}/c.png", "p/out/run.png", "p.png/e.png"):
        store.put(name, name.encode())
    store.put("s/0.tar", path)
    assert keys("p/*.png", base) == ["a"]
    assert keys("p/**/b.png", base) == ["d/b"]
    assert keys("./q/../p/d/", base) == ["b"]
    assert keys("p/{x}", base) == ["c"]
    assert keys("p.png", base) == ["e"]
    assert keys("s", base) == keys("s/*.tar", base) == ["a"]
    source = Source(uri=("p",))
    found = list_files("style", source, base, run_folder=f"{base}/p/out")
    assert [file.name for file in found] == ["a.png", "d/b.png", "{x}/c.png"]
    with pytest.raises(JobError, match="there is no folder 's3://"):
        keys("nowhere", base)
    assert images("nowhere.png", base)[0].problem


@pytest.mark.s3
def test_odd_keys_of_someone_else_are_listed_and_read(s3_bucket, tmp_path):
    client = boto3.client("s3")
    odd = ["a//b.png", "é ü.png", "100%25+&.png", "line\nend.png", "esc\x1b[31m.png", "t//0.tar"]
    tar = write_tar(tmp_path / "0.tar", {"m.png": b"member"}).read_bytes()
    for key in odd:
        body = tar if key.endswith(".tar") else key.encode()
        client.put_object(Bucket=s3_bucket, Key=f"odd/{key}", Body=body)
    client.put_object(Bucket=s3_bucket, Key="odd/empty/", Body=b"")
    client.close()
    found = images(f"s3://{s3_bucket}/odd", tmp_path)
    assert {read_input(image).decode() for image in found} == {*odd} - {"t//0.tar"}
    (member,) = images(f"s3://{s3_bucket}/odd/t//0.tar", tmp_path)
    assert read_input(member) == b"member"
