"""Which inputs, prompts and columns a table's rows name; what is wrong with one is its own."""

from __future__ import annotations

import datetime
import decimal
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.store import open_store
from manifests.errors import JobError
from manifests.items import ErrorClass
from manifests.limits import MAX_ROW_BYTES
from tasks.inputs.prompts import read_prompts
from tasks.inputs.tables import TableRow, read_table
from tests.audit import audit
from tests.tasks.runs import finish, prepare


def write(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


ROWS = [
    {"content": "c/a.png", "style": "s/x.png", "note": 'é, "ü"', "style_license": "CC0"},
    {"content": "../b.png", "style": "s3://b/y.png", "note": "", "style_license": ""},
]


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        lines = [",".join(rows[0])]
        for row in rows:
            quoted = (f'"{value}"'.replace('"é, "ü""', '"é, ""ü"""') for value in row.values())
            lines.append(",".join(quoted))
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        text = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        path.write_text(text, encoding="utf-8")
    return path


ROLES = ("content", "style")
every_format = pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".ndjson", ".parquet"])


def rows_of(path: Path, base: Path | None = None):
    return read_table(path.name if base is None else str(path), ROLES, str(base or path.parent))


@every_format
def test_a_table_names_inputs_by_column_relative_to_itself(tmp_path, suffix):
    path = write_table(tmp_path / "tables" / f"t{suffix}", ROWS)
    first, second = rows_of(path, tmp_path)
    assert [one.uri for one in first.inputs] == [
        f"{tmp_path}/tables/c/a.png",
        f"{tmp_path}/tables/s/x.png",
    ]
    assert [one.uri for one in second.inputs] == [f"{tmp_path}/b.png", "s3://b/y.png"]
    assert [one.role for one in first.inputs] == ["content", "style"]


@every_format
def test_a_tables_other_columns_pass_through_and_ours_do_not(tmp_path, suffix):
    first, second = rows_of(write_table(tmp_path / f"t{suffix}", ROWS))
    assert json.loads(first.user) == {"note": 'é, "ü"'}
    assert json.loads(second.user) == {"note": ""}
    assert [one.license for one in first.inputs] == [None, "CC0"]
    assert [one.license for one in second.inputs] == [None, None]


@every_format
@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_cell_is_a_problem_of_its_row_alone(tmp_path, suffix, value):
    rows = [{"content": "a.png", "style": "x.png"}, {"content": "b.png", "style": value}]
    first, second = rows_of(write_table(tmp_path / f"t{suffix}", rows))
    assert not any(one.problem for one in first.inputs)
    problem = second.inputs[1].problem
    assert problem
    assert problem.error_class == ErrorClass.INPUT_MISSING
    assert problem.message == "row 2 of the table names no style"


@every_format
def test_a_missing_column_is_refused_with_the_nearest_one(tmp_path, suffix):
    path = write_table(tmp_path / f"t{suffix}", [{"content": "a.png", "styl": "x.png"}])
    with pytest.raises(JobError, match="no column 'style', which the task needs; did you mean"):
        rows_of(path)


def test_typed_columns_come_through_as_json(tmp_path):
    row = {"content": "a.png", "style": "x.png", "n": 3, "f": 0.5, "ok": True, "l": [1, 2]}
    strange = {"nan": float("nan"), "none": None, "d": {"x": 1}}
    (jsonl,) = rows_of(write_table(tmp_path / "t.jsonl", [row | strange]))
    (parquet,) = rows_of(write_table(tmp_path / "t.parquet", [row | strange]))
    expected = {
        "n": 3,
        "f": 0.5,
        "ok": True,
        "l": [1, 2],
        "nan": "NaN",
        "none": None,
        "d": {"x": 1},
    }
    assert json.loads(jsonl.user) == json.loads(parquet.user) == expected


def test_a_list_of_styles_is_several_styles_of_one_item(tmp_path):
    row = {"content": "a.png", "style": ["x.png", "y.png"]}
    for name in ("t.jsonl", "t.parquet"):
        (found,) = rows_of(write_table(tmp_path / name, [row]))
        assert [one.key for one in found.inputs] == ["a", "x", "y"]


def test_a_rows_own_key_is_kept(tmp_path):
    path = write_table(tmp_path / "t.jsonl", [{"content": "a.png", "style": "x.png", "key": 7}])
    assert rows_of(path)[0].key == "7"
    assert json.loads(rows_of(path)[0].user) == {}


def test_a_csv_from_a_spreadsheet_may_begin_with_a_byte_order_mark(tmp_path):
    write(tmp_path / "t.csv", "content,style\r\na.png,x.png\r\n".encode("utf-8-sig"))
    assert [one.key for one in rows_of(tmp_path / "t.csv")[0].inputs] == ["a", "x"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.jsonl", b"{bad\n", r"t.jsonl': no row can be read, such as row 1: it is no JSON"),
        ("t.jsonl", b'\n\n["a"]\n', r"row 1: it is no JSON object \(line 3\): a row is an object"),
        ("t.jsonl", b"", r"t.jsonl' has no rows"),
        (
            "t.jsonl",
            b'{"a": "\xe9"}',
            r"t.jsonl', line 1: the byte 0xE9 is not UTF-8 .*: save it as",
        ),
        ("t.csv", b"content,style\n", r"t.csv' has no rows"),
        ("t.csv", b"", r"t.csv' has no rows"),
        ("t.csv", "content,style\na,b".encode("utf-16"), r"t.csv' is no UTF-8 text .*UTF-16"),
        ("t.csv", "content,style\na,b".encode("utf-16-le"), r"t.csv' is no UTF-8 text .*UTF-16"),
        ("t.csv", b"content,style\na\xe9,b", r"t.csv', line 2: the byte 0xE9 is not UTF-8"),
        (
            "t.csv",
            b"content;style\na;b\n",
            r"'content;style': separate cells by commas, not by ';'",
        ),
        ("t.csv", b"content\tstyle\na\tb\n", r"separate cells by commas"),
        ("t.csv", b"content,style,style\na,b,c\n", r"the column 'style' stands twice"),
        ("t.csv", b"content,style, Style\na,b,c\n", r"'style' and ' Style' differ in nothing but"),
        ("t.csv", b'content,style\n"a,b\nc,d\n', r"quotes of the row that begins in line 2"),
        ("t.csv", b'content,style\na,"b"x\n', r"quotes of the row that begins in line 2"),
        ("t.csv", b"content,style,,\na,b,c,d\n", r"row 1 has cells in columns without a name"),
        ("t.parquet", b"PAR1 not", r"t.parquet' cannot be read"),
        ("t.parquet", b"", r"t.parquet' cannot be read"),
        ("t.xlsx", b"x", r"t.xlsx' is none of .csv, .jsonl, .ndjson, .parquet"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_in_one_sentence(tmp_path, name, data, message):
    with pytest.raises(JobError, match=message) as raised:
        rows_of(write(tmp_path / name, data))
    assert "\n" not in str(raised.value)


def test_a_table_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(JobError, match=r"inputs.table: '.*/t.csv' is not there: check the path"):
        rows_of(tmp_path / "t.csv")


def test_a_csv_row_with_too_many_cells_is_refused_and_named(tmp_path):
    write(tmp_path / "t.csv", b"content,style\na.png,x.png\nb.png,y.png,more,still\n")
    with pytest.raises(JobError, match=r"line 3: row 2 has 4 cells, and the header 2"):
        rows_of(tmp_path / "t.csv")


def test_rows_with_problems_are_planned_rendered_and_told_like_all_others(pictures):
    lines = [
        '{"content": "content/a.png", "style": "style/x.png", "key": "日本"}',
        '{"content": "content/b.png", "style": "style/x.png", "key": "東京"}',
        '{"content": "https://example.com/a.png", "style": "style/x.png"}',
        '{"style": "style/x.png"}',
        '{"content": 5, "style": "style/x.png"}',
        "{bad",
    ]
    write(pictures / "t.jsonl", "\n".join(lines).encode())
    run = prepare(pictures, inputs={"table": "t.jsonl"})
    index = finish(run)
    assert (index.counts.ok, index.counts.failed, index.complete) == (2, 4, True)
    told = [row["error_message"] for row in audit(run.uri).rows if row["status"] == "failed"]
    assert len(told) == 4
    assert all("of the table" in message for message in told)


# ---------------------------------------------------------------------------- CSV

PAIRS = "content,style,note\na.png,x.png,one\nb.png,y.png,two\n"


def csv_rows(folder: Path, text: str | bytes) -> list[TableRow]:
    data = text if isinstance(text, bytes) else text.encode()
    return rows_of(write(folder / "t.csv", data))


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_lines_of_a_csv_may_end_in_any_way(tmp_path, ending):
    expected = csv_rows(tmp_path, PAIRS)
    assert csv_rows(tmp_path, PAIRS.replace("\n", ending)) == expected
    assert csv_rows(tmp_path, PAIRS.replace("\n", ending, 1)) == expected
    assert csv_rows(tmp_path, PAIRS.rstrip() + ending * 3) == expected


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "note", ["a\u2028b", "a\x0cb\x85c", "a\nb", "a\r\nb", 'say ""so""', 'a 19" rack']
)
def test_a_note_is_kept_to_the_letter(tmp_path, ending, note):
    quoted = note if '" ' in note else f'"{note}"'
    (row, _) = csv_rows(tmp_path, PAIRS.replace("\n", ending).replace("one", quoted))
    assert json.loads(row.user) == {"note": note.replace('""', '"')}


def test_a_cell_may_be_longer_than_pythons_own_limit(tmp_path):
    (row, _) = csv_rows(tmp_path, PAIRS.replace("one", "x" * 300_000))
    assert json.loads(row.user) == {"note": "x" * 300_000}


@pytest.mark.parametrize(
    "text",
    [
        PAIRS.replace("one", '"19 inch'),
        PAIRS.replace("one", '"19 inch').replace("two", '12"'),
        PAIRS.replace("one", '"19 inch').replace("two", '"two"'),
        PAIRS.replace("a.png", '"a.png').replace("two", 'two"'),
        PAIRS.replace("one", '"one" more'),
    ],
)
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_a_stray_quote_swallows_no_row_in_silence(tmp_path, text, ending):
    with pytest.raises(JobError, match="quote"):
        csv_rows(tmp_path, text.replace("\n", ending))


def test_empty_rows_at_the_end_are_left_out_and_others_are_problems(tmp_path):
    rows = csv_rows(tmp_path, PAIRS + ",,\n \n\n,,\nc.png,z.png,three\n,,\n , ,\n\n")
    assert [row.inputs[0].key for row in rows] == ["a", "b", "row-3", "row-4", "row-5", "c"]
    assert [bool(row.problem or row.inputs[0].problem) for row in rows] == [False] * 2 + [
        True
    ] * 3 + [False]


def test_a_row_with_too_few_cells_is_its_own_problem(tmp_path):
    first, second = csv_rows(tmp_path, PAIRS.replace(",one", ""))
    assert first.problem
    assert first.problem.message == "row 1 of the table: it has 2 cells, and the header 3"
    assert second == csv_rows(tmp_path, PAIRS)[1]


def test_columns_without_a_name_may_be_empty(tmp_path):
    text = "content,style,,\na.png,x.png,,\nb.png,y.png,,,,\n"
    assert [row.user for row in csv_rows(tmp_path, text)] == ["{}", "{}"]
    assert json.loads(csv_rows(tmp_path, ",content,style\n7,a.png,x.png\n")[0].user) == {"": "7"}


# ---------------------------------------------------------------------------- JSON Lines


def json_rows(folder: Path, *lines: str) -> list[TableRow]:
    return rows_of(write(folder / "t.jsonl", "\n".join(lines).encode("utf-8", "surrogatepass")))


GOOD = '{"content": "a.png", "style": "x.png"}'


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_lines_of_json_end_at_a_line_feed_alone(tmp_path, separator):
    line = GOOD.replace("}", f', "n": "a{separator}b"}}')
    if separator in "\x0b\x0c\x1c":  # JSON writes control characters as escapes
        line = line.replace(separator, f"\\u00{ord(separator):02x}")
    first, second = json_rows(tmp_path, line, GOOD)
    assert json.loads(first.user) == {"n": f"a{separator}b"}
    assert second.inputs[0].key == "a"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{bad", "it is no JSON object: Expecting property name"),
        ("[1, 2]", "it is no JSON object: a row is an object of columns"),
        ("null", "it is no JSON object"),
        ("\ufeff{}", "it is no JSON object"),
        ('{"content": "a.png", "content": "b.png"}', "the key 'content' stands twice"),
        (GOOD.replace("}", ', "n": {"a": 1, "a": 2}}'), "the key 'a' stands twice"),
        (GOOD.replace("}", ', "n": "\\ud83d"}'), "its column 'n' cannot be kept: it holds half a"),
        (GOOD.replace("}", ', "\\udfff": 1}'), "it holds half a surrogate pair"),
        (GOOD.replace("}", ', "n": ' + "[" * 100 + "]" * 100 + "}"), "it nests deeper than 64"),
        (GOOD.replace("}", ', "n": ' + "[" * 9000 + "]" * 9000 + "}"), "it nests too deeply"),
        (GOOD.replace("}", ', "n": ' + "9" * 5000 + "}"), "has more than 300 digits"),
        (GOOD.replace("}", ', "n": 1e999}'), "the number 1e999 is too large"),
        (
            GOOD.replace("}", f', "n": "{"x" * MAX_ROW_BYTES}"}}'),
            "the row holds more than 1 MiB",
        ),
        (GOOD.replace("}", ', "n": "' + "\\u0001" * 300_000 + '"}'), "more than 1 MiB as JSON"),
        (GOOD.replace("}", ', "key": ["a"]}'), "its column 'key' holds a list or an object"),
        (GOOD.replace("}", ', "key": "a\\u0000"}'), "its column 'key' holds the control character"),
        (
            GOOD.replace("}", f', "style_license": "{"x" * 20_000}"}}'),
            "has 20,000 letters, at most",
        ),
    ],
)
def test_what_is_wrong_with_a_line_is_the_problem_of_its_row(tmp_path, line, reason):
    first, broken, last = json_rows(tmp_path, GOOD, line, GOOD)
    assert first == last
    assert first.problem is None
    assert broken.problem
    assert broken.problem.message.startswith("row 2 of the table: ")
    assert reason in broken.problem.message
    assert all(one.problem for one in broken.inputs)
    assert [one.role for one in broken.inputs] == list(ROLES)


def test_a_number_that_fits_is_kept_and_one_that_json_lacks_is_a_word(tmp_path):
    (row,) = json_rows(
        tmp_path, GOOD.replace("}", ', "a": NaN, "b": -Infinity, "c": 12345678901234567890123}')
    )
    assert json.loads(row.user) == {"a": "NaN", "b": "-Infinity", "c": 12345678901234567890123}


# ---------------------------------------------------------------------------- cells


@every_format
@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("https://example.com/a.jpg", "https://example.com/a.jpg"),
        ("gs://bucket/a.jpg", "gs://bucket/a.jpg"),
        ("a\0b.png", r"control character \x00"),
        ("\x1b[2J.png", r"control character \x1b"),
        ("x" * 300 + ".png", "too long for a file system"),
        ("x/" * 3000 + "a.png", "too long for a file system"),
        ("~nosuchuser/a.png", "nosuchuser"),
        ("s3:///a.png", "cannot be used"),
        ("/", "cannot be used"),
    ],
)
def test_a_cell_that_no_picture_can_have_is_a_problem_of_its_row_alone(
    tmp_path, suffix, cell, reason
):
    rows = [{"content": cell, "style": "x.png"}, {"content": "b.png", "style": "x.png"}]
    first, second = rows_of(write_table(tmp_path / f"t{suffix}", rows))
    problem = first.inputs[0].problem
    assert problem
    assert problem.message.startswith("row 1 of the table: content ")
    assert reason in problem.message
    assert len(problem.message) < 1500
    assert not any(one.problem for one in (first.inputs[1], *second.inputs))


@pytest.mark.parametrize("cell", [5, 0.5, True, {"a": 1}, [["a.png"]], [5], math.nan, "NaN"])
def test_a_cell_that_is_no_text_is_a_problem_of_its_row(tmp_path, cell):
    first, second = json_rows(tmp_path, json.dumps({"content": cell, "style": "x.png"}), GOOD)
    if cell != "NaN":
        assert first.inputs[0].problem
        assert first.inputs[0].problem.error_class == ErrorClass.UNSUPPORTED
        assert "row 1 of the table: content is " in first.inputs[0].problem.message
    assert not any(one.problem for one in second.inputs)


def test_a_row_names_so_many_pictures_of_a_role_at_most(tmp_path):
    row = {"content": "a.png", "style": ["x.png"] * 300}
    (found,) = json_rows(tmp_path, json.dumps(row))
    assert found.inputs[1].problem
    assert "names 300 images in style, at most 256" in found.inputs[1].problem.message


# ---------------------------------------------------------------------------- Parquet

ONE_OF_EACH = {
    "decimal": (pa.array([decimal.Decimal("1.10")]), "1.10"),
    "timestamp": (pa.array([1], pa.timestamp("s")), "1970-01-01 00:00:01"),
    "nanoseconds": (pa.array([1], pa.timestamp("ns")), "1970-01-01 00:00:00.000000001"),
    "zone": (
        pa.array([1], pa.timestamp("ms", "Europe/Berlin")),
        "1970-01-01 01:00:00.001000+01:00",
    ),
    "far": (pa.array([2**62], pa.timestamp("ms")), None),
    "date": (pa.array([datetime.date(2024, 2, 29)]), "2024-02-29"),
    "no_date": (pa.array([2**31 - 1], pa.int32()).cast(pa.date32()), None),
    "time": (pa.array([datetime.time(1, 2, 3)]), "01:02:03"),
    "duration": (pa.array([61], pa.duration("s")), "0:01:01"),
    "endless": (pa.array([2**62], pa.duration("s")), None),
    "binary": (pa.array([b"\xff\0"]), "/wA="),
    "fixed": (pa.array([b"ab"], pa.binary(2)), "YWI="),
    "half": (pa.array([0.5], pa.float16()), 0.5),
    "nan": (pa.array([math.nan]), "NaN"),
    "inf": (pa.array([-math.inf], pa.float32()), "-Infinity"),
    "uint64": (pa.array([2**64 - 1], pa.uint64()), 2**64 - 1),
    "map": (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int32())), [["a", 1]]),
    "struct": (pa.array([{"a": {"b": [b"x", None]}}]), {"a": {"b": ["eA==", None]}}),
    "list": (pa.array([["a", "a", None]]), ["a", "a", None]),
    "large": (pa.array([["a"]], pa.large_list(pa.large_string())), ["a"]),
    "fixed_list": (pa.array([[1, 2]], pa.list_(pa.int8(), 2)), [1, 2]),
    "dictionary": (pa.array(["a"]).dictionary_encode(), "a"),
    "null": (pa.array([None]), None),
    "flag": (pa.array([False]), False),
    "json": (pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}'])), '{"a": 1}'),
    "uuid": (
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16], pa.binary(16))),
        "MDAwMDAwMDAwMDAwMDAwMA==",
    ),
}


@pytest.mark.parametrize("kind", ONE_OF_EACH)
def test_a_parquet_column_of_any_type_comes_along(tmp_path, kind):
    array, expected = ONE_OF_EACH[kind]
    table = pa.table({"content": ["a.png"], "style": ["x.png"], "mine": array})
    pq.write_table(table, tmp_path / "t.parquet")
    (row,) = rows_of(tmp_path / "t.parquet")
    assert row.problem is None
    found = json.loads(row.user)["mine"]
    if kind in ("far", "no_date", "endless"):  # Python's own types end before these
        assert isinstance(found, str)
        assert found
    else:
        assert found == expected


def test_a_parquet_column_that_stands_twice_is_refused(tmp_path):
    arrays = [pa.array(["a.png"]), pa.array(["x.png"]), pa.array(["y.png"])]
    pq.write_table(pa.table(arrays, names=["content", "style", "style"]), tmp_path / "t.parquet")
    with pytest.raises(JobError, match="the column 'style' stands twice"):
        rows_of(tmp_path / "t.parquet")


def test_a_text_of_parquet_that_is_no_utf8_is_its_rows_problem(tmp_path):
    texts = pa.StringArray.from_buffers(
        2, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff")
    )
    table = pa.table({"content": ["a.png", "b.png"], "style": ["x.png"] * 2, "n": texts})
    pq.write_table(table, tmp_path / "t.parquet")
    first, second = rows_of(tmp_path / "t.parquet")
    assert first.problem is None
    assert second.problem
    assert "its column 'n' cannot be read" in second.problem.message


def small_table() -> bytes:
    sink = pa.BufferOutputStream()
    row = {
        "content": "a.png",
        "style": "x.png",
        "n": [{"a": 1.5, "b": "text"}],
        "t": datetime.datetime(2024, 1, 1),
    }
    pq.write_table(pa.Table.from_pylist([row] * 5), sink, write_page_checksum=True)
    return sink.getvalue().to_pybytes()


@settings(deadline=None, max_examples=120, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_damaged_parquet_is_refused_in_one_sentence_or_read(tmp_path, data):
    whole = bytearray(small_table())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(len(whole) // 2, len(whole)))
    path = write(tmp_path / "t.parquet", bytes(whole[:cut]))
    try:
        rows_of(path)
    except JobError as error:
        assert "\n" not in str(error)  # noqa: PT017 - it may be read as well


REPEATED = pa.DictionaryArray.from_arrays(
    pa.nulls(10_000, pa.int32()).fill_null(0), ["x" * 100_000]
)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.nulls(2_000_001), "has 2,000,001 rows, at most 2,000,000 are read"),
        (REPEATED, "columns of more than 256 MiB"),
        (pa.array([[0] * 70_000]).take(pa.array([0] * 1000)), "unpacks to more than 256 MiB"),
    ],
    ids=["rows", "texts", "lists"],
)
def test_a_small_file_that_unpacks_to_gigabytes_is_refused(tmp_path, column, message):
    paths = {name: pa.repeat("a.png", len(column)) for name in ROLES}
    pq.write_table(pa.table({**paths, "note": column}), tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").stat().st_size < 4 << 20
    with pytest.raises(JobError, match=message):
        rows_of(tmp_path / "t.parquet")


def test_a_table_without_rows_is_refused_whatever_its_format(tmp_path):
    table = pa.table({"content": pa.array([], pa.string()), "style": pa.array([], pa.string())})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(JobError, match="has no rows"):
        rows_of(tmp_path / "t.parquet")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_file_larger_than_a_table_may_be_is_refused_unread(tmp_path, suffix):
    with (tmp_path / f"t{suffix}").open("wb") as file:
        file.truncate(5 << 30)
    with pytest.raises(JobError, match="256 MiB"):
        rows_of(tmp_path / f"t{suffix}")


# ---------------------------------------------------------------------------- prompts


def test_prompts_are_lines_of_a_text_file(tmp_path):
    write(tmp_path / "p.txt", "a cat\r\n\r\n b\u2028c \ra cat\n".encode("utf-8-sig"))
    assert read_prompts(["p.txt", "last"], str(tmp_path)) == ["a cat", "b\u2028c", "last"]


@pytest.mark.parametrize(
    ("named", "data", "message"),
    [
        ("none.txt", None, "is not there: check the path .what ends in .txt is a file of prompts"),
        (
            "a poster of https://example.org/robots.txt",
            None,
            "what ends in .txt is a file of prompts",
        ),
        ("https://example.org/robots.txt", None, "ends in .txt, so it names a file of prompts: "),
        ("p.txt", b"", "'p.txt' holds no prompt; write one on each line"),
        ("p.txt", b"\xff\xfea\0", "no UTF-8 text"),
        ("p.txt", b"a\n\xe9", "line 2: the byte 0xE9 is not UTF-8"),
        ("p.txt", b"a\nb\0", "line 2: the prompt holds the control character"),
        ("p.txt", b"a\n" + b"x" * 10_001, "line 2: the prompt has 10,001 letters, at most 10,000"),
    ],
)
def test_a_prompt_file_that_cannot_be_used_is_refused_in_one_sentence(
    tmp_path, named, data, message
):
    if data is not None:
        write(tmp_path / named, data)
    with pytest.raises(JobError, match=message) as raised:
        read_prompts([named], str(tmp_path))
    assert "\n" not in str(raised.value)


# ---------------------------------------------------------------------------- S3


@pytest.mark.s3
def test_a_table_on_s3_names_images_beside_itself_and_local_ones_where_the_job_says_so(s3_bucket):
    lines = b'{"content": "a.png", "style": "/x.png"}\n{"content": "b/../c.png", "style": "y.png"}'
    open_store(f"s3://{s3_bucket}/t").put("t.jsonl", lines)
    where: Any = ("t/t.jsonl", ROLES, f"s3://{s3_bucket}")
    first, second = read_table(*where)
    assert [one.uri for one in second.inputs] == [f"s3://{s3_bucket}/t/{n}.png" for n in "cy"]
    assert first.inputs[0].problem is None
    assert first.inputs[1].problem
    assert "local" in first.inputs[1].problem.message
    first, _ = read_table(*where, may_name_local_files=True)
    assert [one.uri for one in first.inputs] == [f"s3://{s3_bucket}/t/a.png", "/x.png"]


@every_format
@pytest.mark.parametrize("column", ["password", "API-Key", "hfToken", "AWS_SECRET_ACCESS_KEY"])
def test_a_column_that_is_named_like_a_secret_is_refused_with_the_way_out(tmp_path, suffix, column):
    path = write_table(tmp_path / f"t{suffix}", [row | {column: "hunter2"} for row in ROWS])
    with pytest.raises(JobError) as refused:
        read_table(str(path), ROLES, str(tmp_path))
    message = str(refused.value)
    assert f"{str(path)!r}: the column {column!r} is named like a password" in message
    assert "drop it, or give it another name" in message
    assert "hunter2" not in message


@every_format
@pytest.mark.parametrize("column", ["style", "style_attribution", "note"])
@pytest.mark.parametrize(
    "uri", ["s3://AKIA:hunt/er2@bucket/x.png", "https://h/x.png?X-Amz-Signature=hunt/er2&a=1"]
)
def test_credentials_in_a_cell_are_refused_and_not_repeated(tmp_path, suffix, column, uri):
    rows = [row | {"style_attribution": ""} for row in ROWS]
    rows[1][column] = uri
    path = write_table(tmp_path / f"t{suffix}", rows)
    with pytest.raises(JobError) as refused:
        read_table(str(path), ROLES, str(tmp_path))
    assert f"row 2: the column {column!r} holds a URI with" in str(refused.value)
    assert "hunt" not in str(refused.value)


INNER_SECRET = {"camera": [{"apiKey": "hunter2"}]}


@pytest.mark.parametrize(
    ("suffix", "cell"),
    [
        (".jsonl", INNER_SECRET),
        (".parquet", INNER_SECRET),
        (".jsonl", json.dumps(INNER_SECRET)),
        (".jsonl", f" [{json.dumps(INNER_SECRET)}]"),
    ],
)
def test_a_secret_inside_a_cell_is_refused(tmp_path, suffix, cell):
    path = write_table(tmp_path / f"t{suffix}", [row | {"meta": cell} for row in ROWS])
    with pytest.raises(JobError, match="the column 'meta' holds 'apiKey', which is named like"):
        read_table(str(path), ROLES, str(tmp_path))


def test_a_secret_in_a_map_of_parquet_is_refused(tmp_path):
    maps = pa.array([[("apiKey", "hunter2")]], pa.map_(pa.string(), pa.string()))
    table = pa.table({"content": ["a.png"], "style": ["b.png"], "meta": maps})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(JobError, match="the column 'meta' holds 'apiKey', which is named like"):
        read_table("t.parquet", ROLES, str(tmp_path))


@pytest.mark.parametrize(
    "cell", ["{a lighthouse, [token: x]", "[" * 100_000, "[1]", '{"token_id": 1}']
)
def test_a_cell_that_only_begins_like_json_is_a_text(tmp_path, cell):
    path = write_table(tmp_path / "t.jsonl", [row | {"meta": cell} for row in ROWS])
    assert read_table(str(path), ROLES, str(tmp_path))
