"""The database of a study: opening it, checking it, and errors that a user can act on."""

import os
import sqlite3
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from nas.errors import StudyError, first_line

DATABASE = "studies.db"

PATIENCE = 300.0  # seconds that a server may be away
PAUSE = 0.5  # seconds between two tries

P = ParamSpec("P")
T = TypeVar("T")


def default_storage(results: str | Path) -> str:
    """The URL of the SQLite database in a results folder."""
    return f"sqlite:///{Path(results) / DATABASE}"


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """Optuna's storage at a URL; SQLite in WAL mode, so that readers and the one writer don't wait for each other."""
    database = sqlite_file(url)
    if database is None:
        with _alone(url):
            server = optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        weakref.finalize(server, server.engine.dispose)  # or its connections stay open until the process ends
        return server
    if _unwritable(database):
        return optuna.storages.RDBStorage(f"sqlite:///{_reading(database)}&uri=true")
    database.parent.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})

    @sqlalchemy.event.listens_for(storage.engine, "connect")
    def set_pragmas(connection: Any, _: object) -> None:
        # With WAL, NORMAL loses nothing when a process dies; only a power cut may cost the last commits.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    storage.engine.dispose()  # so that the first connection, too, is made anew with the pragmas
    return storage


@contextmanager
def _alone(url: str) -> Iterator[None]:
    """Keeps other processes from making Optuna's tables at the same moment, which fails for all but one."""
    if sqlalchemy.engine.make_url(url).get_backend_name() != "postgresql":
        yield
        return
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)
    with engine.connect() as connection:  # its end releases the lock
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(hashtext('nas: tables'))"))
        yield


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite URL, None for other databases."""
    try:
        parsed = sqlalchemy.engine.make_url(url)
    except sqlalchemy.exc.ArgumentError:
        raise StudyError(f"--storage {url!r}, allowed: a database URL such as sqlite:///results/studies.db") from None
    if not parsed.drivername.startswith("sqlite"):
        return None
    if parsed.database in (None, "", ":memory:"):
        raise StudyError(f"--storage {url!r}: an in-memory database would lose the study, name a file")
    return Path(str(parsed.database))


def exists(database: Path) -> bool:
    """Whether the file is there; `Path.exists` raises where a name is too long to be one."""
    return os.path.exists(database)


def shown(url: str) -> str:
    """The URL for people's eyes: without its password."""
    return sqlalchemy.engine.make_url(url).render_as_string(hide_password=True)


@contextmanager
def opening(url: str) -> Iterator[None]:
    """Turns what opening a missing, damaged or foreign database raises into a `StudyError`."""
    database = sqlite_file(url)
    with usable(url):
        try:
            if database is not None and exists(database):
                _check_sqlite(database)
            yield
        except ImportError:
            raise StudyError(f"{shown(url)}: the driver of this database is not installed") from None
        except RuntimeError as error:  # Optuna's, of a database that another version of it made
            raise StudyError(f"{shown(url)}: not a database that can be used: {first_line(error)}") from None


@contextmanager
def decoding(url: str) -> Iterator[None]:
    """Turns what Optuna raises where it cannot make sense of a row into a `StudyError`: each column has its own way."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError) as error:
        raise StudyError(f"{shown(url)}: damaged: {type(error).__name__}: {first_line(error)}") from None


def is_away(error: BaseException) -> bool:
    """Whether a server is at fault, not what it was asked: it is being restarted, or cannot be reached."""
    cause = error.__cause__ if isinstance(error, optuna.exceptions.OptunaError) else error
    if not isinstance(cause, sqlalchemy.exc.DBAPIError) or isinstance(cause.orig, sqlite3.Error):
        return False
    # Classes of PostgreSQL's errors: 08 connections, 57P the server's end; none where there was no answer at all.
    state = getattr(cause.orig, "sqlstate", None) or ""
    return cause.connection_invalidated or not state or state.startswith(("08", "57P"))


def patiently(method: Callable[P, T]) -> Callable[P, T]:
    """Wraps a method so that it is tried again while the server is away. Doing it twice must do no harm."""

    @wraps(method)
    def tried(*args: P.args, **kwargs: P.kwargs) -> T:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return method(*args, **kwargs)
            except (StorageInternalError, SQLAlchemyError) as error:
                if not is_away(error) or time.monotonic() > end:
                    raise
            time.sleep(PAUSE)

    return tried


@contextmanager
def usable(url: str) -> Iterator[None]:
    """Turns what a database or a disk that fails raises into a `StudyError`."""
    try:
        yield
    except BrokenPipeError:  # of who reads our output
        raise
    except OSError as error:
        raise StudyError(f"{error.filename or shown(url)}: {error.strerror}") from None
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, sqlalchemy.exc.SQLAlchemyError) else error
        raise StudyError(f"{shown(url)}: the database cannot be used: {first_line(cause)}") from None


def _check_sqlite(database: Path) -> None:
    if database.is_dir():
        raise StudyError(f"{database}: a folder, allowed: an SQLite database")
    try:
        reading = _unwritable(database)
        connection = sqlite3.connect(_reading(database) if reading else database, timeout=60, uri=reading)
        try:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        raise StudyError(f"{database}: not a database that can be used: {error}") from None
    if found != "ok":
        raise StudyError(f"{database}: a damaged database: {found}")
    if tables and "studies" not in tables:
        raise StudyError(f"{database}: a database of another program, allowed: one of Optuna's, or a new file")


def _unwritable(database: Path) -> bool:
    return database.exists() and not (os.access(database, os.W_OK) and os.access(database.parent, os.W_OK))


def _reading(database: Path) -> str:
    """The URI of a file that is only read; where nobody has it open SQLite would write beside it unless told not to."""
    is_open = database.with_name(f"{database.name}-wal").exists()
    return f"file:{quote(str(database.resolve()))}?mode=ro" + "&immutable=1" * (not is_open)


def quiet_optuna() -> None:
    """From now on Optuna logs warnings alone: a line a trial would bury ours."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
