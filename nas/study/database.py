"""Opens and checks the database of a study, and turns its errors into messages that users can act on."""

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

from nas.errors import StudyError, argument_text, first_line

DATABASE_FILE = "studies.db"

RETRY_SECONDS = 300.0  # seconds to wait for a server that is unavailable
RETRY_PAUSE = 0.5  # seconds between two tries of an operation

P = ParamSpec("P")
T = TypeVar("T")


def default_storage(results: str | Path) -> str:
    """Returns the URL of the SQLite database in a results folder."""
    return f"sqlite:///{Path(results) / DATABASE_FILE}"


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """Returns Optuna's storage at a URL.

    SQLite uses WAL mode, so that readers and the writer do not block each other; a file that is not writable is opened
    read-only.
    """
    database = sqlite_file(url)
    if database is None:
        with _table_creation_lock(url):
            server = optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        weakref.finalize(server, server.engine.dispose)  # otherwise its connections stay open until the process ends
        return server
    if _is_read_only(database):
        return optuna.storages.RDBStorage(f"sqlite:///{_read_only_uri(database)}&uri=true")
    database.parent.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})

    @sqlalchemy.event.listens_for(storage.engine, "connect")
    def set_pragmas(connection: Any, _: object) -> None:
        # With WAL, NORMAL loses nothing when a process dies; a power failure may lose the last commits.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    storage.engine.dispose()  # the first connection was made without the pragmas
    return storage


@contextmanager
def _table_creation_lock(url: str) -> Iterator[None]:
    """Lets one process at a time create Optuna's tables in PostgreSQL; of simultaneous attempts, all but one fail."""
    if sqlalchemy.engine.make_url(url).get_backend_name() != "postgresql":
        yield
        return
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)
    with engine.connect() as connection:  # closing it releases the lock
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(hashtext('nas: tables'))"))
        yield


def sqlite_file(url: str) -> Path | None:
    """Returns the file of an SQLite URL, None for other databases.

    Raises `StudyError` for an invalid URL and for an in-memory database.
    """
    parsed = _parse_url(url)
    if not parsed.drivername.startswith("sqlite"):
        return None
    if parsed.database in (None, "", ":memory:"):
        raise StudyError(f"{argument_text('storage', url)}: an in-memory database would lose the study; name a file")
    return Path(str(parsed.database))


def file_exists(database: Path) -> bool:
    """Returns whether the file exists; False for a name that is too long, for which `Path.exists` raises."""
    return os.path.exists(database)


def masked_url(url: str) -> str:
    """Returns the URL with its password masked; raises `StudyError` for an invalid URL."""
    return _parse_url(url).render_as_string(hide_password=True)


def _parse_url(url: str) -> sqlalchemy.engine.URL:
    try:
        return sqlalchemy.engine.make_url(url)
    except sqlalchemy.exc.ArgumentError:
        text = "expected a database URL such as sqlite:///results/studies.db"
        raise StudyError(f"{argument_text('storage', url)}: {text}") from None


@contextmanager
def errors_on_open(url: str) -> Iterator[None]:
    """Raises `StudyError` for errors that opening a missing, damaged or foreign database causes within the context."""
    database = sqlite_file(url)
    with errors_on_use(url):
        try:
            if database is not None and file_exists(database):
                _check_sqlite(database)
            yield
        except ImportError:
            hint = ""
            if _parse_url(url).get_backend_name() == "postgresql":
                hint = "; run pip install 'smallnas[postgres]' and use a URL postgresql+psycopg://…"
            raise StudyError(f"{masked_url(url)}: the driver of this database is not installed{hint}") from None
        except RuntimeError as error:  # raised by Optuna for a database of an incompatible version
            raise StudyError(f"{masked_url(url)}: not a usable database: {first_line(error)}") from None


@contextmanager
def errors_on_decode(url: str) -> Iterator[None]:
    """Raises `StudyError` for errors that Optuna raises on invalid rows; their type depends on the column."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError) as error:
        raise StudyError(
            f"{masked_url(url)}: the database is damaged: {type(error).__name__}: {first_line(error)}"
        ) from None


def is_server_unavailable(error: BaseException) -> bool:
    """Returns whether an error means that the database server is restarting or unreachable; never for SQLite."""
    cause = error.__cause__ if isinstance(error, optuna.exceptions.OptunaError) else error
    if not isinstance(cause, sqlalchemy.exc.DBAPIError) or isinstance(cause.orig, sqlite3.Error):
        return False
    # Error classes of PostgreSQL: 08 is a failed connection, 57P a shutdown. Without an answer there is no class.
    state = getattr(cause.orig, "sqlstate", None) or ""
    return cause.connection_invalidated or not state or state.startswith(("08", "57P"))


def retry_while_unavailable(method: Callable[P, T]) -> Callable[P, T]:
    """Wraps a method so that it is retried while the server is unavailable, for up to `RETRY_SECONDS` seconds.

    The method must be idempotent: an earlier try may have succeeded although its answer was lost.
    """

    @wraps(method)
    def tried(*args: P.args, **kwargs: P.kwargs) -> T:
        end = time.monotonic() + RETRY_SECONDS
        while True:
            try:
                return method(*args, **kwargs)
            except (StorageInternalError, SQLAlchemyError) as error:
                if not is_server_unavailable(error) or time.monotonic() > end:
                    raise
            time.sleep(RETRY_PAUSE)

    return tried


@contextmanager
def errors_on_use(url: str) -> Iterator[None]:
    """Raises `StudyError` for errors of the database or the disk within the context."""
    try:
        yield
    except BrokenPipeError:  # standard output was closed: not an error of the study
        raise
    except OSError as error:
        raise StudyError(f"{error.filename or masked_url(url)}: {error.strerror or first_line(error)}") from None
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, sqlalchemy.exc.SQLAlchemyError) else error
        raise StudyError(f"{masked_url(url)}: the database cannot be used: {first_line(cause)}") from None


def _check_sqlite(database: Path) -> None:
    if database.is_dir():
        raise StudyError(f"{database}: a folder found, expected an SQLite database")
    try:
        reading = _is_read_only(database)
        connection = sqlite3.connect(_read_only_uri(database) if reading else database, timeout=60, uri=reading)
        try:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        raise StudyError(f"{database}: not a usable database: {error}") from None
    if found != "ok":
        raise StudyError(f"{database}: the database is damaged: {found}")
    if tables and "studies" not in tables:
        raise StudyError(f"{database}: a database of another program found, expected an Optuna database or a new file")


def _is_read_only(database: Path) -> bool:
    return database.exists() and not (os.access(database, os.W_OK) and os.access(database.parent, os.W_OK))


def _read_only_uri(database: Path) -> str:
    """Returns the URI that opens a file read-only.

    Without a `-wal` file no process has it open; `immutable` then keeps SQLite from creating files beside it.
    """
    is_open = database.with_name(f"{database.name}-wal").exists()
    return f"file:{quote(str(database.resolve()))}?mode=ro" + "&immutable=1" * (not is_open)


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Limits Optuna's log to warnings within a `with` block: its lines would hide this package's output."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
