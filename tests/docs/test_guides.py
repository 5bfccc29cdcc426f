"""Every command of the guides runs, with less data and with fewer, shorter trainings."""

import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from support.golden import nas
from support.paths import ROOT
from support.serving import assert_serves

from nas.architecture.architecture import Architecture
from nas.boards import Board
from nas.commands.search import search
from nas.data import datasets
from nas.data.image_folder import list_images
from nas.exporters.core_test.emulate import missing_for
from nas.space.network_parts import HEADS

GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
NUM_TRAIN, NUM_TEST = 400, 100
FEWER = {"trials": 6, "top": 2, "seeds": 2, "epochs": 3}
"""By what counts are divided, so that a network or two are trained where a guide has twenty."""


@pytest.fixture(scope="module")
def small_mnist(tmp_path_factory):
    """Data root whose MNIST is a few of scikit-learn's digits, in torchvision's unpacked format."""
    folder = tmp_path_factory.mktemp("data") / "MNIST" / "raw"
    folder.mkdir(parents=True)
    pool = datasets.merge_train_and_val(datasets.load("digits"))
    for stem, part in (("train", slice(NUM_TRAIN)), ("t10k", slice(NUM_TRAIN, NUM_TRAIN + NUM_TEST))):
        for name, values in (("images-idx3", pool.images[part, 0]), ("labels-idx1", pool.labels[part])):
            array = values.numpy().astype(np.uint8)
            head = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
            (folder / f"{stem}-{name}-ubyte").write_bytes(head + array.tobytes())
    return folder.parents[1]


@pytest.fixture
def place(small_mnist, tmp_path):
    """Folder with the files that the guides assume (a digit, photographs of two classes), and an environment."""
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 256, (28, 28), np.uint8)).save(tmp_path / "digit.png")
    for shift, name in enumerate(("cat", "dog")):
        (tmp_path / "originals" / name).mkdir(parents=True)
        for index in range(60):
            size = (int(generator.integers(30, 60)), int(generator.integers(30, 60)), 3)
            pixels = generator.integers(0, 156, size, np.uint8) + np.uint8(100 * shift)
            Image.fromarray(pixels).save(tmp_path / "originals" / name / f"{index}.jpg")
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name, command in (("nas", "-m nas"), ("python", "")):
        (bin_ / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {command} "$@"\n')
        (bin_ / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}",
        "NAS_DATA": str(small_mnist),
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "160",
    }
    return tmp_path, environment


def blocks(guide):
    return re.findall(r"^```(\w+)\n(.*?)^```$", guide.read_text(encoding="utf-8"), re.S | re.M)


def fewer(line):
    """Returns the command with smaller counts; 24 trials after 20 still continue the search."""

    def count(match):
        return f"--{match[1]} {max(2, int(match[2]) // FEWER[match[1]])}"

    return re.sub(rf"--({'|'.join(FEWER)}) (\d+)", count, line)


def written_as(language, text):
    """Returns the file name for a code block of the given language."""
    if "ram_bytes" in text:
        return "my_boards.toml"
    if "resize.h" in text:
        return "frame.c"
    return {"toml": "narrow.toml", "c": "main.c", "json": "mine.json"}[language]


@pytest.mark.slow
@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_every_guide_command_runs(guide, place, monkeypatch):
    folder, environment = place
    monkeypatch.chdir(folder)
    for name in ("NAS_DATA", "COLUMNS"):
        monkeypatch.setenv(name, environment[name])

    def run(command):
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr

    for language, text in blocks(guide):
        if language == "python":
            run(["python", "-c", text])
        elif language != "sh":
            (folder / written_as(language, text)).write_text(text)
        else:
            for line in text.splitlines():
                if line.startswith("nas dashboard"):
                    assert_serves([*shlex.split(line), "--port", "0"], cwd=folder, env=environment)
                elif line.startswith("nas ") and not set("|<>&;") & set(line):
                    # In this process, because a new one takes seconds to import torch and Optuna.
                    done = nas(*shlex.split(fewer(line), comments=True)[1:])
                    assert done.status == 0, f"{line}\n{done.out}\n{done.err}"
                    assert "warning: " not in done.out, f"{line}\n{done.out}"  # a network that a search leaves out
                elif "CROSS=" not in line or not missing_for(Board.load("pico")):
                    run(["sh", "-c", fewer(line)])


def test_guide_explains_every_head_of_a_search_space():
    guide = next(path for path in GUIDES if path.stem == "own_limits").read_text(encoding="utf-8")
    table = guide.partition("| `head` |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)`", table, re.M) == list(HEADS)


def test_readme_links_every_guide():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for guide in GUIDES:
        assert f"docs/guides/{guide.name}" in readme


@pytest.mark.parametrize("page", [*GUIDES, *(ROOT.glob("*.md"))], ids=lambda path: path.name)
def test_relative_links_point_to_existing_files(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_search_starts_from_network_of_own_limits_guide(tmp_path, monkeypatch):
    guide = next(path for path in GUIDES if path.stem == "own_limits")
    (text,) = (text for language, text in blocks(guide) if language == "json")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text(text)
    given = {"dataset": "digits", "max_params": 8000, "epochs": 1, "trials": 1, "device": "cpu", "workers": 1}
    result = search(**given, start_from=["mine.json"])
    assert [trial.source for trial in result.best] == ["mine.json"]
    assert result.best[0].architecture == Architecture.load("mine.json")


def test_own_images_snippet_creates_image_folder_dataset(place):
    """The guide's snippet puts every image into the folder of its class."""
    folder, environment = place
    guide = next(path for path in GUIDES if path.stem == "own_images")
    code = next(text for language, text in blocks(guide) if language == "python")
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, check=True)
    files, labels, classes = list_images(folder / "images" / "train")
    assert (len(files), labels.sum().item(), classes) == (120, 60, ("cat", "dog"))
