"""Serves optuna-dashboard on a study's database, with access control and up-to-date figures."""

import errno
import socket
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path
from socketserver import ThreadingMixIn
from threading import Lock
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna_dashboard

from nas.dashboard.patches import with_large_pictures
from nas.dashboard.security import Application, StartResponse, allowed_host_names, with_access_control
from nas.errors import NasError, StudyError, argument_text
from nas.reports.overview import update_note_and_figures
from nas.schema import check_counts, sequence_of
from nas.study.database import errors_on_use
from nas.study.optuna_storage import storage_of, study_id
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef

HOST = "127.0.0.1"


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _IPv6Server(_Server):
    address_family = socket.AF_INET6


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        """Logs nothing: one line per request would scroll the printed address away."""


def with_current_figures(application: Application, records: StudyRecords) -> Application:
    """Wraps the dashboard: updates the study's note and figures before it sends them, if more trials have ended.

    If the study cannot be read or written to, or was deleted in the dashboard, the stored note and figures are sent.
    """
    path, lock, num_shown = f"/api/studies/{study_id(records.study)}", Lock(), -1

    def answer(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        nonlocal num_shown
        if environ["PATH_INFO"] == path:
            with lock, suppress(StudyError, KeyError), errors_on_use(str(records.storage.url)):
                trials = records.study.get_trials(deepcopy=False)
                num_ended = sum(trial.state.is_finished() for trial in trials)
                if num_ended != num_shown:
                    num_shown = num_ended  # set first, so that a failed update is not repeated at every request
                    update_note_and_figures(records)
        return application(environ, start_response)

    return answer


def serve_dashboard(
    study: str | None = None,
    *,
    results: str | Path = "results",
    storage: str | None = None,
    host: str = HOST,
    port: int = 8080,
    allow_hosts: Collection[str] = (),
    read_only: bool = False,
    on_ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serves a study in optuna-dashboard until interrupted.

    Args:
        study (str | None): Name of the study. Default: "search".
        results (str | Path): Results folder of the study. Default: "results".
        storage (str | None): Database URL of the study. Default: the SQLite file `studies.db` in `results`.
        host (str): Address to listen on; one that other machines can reach requires `allow_hosts`. Default:
            "127.0.0.1", this machine alone.
        port (int): Port to listen on; 0 picks a free one. Default: 8080.
        allow_hosts (Collection[str]): Host names that browsers may use, besides those of this machine; one or several.
            Default: none.
        read_only (bool): Whether to refuse every request that changes something; note and figures then stay as they
            were stored. Default: False.
        on_ready (Callable[[str], None]): Called with the URL of the study's page when the server listens. Default: does
            nothing.

    Raises:
        StudyError: If the study is missing or damaged.
        NasError: If `port` is not an integer, a name in `allow_hosts` is missing or malformed, or the server cannot
            listen on the port.
    """
    check_counts(port=(port, 0))
    allow_hosts = sequence_of(allow_hosts)
    names = allowed_host_names(host, allow_hosts)
    records = StudyRecords.open(StudyRef(results, storage, study))
    with suppress(OSError):  # the study can be shown without a writable folder
        records.artifacts.store(create_folder=not read_only)
    # The study's own storage, not the database: it caches finished trials.
    application: Application = optuna_dashboard.wsgi(
        storage_of(records.study), artifact_store=records.artifacts.store(create_folder=False)
    )
    if not read_only:
        application = with_current_figures(application, records)
    application = with_large_pictures(application)
    application = with_access_control(application, names=names, read_only=read_only)
    try:
        server = make_server(host, port, application, _IPv6Server if ":" in host else _Server, _QuietHandler)
    except (OSError, OverflowError) as error:
        free = "; `port=0` takes a free one" if getattr(error, "errno", None) == errno.EADDRINUSE else ""
        where = (
            argument_text("port", port)
            if host == HOST
            else f"{argument_text('host', host)}, {argument_text('port', port)}"
        )
        raise NasError(f"{where}: {getattr(error, 'strerror', None) or error}{free}") from None
    with server:
        name = f"[{host}]" if ":" in host else next(iter(allow_hosts), host)
        on_ready(f"http://{name}:{server.server_port}/dashboard/studies/{study_id(records.study)}")
        server.serve_forever()
