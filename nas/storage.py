"""Storage: the database that a study lies in, and what is said when it cannot be used."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy

from nas.errors import StudyError

DATABASE = "studies.db"


def default_storage(results: str | Path) -> str:
    """The URL of the SQLite database in a results folder."""
    return f"sqlite:///{Path(results) / DATABASE}"


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """Optuna's storage at a URL; SQLite in WAL mode, so that readers and the one writer don't wait for each other."""
    database = sqlite_file(url)
    if database is None:
        return optuna.storages.RDBStorage(url)
    database.parent.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})

    @sqlalchemy.event.listens_for(storage.engine, "connect")
    def set_pragmas(connection: Any, _: object) -> None:
        # With WAL, NORMAL loses nothing when a process dies; only a power cut may cost the last commits.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    storage.engine.dispose()  # so that the first connection, too, is made anew with the pragmas
    return storage


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite URL, None for other databases."""
    try:
        parsed = sqlalchemy.engine.make_url(url)
    except sqlalchemy.exc.ArgumentError:
        raise StudyError(f"--storage {url!r}, allowed: a database URL such as sqlite:///results/studies.db") from None
    if not parsed.drivername.startswith("sqlite"):
        return None
    if not parsed.database:
        raise StudyError(f"--storage {url!r}: an in-memory database would lose the study, name a file")
    return Path(parsed.database)


@contextmanager
def readable(url: str) -> Iterator[None]:
    """Turns what a missing, damaged or foreign database raises into a `StudyError`."""
    database = sqlite_file(url)
    try:
        if database is not None and database.exists():
            _check_sqlite(database)
        yield
    except StudyError:
        raise
    except ImportError:
        raise StudyError(f"{url}: the driver of this database is not installed") from None
    except OSError as error:
        raise StudyError(f"{database or url}: {error.strerror}") from None
    except (sqlalchemy.exc.SQLAlchemyError, RuntimeError) as error:
        cause = str(getattr(error, "orig", error)).splitlines()[0]
        raise StudyError(f"{database or url}: not a database that can be used: {cause}") from None


def _check_sqlite(database: Path) -> None:
    if database.is_dir():
        raise StudyError(f"{database}: a folder, allowed: an SQLite database")
    try:
        connection = sqlite3.connect(database, timeout=60)
        try:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        raise StudyError(f"{database}: not a database that can be used: {error}") from None
    if found != "ok":
        raise StudyError(f"{database}: a damaged database: {found}")
