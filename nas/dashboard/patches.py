"""Workaround for optuna-dashboard: shows the picture of a network in a size that can be read."""

from collections.abc import Iterable
from typing import Any

from nas.dashboard.security import PAGE, Application, StartResponse

# optuna-dashboard shows pictures as thumbnails of 150 pixels, which cannot be enlarged.
STYLE = b"""<style>
.MuiCard-root:has(img[alt="architecture.svg"]) { width: 100% !important; max-width: 820px; order: -1; }
div:has(> img[alt="architecture.svg"]) { height: auto !important; }
div:has(> .MuiCard-root img[alt="architecture.svg"]) { align-items: flex-start; }
</style>
"""


def with_large_pictures(application: Application) -> Application:
    """Wraps the dashboard: adds `STYLE` to its page."""

    def answer(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "GET" or not environ["PATH_INFO"].startswith(PAGE):
            return application(environ, start_response)
        started: list[Any] = []
        parts = application(environ, lambda *args: started.extend(args))
        try:
            body = b"".join(parts).replace(b"</head>", STYLE + b"</head>", 1)
        finally:
            if hasattr(parts, "close"):
                parts.close()
        status, headers = started[:2]
        kept = [header for header in headers if header[0].lower() != "content-length"]
        start_response(status, [*kept, ("Content-Length", str(len(body)))])
        return [body]

    return answer
