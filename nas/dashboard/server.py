"""Serves optuna-dashboard on a study's database, with access control and up-to-date figures."""

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
from nas.errors import NasError, StudyError, argument
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
        """Logs nothing: one line per request would scroll the printed address away."""


class Shown:
    """A study in the dashboard: keeps its note and figures up to date, and tells whether its data have changed."""

    def __init__(self, records: StudyRecords, *, read_only: bool) -> None:
        self.records = records
        # The study's own storage, not the database: it caches finished trials.
        self.application = optuna_dashboard.wsgi(
            storage_of(records.study), artifact_store=records.artifacts.store(make=False)
        )
        self.num_shown = -1
        self.read_only = read_only
        self.last: object = None
        self.lock = Lock()

    def version(self, study: int) -> object:
        """Returns a cache key for the data of the study with the ID `study`.

        None means "do not cache": trials are running or queued, the study cannot be read, or it is another study. If
        more trials have ended since the last call, the study's note and figures are written first. If the database
        cannot be written to, the old ones are shown.
        """
        if study != study_id(self.records.study):
            return None
        with self.lock, self._readable():
            trials = self.records.study.get_trials(deepcopy=False)
            num_ended = sum(trial.state.is_finished() for trial in trials)
            if num_ended != self.num_shown and not self.read_only:
                self.num_shown = num_ended  # set first, so that a failed refresh is not repeated at every request
                refresh(self.records)
            attrs = self.records.study.user_attrs, system_attrs(self.records.study)
            now = (len(trials), *attrs) if num_ended == len(trials) else None
            if now != self.last:
                self.last = now
                self.application._inmemory_cache.clear()  # noqa: SLF001  # no public way; would be stale for seconds
            return now
        return None

    def shape(self) -> tuple[int, int]:
        """Returns the numbers of objectives and of parameters of all trials; (0, 0) if the study cannot be read."""
        with self._readable():
            return self.records.shape()
        return 0, 0

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Leaves the `with` block silently if the study cannot be read, or was deleted in the dashboard."""
        with suppress(StudyError, KeyError), usable(str(self.records.storage.url)):
            yield

    def warm(self, application: Application) -> None:
        """Requests the study's data once, so that the first visitor does not wait for them."""
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
    """Serves a study in optuna-dashboard until interrupted.

    Args:
        results (str | Path): Results folder of the study. Default: "results".
        storage (str | None): Database URL of the study. Default: the SQLite file `studies.db` in `results`.
        study (str | None): Name of the study. Default: "search".
        host (str): Address to listen on; one that other machines can reach requires `allow_hosts`. Default:
            "127.0.0.1", this machine alone.
        port (int): Port to listen on; 0 picks a free one. Default: 8080.
        allow_hosts (Collection[str]): Host names that browsers may use, besides those of this machine. Default: none.
        read_only (bool): Whether to refuse every request that changes something; note and figures then stay as they
            were stored. Default: False.
        on_ready (Callable[[str], None]): Called with the URL of the study's page when the server listens. Default: does
            nothing.

    Raises:
        StudyError: If the study is missing or damaged.
        NasError: If a name in `allow_hosts` is missing or malformed, or the server cannot listen on the port.
    """
    names = names_for(host, allow_hosts)
    records = StudyRecords.open(StudyRef(results, storage, study))
    with suppress(OSError):  # the study can be shown without a writable folder
        records.artifacts.store(make=not read_only)
    shown = Shown(records, read_only=read_only)
    application = arranged(shown.application, shape=shown.shape, version=shown.version)
    shown.warm(application)
    application = guarded(application, names=names, read_only=read_only)
    try:
        server = make_server(host, port, application, _Server6 if ":" in host else _Server, _QuietHandler)
    except (OSError, OverflowError) as error:
        free = "; `port=0` takes a free one" if getattr(error, "errno", None) == errno.EADDRINUSE else ""
        where = argument("port", port) if host == HOST else f"{argument('host', host)}, {argument('port', port)}"
        raise NasError(f"{where}: {getattr(error, 'strerror', None) or error}{free}") from None
    with server:
        name = f"[{host}]" if ":" in host else next(iter(allow_hosts), host)
        on_ready(f"http://{name}:{server.server_port}/dashboard/studies/{study_id(records.study)}")
        server.serve_forever()
