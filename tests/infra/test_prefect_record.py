"""Each run has a record of its own, old ones go, and none that is in use."""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack
from pathlib import Path

import pytest

from infra import prefect_record
from infra.prefect_record import new_record


def test_of_old_records_the_newest_stay_and_those_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(prefect_record, "NUM_KEPT", 2)
    for number in range(5):
        (tmp_path / f"2026010{number}-000000-1.db").touch()
        (tmp_path / f"2026010{number}-000000-1.db-wal").touch()
    with ExitStack() as in_use, new_record(tmp_path) as first:
        assert sorted(path.name[:8] for path in tmp_path.glob("2026010*")) == [
            *["20260103"] * 2,
            *["20260104"] * 2,
        ]
        first.path.rename(old := tmp_path / "20250101-000000-1.db")
        in_use.enter_context(new_record(tmp_path))
        assert old.exists(), "its server still writes it"
    with new_record(tmp_path):
        assert not old.exists()


def test_an_empty_record_that_does_not_serve_is_made_again(tmp_path: Path):
    with new_record(tmp_path) as record:
        (settings,) = record.begin().items()
        assert settings[1].endswith(str(record.path))
        record.empty.write_bytes(b"no database" * 1000)
        assert len(record.begin()) == 1, "the server makes the tables itself"
        assert record.path.read_bytes() == b""
        assert not record.empty.exists()


def test_a_record_that_was_deleted_in_the_middle_becomes_no_empty_one(tmp_path: Path):
    """Else no later run could be shown."""
    with new_record(tmp_path) as record:
        record.path.unlink()
        record.keep_empty()
        assert not record.path.exists()
        assert not record.empty.exists()


def test_an_empty_record_without_tables_is_made_again(tmp_path: Path):
    with new_record(tmp_path) as record:
        sqlite3.connect(record.empty).execute("pragma journal_mode=wal").connection.close()
        record.empty.touch()
        assert "PREFECT_SERVER_DATABASE_MIGRATE_ON_START" not in record.begin()
        assert not record.empty.exists()
