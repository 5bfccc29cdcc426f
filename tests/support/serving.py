"""A dashboard server in a thread, and requests to it."""

import http.client
import signal
import subprocess
import threading
from contextlib import contextmanager
from queue import Queue
from urllib.parse import urlsplit

from nas.dashboard import server as dashboard
from nas.dashboard.server import serve_dashboard


@contextmanager
def serving(monkeypatch, results, **options):
    """Serves a study on a free port; yields the address of its page."""
    servers, addresses = [], Queue()
    make = dashboard.make_server
    monkeypatch.setattr(dashboard, "make_server", lambda *args: servers.append(make(*args)) or servers[-1])
    options = {"results": results, "port": 0, "on_ready": addresses.put, **options}
    thread = threading.Thread(target=serve_dashboard, kwargs=options)
    thread.start()
    try:
        yield addresses.get(timeout=60)
    finally:
        servers[0].shutdown()
        thread.join()


def request(address, method, path, body=None, **headers):
    """Returns status, body and headers of a response; `_` in header names stands for `-`."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    connection.request(method, path, body=body, headers={name.replace("_", "-"): x for name, x in headers.items()})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, content, response.headers


def assert_serves(command, **how):
    """Starts a dashboard, checks that it prints its address, and ends it as Ctrl-C does."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **how) as process:
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
