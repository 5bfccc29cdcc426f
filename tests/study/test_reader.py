"""Reading a study: ranking, selection and counts of its trials."""

from dataclasses import asdict

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from nas.architecture.architecture import Architecture
from nas.architecture.cost import Cost
from nas.architecture.layers import Flatten, Linear
from nas.errors import StudyError
from nas.recipe import Recipe
from nas.space.candidate import Candidate
from nas.study import attributes
from nas.study.attributes import Attributes, Outcome
from nas.study.reader import StudyNotes, StudyRecords
from nas.study.reference import StudyRef
from nas.study.runs import Run
from nas.study.settings import Settings
from nas.training.metrics import EpochMetrics

CANDIDATE = Candidate(Architecture(input_shape=(1, 2, 2), layers=(Flatten(), Linear(out_features=2))), Recipe())
SETTINGS = Settings(
    **dict.fromkeys(("dataset", "data_fingerprint", "split", "space", "space_fingerprint"), ""),
    constraints=(),
    epochs=2,
    consistency=1,
    seed=0,
)
NOTES = StudyNotes(
    dataset_note="why", mean=(0.25,), std=(0.5,), classes=("a", "b"), command="nas search", machine="here"
)


def history(*accuracies):
    others = dict.fromkeys(("train_loss", "val_loss", "train_accuracy", "learning_rate", "seconds"), 0.5)
    return [EpochMetrics(epoch=n, val_accuracy=x, **others) for n, x in enumerate(accuracies, start=1)]


@pytest.fixture
def records(tmp_path):
    return StudyRecords.create(StudyRef(tmp_path), SETTINGS, NOTES)


def add(records, outcome, accuracy=0.5, *, params=10, macs=8, index=0, discards=None, weights="w"):
    """Stores a trial with the given outcome; returns its number."""
    cost = Cost(params=params, macs=macs, receptive_field=1, peak_activation_bytes=32, weight_bytes=4 * params)
    attrs = attributes.end_attrs(outcome, history(accuracy, accuracy))
    if outcome is Outcome.DISCARDED:
        attrs = attributes.discard_attrs("params", cost)
    elif outcome is not Outcome.UNUSED:
        attrs |= attributes.begin_attrs(CANDIDATE, cost, index=index, seed=0, num_draws=1, fingerprint="f", session="s")
    if outcome is Outcome.TRAINED:
        attrs |= attributes.completion_attrs(accuracy, weights)
    attrs |= attributes.discard_count_attrs(discards) if discards else Attributes()
    records.study.add_trial(
        create_trial(
            state=outcome.state,
            value=accuracy if outcome is Outcome.TRAINED else None,
            user_attrs=attrs.user,
            system_attrs=attrs.system,
        )
    )
    return len(records.stored_trials()) - 1


def final(records, trial, seed, accuracy):
    run = Run(trial=trial, judged_on="val", seed=1_000_000 + seed)
    records.runs.store_history(run, history(0.125, accuracy) if accuracy else ())


def numbers(trials):
    return [trial.number for trial in trials]


def test_created_study_is_found_with_its_settings_and_notes(records):
    found = StudyRecords.find(records.ref)
    assert (found.settings, found.notes, found.name, found.stored_confirmation) == (SETTINGS, NOTES, "search", None)
    assert (found.trials(), found.best(3), found.pareto()) == ([], [], [])
    assert found.study.metric_names == ["mean val accuracy, last 1 epochs"]
    assert StudyRecords.find(StudyRef(records.ref.results, study="other")) is None


def test_best_trials_rank_by_accuracy_then_params(records):
    for outcome, accuracy, params in (
        (Outcome.TRAINED, 0.5, 10),
        (Outcome.TRAINED, 0.75, 30),
        (Outcome.PRUNED, 0.875, 10),
        (Outcome.TRAINED, 0.75, 20),
        (Outcome.DIVERGED, 0.875, 10),
    ):
        add(records, outcome, accuracy, params=params)
    assert numbers(records.best(2)) == numbers(records.best_by_mean(2)) == [3, 1]
    assert numbers(records.best(9)) == [3, 1, 0]


def test_best_ranks_finalists_first_by_mean_over_runs(records):
    for accuracy in (0.875, 0.75, 0.5, 0.625):
        add(records, Outcome.TRAINED, accuracy)
    final(records, 1, 0, 0.25)
    final(records, 1, 1, 0.5)  # mean 0.5
    final(records, 3, 0, 0.625)  # mean 0.625
    assert numbers(records.best(4)) == [3, 1, 0, 2]
    assert [trial.mean_objective for trial in records.best(4)] == [0.625, 0.5, 0.875, 0.5]
    assert numbers(records.best_by_mean(4)) == [0, 3, 1, 2]
    assert [trial.further for trial in records.trials()] == [(), (0.25, 0.5), (), (0.625,)]


def test_diverged_further_run_counts_as_accuracy_0(records):
    add(records, Outcome.TRAINED, 0.75)
    final(records, 0, 0, None)
    assert records.best(1)[0].further == (0.0,)
    assert records.best(1)[0].mean_objective == 0.375


def test_pareto_front_omits_dominated_trials_and_sorts_by_cost(records):
    for accuracy, params in ((0.75, 30), (0.5, 10), (0.5, 20), (0.625, 30), (0.875, 40)):
        add(records, Outcome.TRAINED, accuracy, params=params, macs=100 - params)
    assert numbers(records.pareto()) == [1, 0, 4]


def test_second_objective_is_minimised_and_named_in_optuna(tmp_path):
    both = Settings(**asdict(SETTINGS) | {"objectives": ("accuracy", "macs")})
    records = StudyRecords.create(StudyRef(tmp_path), both, NOTES)
    assert [direction.name for direction in records.study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert records.study.metric_names[1] == "macs"


def test_trial_lookup_by_number_rejects_untrained_and_unknown_trials(records):
    add(records, Outcome.TRAINED, 0.75)
    add(records, Outcome.PRUNED)
    assert records.trial(0) == records.trained_trial(0)
    assert records.trial(1).outcome == "pruned"
    records.study.add_trial(create_trial(state=TrialState.RUNNING))
    for number, error in (
        (1, "trial 1: it is pruned and has no weights, expected a trained trial"),
        (2, "trial 2: it is running and has no weights, expected a trained trial"),
        (3, "no trial 3 found, expected 0 to 2"),
        (-1, "no trial -1 found, expected 0 to 2"),
    ):
        with pytest.raises(StudyError) as caught:
            records.trained_trial(number)
        assert str(caught.value) == error


def test_trial_lookup_in_empty_study_raises(records):
    with pytest.raises(StudyError, match=r"^no trial 0 found, the study has no trials yet$"):
        records.trial(0)


def test_discards_are_grouped_by_candidate(records):
    add(records, Outcome.TRAINED, index=0, discards={"params": 2})
    add(records, Outcome.DISCARDED, discards={"macs": 1})  # from the queue: counts with the candidate before it
    add(records, Outcome.TRAINED, index=2)
    add(records, Outcome.TRAINED, index=1, discards={"params": 4})
    assert records.discards_by_candidate() == [{"params": 2, "macs": 1}, {"params": 4}, {}]
    assert records.discards() == {"params": 6, "macs": 1}
    assert records.tally().num_trained == 3


def test_missing_weights_error_names_trial(records):
    add(records, Outcome.TRAINED, weights=None)
    with pytest.raises(StudyError, match=r"^trial 0 has no weights, expected a trained trial$"):
        records.weights(0)


def test_study_without_settings_is_not_found_and_create_reuses_it(tmp_path):
    ref = StudyRef(tmp_path)
    study = optuna.create_study(study_name="search", storage=ref.url)
    assert StudyRecords.find(ref) is None
    records = StudyRecords.create(ref, SETTINGS, NOTES)
    assert records.study._study_id == study._study_id
    assert StudyRecords.find(ref).settings == SETTINGS
