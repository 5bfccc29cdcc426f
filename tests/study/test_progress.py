"""Progress of a study, counted from its trials."""

import pytest
from optuna.trial import TrialState, create_trial

from nas.study.progress import StudyProgress, Tally
from nas.training.metrics import EpochMetrics

EPOCHS = 4
STATES = {"trained": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "discarded": TrialState.PRUNED}


def epoch(number, seconds):
    losses = dict.fromkeys(("train_loss", "val_loss"), 0.5)
    accuracies = dict.fromkeys(("train_accuracy", "val_accuracy"), 0.75)
    return EpochMetrics(epoch=number, learning_rate=0.1, seconds=seconds, **losses, **accuracies)


def trial(number, outcome=None, *, accuracy=0.5, epochs=0, discards=None, drawn_for=None, state=None, **user):
    """Returns a trial as a search stores it; without an outcome it is running, or in the given state."""
    system = {"nas:history": [{}] * epochs, "nas:discards": discards, "nas:drawn_for": drawn_for}
    made = create_trial(
        state=state or (STATES.get(outcome, TrialState.FAIL) if outcome else TrialState.RUNNING),
        value=accuracy if outcome == "trained" else None,
        user_attrs=user | ({"outcome": outcome} if outcome else {}),
        system_attrs={key: value for key, value in system.items() if value is not None},
    )
    made.number = number
    return made


def progress_of(*trials, finals=None):
    progress = StudyProgress(EPOCHS, finals or {})
    progress.update({each.number: each for each in trials})
    return progress


def test_empty_study_has_no_progress():
    progress = progress_of()
    assert progress.tally() == Tally(num_trained=0, num_pruned=0, spent=0)
    assert (progress.num_queued, progress.running, progress.best, progress.discards()) == (0, set(), None, {})


def test_outcome_determines_budget_cost():
    progress = progress_of(
        trial(0, "trained", params=9, seconds=10.0),
        trial(1, "diverged", seconds=3.0),
        trial(2, "pruned", epochs=1, seconds=2.0),
        trial(3, "pruned", epochs=2, seconds=4.5),
        trial(4, "discarded", seconds=100.0),
        trial(5, "failed", epochs=3, seconds=100.0),
        trial(6, "interrupted", seconds=100.0),
        trial(7, "unused"),
        trial(8),
    )
    assert progress.tally() == Tally(num_trained=2, num_pruned=2, spent=2 + 3 / EPOCHS, spent_seconds=19.5)


def test_further_run_costs_one_training_and_its_time():
    finals = {3: [(epoch(1, 1.0), epoch(2, 0.5)), ()], 5: [(epoch(1, 4.0),)]}
    progress = progress_of(trial(0, "trained", params=9, seconds=10.0), finals=finals)
    assert progress.tally() == Tally(num_trained=1, num_pruned=0, spent=4, spent_seconds=15.5, num_further=3)


def test_trial_is_counted_once_after_it_ends():
    progress = progress_of(trial(0, fingerprint="a"), trial(1, state=TrialState.WAITING))
    assert (progress.running, progress.num_queued, progress.fingerprints) == ({0}, 1, {"a"})
    ended = {0: trial(0, "trained", params=9, fingerprint="a"), 1: trial(1, fingerprint="b")}
    for _ in range(3):
        progress.update(ended)
    assert (progress.running, progress.num_queued, progress.fingerprints) == ({1}, 0, {"a", "b"})
    assert progress.tally().num_trained == 1
    progress.update(ended | {1: trial(1, "diverged", fingerprint="b"), 2: trial(2, "trained", params=9)})
    assert (progress.running, progress.num_queued) == (set(), 0)
    assert progress.tally().num_trained == 3


def test_discards_are_counted_once_by_reason():
    running = trial(1, fingerprint="b", discards={"params": 2, "macs": 1})
    progress = progress_of(trial(0, "trained", params=9, fingerprint="a", discards={"params": 3}), running)
    assert progress.discards() == {"params": 5, "macs": 1}
    ended = trial(1, "failed", fingerprint="b", discards={"params": 2, "macs": 1})
    for _ in range(2):
        progress.update({1: ended})
        assert progress.discards() == {"params": 5, "macs": 1}


def test_discards_before_unused_trial_are_not_counted():
    assert progress_of(trial(0, "unused", discards={"params": 3})).discards() == {}
    assert progress_of(trial(0, "discarded", discards={"params": 3})).discards() == {"params": 3}


def test_stored_discards_are_grouped_by_next_candidate():
    progress = progress_of(*(trial(number, "discarded", drawn_for=drawn_for) for number, drawn_for in enumerate("xyx")))
    assert progress.stored_discards == {"x": 2, "y": 1}
    assert progress_of(trial(0, "discarded"), trial(1, "failed", drawn_for=4)).stored_discards == {}


@pytest.mark.parametrize(
    ("results", "best"),
    [
        ([(0.5, 9), (0.75, 20), (0.25, 1)], 1),
        ([(0.75, 20), (0.75, 10), (0.75, 30)], 1),
        ([(0.75, 10), (0.75, 10)], 0),
    ],
)
def test_best_trial_ranks_by_accuracy_then_params_then_number(results, best):
    trials = [trial(n, "trained", accuracy=accuracy, params=params) for n, (accuracy, params) in enumerate(results)]
    assert progress_of(*trials).best.number == best
