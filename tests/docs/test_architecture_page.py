"""docs/architecture.md: its table of rooms is current, and every module that it names exists."""

import re
import subprocess
import sys

from support.paths import ROOT

PAGE = ROOT / "docs" / "architecture.md"


def test_table_of_rooms_matches_contracts_and_docstrings():
    command = [sys.executable, ROOT / "scripts" / "architecture_table.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_stale_table_is_reported_and_rewritten(tmp_path):
    copy = tmp_path / "nas"
    for name in ("scripts/architecture_table.py", "docs/architecture.md", "pyproject.toml"):
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    (copy / "nas").symlink_to(ROOT / "nas")
    page = copy / "docs" / "architecture.md"
    page.write_text(page.read_text(encoding="utf-8").replace("| 1 | **`data/`** |", "| 1 | **`date/`** |"), "utf-8")
    command = [sys.executable, copy / "scripts" / "architecture_table.py"]
    done = subprocess.run([*command, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("docs/architecture.md is stale")
    subprocess.run(command, check=True)
    assert subprocess.run([*command, "--check"], check=False).returncode == 0


def test_modules_named_on_page_exist():
    text = PAGE.read_text(encoding="utf-8").partition("<!-- rooms -->")[0]
    named = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)*(?:/|\.py))`", text))
    named.remove("model.py")  # part of an export
    assert len(named) > 30
    there = {
        path.relative_to(ROOT).as_posix() for top in ("nas", "scripts", "tests") for path in (ROOT / top).rglob("*")
    }
    missing = [name for name in named if not any(f"/{path}".endswith(f"/{name.rstrip('/')}") for path in there)]
    assert missing == []
