"""Where does a private Prefect server keep the record of one run?

In a SQLite file of its own. It begins as a copy of an empty one, as making its tables anew takes
seconds at each start; the empty one is made once for each version of Prefect.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

logger = logging.getLogger(__name__)

NUM_KEPT = 20
"""So many records of earlier runs stay; those of runs that go on stay too."""

_CONNECTION = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
_NO_TABLES_ARE_MADE = {
    "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "false",
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
}


@dataclass(frozen=True)
class Record:
    """A record that one server writes.

    Attributes:
        path: the SQLite file.
        empty: what records of this version of Prefect begin as.
    """

    path: Path
    empty: Path

    def begin(self) -> dict[str, str]:
        """Makes the file; gives the settings of a server that writes it."""
        connection = {_CONNECTION: f"sqlite+aiosqlite:///{self.path}"}
        return connection | _NO_TABLES_ARE_MADE if self._begins_as_empty() else connection

    def begin_anew(self) -> dict[str, str]:
        """The same where the empty record does not serve; the server will make its tables."""
        logger.warning("Prefect's empty record %s does not serve, and is made again", self.empty)
        self.empty.unlink(missing_ok=True)
        for path in _files_of(self.path):
            os.truncate(path, 0)
        return self.begin()

    def keep_empty(self) -> None:
        """Keeps a copy for later runs, where there is none; to be called before there is a run."""
        if self.empty.exists():
            return
        part = self.empty.with_suffix(f".{os.getpid()}.part")
        with suppress(sqlite3.Error, OSError):
            _copy(self.path, part)
            part.replace(self.empty)

    def finish(self) -> None:
        """Makes one file of the three that SQLite writes; its server has ended."""
        with suppress(sqlite3.Error), closing(sqlite3.connect(self.path)) as database:
            database.execute("pragma journal_mode=delete")

    def _begins_as_empty(self) -> bool:
        if not self.empty.exists():
            return False
        try:
            _copy(self.empty, self.path)
        except sqlite3.Error as error:
            logger.warning("%s is damaged, and is made again: %s", self.empty, error)
            self.empty.unlink(missing_ok=True)
            os.truncate(self.path, 0)
            return False
        return True


@contextmanager
def new_record(folder: Path) -> Iterator[Record]:
    """A record for one server, which is known to be in use until the end of the block.

    Raises:
        OSError: the folder cannot be written.
    """
    import prefect

    folder.mkdir(parents=True, exist_ok=True)
    _forget_old(folder)
    path = folder / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}.db"
    logger.debug("Prefect keeps its record of this run in %s", path)
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield Record(path, folder / f"empty-{prefect.__version__}.sqlite")


def _forget_old(folder: Path) -> None:
    """Removes all records but the newest, and those in use."""
    for path in sorted(folder.glob("*.db"), reverse=True)[NUM_KEPT:]:  # their names are times
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for part in _files_of(path):
                part.unlink(missing_ok=True)


def _files_of(record: Path) -> list[Path]:
    """A record, and what SQLite writes beside it."""
    return list(record.parent.glob(f"{record.name}*"))


def _copy(database: Path, copy: Path) -> None:
    """Copies a record that has Prefect's tables.

    Raises:
        sqlite3.Error: it is not there, is damaged, or has no tables.
    """
    reading = f"{database.absolute().as_uri()}?mode=rw"  # else one that is gone would be made
    with closing(sqlite3.connect(reading, uri=True)) as source:
        if source.execute("select version_num from alembic_version").fetchone() is None:
            raise sqlite3.DatabaseError("its tables were not made to the end")
        with closing(sqlite3.connect(copy)) as target:
            source.backup(target)
