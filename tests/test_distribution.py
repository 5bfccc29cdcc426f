"""The name of the distribution, and other distributions that install a package `nas`."""

import sys
from importlib import metadata

import pytest

import nas
from nas.distribution import DISTRIBUTION_NAME, conflict_text, package_version

OURS = "Neural architecture search under hard constraints: small CNNs that keep their limits."


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Function that installs the metadata of a distribution `nas`, version 0.1.0, first on `sys.path`."""

    def write(summary):
        folder = tmp_path / "nas-0.1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: nas\nVersion: 0.1.0\nSummary: {summary}\n")
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    return write


def test_package_version_equals_distribution_version():
    assert package_version() == nas.__version__ == metadata.version(DISTRIBUTION_NAME)


@pytest.mark.parametrize(
    ("summary", "which"), [("a package of searches", "another project"), (OURS, "an earlier version of smallnas")]
)
def test_conflicting_distribution_nas_is_reported(install, summary, which):
    install(summary)
    assert conflict_text() == (
        f"the distribution nas 0.1.0 is installed, too; it is {which} and overwrites files of smallnas:"
        " pip uninstall --yes nas smallnas && pip install smallnas"
    )


def test_command_line_warns_of_conflict_on_stderr_and_continues(install, nas):
    install("a package of searches")
    status, out, err = nas("cost", "mnist-7825")
    assert status == 0
    assert out.startswith("params ")
    assert err.startswith("warning: the distribution nas 0.1.0 is installed, too; ")
    assert err.count("\n") == 1
