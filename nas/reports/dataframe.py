"""Converts the trials of a study into a pandas data frame."""

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nas.recipe import Recipe
from nas.study.trial import FIELDS, TrialRecord

if TYPE_CHECKING:
    import pandas as pd

NESTED = ("recipe", "architecture", "history", "further")
RECIPE = [field.name for field in dataclasses.fields(Recipe)]


def trials_frame(trials: Sequence[TrialRecord]) -> "pd.DataFrame":
    """Returns a data frame with one row per trial.

    Columns: the plain fields of `TrialRecord`; `recipe_FIELD` for each field of the recipe; `architecture`, the JSON of
    an architecture file; `val_accuracies`, one per epoch, and `further`, the objectives of the runs with other seeds,
    both as numbers separated by spaces. Accuracies are fractions. Integer columns stay so if values are missing.
    """
    import pandas as pd

    rows = []
    for trial in trials:
        row = {name: value for name, value in trial.to_json().items() if name not in NESTED}
        row |= {f"recipe_{name}": getattr(trial.recipe, name, None) for name in RECIPE}
        row["architecture"] = json.dumps(trial.architecture.to_json()) if trial.architecture else None
        row["further"] = " ".join(map(str, trial.further)) or None
        row["val_accuracies"] = " ".join(str(metrics.val_accuracy) for metrics in trial.history) or None
        rows.append(row)
    plain = [name for name in FIELDS if name not in NESTED]
    columns = [*plain, *(f"recipe_{name}" for name in RECIPE), "architecture", "val_accuracies", "further"]
    return pd.DataFrame(rows, columns=columns).convert_dtypes()
