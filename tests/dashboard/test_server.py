"""The dashboard's server on a free port: study data, rejected cross-site requests, read-only mode."""

import json
import shutil
import socket
import sqlite3
from contextlib import closing
from urllib.parse import urlsplit

import pytest
from optuna.artifacts import upload_artifact
from support.serving import request, serving

from nas.commands.trials import trials
from nas.dashboard.security import allowed_host_names
from nas.dashboard.server import serve_dashboard
from nas.errors import NasError, StudyError
from nas.study.database import default_storage, errors_on_use
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef


@pytest.fixture
def own_study(study_folder, tmp_path):
    """Copy of the study that a test may change."""
    return shutil.copytree(study_folder, tmp_path / "own")


def test_server_serves_study_and_rejects_foreign_host_or_origin(monkeypatch, study_folder):
    with serving(monkeypatch, study_folder) as address:
        netloc = urlsplit(address).netloc
        status, body, _ = request(address, "GET", "/api/studies")
        assert status == 200
        (study,) = json.loads(body)["study_summaries"]
        assert study["study_name"] == "search"
        assert urlsplit(address).path == f"/dashboard/studies/{study['study_id']}"
        status, body, _ = request(address, "GET", f"/api/studies/{study['study_id']}?after=0")
        shown = json.loads(body)["trials"]
        records = trials(results=study_folder)
        assert len(shown) == len(records)
        number, trained = next((i, record) for i, record in enumerate(records) if record.state == "COMPLETE")
        attributes = {pair["key"]: pair["value"] for pair in shown[number]["user_attrs"]}
        for name in ("params", "macs", "receptive_field", "consistent_accuracy"):
            assert json.loads(attributes[name]) == getattr(trained, name)
        # DNS rebinding: the foreign page sends its own name in Host and its own origin in Origin.
        path = f"/api/studies/{study['study_id']}"
        for headers in (
            {"Host": "evil.example"},
            {"Host": "evil.example:8080", "Origin": "http://evil.example:8080"},
            {"Host": netloc, "Origin": "http://evil.example"},
            {"Host": netloc, "Origin": "null"},
            {"Host": netloc, "Origin": "http://[::1"},
            {"Host": netloc, "Origin": f"http://{netloc}/"},
            {"Host": netloc, "Origin": netloc},
            {"Host": "127.0.0.1.evil.example"},
            {"Host": "127.0.0.1:80.evil.example"},
            {"Host": "127.0.0.1:"},
            {"Host": "127.0.0.1:\xb2"},
            {"Host": "evil@127.0.0.1"},
            {"Host": ""},
        ):
            assert request(address, "DELETE", path, **headers)[0] == 403
            assert request(address, "GET", "/api/studies", **headers)[0] == 403
        assert request(address, "GET", "/api/studies", Host=netloc, Origin=f"http://{netloc}")[0] == 200
        assert request(address, "GET", "/api/studies", Host="LocalHost:1")[0] == 200
    assert len(trials(results=study_folder)) == len(records)


def test_port_in_use_error_suggests_free_port(study_folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(NasError, match=f"^`port={port}`: Address already in use; `port=0` takes a free one$"):
            serve_dashboard(results=study_folder, port=port)


def test_missing_study_raises_study_error(tmp_path):
    with pytest.raises(StudyError, match=r"studies\.db: no database found; run `nas\.search\(results='.*'\)` first"):
        serve_dashboard(results=tmp_path)


def study_data(address):
    study = urlsplit(address).path.rpartition("/")[2]
    return json.loads(request(address, "GET", f"/api/studies/{study}")[1])


def test_study_data_contain_figures_note_and_artifacts(monkeypatch, study_folder):
    with serving(monkeypatch, study_folder) as address:
        data = study_data(address)
    assert {figure["id"] for figure in data["plotly_graph_objects"]} == {
        *("accuracy", "learning_curves", "discards", "layers")
    }
    for name in ("command", "limits", "dataset", "machine", "best"):
        assert f"- **{name}**: " in data["note"]["body"]
    trained = next(trial for trial in data["trials"] if trial["state"] == "Complete")
    assert len(trained["intermediate_values"]) == 2
    assert {artifact["filename"] for artifact in trained["artifacts"]} == {
        *("architecture.svg", "architecture.json", "epochs.csv", "weights.pt")
    }


def test_figures_follow_search_and_edited_note_is_kept(monkeypatch, own_study):
    records = StudyRecords.open(StudyRef(own_study))
    trained = next(trial for trial in records.study.trials if trial.user_attrs["outcome"] == "trained")
    with serving(monkeypatch, own_study) as address:
        assert "**so far**: 2 trained" in study_data(address)["note"]["body"]
        records.study.add_trial(trained)
        after = study_data(address)
        assert "**so far**: 3 trained" in after["note"]["body"]
        (curves,) = (figure for figure in after["plotly_graph_objects"] if figure["id"] == "learning_curves")
        assert len(json.loads(curves["graph_object"])["data"]) == 3
        path = f"{urlsplit(address).path.replace('/dashboard', '/api')}/note"
        note = json.dumps({"version": after["note"]["version"] + 1, "body": "mine"})
        assert request(address, "PUT", path, body=note, Content_Type="application/json")[0] == 204
        records.study.add_trial(trained)
        assert study_data(address)["note"]["body"] == "mine"


def dump(results):
    """Returns the content of the database as SQL."""
    with closing(sqlite3.connect(results / "studies.db")) as connection:
        return list(connection.iterdump())


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "post"])
def test_read_only_dashboard_rejects_every_change(monkeypatch, own_study, method):
    before = dump(own_study)
    with serving(monkeypatch, own_study, read_only=True) as address:
        page = urlsplit(address).path
        api = page.replace("/dashboard", "/api")
        for path in (api, f"{api}/note", "/api/studies", "/api/trials/1/tell", "/api/artifacts/1/1", page):
            status, body, _ = request(address, method, path, body="{}", Content_Type="application/json")
            assert (status, body) == (403, b"This dashboard is read-only.\n"), path
        for path in (page, api, "/api/meta", "/api/studies", f"{api}/param_importances", f"{api}/plot/timeline"):
            assert request(address, "GET", path)[0] == 200, path
        assert request(address, "HEAD", page)[0] == 200
    assert dump(own_study) == before


def test_only_dashboard_page_may_run_scripts(monkeypatch, own_study, tmp_path):
    script = tmp_path / "evil.html"
    script.write_text("<script>document.title = 'owned'</script>")
    records = StudyRecords.open(StudyRef(own_study))
    uploaded = upload_artifact(
        artifact_store=records.artifacts.store(), file_path=str(script), study_or_trial=records.study
    )
    with serving(monkeypatch, own_study) as address:
        number = urlsplit(address).path.rpartition("/")[2]
        for path in (f"/artifacts/{number}/{uploaded}", f"/api/studies/{number}", "/", "/nothing", f"/csv/{number}"):
            _, _, headers = request(address, "GET", path)
            policy = headers["Content-Security-Policy"]
            assert policy.startswith("sandbox; default-src 'none';"), path
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["X-Frame-Options"] == "DENY"
            assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert headers["Access-Control-Allow-Origin"] is None
        _, _, headers = request(address, "GET", urlsplit(address).path)
        page, ours = headers.get_all("Content-Security-Policy")
        assert "script-src 'self'" in page
        assert ours == "frame-ancestors 'none'"
        assert headers["X-Frame-Options"] == "DENY"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_publicly_reachable_host_requires_allow_hosts(study_folder, host):
    with pytest.raises(NasError, match=rf"^`host='{host}'`: other machines can reach this address, .* `allow_hosts`$"):
        serve_dashboard(results=study_folder, host=host, port=0)


def test_allowed_hosts_match_whole_names(monkeypatch, study_folder):
    assert allowed_host_names("127.0.0.2", ()) == {"127.0.0.1", "localhost", "[::1]", "127.0.0.2"}
    for name in ("*", "a b", "nas.lan:80", "http://nas.lan", "", "nas.lan/x", "nas,lan"):
        with pytest.raises(
            NasError, match=r"^`allow_hosts=\['.*'\]`: expected a host name or an address, without a port$"
        ):
            allowed_host_names("0.0.0.0", [name])
    with serving(monkeypatch, study_folder, host="0.0.0.0", allow_hosts=["NAS.lan"]) as address:
        assert address.startswith("http://NAS.lan:")
        here = address.replace("NAS.lan", "127.0.0.1")
        for host, status in (("nas.LAN:1", 200), ("localhost", 200), ("x.nas.lan", 403), ("0.0.0.0", 403)):
            assert request(here, "GET", "/api/meta", Host=host)[0] == status, host


def test_unwritable_study_is_shown_and_stays_unchanged(monkeypatch, own_study):
    with closing(sqlite3.connect(own_study / "studies.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = (own_study / "studies.db").read_bytes()
    monkeypatch.setattr("nas.study.database._is_read_only", lambda database: True)  # root may write anywhere
    with serving(monkeypatch, own_study) as address:
        assert len(study_data(address)["trials"]) == len(trials(results=own_study))
    with pytest.raises(StudyError, match="readonly database"), errors_on_use(default_storage(own_study)):
        StudyRecords.open(StudyRef(own_study)).study.set_user_attr("a", 1)
    assert (own_study / "studies.db").read_bytes() == before


def test_dashboard_keeps_serving_after_study_is_deleted(monkeypatch, own_study):
    with serving(monkeypatch, own_study) as address:
        page = urlsplit(address).path
        api = page.replace("/dashboard", "/api")
        assert request(address, "GET", api)[0] == 200
        body = json.dumps({"remove_associated_artifacts": False})
        assert request(address, "DELETE", api, body=body, Content_Type="application/json")[0] == 204
        for _ in range(2):  # cached data must not reappear either
            assert request(address, "GET", api)[0] == 404
            assert request(address, "GET", page)[0] == 200
            assert request(address, "GET", "/dashboard")[0] == 200
            status, body, _ = request(address, "GET", "/api/studies")
            assert (status, json.loads(body)["study_summaries"]) == (200, [])
