"""Imports go in one direction, and what must answer at once imports no heavy library."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT

HEAVY = ("torch", "optuna", "pandas", "plotly")
LIGHT_ROOMS = ("architecture", "space")
"""Rooms of which no module but `architecture.modules`, which a network is built of, imports a heavy library."""


def test_import_contracts_are_kept():
    pytest.importorskip("importlinter")
    # By its own command: it analyses the package that lies in the current folder.
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache", "--no-logo"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def heavy_imports(statement):
    """The heavy libraries that a fresh interpreter has imported after the statement."""
    code = f"{statement}; import sys; print(*(m for m in {HEAVY} if m in sys.modules))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize(
    "statement", ["import nas.cli.main", "from nas import cost_of, SearchSpace, survey, Architecture"]
)
def test_what_must_answer_at_once_imports_neither_torch_nor_optuna(statement):
    assert heavy_imports(statement) == []


@pytest.mark.parametrize("room", LIGHT_ROOMS)
def test_light_rooms_import_neither_torch_nor_optuna(room):
    names = sorted(path.stem for path in (ROOT / "nas" / room).glob("*.py") if path.stem not in ("__init__", "modules"))
    assert heavy_imports(f"from nas.{room} import {', '.join(names)}") == []


def test_every_public_name_is_there():
    import nas

    for name in nas.__all__:
        assert getattr(nas, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        nas.nothing  # noqa: B018


def test_the_search_function_is_not_hidden_by_a_module():
    import nas.commands.search
    from nas import search

    assert search is nas.commands.search.search
