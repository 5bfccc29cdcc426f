"""A study's trials as a table, for pandas and what reads its files."""

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
    """A row a trial: the figures of `TrialRecord`, the recipe as `recipe_…`, and as texts the architecture (as an
    architecture file holds it), the val accuracy of each epoch and the objectives of further runs, parted by spaces.

    Whole numbers stay whole where some are missing; accuracies are fractions.
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
