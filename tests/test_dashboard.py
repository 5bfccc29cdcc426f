"""The dashboard's server, for real, on a free port; requests that a page on the web could make are refused."""

import http.client
import json
import socket
import threading
from contextlib import contextmanager
from queue import Queue
from urllib.parse import urlsplit

import pytest

from nas import dashboard
from nas.dashboard import serve_dashboard
from nas.errors import NasError, StudyError
from nas.records import trials


@contextmanager
def serving(monkeypatch, results):
    servers, addresses = [], Queue()
    make = dashboard.make_server
    monkeypatch.setattr(dashboard, "make_server", lambda *args: servers.append(make(*args)) or servers[-1])
    options = {"results": results, "port": 0, "on_ready": addresses.put}
    thread = threading.Thread(target=serve_dashboard, kwargs=options)
    thread.start()
    try:
        yield addresses.get(timeout=60)
    finally:
        servers[0].shutdown()
        thread.join()


def request(address, method, path, **headers):
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


def test_it_serves_the_study_and_refuses_strangers(monkeypatch, study_folder):
    with serving(monkeypatch, study_folder) as address:
        netloc = urlsplit(address).netloc
        status, body = request(address, "GET", "/api/studies")
        assert status == 200
        (study,) = json.loads(body)["study_summaries"]
        assert study["study_name"] == "search"
        assert urlsplit(address).path == f"/dashboard/studies/{study['study_id']}"
        status, body = request(address, "GET", f"/api/studies/{study['study_id']}?after=0")
        shown = json.loads(body)["trials"]
        records = trials(results=study_folder)
        assert len(shown) == len(records)
        number, trained = next((i, record) for i, record in enumerate(records) if record.state == "COMPLETE")
        attributes = {pair["key"]: pair["value"] for pair in shown[number]["user_attrs"]}
        for name in ("params", "macs", "receptive_field", "consistent_accuracy"):
            assert json.loads(attributes[name]) == getattr(trained, name)
        # As through DNS rebinding: the page's own name in Host, its own origin in Origin.
        path = f"/api/studies/{study['study_id']}"
        for headers in (
            {"Host": "evil.example"},
            {"Host": "evil.example:8080", "Origin": "http://evil.example:8080"},
            {"Host": netloc, "Origin": "http://evil.example"},
            {"Host": netloc, "Origin": "null"},
            {"Host": "127.0.0.1.evil.example"},
        ):
            assert request(address, "DELETE", path, **headers)[0] == 403
            assert request(address, "GET", "/api/studies", **headers)[0] == 403
        assert request(address, "GET", "/api/studies", Host=netloc, Origin=f"http://{netloc}")[0] == 200
    assert len(trials(results=study_folder)) == len(records)


def test_a_port_in_use_is_said(study_folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(NasError, match=f"^port {port}: Address already in use; --port 0 takes a free one$"):
            serve_dashboard(results=study_folder, port=port)


def test_a_study_that_is_not_there(tmp_path):
    with pytest.raises(StudyError, match=r"studies\.db: no such database; `nas search` makes one"):
        serve_dashboard(results=tmp_path)
