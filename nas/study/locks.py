"""Locks that let several searches work on one study at the same time.

Each search holds its own lock while it runs, and its trials store the name of that lock. Other searches test the lock
to find out whether the search is still running. The lock is released however the process ends, so no clock is needed.
Another lock is held briefly while a trial begins. Locks are files beside an SQLite database, or advisory locks of a
PostgreSQL server.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

import sqlalchemy
from filelock import FileLock, Timeout  # a dependency of torch
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from nas.study.database import sqlite_file
from nas.study.reference import StudyRef

POLL = 0.01  # seconds between two attempts to take a lock file
REFRESH = 2.0  # seconds between two checks that the server still holds the locks
GRACE = 15  # seconds after a server's start in which searches may not have taken their locks again


class LockLostError(Exception):
    """The server lost a lock while it was needed; the work done under it must be repeated."""


class Locks(Protocol):
    """Named locks of one study. The end of a process releases its locks."""

    def try_acquire(self, name: str) -> bool:
        """Takes a lock until `close`, without waiting; returns False if another process holds it."""

    def is_held(self, name: str) -> bool:
        """Returns whether another process holds the lock."""

    def exclusively(self, name: str) -> "AbstractContextManager[Callable[[], None]]":
        """Waits for a lock and holds it within the context.

        Yields a function that raises `LockLostError` if the lock has been lost since.
        """

    def close(self) -> None:
        """Releases all locks that `try_acquire` has taken."""


def open_locks(ref: StudyRef) -> Locks:
    """Returns the locks of a study.

    They are advisory locks for PostgreSQL, and files beside the database for SQLite, independent of the results folder.
    For other databases they are files in the results folder, which only exclude searches that share this folder.
    """
    if sqlalchemy.engine.make_url(ref.url).get_backend_name() == "postgresql":
        return ServerLocks(ref.url, ref.name)
    database = sqlite_file(ref.url)
    place = ref.folder / "study" if database is None else database
    return FileLocks(place.with_name(f"{place.name}.{ref.name.replace('/', '_')}"))


class FileLocks:
    """Locks as files. `stem`: path with which their names begin."""

    def __init__(self, stem: Path) -> None:
        self.stem = stem
        self._held: list[FileLock] = []

    def try_acquire(self, name: str) -> bool:
        lock = self._lock(name)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        self._held.append(lock)
        return True

    def is_held(self, name: str) -> bool:
        path = self._path(name)
        if not path.exists() or any(Path(lock.lock_file) == path for lock in self._held):
            return False
        lock = FileLock(path)
        try:
            with lock.acquire(timeout=0):
                path.unlink(missing_ok=True)  # left behind by a killed process
        except Timeout:
            return True
        return False

    @contextmanager
    def exclusively(self, name: str) -> Iterator[Callable[[], None]]:
        with self._lock(name).acquire(poll_interval=POLL):
            yield lambda: None  # a file lock cannot be lost

    def close(self) -> None:
        for lock in self._held:
            # Deleted before it is released: after that, another process may hold it. Some systems cannot delete open
            # files.
            with suppress(OSError):
                Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()
        self._held.clear()

    def _lock(self, name: str) -> FileLock:
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path)

    def _path(self, name: str) -> Path:
        return self.stem.with_name(f"{self.stem.name}.{name}.lock")


class ServerLocks:
    """Advisory locks of a PostgreSQL server, which releases them when the connection ends.

    A restarted server has lost them; a background thread takes them again once the server answers.
    """

    def __init__(self, url: str, study_name: str) -> None:
        self.study_name = study_name
        self._engine = sqlalchemy.create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        self._names: set[str] = set()
        self._connection_lock = threading.Lock()
        self._closing = threading.Event()
        self._connection: sqlalchemy.Connection | None = None
        self._waiting_connection: sqlalchemy.Connection | None = None
        self._thread = threading.Thread(target=self._refresh, daemon=True)

    def try_acquire(self, name: str) -> bool:
        with self._connection_lock:
            if self._connection is None:
                self._connection = self._connect()
                self._thread.start()
            held = self._try_lock(self._connection, name)
            if held:
                self._names.add(name)
            return held

    def is_held(self, name: str) -> bool:
        if name in self._names:
            return False
        with self._connect() as connection:
            if not self._try_lock(connection, name):
                return True
            # Closing the connection releases it as well, but only when the server notices.
            connection.execute(sqlalchemy.text("SELECT pg_advisory_unlock(:key)"), {"key": self._key(name)})
            # Soon after the server's start, the holder may not have taken the lock again: it counts as held.
            age = "SELECT extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())"
            return float(connection.execute(sqlalchemy.text(age)).scalar_one()) < GRACE

    @contextmanager
    def exclusively(self, name: str) -> Iterator[Callable[[], None]]:
        # A connection of its own: waiting for a lock on the other one would keep its locks from being refreshed.
        if self._waiting_connection is None or self._waiting_connection.invalidated:
            self._waiting_connection = self._connect()
        connection = self._waiting_connection
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": self._key(name)})

        def check() -> None:
            try:
                connection.execute(sqlalchemy.text("SELECT 1"))
            except SQLAlchemyError as error:
                raise LockLostError from error

        try:
            yield check
        finally:
            with suppress(SQLAlchemyError):  # the server is gone, and the lock with it
                connection.execute(sqlalchemy.text("SELECT pg_advisory_unlock(:key)"), {"key": self._key(name)})

    def close(self) -> None:
        self._closing.set()
        with self._connection_lock, suppress(SQLAlchemyError):
            for connection in filter(None, (self._connection, self._waiting_connection)):
                connection.close()
        if self._thread.is_alive():
            self._thread.join()

    def _refresh(self) -> None:
        while not self._closing.wait(REFRESH):
            with self._connection_lock, suppress(SQLAlchemyError):
                assert self._connection is not None
                if self._closing.is_set():
                    return
                try:
                    for name in self._names:  # harmless if the lock is still held
                        self._try_lock(self._connection, name)
                except SQLAlchemyError:
                    self._connection.invalidate()
                    self._connection = self._connect()

    def _connect(self) -> sqlalchemy.Connection:
        connection = self._engine.connect()
        # A machine that drops off the network does not close its connection: the server notices after half a minute.
        for setting in ("tcp_keepalives_idle = 10", "tcp_keepalives_interval = 5", "tcp_keepalives_count = 4"):
            connection.execute(sqlalchemy.text(f"SET {setting}"))
        return connection

    def _try_lock(self, connection: sqlalchemy.Connection, name: str) -> bool:
        key = {"key": self._key(name)}
        return bool(connection.execute(sqlalchemy.text("SELECT pg_try_advisory_lock(:key)"), key).scalar())

    def _key(self, name: str) -> int:
        """Returns the 64-bit key of an advisory lock of this study."""
        digest = hashlib.sha256(f"nas {self.study_name} {name}".encode()).digest()
        return int.from_bytes(digest[:8], "big", signed=True)
