"""Neural architecture search under hard constraints: each command of `nas` is one function here.

    from nas import Architecture, cost_of, search

Names are imported when first asked for: the cheap ones bring neither torch nor Optuna with them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.architecture import Architecture as Architecture
    from nas.confirming import confirm as confirm
    from nas.constraints import Constraint as Constraint
    from nas.constraints import limits as limits
    from nas.cost import Cost as Cost
    from nas.cost import cost_of as cost_of
    from nas.cost import layer_table as layer_table
    from nas.dashboard import serve_dashboard as serve_dashboard
    from nas.errors import NasError as NasError
    from nas.exporting import export as export
    from nas.exporting import export_trial as export_trial
    from nas.fitting import train as train
    from nas.fitting import train_seeds as train_seeds
    from nas.recipe import Recipe as Recipe
    from nas.records import trials as trials
    from nas.reporting import report as report
    from nas.screening import survey as survey
    from nas.search_space import SearchSpace as SearchSpace
    from nas.searching import search as search

_HOMES = {
    "Architecture": "nas.architecture",
    "confirm": "nas.confirming",
    "Constraint": "nas.constraints",
    "limits": "nas.constraints",
    "Cost": "nas.cost",
    "cost_of": "nas.cost",
    "layer_table": "nas.cost",
    "serve_dashboard": "nas.dashboard",
    "NasError": "nas.errors",
    "export": "nas.exporting",
    "export_trial": "nas.exporting",
    "train": "nas.fitting",
    "train_seeds": "nas.fitting",
    "Recipe": "nas.recipe",
    "trials": "nas.records",
    "report": "nas.reporting",
    "survey": "nas.screening",
    "SearchSpace": "nas.search_space",
    "search": "nas.searching",
}

__all__ = [  # noqa: PLE0604  # found by __getattr__
    *_HOMES
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nas' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
