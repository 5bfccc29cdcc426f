"""Converts the trials of a study into a pandas data frame."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, get_type_hints

from nas.recipe import Recipe
from nas.study.trial import TrialRecord

if TYPE_CHECKING:
    import pandas as pd

DTYPES = {bool: "boolean", int: "Int64", float: "Float64", str: "string"}
"""Pandas' type of a column by the type of its values. All of them can hold missing values."""

FIELD_TYPES = {
    name: kind for name, hint in get_type_hints(TrialRecord).items() for kind in DTYPES if hint in (kind, kind | None)
}
RECIPE_TYPES = {field.name: type(field.default) for field in dataclasses.fields(Recipe)}


def trials_frame(trials: Sequence[TrialRecord]) -> "pd.DataFrame":
    """Returns a data frame with one row per trial; its columns are those that `trials_dataframe` describes."""
    import pandas as pd

    columns = {name: _column(kind, [getattr(trial, name) for trial in trials]) for name, kind in FIELD_TYPES.items()}
    for name, kind in RECIPE_TYPES.items():
        columns[f"recipe_{name}"] = _column(kind, [getattr(trial.recipe, name, None) for trial in trials])
    for name in dict.fromkeys(name for trial in trials for name in trial.parameters):
        values = [trial.parameters.get(name) for trial in trials]
        kinds = {type(value) for value in values if value is not None}
        columns[f"parameter_{name}"] = _column(kinds.pop() if len(kinds) == 1 else object, values)
    architectures = [json.dumps(trial.architecture.to_json()) if trial.architecture else None for trial in trials]
    columns["architecture"] = _column(str, architectures)
    columns["val_accuracies"] = _column(str, [_numbers(x.val_accuracy for x in trial.history) for trial in trials])
    columns["further"] = _column(str, [_numbers(trial.further) for trial in trials])
    return pd.DataFrame(columns)


def _column(kind: type, values: list[Any]) -> "pd.Series[Any]":
    import pandas as pd

    try:
        return pd.Series(values, dtype=DTYPES.get(kind, "object"))
    except OverflowError:  # an integer above 2**63, which a damaged study may hold
        return pd.Series(values, dtype="object")


def _numbers(values: Iterable[float]) -> str | None:
    return " ".join(map(str, values)) or None
