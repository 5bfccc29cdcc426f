"""Imports go in one direction, and what must answer at once imports no heavy library."""

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
    # By its own command: it analyses the package that lies in the current folder.
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache", "--no-logo"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def heavy_imports(statement):
    """The heavy libraries that a fresh interpreter has imported after the statement."""
    code = f"{statement}; import sys; print(*(m for m in {HEAVY} if m in sys.modules))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize(
    "statement",
    [
        "import nas.cli.main",
        "from nas import cost_of, SearchSpace, survey, Architecture",
        "import nas; nas.cost_of; nas.layers.Conv",
    ],
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
    """The classes of `nas` that an annotation names, in unions, in generics and in the parameters of callbacks."""
    if isinstance(annotation, list):  # of the parameters of a Callable
        return {each for part in annotation for each in classes(part)}
    if isinstance(annotation, type) and not get_args(annotation):
        return {annotation} if annotation.__module__.partition(".")[0] == "nas" else set()
    return {each for part in get_args(annotation) for each in classes(part)}


def test_what_public_functions_return_and_report_is_public_too():
    import pandas as pd
    import torch

    import nas

    names = {"Tensor": torch.Tensor, "pd": pd}  # imported for type checkers only
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


def test_the_search_function_is_not_hidden_by_a_module():
    import nas.commands.search
    from nas import search

    assert search is nas.commands.search.search
