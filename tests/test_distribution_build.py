"""Contents of the source distribution and the wheel; commands of the installed wheel outside the checkout."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path
from subprocess import PIPE

import pytest
from packaging.requirements import Requirement
from support.exports import run_alone
from support.paths import ROOT

from nas.distribution import DISTRIBUTION_NAME

pytestmark = pytest.mark.slow

NOT_BUILT_FROM = ("build", "dist", "data", "wheels")
"""Folders of a checkout that git ignores."""


def run(*command, **options):
    """Returns the output of a command that must succeed."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Paths of the source distribution and of the wheel built from it."""
    pytest.importorskip("twine", reason="what builds the distributions is not installed: pip install 'smallnas[dev]'")
    # A build leaves a folder behind; links to the checkout's files keep it out of the checkout.
    checkout, output = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("dist")
    for path in ROOT.iterdir():
        if path.name not in NOT_BUILT_FROM and not path.name.startswith(".") and path.suffix != ".egg-info":
            (checkout / path.name).symlink_to(path)
    said = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", output, cwd=checkout)
    assert "is absent from the `packages` configuration" not in said
    (source,), (wheel,) = output.glob("*.tar.gz"), output.glob("*.whl")
    return source, wheel


def files_of_the_package():
    """Returns the paths of all files that an installation needs, relative to the checkout."""
    every = (path for folder in ("nas", "search_spaces") for path in (ROOT / folder).rglob("*"))
    return {str(path.relative_to(ROOT)) for path in every if path.is_file() and path.suffix != ".pyc"}


def test_source_distribution_contains_files_to_build_wheel(built):
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if archive.getmember(name).isfile()}
    generated = {
        "PKG-INFO",
        "setup.cfg",
        *(name for name in names if name.startswith(f"{DISTRIBUTION_NAME}.egg-info/")),
    }
    assert names - generated == files_of_the_package() | {"LICENSE", "MANIFEST.in", "README.md", "pyproject.toml"}


def test_wheel_contains_package_search_spaces_and_license(built):
    names = set(zipfile.ZipFile(built[1]).namelist())
    described = {name for name in names if ".dist-info/" in name}
    assert {
        name.replace("nas/search_spaces/", "search_spaces/") for name in names - described
    } == files_of_the_package()
    assert {name.partition("/")[2] for name in described} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
        "top_level.txt",
    }


def test_twine_accepts_source_distribution_and_wheel(built):
    run(sys.executable, "-m", "twine", "check", "--strict", *built)


def dependencies(requirements):
    """Returns the installed distributions that the requirements need, with the extras that they name."""
    found, open_ = {}, [(text, "") for text in requirements]
    for text, extra in open_:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        for each in ("", *requirement.extras):
            if (requirement.name, each) not in found:
                found[requirement.name, each] = metadata.distribution(requirement.name)
                open_ += [(further, each) for further in found[requirement.name, each].requires or ()]
    return found.values()


@pytest.fixture
def program(built, tmp_path):
    """Command `nas` of a new environment that contains only the wheel and its dependencies."""
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", environment)
    python = environment / "bin" / "python"
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", built[1])
    # Installing torch again takes minutes, so dependencies are links into the running environment.
    (described,) = packages.glob(f"{DISTRIBUTION_NAME}-*.dist-info")
    for distribution in dependencies(metadata.Distribution.at(described).requires):
        for name in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (packages / name).exists():
                (packages / name).symlink_to(distribution.locate_file(name))
    return environment / "bin" / "nas"


def test_main_commands_work_after_plain_installation(program, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    outside = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}

    def nas(*arguments):
        return run(program, *arguments, cwd=place, env=outside)

    python = program.with_name("python")
    where = run(python, "-c", "import nas; print(nas.__file__)", cwd=place, env=outside)
    assert Path(where.strip()).is_relative_to(program.parents[1])
    assert nas("--version") == f"nas {run(python, '-c', VERSION, cwd=place, env=outside)}"
    assert nas("cost", "mnist-7825").startswith("params ")  # a published network
    nas("search", "--dataset", "digits", "--max-params", 3000, "--epochs", 1, "--trials", 2, *ON_ONE_CORE)
    assert [trial["outcome"] for trial in json.loads(nas("trials", "--format", "json"))].count("trained") == 2
    nas("confirm", "--seeds", 2, *ON_ONE_CORE)
    nas("report")
    table = subprocess.run([program, "report", "--format", "parquet"], cwd=place, env=outside, stderr=PIPE, check=False)
    assert table.returncode == 2
    assert b"run pip install 'smallnas[parquet]'" in table.stderr
    assert "</html>" in (place / "results" / "search-report.html").read_text(encoding="utf-8")
    nas("export", "--trial", "confirmed", "--output", "model", "--format", "int8")
    loaded = run_alone(place / "model", "-c", LOAD)
    assert loaded.returncode == 0, loaded.stderr
    assert 0 < int(loaded.stdout) <= 3000


ON_ONE_CORE = ("--device", "cpu", "--workers", 1)
VERSION = f"import importlib.metadata; print(importlib.metadata.version({DISTRIBUTION_NAME!r}))"
LOAD = """
import model
print(sum(weight.numel() for weight in model.load("weights.pt").parameters()))
"""
