"""Locks that let several searches work on one study at a time.

Each search holds a lock of its own for as long as it lives, and its trials name it: so others know whether they are
alive. The system releases it however the process dies, and no clock is asked. Another lock is held for moments, while
a trial is begun. They are files beside an SQLite database, and advisory locks of a PostgreSQL server.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

import sqlalchemy
from filelock import FileLock, Timeout  # torch brings it
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from nas.study.database import sqlite_file
from nas.study.reference import StudyRef

POLL = 0.01  # seconds between two tries for a lock file
REFRESH = 2.0  # seconds between two looks at whether the server still knows us
GRACE = 15  # seconds after its start within which a server may not know everybody yet


class LockLostError(Exception):
    """The server forgot our lock while we were at work under it: that work has to be done again."""


class Locks(Protocol):
    """Locks of one study, each with a name; those of a process that ends are free at once."""

    def hold(self, name: str) -> bool:
        """Takes a lock until `close`, without waiting: False where another process has it."""

    def is_held(self, name: str) -> bool:
        """Whether another process holds it."""

    def exclusively(self, name: str) -> "AbstractContextManager[Callable[[], None]]":
        """Holds a lock within the context, waiting for it; what it gives raises `LockLostError` once it is lost."""

    def close(self) -> None:
        """Releases what is held."""


def locks(ref: StudyRef) -> Locks:
    """The locks of a study.

    Files lie beside an SQLite database, whichever results folder a search names; those for databases that are neither
    SQLite nor PostgreSQL in the results folder, and so count on this machine alone.
    """
    if sqlalchemy.engine.make_url(ref.url).get_backend_name() == "postgresql":
        return ServerLocks(ref.url, ref.name)
    database = sqlite_file(ref.url)
    place = ref.folder / "study" if database is None else database
    return FileLocks(place.with_name(f"{place.name}.{ref.name.replace('/', '_')}"))


class FileLocks:
    """Locks as files, whose names begin with `stem`."""

    def __init__(self, stem: Path) -> None:
        self.stem = stem
        self._held: list[FileLock] = []

    def hold(self, name: str) -> bool:
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
                path.unlink(missing_ok=True)  # left by a process that was killed
        except Timeout:
            return True
        return False

    @contextmanager
    def exclusively(self, name: str) -> Iterator[Callable[[], None]]:
        with self._lock(name).acquire(poll_interval=POLL):
            yield lambda: None  # the system does not take a file's lock away

    def close(self) -> None:
        for lock in self._held:
            # Gone before it is free, so that nobody can be about to take it. Some systems keep what is open.
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
    """Advisory locks of a PostgreSQL server, which releases them when the connection is gone.

    A server that was restarted has forgotten them: a thread takes them again as soon as it answers.
    """

    def __init__(self, url: str, study: str) -> None:
        self.study = study
        self._engine = sqlalchemy.create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        self._names: set[str] = set()
        self._busy = threading.Lock()
        self._closing = threading.Event()
        self._connection: sqlalchemy.Connection | None = None
        self._waiting: sqlalchemy.Connection | None = None
        self._thread = threading.Thread(target=self._refresh, daemon=True)

    def hold(self, name: str) -> bool:
        with self._busy:
            if self._connection is None:
                self._connection = self._connected()
                self._thread.start()
            held = self._try(self._connection, name)
            if held:
                self._names.add(name)
            return held

    def is_held(self, name: str) -> bool:
        if name in self._names:
            return False
        with self._connected() as connection:
            if not self._try(connection, name):
                return True
            # The connection's end would release it, too, but only when the server comes to that.
            connection.execute(sqlalchemy.text("SELECT pg_advisory_unlock(:key)"), {"key": self._key(name)})
            age = "SELECT extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())"
            return float(connection.execute(sqlalchemy.text(age)).scalar_one()) < GRACE

    @contextmanager
    def exclusively(self, name: str) -> Iterator[Callable[[], None]]:
        # Apart from the one that holds: a lock that is waited for would keep it from being refreshed.
        if self._waiting is None or self._waiting.invalidated:
            self._waiting = self._connected()
        connection = self._waiting
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": self._key(name)})

        def check() -> None:
            try:
                connection.execute(sqlalchemy.text("SELECT 1"))
            except SQLAlchemyError as error:
                raise LockLostError from error

        try:
            yield check
        finally:
            with suppress(SQLAlchemyError):  # of a server that is gone, and with it the lock
                connection.execute(sqlalchemy.text("SELECT pg_advisory_unlock(:key)"), {"key": self._key(name)})

    def close(self) -> None:
        self._closing.set()
        with self._busy, suppress(SQLAlchemyError):
            for connection in filter(None, (self._connection, self._waiting)):
                connection.close()
        if self._thread.is_alive():
            self._thread.join()

    def _refresh(self) -> None:
        while not self._closing.wait(REFRESH):
            with self._busy, suppress(SQLAlchemyError):
                assert self._connection is not None
                if self._closing.is_set():
                    return
                try:
                    for name in self._names:  # once more does no harm where we have it
                        self._try(self._connection, name)
                except SQLAlchemyError:
                    self._connection.invalidate()
                    self._connection = self._connected()

    def _connected(self) -> sqlalchemy.Connection:
        connection = self._engine.connect()
        # A machine that fell off the network says no goodbye: the server is to find out within half a minute.
        for setting in ("tcp_keepalives_idle = 10", "tcp_keepalives_interval = 5", "tcp_keepalives_count = 4"):
            connection.execute(sqlalchemy.text(f"SET {setting}"))
        return connection

    def _try(self, connection: sqlalchemy.Connection, name: str) -> bool:
        key = {"key": self._key(name)}
        return bool(connection.execute(sqlalchemy.text("SELECT pg_try_advisory_lock(:key)"), key).scalar())

    def _key(self, name: str) -> int:
        """Of the 64-bit keys of a database, the one of this study's lock."""
        digest = hashlib.sha256(f"nas {self.study} {name}".encode()).digest()
        return int.from_bytes(digest[:8], "big", signed=True)
