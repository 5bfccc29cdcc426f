"""Imports follow the contracts, fast entry points import no heavy library, and the public names are complete."""

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from support.paths import ROOT

HEAVY = ("torch", "optuna", "pandas", "plotly")
LIGHT_ROOMS = ("architecture", "space")
"""Rooms of which no module but `architecture.modules`, which a network is built of, imports a heavy library."""
UNIONS = ("Event", "ConfirmEvent")
"""Public names of types without a name of their own."""


def test_import_contracts_are_kept():
    pytest.importorskip("importlinter")
    # Run as a command, because it analyses the package in the current folder.
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache", "--no-logo"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def heavy_imports(statement):
    """Returns the heavy libraries that the statement imports in a fresh interpreter."""
    code = f"{statement}; import sys; print(*(m for m in {HEAVY} if m in sys.modules))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize(
    "statement",
    [
        "import nas.cli.main",
        "from nas import cost_of, SearchSpace, survey, Architecture",
        "import nas; nas.cost_of; nas.layers.Conv; nas.__version__",
    ],
)
def test_fast_entry_points_import_no_heavy_library(statement):
    assert heavy_imports(statement) == []


@pytest.mark.parametrize("room", LIGHT_ROOMS)
def test_light_rooms_import_no_heavy_library(room):
    names = sorted(path.stem for path in (ROOT / "nas" / room).glob("*.py") if path.stem not in ("__init__", "modules"))
    assert heavy_imports(f"from nas.{room} import {', '.join(names)}") == []


def test_every_public_name_resolves():
    import nas

    for name in nas.__all__:
        found = getattr(nas, name)
        assert name in UNIONS or found.__name__.rpartition(".")[2] == name
    with pytest.raises(AttributeError, match="attribute nothing"):
        nas.nothing  # noqa: B018


def test_every_layer_kind_is_public():
    import nas
    from nas.architecture.composites import KINDS

    public = {getattr(nas.layers, name) for name in nas.layers.__all__}
    assert public == {*KINDS.values(), nas.layers.Layer, nas.layers.Measure}


def classes(annotation):
    """Returns the classes of `nas` in an annotation, including unions, generics and parameters of callbacks."""
    if isinstance(annotation, list):  # parameters of a Callable
        return {each for part in annotation for each in classes(part)}
    if isinstance(annotation, type) and not get_args(annotation):
        return {annotation} if annotation.__module__.partition(".")[0] == "nas" else set()
    return {each for part in get_args(annotation) for each in classes(part)}


def test_types_returned_or_reported_by_public_functions_are_public():
    import pandas as pd
    import torch

    import nas

    names = {"Tensor": torch.Tensor, "pd": pd}  # imported only for type checkers
    public = {getattr(nas, name) for name in nas.__all__} | {getattr(nas.layers, name) for name in nas.layers.__all__}
    todo = []
    for function in filter(inspect.isfunction, public):
        hints = get_type_hints(function, localns=names)
        callbacks = [hint for name, hint in hints.items() if name.startswith("on_")]
        todo += [(function.__name__, each) for hint in (hints["return"], *callbacks) for each in classes(hint)]
    seen, missing = set(), set()
    while todo:
        where, kind = todo.pop()
        if kind in seen:
            continue
        seen.add(kind)
        if kind not in public:
            missing.add(f"{kind.__qualname__} of {where}")
        if dataclasses.is_dataclass(kind):
            hints = get_type_hints(kind, localns=names)
            todo += [(kind.__name__, each) for hint in hints.values() for each in classes(hint)]
    assert len(seen) > 30
    assert missing == set()


def test_search_function_is_not_shadowed_by_module():
    import nas.commands.search
    from nas import search

    assert search is nas.commands.search.search
