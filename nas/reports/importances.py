"""Computes how important each hyperparameter of the search space is for accuracy, with the uncertainty."""

from collections.abc import Mapping
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

from nas.reports.figures import BLUE, make_figure
from nas.study.reader import StudyRecords

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

NUM_FORESTS = 5
MIN_TRIALS = 10
"""Minimum number of trained trials; a random forest learns nothing from fewer."""


def importances(records: StudyRecords) -> dict[str, tuple[float, float]]:
    """Returns the importance of each parameter for the objective, largest first.

    The importance is the variance that the parameter explains alone, divided by the sum over all parameters: mean and
    standard deviation over `NUM_FORESTS` random forests. Empty if there are fewer than `MIN_TRIALS` trained trials.

    fANOVA (Hutter, Hoos and Leyton-Brown 2014, "An Efficient Approach for Assessing Hyperparameter Importance").
    """
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    if len(records.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < MIN_TRIALS:
        return {}
    found: dict[str, list[float]] = {}
    for seed in range(NUM_FORESTS):
        evaluator = FanovaImportanceEvaluator(seed=seed)
        shares = get_param_importances(records.study, evaluator=evaluator, target=lambda trial: trial.values[0])
        for name, share in shares.items():
            found.setdefault(name, []).append(float(share))
    values = {name: (fmean(shares), stdev(shares)) for name, shares in found.items()}
    return dict(sorted(values.items(), key=lambda item: -item[1][0]))


def importance_figure(shares: Mapping[str, tuple[float, float]], *, most: int = 12) -> "Figure":
    """Plots the `most` most important parameters as bars, largest on top, with error bars of one standard deviation."""
    shown = list(shares.items())[:most][::-1]
    bars: dict[str, Any] = {
        "type": "bar",
        "orientation": "h",
        "y": [name for name, _ in shown],
        "x": [100 * mean for _, (mean, _) in shown],
        "error_x": {"type": "data", "array": [100 * sd for _, (_, sd) in shown], "thickness": 1.2},
        "marker": {"color": BLUE},
        "hovertemplate": "%{y}: %{x:.1f} ± %{error_x.array:.1f} % (standard deviation of forests)<extra></extra>",
    }
    return make_figure("Importance of hyperparameters", [bars], x="share of the explained variance, %", y="")
