"""Access control for the dashboard, which has no login: checks host names, origins and methods, and sets headers."""

import ipaddress
import re
from collections.abc import Callable, Collection, Iterable
from typing import Any

from nas.errors import NasError, argument_text

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
PAGE = "/dashboard"
"""Path of the dashboard's own page, the only response that may run scripts."""

# Policy of all other responses, above all artifacts: browsers display them, but run no scripts and embed them nowhere.
RESTRICTIVE_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
REPLACED_HEADERS = {"access-control-allow-origin", *(name.lower() for name in HEADERS)}

StartResponse = Callable[..., Any]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


def allowed_host_names(host: str, allow_hosts: Collection[str]) -> frozenset[str]:
    """Returns the host names, in lower case, that a server listening on the address `host` answers to.

    `allow_hosts` adds names. Raises `NasError` for a malformed name, or if other machines can reach `host` and
    `allow_hosts` is empty.
    """
    for name in allow_hosts:
        if not re.fullmatch(r"[a-zA-Z0-9._-]+|\[[0-9a-fA-F:.]+\]", name):
            raise NasError(
                f"{argument_text('allow_hosts', [name])}: expected a host name or an address, without a port"
            )
    if not is_loopback(host) and not allow_hosts:
        raise NasError(
            f"{argument_text('host', host)}: other machines can reach this address, and the dashboard has no password;"
            " name the hosts that browsers may ask for with `allow_hosts`"
        )
    own = {f"[{host}]" if ":" in host else host} if is_loopback(host) else set()
    return frozenset(name.lower() for name in (*LOOPBACK, *own, *allow_hosts))


def is_loopback(host: str) -> bool:
    """Returns whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def with_access_control(application: Application, *, names: Collection[str], read_only: bool = False) -> Application:
    """Wraps an application: checks Host, Origin and method of requests, and sets security headers of responses.

    The dashboard has no login. Without the Host check a website could point its own name at 127.0.0.1 (DNS rebinding)
    and read or delete the studies of its visitors. The Origin check refuses requests from pages of other sites.
    """

    def checked(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        is_page = path == PAGE or path.startswith(f"{PAGE}/")

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            kept = [(name, value) for name, value in headers if name.lower() not in REPLACED_HEADERS]
            policy = "frame-ancestors 'none'" if is_page else RESTRICTIVE_POLICY
            return start_response(status, [*kept, *HEADERS.items(), ("Content-Security-Policy", policy)], *exc_info)

        refusal = _refusal(environ, names, read_only)
        if refusal:
            start("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
            return [f"{refusal}\n".encode()]
        return application(environ, start)

    return checked


def _refusal(environ: dict[str, Any], names: Collection[str], read_only: bool) -> str:
    """Returns why a request is refused, or an empty string if it is not."""
    host = environ.get("HTTP_HOST", "").lower()
    origin = environ.get("HTTP_ORIGIN")
    if _name(host) not in names:
        return f"This dashboard answers to {', '.join(sorted(names))} only."
    if origin is not None and origin.lower().partition("://")[2] != host:  # compared, not parsed: it may be any text
        return "This dashboard answers to its own pages only."
    if read_only and environ["REQUEST_METHOD"] not in SAFE_METHODS:
        return "This dashboard is read-only."
    return ""


def _name(host: str) -> str:
    """Returns a Host header without its port, or an empty string if it is malformed."""
    match = re.fullmatch(r"(\[[^]]*\]|[^:]*)(:[0-9]+)?", host)
    return match[1] if match else ""
