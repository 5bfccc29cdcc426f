"""optuna-dashboard on a study's storage, behind a guard, with figures that are up to date."""

import errno
import socket
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from socketserver import ThreadingMixIn
from threading import Lock
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna_dashboard
from optuna.trial import TrialState

from nas.errors import NasError, StudyError
from nas.guard import guarded, names_for
from nas.overview import refresh
from nas.page import arranged
from nas.records import StudyRecords
from nas.storage import usable

HOST = "127.0.0.1"


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        """Nothing: a line a request would bury the address."""


class Refreshing:
    """Keeps the overview of a study up to date: written again where more trials have ended since."""

    def __init__(self, records: StudyRecords) -> None:
        self.records = records
        self.num_shown = -1
        self.lock = Lock()

    def __call__(self) -> None:
        """Writes the overview where it is out of date; a database that cannot be written to is shown as it is."""
        study = self.records.study
        with self.lock, suppress(StudyError), usable(str(self.records.storage.url)):
            states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
            num_ended = len(study.get_trials(deepcopy=False, states=states))
            if num_ended != self.num_shown:
                self.num_shown = num_ended  # first: what fails once is not tried at every request
                refresh(self.records)


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
    records = StudyRecords.open(results=results, storage=storage, study=study)
    with suppress(OSError):  # a folder that cannot be written to is shown
        records.artifacts.store(make=not read_only)
    # Not the database itself: a study reads each finished trial once, and a page of hundreds is there at once.
    bare = optuna_dashboard.wsgi(records.study._storage, artifact_store=records.artifacts.store(make=False))
    refreshing: Callable[[], None] = (lambda: None) if read_only else Refreshing(records)
    refreshing()
    application = arranged(bare, shape=records.shape, before=refreshing)
    application = guarded(application, names=names, read_only=read_only)
    try:
        server = make_server(host, port, application, _Server6 if ":" in host else _Server, _QuietHandler)
    except (OSError, OverflowError) as error:
        free = "; --port 0 takes a free one" if getattr(error, "errno", None) == errno.EADDRINUSE else ""
        where = f"port {port}" if host == HOST else f"{host} port {port}"
        raise NasError(f"{where}: {getattr(error, 'strerror', None) or error}{free}") from None
    with server:
        name = f"[{host}]" if ":" in host else next(iter(allow_hosts), host)
        on_ready(f"http://{name}:{server.server_port}/dashboard/studies/{records.study._study_id}")
        server.serve_forever()
