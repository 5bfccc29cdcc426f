"""Studies of Optuna's own, seen as this package's samplers and pruners see them."""

import optuna

from nas.sampling.candidate_view import CandidateView
from nas.study.optuna_storage import storage_of


def view_of(study: optuna.Study) -> CandidateView:
    """The ended candidates of a study, whatever storage it has."""
    return CandidateView(
        lambda: {trial.number: trial for trial in study.get_trials(deepcopy=False)}, study.directions, storage_of(study)
    )


def new_study() -> optuna.Study:
    """An empty study in memory that looks for a large value."""
    return optuna.create_study(direction="maximize")
