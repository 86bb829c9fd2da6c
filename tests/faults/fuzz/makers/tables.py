"""Tables: cells that say anything, and files that are no sound CSV, JSON Lines or Parquet."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.faults.fuzz import sound, words
from tests.faults.fuzz.cases import Case, run_command
from tests.faults.fuzz.damage import damaged

Row = dict[str, Any]
COLUMNS = ("content", "style", "key", "content_license", "style_attribution", "note", "camera")


def hostile_csv_cell(draw: random.Random, folder: Path) -> Case:
    """A CSV as a careful writer writes it, with one cell of one row hostile."""
    rows, column = _with_a_hostile_row(draw, lambda: _writable(words.text(draw)))
    return _item_case(draw, folder, "t.csv", _csv(rows), f"a cell of {column}", column)


def hostile_json_cell(draw: random.Random, folder: Path) -> Case:
    """JSON Lines with one value of one row hostile, of any type."""
    rows, column = _with_a_hostile_row(draw, lambda: words.value(draw))
    data = "\n".join(map(_json, rows)).encode()
    name = draw.choice(("t.jsonl", "t.ndjson"))
    return _item_case(draw, folder, name, data, f"a value of {column}", column)


def hostile_json_line(draw: random.Random, folder: Path) -> Case:
    """One line of three that is no row, or is a row in a form that some parsers refuse."""
    good = [_json(row) for row in _rows("ab")]
    whole = good[0][:-1]
    odd = draw.choice(
        (
            *(
                "[]",
                "1",
                '"x"',
                "null",
                "{",
                "{}",
                "nonsense",
                "NaN",
                '{"a":NaN}',
                '{"a":-Infinity}',
            ),
            *(
                "[" * 5000,
                '{"a":' * 5000,
                "[" * 100_000 + "]" * 100_000,
                whole + ',"n":' + "1" * 5000 + "}",
            ),
            *(
                whole + ',"n":1e999}',
                whole + ',"n":"\\ud800"}',
                whole + ',"\\udfff":1}',
                whole + "}\x00",
            ),
            *(whole + ',"content":"a"}', whole + ',"n":"\u2028\u2029\x85"}', whole + ',"n":"\t"}'),
            *(whole + ',"n":' + "[" * 900 + "]" * 900 + "}", whole + ',"":1}', "\ufeff" + good[0]),
            *(
                whole + f',"n":"{"x" * 10**6}"}}',
                whole + ',"n":' + "{}" + "}",
                "\x1e" + good[0],
                "\x0c",
            ),
            *(whole + ',"n":' + '{"a":' * 500 + "1" + "}" * 501, '{"content":["content/a.png"]}'),
        )
    )
    ends = draw.choice(("\n", "\n", "\r\n", "\r"))
    lines = [good[0], odd, good[1]] if draw.random() < 0.7 else [good[0], good[1], odd]
    data = ends.join(lines).encode("utf-8", "surrogatepass")
    return _job_case(draw, folder, "t.jsonl", data, "an odd line of JSON")


def odd_csv(draw: random.Random, folder: Path) -> Case:
    """CSV with odd quotes, line ends, columns, encodings and lengths."""
    head, rows = "content,style,note", [f"content/{one}.png,style.png,n" for one in "ab"]
    plain = "\n".join([head, *rows, ""])
    text = draw.choice(
        (
            *(plain.replace("\n", "\r"), plain.replace("\n", "\r\n"), plain.replace("\n", "\n\n")),
            *(plain.replace(",n", ',"n'), plain + '"', plain.replace("style.png", '"style".png')),
            *(
                plain.replace("note", "style"),
                plain.replace("note", "content"),
                plain.replace("note", ""),
            ),
            *(plain.replace(",", ";"), plain.replace(",", "\t"), plain.replace("note", '"no\nte"')),
            *(
                plain + ",,,,\n,,\n",
                plain + "\n\n  \n",
                plain + "content/a.png\n",
                plain + "a,b,c,d,e\n",
            ),
            *(
                plain.replace("n\n", "x" * 200_000 + "\n"),
                plain.replace("n\n", "\0\n"),
                head,
                "",
                "\n",
                ",",
            ),
            *(
                head + "," + ",".join(f"c{n}" for n in range(5000)) + "\n" + rows[0] + "\n",
                "\0" * 100,
            ),
            *(
                head.replace("note", "x" * 100_000) + "\n" + rows[0],
                "sep=,\n" + plain,
                "#c\n" + plain,
            ),
            *(
                plain.replace("content,", " content ,"),
                plain.upper(),
                plain.replace("content/a", "'content/a'"),
            ),
            *(
                plain.replace("n\n", '"a""b"\n'),
                plain.replace("n\n", '"a\nb"\n'),
                plain.replace("n\n", "\x1b[2J\n"),
            ),
            *(head + "\n" + "\n".join(rows * 500), plain.replace("n\n", '"' + "q" * 10**6 + "\n")),
        )
    )
    encoding = draw.choice(("utf-8",) * 6 + ("utf-8-sig", "utf-16", "utf-32", "latin-1", "cp037"))
    data = text.encode(encoding, "replace")
    data = damaged(draw, data) if draw.random() < 0.15 else data
    return _job_case(
        draw, folder, draw.choice(("t.csv", "t.csv", "t.CSV", "t.tsv")), data, "an odd CSV"
    )


def parquet_columns(draw: random.Random, folder: Path) -> Case:
    """Parquet with columns of types that JSON has no words for."""
    table = pa.table({"content": ["content/a.png", "content/b.png"], "style": ["style.png"] * 2})
    for number in range(draw.choice((1, 2, 5))):
        table = table.append_column(f"c{number}", _arrow_column(draw))
    file = io.BytesIO()
    pq.write_table(
        table,
        file,
        coerce_timestamps=draw.choice((None, None, "us", "ms")),
        allow_truncated_timestamps=True,
    )
    return _item_case(
        draw, folder, "t.parquet", file.getvalue(), "columns of any type", "note", sound_rows=2
    )


def hostile_parquet(draw: random.Random, folder: Path) -> Case:
    """Parquet that is damaged, lies about itself, unpacks to gigabytes, or has other columns."""
    kind = draw.choice(("damaged", "damaged", "bomb", "columns", "magic", "empty", "twice"))
    rows = {"content": ["content/a.png", "content/b.png"], "style": ["style.png"] * 2}
    options: dict[str, Any] = {}
    if kind == "bomb":
        count, length = draw.choice(((2000, 10**6), (3_000_000, 1), (10_000, 10**5)))
        long = pa.DictionaryArray.from_arrays(pa.array([0] * count), ["content/a.png" * length])
        table = pa.table({"content": long, "style": long})
    elif kind == "columns":
        column = _arrow_column(draw)
        table = pa.table(
            {"content": column, "style": draw.choice((column, pa.array(rows["style"])))}
        )
    elif kind == "empty":
        table = pa.table({"content": pa.array([], pa.string()), "style": pa.array([], pa.string())})
    elif kind == "twice":
        arrays = [pa.array(rows["content"]), pa.array(rows["style"]), pa.array(rows["style"])]
        table = pa.Table.from_arrays(arrays, names=["content", "style", "style"])
    else:
        table = pa.table(rows)
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    data = file.getvalue()
    if kind == "damaged":
        data = damaged(draw, data)
    elif kind == "magic":
        data = draw.choice(
            (b"PAR1", b"PAR1PAR1", b"PARE" + data[4:-4] + b"PARE", b"PAR1\xff\xff\xff\xffPAR1")
        )
    return _job_case(draw, folder, "t.parquet", data, f"Parquet: {kind}")


def large_tables(draw: random.Random, folder: Path) -> Case:
    """Tables of very many rows of pictures that are not there, or of very long ones."""
    count = draw.choice((1000, 20_000))
    kind = draw.choice(("csv", "jsonl"))
    if kind == "csv":
        lines = [
            "content,style",
            *[f"gone/{n}.png,style.png" for n in range(count)],
            "content/a.png,style.png",
        ]
    else:
        lines = [_json({"content": f"gone/{n}.png", "style": "style.png"}) for n in range(count)]
    return _job_case(draw, folder, f"t.{kind}", "\n".join(lines).encode(), f"{count} rows")


MAKERS = (
    hostile_csv_cell,
    hostile_csv_cell,
    hostile_json_cell,
    hostile_json_cell,
    hostile_json_line,
    odd_csv,
    odd_csv,
    parquet_columns,
    hostile_parquet,
    hostile_parquet,
    large_tables,
)


def _rows(names: str) -> list[Row]:
    return [
        {"content": f"content/{one}.png", "style": "style.png", "key": one, "note": one}
        for one in names
    ]


def _with_a_hostile_row(draw: random.Random, hostile: Any) -> tuple[list[Row], str]:
    rows = _rows("abc")
    column = draw.choice(COLUMNS)
    for row in rows:
        row.setdefault(column, "x")
    row = draw.choice(rows)
    row[column] = hostile()
    if draw.random() < 0.15:
        row[_writable(words.text(draw)) or "x"] = hostile()
        column += " and a new column"
    return rows, column


def _writable(text: str) -> str:
    """The text without what no CSV can hold."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _item_case(
    draw: random.Random,
    folder: Path,
    name: str,
    data: bytes,
    told: str,
    column: str,
    sound_rows: int = 2,
) -> Case:
    """A table whose other rows must be planned; a repeated key or column may cost the table."""
    may_cost_all = column.startswith("key") or "new column" in column
    return _case(draw, folder, name, data, told, 0 if may_cost_all else sound_rows)


def _job_case(draw: random.Random, folder: Path, name: str, data: bytes, told: str) -> Case:
    return _case(draw, folder, name, data, told, 0)


def _case(
    draw: random.Random, folder: Path, name: str, data: bytes, told: str, sound_items: int
) -> Case:
    sound.write_style_transfer(folder, "abc", inputs={"table": name})
    (folder / name).write_bytes(data)
    return Case(told=f"{told} in {name}", sound=sound_items, **run_command(draw))


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    names = list(dict.fromkeys(name for row in rows for name in row))
    file = io.StringIO()
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode("utf-8", "surrogatepass")


def _json(row: Mapping[str, Any]) -> str:
    return json.dumps(row)


def _arrow_column(draw: random.Random) -> Any:
    """Two values of some type of Arrow's."""
    now = datetime.datetime(2020, 2, 29, tzinfo=datetime.UTC)
    nested: Any = pa.array([[["x"]], None], pa.list_(pa.list_(pa.string())))
    return draw.choice(
        (
            lambda: pa.array([decimal.Decimal("1.5"), None], pa.decimal128(38, 10)),
            lambda: pa.array([now, None], pa.timestamp("ns", "Europe/Berlin")),
            lambda: pa.array([2**60, -(2**60)], pa.timestamp("us")),
            lambda: pa.array([2**31 - 1, -(2**31)], pa.date32()),
            lambda: pa.array([2**62, -(2**62)], pa.int64()).cast(pa.duration("us")),
            lambda: pa.array([86_399_999_999_999, 1], pa.time64("ns")),
            lambda: pa.array([b"\xff\0", b""], pa.binary()),
            lambda: pa.array([b"\xff\0" * 8, b"x" * 16], pa.binary(16)),
            lambda: pa.array([2**64 - 1, 0], pa.uint64()),
            lambda: pa.array([float("nan"), float("-inf")], pa.float32()),
            lambda: pa.array([None, None], pa.null()),
            lambda: pa.array(["x", "x"]).dictionary_encode(),
            lambda: pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
            lambda: pa.array([{"a": {"b": b"\xff"}}, None]),
            lambda: nested,
            lambda: pa.array(["\x1b[31m\u202e", "\0"], pa.large_string()),
            lambda: pa.array([True, None]),
            lambda: pa.array([["style.png"], ["style.png", None]], pa.list_(pa.string())),
        )
    )()
