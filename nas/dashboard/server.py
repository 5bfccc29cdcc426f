"""Serves optuna-dashboard on a study's database, with access control and figures that are up to date."""

import errno
import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socketserver import ThreadingMixIn
from threading import Lock
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.util import setup_testing_defaults

import optuna_dashboard

from nas.dashboard.patches import arranged
from nas.dashboard.security import Application, guarded, names_for
from nas.errors import NasError, StudyError
from nas.reports.overview import refresh
from nas.study.database import usable
from nas.study.optuna_storage import storage_of, study_id, system_attrs
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef

HOST = "127.0.0.1"


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        """Nothing: a line a request would bury the address."""


class Shown:
    """What is shown of a study, and whether it is up to date."""

    def __init__(self, records: StudyRecords, *, read_only: bool) -> None:
        self.records = records
        # Not the database itself: a study reads each finished trial once.
        self.application = optuna_dashboard.wsgi(
            storage_of(records.study), artifact_store=records.artifacts.store(make=False)
        )
        self.num_shown = -1
        self.read_only = read_only
        self.last: object = None
        self.lock = Lock()

    def version(self, study: int) -> object:
        """What equals itself as long as the study's data do; None while it changes, once it is gone, and of others.

        Where more trials have ended since, the overview is written first; a database that cannot be written to is
        shown as it is.
        """
        if study != study_id(self.records.study):
            return None
        with self.lock, self._readable():
            trials = self.records.study.get_trials(deepcopy=False)
            num_ended = sum(trial.state.is_finished() for trial in trials)
            if num_ended != self.num_shown and not self.read_only:
                self.num_shown = num_ended  # first: what fails once is not tried at every request
                refresh(self.records)
            attrs = self.records.study.user_attrs, system_attrs(self.records.study)
            now = (len(trials), *attrs) if num_ended == len(trials) else None
            if now != self.last:
                self.last = now
                self.application._inmemory_cache.clear()  # noqa: SLF001  # no public way; it would be stale for seconds
            return now
        return None

    def shape(self) -> tuple[int, int]:
        """Numbers of objectives, and of parameters that any trial has; none of a study that cannot be read."""
        with self._readable():
            return self.records.shape()
        return 0, 0

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Ends early where the study cannot be read, or is gone: whoever looks at the dashboard may delete it."""
        with suppress(StudyError, KeyError), usable(str(self.records.storage.url)):
            yield

    def warm(self, application: Application) -> None:
        """Asks for the study's data once, so that the first reader need not wait."""
        environ = {"PATH_INFO": f"/api/studies/{study_id(self.records.study)}", "QUERY_STRING": "after=0"}
        setup_testing_defaults(environ)
        b"".join(application(environ, lambda *args: None))


def serve_dashboard(
    *,
    results: str | Path = "results",
    storage: str | None = None,
    study: str | None = None,
    host: str = HOST,
    port: int = 8080,
    allow_hosts: Collection[str] = (),
    read_only: bool = False,
    on_ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serves optuna-dashboard until interrupted; port 0 is any free one.

    A `host` that other machines can reach needs `allow_hosts`, the names under which browsers may ask for it. With
    `read_only` every request that would change something is refused, and the study's figures stay as they were
    written. `on_ready` hears the address of the study's page.
    """
    names = names_for(host, allow_hosts)
    records = StudyRecords.open(StudyRef(results, storage, study))
    with suppress(OSError):  # a folder that cannot be written to is shown
        records.artifacts.store(make=not read_only)
    shown = Shown(records, read_only=read_only)
    application = arranged(shown.application, shape=shown.shape, version=shown.version)
    shown.warm(application)
    application = guarded(application, names=names, read_only=read_only)
    try:
        server = make_server(host, port, application, _Server6 if ":" in host else _Server, _QuietHandler)
    except (OSError, OverflowError) as error:
        free = "; --port 0 takes a free one" if getattr(error, "errno", None) == errno.EADDRINUSE else ""
        where = f"port {port}" if host == HOST else f"{host} port {port}"
        raise NasError(f"{where}: {getattr(error, 'strerror', None) or error}{free}") from None
    with server:
        name = f"[{host}]" if ":" in host else next(iter(allow_hosts), host)
        on_ready(f"http://{name}:{server.server_port}/dashboard/studies/{study_id(records.study)}")
        server.serve_forever()
