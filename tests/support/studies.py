"""Plain Optuna studies, and the view of them that samplers and pruners get."""

import optuna

from nas.sampling.candidate_view import CandidateView
from nas.study.optuna_storage import storage_of


def view_of(study: optuna.Study) -> CandidateView:
    """Returns the view of a study's ended candidates, for any storage."""
    return CandidateView(
        lambda: {trial.number: trial for trial in study.get_trials(deepcopy=False)}, study.directions, storage_of(study)
    )


def new_study() -> optuna.Study:
    """Returns an empty study in memory that maximizes its objective."""
    return optuna.create_study(direction="maximize")
