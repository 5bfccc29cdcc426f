"""CONTRIBUTING.md: a new layer, added by following its section alone, is complete."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("\n## Add a layer\n")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", SECTION, re.S | re.M)
PLACE = re.compile(r"# (\S+), (?:at the end|below `(.+)`)")
BIN = Path(sys.executable).parent


def with_block(text, where, code):
    """Returns the text of a file with the lines of a block, at the place that the block's first line names."""
    if where is None:
        return f"{text}\n\n{code}"
    assert text.count(f"\n{where}\n") == 1, f"CONTRIBUTING.md: the line {where!r} is there {text.count(where)} times"
    return text.replace(f"\n{where}\n", f"\n{where}\n{code}")


def changed_files():
    """Returns the text of every file that the section changes."""
    files = {}
    for language, block in BLOCKS:
        if language == "python":
            first, _, code = block.partition("\n")
            match = PLACE.fullmatch(first)
            assert match, f"CONTRIBUTING.md: the block's first line is {first!r}, expected the place of its lines"
            path, where = match.groups()
            files[path] = with_block(files.get(path) or (ROOT / path).read_text(encoding="utf-8"), where, code)
    return files


def test_blocks_of_new_layer_fit_into_their_files():
    files = changed_files()
    assert len(files) == 6
    for path, text in files.items():
        compile(text, path, "exec")
    assert "tests/architecture/test_layer_kinds.py -k channel_scale" in SECTION


@pytest.mark.slow
def test_new_layer_added_by_following_the_section_is_complete(tmp_path):
    if not (BIN / "ruff").exists():
        pytest.skip("ruff is not installed")
    for name in ("nas", "tests", "search_spaces"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for path, text in changed_files().items():
        (tmp_path / path).write_text(text, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "NAS_UPDATE_GOLDEN": "0"}

    def run(line):
        # One replacement first to last: the interpreter's own path may contain .venv/bin, too.
        command = line.replace(".venv/bin/nas", ".venv/bin/python -m nas").replace(
            ".venv/bin/", f"{shlex.quote(str(BIN))}/"
        )
        done = subprocess.run(
            ["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    outputs = []
    for language, block in BLOCKS:
        if language == "toml":
            (tmp_path / "scaled.toml").write_text(block)
        elif language == "sh":
            outputs += map(run, block.splitlines())
    assert "ChannelScale(" in outputs[-1]
