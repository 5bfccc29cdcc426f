"""Type check of the Python examples in README.md and docs."""

import re
import subprocess
import sys

import pytest
from support.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.slow
def test_python_examples_pass_mypy_in_strict_mode(tmp_path):
    pytest.importorskip("mypy")
    files = []
    for page in PAGES:
        for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)):
            files.append(tmp_path / f"{page.stem}_{number}.py")
            files[-1].write_text(code, encoding="utf-8")
    assert len(files) >= 2
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", ROOT / "pyproject.toml", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
