"""optuna-dashboard on a study's storage, for this machine alone."""

import errno
from collections.abc import Callable, Iterable
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna_dashboard

from nas.errors import NasError
from nas.records import StudyRecords

HOST = "127.0.0.1"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

StartResponse = Callable[..., Any]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        """Nothing: a line a request would bury the address."""


def loopback_only(application: Application) -> Application:
    """The application behind a check of Host and Origin.

    The dashboard has no login. Without this check a page anywhere on the web could, by pointing its own name at
    127.0.0.1 (DNS rebinding), read and delete the studies of whoever visits it.
    """

    def checked(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        host = environ.get("HTTP_HOST", "")
        origin = environ.get("HTTP_ORIGIN")
        if not _is_loopback(host) or (origin is not None and urlsplit(origin).netloc != host):
            start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"This dashboard answers to 127.0.0.1 and localhost only.\n"]
        return application(environ, start_response)

    return checked


def _is_loopback(host: str) -> bool:
    name, _, port = host.rpartition(":")
    return host in LOOPBACK or (name in LOOPBACK and port.isdigit())


def serve_dashboard(
    *,
    results: str | Path = "results",
    storage: str | None = None,
    study: str | None = None,
    port: int = 8080,
    on_ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serves optuna-dashboard until interrupted, on 127.0.0.1; port 0 is any free one.

    `on_ready` hears the address of the study's page.
    """
    records = StudyRecords.open(results=results, storage=storage, study=study)
    application = optuna_dashboard.wsgi(records.storage, artifact_store=records.artifacts.store())
    try:
        server = make_server(HOST, port, loopback_only(application), _Server, _QuietHandler)
    except (OSError, OverflowError) as error:
        free = "; --port 0 takes a free one" if getattr(error, "errno", None) == errno.EADDRINUSE else ""
        raise NasError(f"port {port}: {getattr(error, 'strerror', None) or error}{free}") from None
    with server:
        on_ready(f"http://{HOST}:{server.server_port}/dashboard/studies/{records.study._study_id}")
        server.serve_forever()
