"""Access control for the dashboard, which has no login: names of hosts, origins, methods, headers."""

import ipaddress
import re
from collections.abc import Callable, Collection, Iterable
from typing import Any

from nas.errors import NasError

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
READING = ("GET", "HEAD", "OPTIONS")
PAGE = "/dashboard"
"""Where the dashboard's own page is, the one response that may run script."""

# Everything else, artifacts above all: shown, but never run, and to this site alone.
INERT = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
OVERRULED = {"access-control-allow-origin", *(name.lower() for name in HEADERS)}

StartResponse = Callable[..., Any]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


def names_for(host: str, allowed: Collection[str]) -> frozenset[str]:
    """The names that a server at an address answers to; one that others can reach must be told them.

    Raises `NasError` for a name that no browser would send, and where a name is needed and missing.
    """
    for name in allowed:
        if not re.fullmatch(r"[a-zA-Z0-9._-]+|\[[0-9a-fA-F:.]+\]", name):
            raise NasError(f"--allow-host {name!r}, allowed: a name or an address as in a browser, without the port")
    if not is_loopback(host) and not allowed:
        raise NasError(
            f"--host {host} can be reached from other machines: --allow-host NAME says by which names, and nobody"
            " who can reach it is asked for a password"
        )
    own = {f"[{host}]" if ":" in host else host} if is_loopback(host) else set()
    return frozenset(name.lower() for name in (*LOOPBACK, *own, *allowed))


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def guarded(application: Application, *, names: Collection[str], read_only: bool = False) -> Application:
    """The application behind checks of Host, Origin and method; its answers can do no harm in a browser.

    The dashboard has no login. Without the first two a page anywhere on the web could, by pointing its own name at
    127.0.0.1 (DNS rebinding), read and delete the studies of whoever visits it.
    """

    def checked(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        is_page = path == PAGE or path.startswith(f"{PAGE}/")

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            kept = [(name, value) for name, value in headers if name.lower() not in OVERRULED]
            policy = "frame-ancestors 'none'" if is_page else INERT
            return start_response(status, [*kept, *HEADERS.items(), ("Content-Security-Policy", policy)], *exc_info)

        refusal = _refusal(environ, names, read_only)
        if refusal:
            start("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
            return [f"{refusal}\n".encode()]
        return application(environ, start)

    return checked


def _refusal(environ: dict[str, Any], names: Collection[str], read_only: bool) -> str:
    """Why a request is not answered, empty if it is."""
    host = environ.get("HTTP_HOST", "").lower()
    origin = environ.get("HTTP_ORIGIN")
    if _name(host) not in names:
        return f"This dashboard answers to {', '.join(sorted(names))} only."
    if origin is not None and origin.lower().partition("://")[2] != host:  # compared, not parsed: it may be anything
        return "This dashboard answers to its own pages only."
    if read_only and environ["REQUEST_METHOD"] not in READING:
        return "This dashboard is read-only."
    return ""


def _name(host: str) -> str:
    """A Host header without its port; one whose port is no number is no name."""
    match = re.fullmatch(r"(\[[^]]*\]|[^:]*)(:[0-9]+)?", host)
    return match[1] if match else ""
