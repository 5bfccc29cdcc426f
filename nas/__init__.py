"""Neural architecture search under hard constraints: each command of `nas` has a function here.

    from nas import Architecture, cost_of, search

Names are imported on first access, so that light ones such as `cost_of` load neither torch nor Optuna.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.architecture.architecture import Architecture as Architecture
    from nas.architecture.cost import Cost as Cost
    from nas.architecture.cost import cost_of as cost_of
    from nas.architecture.cost import layer_table as layer_table
    from nas.commands.confirm import confirm as confirm
    from nas.commands.export import export_trial as export_trial
    from nas.commands.report import report as report
    from nas.commands.search import search as search
    from nas.commands.train import train as train
    from nas.commands.train import train_seeds as train_seeds
    from nas.commands.trials import trials as trials
    from nas.dashboard.server import serve_dashboard as serve_dashboard
    from nas.errors import NasError as NasError
    from nas.exporters.export import export as export
    from nas.recipe import Recipe as Recipe
    from nas.space.constraints import Constraint as Constraint
    from nas.space.constraints import limits as limits
    from nas.space.search_space import SearchSpace as SearchSpace
    from nas.space.survey import survey as survey

_HOMES = {
    "Architecture": "nas.architecture.architecture",
    "confirm": "nas.commands.confirm",
    "Constraint": "nas.space.constraints",
    "limits": "nas.space.constraints",
    "Cost": "nas.architecture.cost",
    "cost_of": "nas.architecture.cost",
    "layer_table": "nas.architecture.cost",
    "serve_dashboard": "nas.dashboard.server",
    "NasError": "nas.errors",
    "export": "nas.exporters.export",
    "export_trial": "nas.commands.export",
    "train": "nas.commands.train",
    "train_seeds": "nas.commands.train",
    "Recipe": "nas.recipe",
    "trials": "nas.commands.trials",
    "report": "nas.commands.report",
    "survey": "nas.space.survey",
    "SearchSpace": "nas.space.search_space",
    "search": "nas.commands.search",
}

__all__ = [  # noqa: PLE0604  # found by __getattr__
    *_HOMES
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nas' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
