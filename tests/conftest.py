"""Shared fixtures: no network, a cache folder per test, a copy of MNIST if available, small studies, databases."""

import os
import shutil
import signal
import socket
import sqlite3
import sys
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

# Set before torch is imported: on busy cores, threads that spin while they wait take ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# pytest runs one process per core already; child processes inherit the setting.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import time

import hypothesis
import pytest
from support.effort import PROFILE, examples
from support.once import computed_once
from support.paths import TINY
from support.postgres import Server, find_programs, why_none

# No deadlines: the first example of a test may import torch, and the machine may be busy.
hypothesis.settings.register_profile("quick", deadline=None, max_examples=examples(100))
hypothesis.settings.register_profile("ci", deadline=None)
hypothesis.settings.load_profile(PROFILE)

SHARED = Path(__file__).parents[2] / "shared" / "data"


def pytest_configure():
    # A background process may ignore Ctrl-C, and its child processes inherit that.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def mnist_root(tmp_path_factory):
    """Data root that contains MNIST/raw."""
    named = os.environ.get("NAS_DATA")
    if named and (Path(named) / "MNIST" / "raw").is_dir():
        return Path(named)
    if not (SHARED / "MNIST" / "raw").is_dir():
        pytest.skip(f"MNIST is neither in NAS_DATA nor in {SHARED}")
    root = tmp_path_factory.mktemp("data")
    (root / "MNIST" / "raw").mkdir(parents=True)
    for path in (SHARED / "MNIST" / "raw").glob("*.gz"):
        shutil.copyfile(path, root / "MNIST" / "raw" / path.name)
    return root


@pytest.fixture(scope="session", autouse=True)
def _quickly():
    with computed_once():
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if "postgres" in item.fixturenames:
            item.add_marker("postgres")


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def _alone(request, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    if "mnist_root" in request.fixturenames:
        monkeypatch.setenv("NAS_DATA", str(request.getfixturevalue("mnist_root")))
    else:
        monkeypatch.delenv("NAS_DATA", raising=False)
    monkeypatch.setattr(urllib.request, "urlopen", _only_files(urllib.request.urlopen))


def _only_files(urlopen):
    """Returns `urlopen` as on a machine without a network: only file:// URLs work."""

    def offline(url, *args, **kwargs):
        address = url if isinstance(url, str) else url.full_url
        if not address.startswith("file:"):
            raise urllib.error.URLError(socket.gaierror(-2, "Name or service not known"))
        response = urlopen(url, *args, **kwargs)
        response.length = int(response.headers["Content-Length"])  # torchvision's progress bar needs it
        return response

    return offline


@pytest.fixture(scope="module")
def one_thread():
    """Limits torch to one thread: with tiny tensors a second one gains nothing, and is slow on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny_space(tmp_path):
    """Path of a search space whose networks need less than a second per epoch on digits."""
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return str(path)


@pytest.fixture(scope="session")
def study_folder(tmp_path_factory):
    """Results folder with a study of two trained trials on digits. Read-only: tests share it."""
    from nas.commands.search import search

    folder = tmp_path_factory.mktemp("study")
    space = folder / "tiny.toml"
    space.write_text(TINY)
    search(
        max_params=900,
        min_receptive_field=10,
        dataset="digits",
        space=str(space),
        epochs=2,
        trials=2,
        results=folder / "results",
        device="cpu",
        workers=1,
    )
    return folder / "results"


@pytest.fixture(scope="session")
def confirmed(tmp_path_factory):
    """Results folder with a study of two trained trials, one of them confirmed. Read-only: tests share it."""
    from nas.commands.confirm import confirm
    from nas.commands.search import search

    folder = tmp_path_factory.mktemp("confirmed")
    (folder / "tiny.toml").write_text(TINY)
    limits = {"max_params": 900, "min_receptive_field": 10}
    asked = {"dataset": "digits", "space": str(folder / "tiny.toml"), "epochs": 2, "trials": 2}
    search(**limits, **asked, results=folder / "results", device="cpu", workers=1)
    confirm(top=1, seeds=2, results=folder / "results", device="cpu", workers=1)
    (folder / "copy").mkdir()
    shutil.copytree(folder / "results" / "artifacts", folder / "copy" / "artifacts")
    with (
        closing(sqlite3.connect(folder / "results" / "studies.db")) as database,
        closing(sqlite3.connect(folder / "copy" / "studies.db")) as alone,
    ):
        database.backup(alone)
        alone.execute("PRAGMA journal_mode=DELETE")  # one file that can be copied
    return folder / "copy"


@pytest.fixture
def copied(confirmed, tmp_path):
    """Copy of `confirmed` that a test may damage."""
    return Path(shutil.copytree(confirmed, tmp_path / "results"))


@pytest.fixture
def nas(monkeypatch, capsys):
    """Function that runs a command line in this process; returns exit status, standard output, standard error."""
    from nas.cli import main as cli

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["nas", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as stop:
            status = stop.code or 0
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture(scope="session")
def postgres():
    """PostgreSQL server of the test session. Each test uses its own study names."""
    pytest.importorskip("psycopg")
    if reason := why_none():
        pytest.skip(reason)
    server = Server(find_programs())
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database(request, tmp_path):
    """Database URL, once for SQLite and once for PostgreSQL; tests share the PostgreSQL database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'studies.db'}"
    return request.getfixturevalue("postgres").url


@pytest.fixture
def settled():
    """Function that waits until a condition holds; fails after a minute."""

    def wait(holds):
        end = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < end
            time.sleep(0.05)

    return wait
