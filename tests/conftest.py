"""No test reaches the network or the user's own cache; MNIST, where it is at hand, is lent as a copy."""

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

# Before torch is imported. Two threads that wait by spinning, on two cores that others use too, take ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# A process of the session for each core is enough; what tests start inherits it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import time

import hypothesis
import pytest
from support.effort import PROFILE, examples
from support.once import computed_once
from support.paths import TINY
from support.postgres import Server, find_programs, why_none

# The first example of a test may import half of torch, and the machine may be busy: time says nothing here.
hypothesis.settings.register_profile("quick", deadline=None, max_examples=examples(100))
hypothesis.settings.register_profile("ci", deadline=None)
hypothesis.settings.load_profile(PROFILE)

SHARED = Path(__file__).parents[2] / "shared" / "data"


def pytest_configure():
    # Programs that run in the background may have Ctrl-C ignored, and hand that down to what they start.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def mnist_root(tmp_path_factory):
    """A data root that holds MNIST/raw."""
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
    """`urlopen` as on a machine without a network: only file:// is answered."""

    def offline(url, *args, **kwargs):
        address = url if isinstance(url, str) else url.full_url
        if not address.startswith("file:"):
            raise urllib.error.URLError(socket.gaierror(-2, "Name or service not known"))
        response = urlopen(url, *args, **kwargs)
        response.length = int(response.headers["Content-Length"])  # torchvision's progress bar asks for it
        return response

    return offline


@pytest.fixture(scope="module")
def one_thread():
    """Tiny tensors gain nothing from a second thread, and on a busy machine lose tenfold by waiting for it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny_space(tmp_path):
    """The path of a space whose networks train on digits within a second an epoch."""
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return str(path)


@pytest.fixture(scope="session")
def study_folder(tmp_path_factory):
    """A results folder with a study of two trained trials on digits. Read only: tests share it."""
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
    """A results folder with a study of two trained trials, one of which is confirmed. Read only."""
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
        alone.execute("PRAGMA journal_mode=DELETE")  # all of it in the one file, which can then be copied
    return folder / "copy"


@pytest.fixture
def copied(confirmed, tmp_path):
    """A copy of it that may be damaged."""
    return Path(shutil.copytree(confirmed, tmp_path / "results"))


@pytest.fixture
def nas(monkeypatch, capsys):
    """Runs a command line in this process; exit status, standard output, standard error."""
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
    """A PostgreSQL server of the tests' own. Each test takes study names of its own."""
    pytest.importorskip("psycopg")
    if reason := why_none():
        pytest.skip(reason)
    server = Server(find_programs())
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database(request, tmp_path):
    """The URL of a database of each kind; on PostgreSQL tests share it."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'studies.db'}"
    return request.getfixturevalue("postgres").url


@pytest.fixture
def settled():
    """Waits until something holds that another process, or a server, brings about; fails after a minute."""

    def wait(holds):
        end = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < end
            time.sleep(0.05)

    return wait
