"""Imports go in one direction, and what must answer at once brings nothing heavy with it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

NAS = Path(__file__).parents[1] / "nas"
RANKS = [
    {"errors", "modules", "wording"},
    {"allowed", "json_file", "shipped", "image_folder", "pareto", "verdict", "guard", "call"},
    {"layers", "recipe", "domains"},
    {"composites", "page"},
    {"architecture"},
    {"cost"},
    {"constraints", "datasets", "blocks"},
    {"search_space"},
    {"screening", "picture", "recognition", "proposals", "pruners", "training", "storage"},
    {"starting", "samplers", "stored", "artifacts", "trial_files", "sharing", "mirror"},
    {"checking", "ledger", "workers"},
    {"records", "events", "figures"},
    {"recording", "confirmed", "overview", "study_options"},
    {"loop"},
    {"searching", "confirming", "fitting", "dashboard", "reporting"},
    {"exporting"},
    {"display", "tables"},
    {"options"},
    {"cli_networks", "cli_results"},
    {"cli"},
    {"__init__", "__main__"},
]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}


def room(path):
    """The module's name at the top level of the package: all of training/ is one room."""
    return path.relative_to(NAS).parts[0].removesuffix(".py")


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "nas":
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("nas."))


def test_every_module_has_a_rank():
    assert {room(path) for path in NAS.rglob("*.py")} == set(RANK)


@pytest.mark.parametrize("path", sorted(NAS.rglob("*.py")), ids=lambda path: str(path.relative_to(NAS)))
def test_imports_come_from_lower_ranks(path):
    own = room(path)
    for other in imported_rooms(path):
        # Two modules of one rank may not know each other, files of one room may.
        assert other == own or RANK[other] < RANK[own], f"{own} imports {other}"


@pytest.mark.parametrize(
    "statement", ["import nas.cli.main", "from nas import cost_of, SearchSpace, survey, Architecture"]
)
def test_what_must_answer_at_once_imports_neither_torch_nor_optuna(statement):
    code = f"{statement}; import sys; print([m for m in ('torch', 'optuna', 'pandas', 'plotly') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


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
