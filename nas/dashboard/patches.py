"""Workarounds for optuna-dashboard: column order, sorting, response cache, layout on narrow screens."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nas.dashboard.security import Application, StartResponse

COLUMNS = ("params", "macs", "receptive_field", "consistent_accuracy", "num_draws", "outcome", "reason")
"""Trial attributes that come first in the table of trials, in this order; all are sortable."""

FIGURES = ("accuracy", "learning_curves", "discards", "layers")
"""IDs of the study's figures, in display order."""

PRELOAD = '<link rel="preload" as="fetch" crossorigin href="/api/studies/%s?after=0">\n'
STYLE = """
/* The picture of an architecture is to be read. */
.MuiCard-root:has(img[alt="architecture.svg"]) { width: 100% !important; max-width: 820px; order: -1; }
div:has(> img[alt="architecture.svg"]) { height: auto !important; }
div:has(> .MuiCard-root img[alt="architecture.svg"]) { align-items: flex-start; }
/* The study's figures come before those that every study of Optuna's has, and with a gap as they have. */
.MuiGrid-root:has(> .MuiCard-root [id^="user-defined-plot"]) { order: -1; padding: 16px 0 0 16px; }
/* Half a telephone is too narrow for a plot, or for a list beside a trial. */
@media (max-width: 700px) {
  main { min-width: 0; }
  main fieldset { flex-wrap: wrap; }
  main .MuiGrid-grid-xs-3, main .MuiGrid-grid-xs-6, main .MuiGrid-grid-xs-9 {
    flex-basis: 100% !important; max-width: 100% !important; padding-right: 0 !important;
  }
  main div:has(> div > .MuiList-root) { flex-direction: column; min-width: 0; width: 100% !important; }
  main div:has(> .MuiList-root) { max-height: 30vh !important; width: 100% !important; }
  main p[class*="body1"] { min-width: 0 !important; width: 6em; flex: none; overflow-wrap: anywhere; }
  main p + div { min-width: 0; }
  div:has(> img[alt="architecture.svg"]) { overflow-x: auto; justify-content: flex-start !important; }
  img[alt="architecture.svg"] { width: 640px !important; flex: none; }
}
"""
# The table shows the parameters of the space, some 70 columns, before the attributes. This moves them to the end.
REORDER = """table:has(th:nth-child(%(first)d)) tr { display: flex; }
table:has(th:nth-child(%(first)d)) :is(th, td) { flex: 0 0 11em; overflow-wrap: anywhere; }
table:has(th:nth-child(%(first)d)) :is(th, td):nth-child(n + %(first)d):nth-child(-n + %(last)d) { order: 1; }
"""


def arranged(
    application: Application,
    *,
    shape: Callable[[], tuple[int, int]],
    version: Callable[[int], object] = lambda study: None,
) -> Application:
    """Wraps the dashboard: orders columns and figures of a study's data, adapts the page's layout, and caches the data.

    Args:
        application: the dashboard.
        shape: returns the numbers of objectives and of parameters of the study's trials.
        version: returns a cache key for the data of the study with a given ID. The cached response is reused while the
            key stays equal; None disables the cache.
    """
    kept: dict[str, tuple[object, str, list[tuple[str, str]], bytes]] = {}

    def answer(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path, query = environ.get("PATH_INFO", ""), environ.get("QUERY_STRING", "")
        data = re.fullmatch(r"/api/studies/(\d+)/?", path)
        if environ["REQUEST_METHOD"] != "GET" or not (data or re.match(r"/dashboard(/|$)", path)):
            return application(environ, start_response)
        now = version(int(data[1])) if data else None
        if now is None or query not in kept or kept[query][0] != now:
            status, headers, body = _answer(application, environ)
            if status.startswith("200"):
                body = _data(body) if data else body.replace(b"</head>", _head(path, *shape()) + b"</head>", 1)
            headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
            if now is not None:
                kept.clear()
                kept[query] = now, status, headers, body
        else:
            _, status, headers, body = kept[query]
        start_response(status, [*headers, ("Content-Length", str(len(body)))])
        return [body]

    return answer


def _answer(application: Application, environ: dict[str, Any]) -> tuple[str, list[tuple[str, str]], bytes]:
    """Returns status, headers and body of the application's response."""
    started: list[Any] = []
    parts = application(environ, lambda *args: started.extend(args))
    try:
        return started[0], started[1], b"".join(parts)
    finally:
        if hasattr(parts, "close"):
            parts.close()


def _data(body: bytes) -> bytes:
    """Orders columns and figures in a study's data, and makes text columns in `COLUMNS` sortable."""
    text = body.decode()
    text = _changed(
        text, "union_user_attrs", lambda columns: [_sortable(column) for column in _by("key", columns, COLUMNS)]
    )
    return _changed(text, "plotly_graph_objects", lambda figures: _by("id", figures, FIGURES)).encode()


def _changed(text: str, key: str, change: Callable[[Any], Any]) -> str:
    """Changes one value in the text of a JSON object, without parsing the megabytes of trials beside it.

    The first match is the key itself: inside a string its quotes would be escaped.
    """
    before, found, after = text.partition(f'"{key}": ')
    if not found:
        return text
    value, end = json.JSONDecoder().raw_decode(after)
    return f"{before}{found}{json.dumps(change(value))}{after[end:]}"


def _by(name: str, items: list[dict[str, Any]], order: tuple[str, ...]) -> list[dict[str, Any]]:
    """Sorts items by the place of their field `name` in `order`; others follow, sorted by that field."""
    return sorted(items, key=lambda item: (order.index(item[name]) if item[name] in order else len(order), item[name]))


def _sortable(column: Mapping[str, Any]) -> dict[str, Any]:
    return {**column, "sortable": column["sortable"] or column["key"] in COLUMNS}


def _head(path: str, num_objectives: int, num_params: int) -> bytes:
    """Returns HTML for the page's head: styles, and a preload of the study's data while the script loads."""
    first = 3 + num_objectives
    reorder = REORDER % {"first": first, "last": first + num_params - 1} if num_params else ""
    study = re.match(r"/dashboard/studies/(\d+)(/|$)", path)
    preload = PRELOAD % study[1] if study else ""
    return f"{preload}<style>{STYLE}{reorder}</style>\n".encode()
