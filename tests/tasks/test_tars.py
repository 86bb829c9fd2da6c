"""Our reader finds the members that tarfile finds in sound tars, and refuses the others."""

from __future__ import annotations

import gzip
import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import JobError
from manifests.items import ErrorClass
from tasks.inputs.passed_over import PassedOver
from tasks.inputs.sources import read_input
from tasks.inputs.tar_headers import Kind, TarDamaged, another_follows, read_members
from tasks.inputs.tars import tar_members

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
END = bytes(1024)

letters = st.characters(exclude_categories=["Cs"], exclude_characters="\0/")
parts = st.text(letters, min_size=1, max_size=40).filter(lambda part: part not in (".", ".."))
names = st.lists(parts, min_size=1, max_size=6).map("/".join)
long_names = st.integers(90, 300).map(lambda length: "a/b-" * (length // 4) + "x")
members = st.lists(
    st.tuples(st.one_of(names, long_names), st.binary(max_size=1200)), max_size=5
).map(dict)


def pack(contents: dict[str, bytes], kind: str = "ustar", **records: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=FORMATS[kind]) as tar:
        for name, data in contents.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            header.pax_headers = records
            tar.addfile(header, io.BytesIO(data))
    return file.getvalue()


def found_in(data: bytes) -> list[tuple[str, str, int, int]]:
    """What our reader says of a tar."""
    found = read_members(io.BytesIO(data), len(data))
    return [(member.name, member.kind.value, member.offset, member.size) for member in found]


def found_by_tarfile(data: bytes) -> list[tuple[str, str, int, int]]:
    kinds = {
        tarfile.REGTYPE: Kind.FILE,
        tarfile.AREGTYPE: Kind.FILE,
        tarfile.LNKTYPE: Kind.HARD_LINK,
        tarfile.SYMTYPE: Kind.SYMBOLIC_LINK,
        tarfile.DIRTYPE: Kind.FOLDER,
    }
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        return [
            (member.name, kinds.get(member.type, Kind.OTHER), member.offset_data, member.size)
            for member in tar
        ]


def header(name: str = "a.png", **fields: bytes) -> bytes:
    """A ustar header with raw bytes in its fields and a checksum that is right."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    places = {"size": slice(124, 136), "type": slice(156, 157), "extended": slice(482, 483)}
    for field, value in fields.items():
        block[places[field]] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def base_256(number: int) -> bytes:
    return (number & ((1 << 96) - 1) | 1 << 95).to_bytes(12, "big")


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def images(path: str, passed_over: PassedOver | None = None):
    return tar_members("content", path, Path(path).stat().st_size, passed_over)


# ------------------------------------------------------------------------------ sound tars


@settings(max_examples=60, deadline=None)
@given(contents=members, kind=st.sampled_from(sorted(FORMATS)))
def test_a_sound_tar_has_the_members_that_tarfile_sees(contents, kind):
    try:
        data = pack(contents, kind)
    except ValueError:  # a name that ustar cannot hold
        return
    found = found_in(data)
    assert found == found_by_tarfile(data)
    assert [(name, data[at : at + size]) for name, _, at, size in found] == list(contents.items())


@pytest.mark.parametrize("kind", FORMATS)
def test_everything_that_is_no_file_is_seen_as_tarfile_sees_it(tmp_path, kind):
    for name in ("d", "d/e"):
        (tmp_path / "in" / name).mkdir(parents=True)
    (tmp_path / "in" / "d" / "a.png").write_bytes(b"12345")
    (tmp_path / "in" / "hard.png").hardlink_to(tmp_path / "in" / "d" / "a.png")
    (tmp_path / "in" / "soft.png").symlink_to("d/a.png")
    (tmp_path / "in" / ("long" * 30)).mkdir()
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=FORMATS[kind]) as tar:
        tar.add(tmp_path / "in", "./")
        device = tarfile.TarInfo("null")
        device.type, device.devmajor, device.devminor = tarfile.CHRTYPE, 1, 3
        tar.addfile(device)
    assert found_in(file.getvalue()) == found_by_tarfile(file.getvalue())


@pytest.mark.skipif(not shutil.which("tar"), reason="there is no tar here")
@pytest.mark.parametrize("kind", ["v7", "ustar", "gnu", "oldgnu", "pax"])
def test_tars_of_the_program_tar_are_read_in_each_of_its_formats(tmp_path, kind):
    (tmp_path / "d").mkdir()
    for name in ("d/a.png", "d/b.jpg", "c.txt"):
        (tmp_path / name).write_bytes(name.encode() * 300)
    command = ["tar", f"--format={kind}", "-cf", "s.tar", "./d", "c.txt"]
    if subprocess.run(command, cwd=tmp_path, check=False, capture_output=True).returncode:
        pytest.skip("another tar, without this format")
    data = (tmp_path / "s.tar").read_bytes()
    assert found_in(data) == found_by_tarfile(data)
    found = images(str(tmp_path / "s.tar"))
    assert {image.key: read_input(image) for image in found} == {
        "d/a": b"d/a.png" * 300,
        "d/b": b"d/b.jpg" * 300,
    }


def test_what_follows_the_end_does_not_matter_and_another_tar_there_is_told(tmp_path):
    sound = pack({"a.png": b"1"})
    passed_over = PassedOver()
    assert [
        image.key for image in images(write(tmp_path / "0.tar", sound + b"rubbish"), passed_over)
    ] == ["a"]
    assert not passed_over
    both = write(tmp_path / "1.tar", sound + pack({"b.png": b"2"}))
    assert [image.key for image in images(both, passed_over)] == ["a"]
    assert "another tar follows the end of" in str(passed_over)
    assert not another_follows(io.BytesIO(bytes(1 << 21)))


# ------------------------------------------------------------------------------ hostile tars

HOSTILE = {
    "a negative size": header(size=base_256(-512)) + END,
    "a size of 2^70": header(size=base_256(1 << 70)) + END,
    "a size beyond the end": header(size=b"77777777777\0") + END,
    "a size that is no number": header(size=b"12x45678901\0") + END,
    "a size with a sign": header(size=b"-0000000001\0") + END,
    "a wrong checksum": bytes([header()[0] ^ 1]) + header()[1:] + END,
    "a long name of 2^62": header(size=base_256(1 << 62), type=b"L") + END,
    "a long link of gigabytes": header(size=base_256(1 << 33), type=b"K") + END,
    "a long name and no member": header(size=b"00000000005\0", type=b"L") + bytes(512) + END,
    "records of 2^62": header(size=base_256(1 << 62), type=b"x") + END,
    "global records of 2^62": header(size=base_256(1 << 62), type=b"g") + END,
    "a sparse map without end": header(type=b"S", extended=b"\1") + bytes(504) + b"\1",
    "no end": header(),
    "one zero block": header() + bytes(512),
    "an end and a half": header() + bytes(512) + b"x" * 512,
    "nothing": b"",
    "letters": b"<html>404</html>" * 100,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_damaged_tar_is_refused_in_one_sentence(tmp_path, data):
    path = write(tmp_path / "0.tar", data)
    with pytest.raises(JobError, match=r"0.tar is damaged or cut off after .*: restore the shard"):
        images(path)


def with_records(*records: bytes) -> bytes:
    """A tar whose only member has these pax records."""
    data = b"".join(records)
    padded = data + bytes(-len(data) % 512)
    size = b"%011o\0" % len(data)
    return header(size=size, type=b"x") + padded + header(size=b"00000000001\0") + b"1" * 512 + END


@pytest.mark.parametrize(
    "record",
    [
        b"99 path=b.png\n",
        b"0 path=b.png\n",
        b"-1 path=b.png\n",
        b"path=b.png\n",
        b"9999999999999999999999999999 path=b.png\n",
        b"13 path=b.pngx",
        b"13 path-b.png\n",
        b"11 size=-1\n",
        b"13 size=1e99\n",
        b"18 size=123456789\n",
        b"9" * 20_000,
    ],
)
def test_a_pax_record_that_lies_is_refused(tmp_path, record):
    path = write(tmp_path / "0.tar", with_records(record))
    with pytest.raises(JobError, match="is damaged or cut off after"):
        images(path)


def test_pax_records_give_a_members_name_and_size(tmp_path):
    data = with_records(b"14 path=b.png\n", b"10 size=7\n", b"8 x.y=\xff\n")
    (found,) = images(write(tmp_path / "0.tar", data))
    assert (found.key, read_input(found)) == ("b", b"1111111")


def test_a_million_records_cost_no_more_than_their_bytes(tmp_path):
    data = with_records(*(b"13 k%05d=v0\n" % (number % 100_000) for number in range(100_000)))
    assert [image.key for image in images(write(tmp_path / "0.tar", data))] == ["a"]


def test_a_name_for_all_members_is_refused_and_a_comment_for_all_is_not(tmp_path):
    for record, is_sound in ((b"20 comment=of git..\n", True), (b"14 path=b.png\n", False)):
        size = b"%011o\0" % len(record)
        data = header(size=size, type=b"g") + record + bytes(512 - len(record)) + header() + END
        path = write(tmp_path / "0.tar", data)
        if is_sound:
            assert [image.key for image in images(path)] == ["a"]
        else:
            with pytest.raises(JobError, match="one name or size"):
                images(path)


def test_more_members_than_are_read_are_refused(monkeypatch):
    monkeypatch.setattr("tasks.inputs.tar_headers.MAX_MEMBERS", 10)
    with pytest.raises(TarDamaged, match="more than 10 members"):
        found_in(header() * 10 + END)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_tar_with_changed_bytes_gives_members_within_it_or_a_sentence(data):
    sound = pack({"a.png": b"1" * 700, "d/" + "b" * 120 + ".jpg": b"2"}, "gnu", comment="x")
    changed = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 6))):
        changed[data.draw(st.integers(0, 3500))] = data.draw(st.integers(0, 255))
    try:
        found = found_in(bytes(changed))
    except TarDamaged:
        return
    assert all(0 <= at <= at + size <= len(sound) for _, _, at, size in found)


# ------------------------------------------------------------------------------ compressed


@pytest.mark.parametrize("name", ["0.tar", "0.tar.gz", "0.tgz"])
def test_a_compressed_tar_is_refused_by_what_it_is_whatever_it_is_called(tmp_path, name):
    path = write(tmp_path / name, gzip.compress(pack({"a.png": b"1"})))
    with pytest.raises(JobError, match=r"is compressed with gzip.* unpack it with 'gunzip'"):
        images(path)


# ------------------------------------------------------------------------------ names and links


def test_a_name_that_is_not_utf_8_is_shown_with_escapes_and_its_bytes_are_read(tmp_path):
    raw = pack({"caf\udce9.png": b"1", "b.png": b"2"}, "gnu")
    found = images(write(tmp_path / "0.tar", raw))
    assert [(image.key, read_input(image)) for image in found] == [("caf\\xe9", b"1"), ("b", b"2")]
    assert all(image.key.encode() for image in found)


def pack_links(**links: tuple[bytes, str]) -> bytes:
    file = io.BytesIO(pack({"d/a.png": b"12345", "x.txt": b"no image"}))
    with tarfile.open(fileobj=file, mode="a") as tar:
        for name, (kind, target) in links.items():
            link = tarfile.TarInfo(name.replace("_", "/") + ".png")
            link.type, link.linkname = kind, target
            tar.addfile(link)
    return file.getvalue()


def test_links_to_other_members_have_their_bytes_and_others_are_missing(tmp_path):
    hard, soft = tarfile.LNKTYPE, tarfile.SYMTYPE
    data = pack_links(
        b=(hard, "d/a.png"),
        d_c=(soft, "a.png"),
        d_e=(soft, "../d/./c.png"),
        f=(soft, "x.txt"),
        gone=(soft, "/mnt/annex/gone.png"),
        out=(soft, "../../a.png"),
        loop=(soft, "loop.png"),
    )
    found = {image.key: image for image in images(write(tmp_path / "0.tar", data))}
    sound = {key: read_input(image) for key, image in found.items() if image.problem is None}
    whole = {key: b"12345" for key in ("d/a", "b", "d/c", "d/e")}
    assert sound == whole | {"f": b"no image"}
    for key in ("gone", "out", "loop"):
        problem = found[key].problem
        assert problem
        assert problem.error_class == ErrorClass.INPUT_MISSING
        assert "which is no file of this tar" in problem.message


@pytest.mark.skipif(not shutil.which("tar"), reason="there is no tar here")
@pytest.mark.parametrize("version", ["old", "0.0", "0.1", "1.0"])
def test_a_sparse_member_is_a_problem_of_its_own(tmp_path, version):
    with (tmp_path / "a.png").open("wb") as file:
        for _ in range(40):  # so many pieces that the map needs further blocks
            file.seek(1 << 16, io.SEEK_CUR)
            file.write(b"1" * 4096)
    (tmp_path / "b.png").write_bytes(b"2")
    kind = ["--format=gnu"] if version == "old" else ["--format=pax", f"--sparse-version={version}"]
    command = ["tar", *kind, "--sparse", "-cf", "s.tar", "a.png", "b.png"]
    if subprocess.run(command, cwd=tmp_path, check=False, capture_output=True).returncode:
        pytest.skip("another tar, without sparse files")
    sparse, sound = images(str(tmp_path / "s.tar"))
    assert (sound.key, read_input(sound)) == ("b", b"2")
    if sparse.num_bytes is None:  # the file system keeps holes
        assert sparse.problem
        assert sparse.problem.message.endswith(
            "s.tar#a.png is stored as a sparse file: pack the tar without --sparse"
        )


def test_what_a_tar_holds_besides_pictures_is_counted(tmp_path):
    passed_over = PassedOver()
    contents = ["a.jpg", "a.json", "a.pgm", "b.pgm", "._a.jpg", "__MACOSX/a.jpg", "c", "d.json"]
    data = pack(dict.fromkeys(contents, b""))
    assert [image.member for image in images(write(tmp_path / "0.tar", data), passed_over)] == [
        "a.jpg",
        "b.pgm",
    ]
    assert str(passed_over) == (
        "6 files were passed over: 2 .json, 2 hidden, 1 .pgm, 1 without suffix (a.json, a.pgm, "
        "._a.jpg, __MACOSX/a.jpg, c, …)"
    )
