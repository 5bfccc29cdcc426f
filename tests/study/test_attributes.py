"""Trial attributes: the stored values, and the typed view that reads them."""

import pytest
from optuna.trial import TrialState, create_trial

from nas.architecture.architecture import Architecture
from nas.architecture.cost import Cost
from nas.architecture.layers import Flatten, Linear
from nas.errors import StudyError
from nas.recipe import Recipe
from nas.space.candidate import Candidate
from nas.study import attributes
from nas.study.attributes import Attributes, Outcome, StoredTrial
from nas.study.trial import TrainedTrial, TrialRecord, read_trained, read_trial, runs_text
from nas.training.metrics import EpochMetrics

CANDIDATE = Candidate(
    Architecture(input_shape=(1, 2, 2), layers=(Flatten(), Linear(out_features=2))), Recipe(learning_rate=0.5)
)
COST = Cost(params=10, macs=8, receptive_field=1, peak_activation_bytes=32, weight_bytes=40)
HISTORY = [
    EpochMetrics(
        epoch=epoch,
        train_loss=1.0,
        train_accuracy=0.25,
        val_loss=0.5,
        val_accuracy=0.75,
        learning_rate=0.1,
        seconds=1.00011 * epoch,
    )
    for epoch in (1, 2)
]
BEGUN = attributes.begin_attrs(CANDIDATE, COST, index=3, seed=7, num_draws=5, fingerprint="f", session="s")


def stored(*several, state=TrialState.RUNNING, value=None, **options):
    """Returns a stored trial with all attributes of `several`."""
    every = Attributes()
    for each in several:
        every |= each
    trial = create_trial(state=state, value=value, user_attrs=every.user, system_attrs=every.system, **options)
    trial.number = 4
    return StoredTrial(trial)


@pytest.mark.parametrize(
    ("outcome", "state", "is_whole", "has_files"),
    [
        ("trained", TrialState.COMPLETE, True, True),
        ("diverged", TrialState.FAIL, True, True),
        ("pruned", TrialState.PRUNED, False, True),
        ("discarded", TrialState.PRUNED, False, False),
        ("failed", TrialState.FAIL, False, False),
        ("interrupted", TrialState.FAIL, False, False),
        ("unused", TrialState.FAIL, False, False),
    ],
)
def test_outcome_determines_state_whole_training_and_files(outcome, state, is_whole, has_files):
    found = Outcome(outcome)
    assert (found.state, found.is_whole_training, found.has_files) == (state, is_whole, has_files)


def test_begun_trial_stores_candidate_cost_and_session():
    trial = stored(BEGUN)
    assert (trial.number, trial.state, trial.is_complete, trial.outcome) == (4, TrialState.RUNNING, False, None)
    assert (trial.fingerprint, trial.index, trial.num_draws, trial.session) == ("f", 3, 5, "s")
    assert [trial.numeric_attr(name) for name in ("seed", "params", "macs", "receptive_field")] == [7, 10, 8, 1]
    assert (trial.stored_architecture, trial.stored_recipe) == (
        CANDIDATE.architecture.to_json(),
        CANDIDATE.recipe.to_json(),
    )
    assert trial.has_candidate
    assert not trial.is_from_queue
    assert trial.own_system_attrs().keys() == {"architecture", "recipe", "session"}


def test_trial_of_another_program_has_only_defaults():
    trial = stored(Attributes(system={"other": 1}))
    nothing = (
        "fingerprint",
        "index",
        "enqueued_fingerprint",
        "retry_of",
        "session",
        "weights",
        "drawn_for",
        "objective",
        "outcome",
    )
    assert {name: getattr(trial, name) for name in nothing} == dict.fromkeys(nothing)
    assert (trial.reason, trial.source, trial.seconds, trial.num_draws, trial.num_epochs) == ("", "", 0.0, 1, 0)
    assert (trial.stored_history, trial.discards, trial.params, trial.own_system_attrs()) == ((), {}, {}, {})
    assert (trial.stored_architecture, trial.stored_recipe, trial.numeric_attr("params")) == (None, None, None)
    assert not trial.has_candidate
    assert not trial.is_from_queue


def test_trained_trial_reads_back_stored_values():
    end = attributes.end_attrs(Outcome.TRAINED, HISTORY) | attributes.completion_attrs(0.5, "artifact")
    trial = stored(BEGUN, end, state=TrialState.COMPLETE, value=0.75)
    assert (trial.outcome, trial.objective, trial.weights, trial.num_epochs) == (Outcome.TRAINED, 0.75, "artifact", 2)
    assert (trial.reason, trial.seconds) == ("", 3.0), "seconds are rounded"
    assert trial.sort_key() == (-0.75, 10)
    record = read_trained(trial)
    assert (record.objective, record.consistent_accuracy, record.mean_objective) == (0.75, 0.5, 0.75)
    assert (record.architecture, record.recipe) == (CANDIDATE.architecture, CANDIDATE.recipe)
    assert (record.seed, record.num_draws, record.params, record.weight_bytes) == (7, 5, 10, 40)
    assert record.history == tuple(HISTORY)
    assert record.to_json()["history"] == [metrics.to_json() for metrics in HISTORY]
    assert record.to_json()["architecture"] == CANDIDATE.architecture.to_json()


def test_pruned_trial_is_read_as_plain_trial_record():
    end = attributes.end_attrs(Outcome.PRUNED, HISTORY[:1], reason="stopped after epoch 1")
    record = read_trial(stored(BEGUN, end, state=TrialState.PRUNED))
    assert type(record) is TrialRecord
    assert (record.outcome, record.reason, record.objective) == ("pruned", "stopped after epoch 1", None)
    assert (record.state, record.number, len(record.history)) == ("PRUNED", 4, 1)


def test_discard_stores_reason_and_cost():
    discard = (
        attributes.discard_attrs("params", COST)
        | attributes.drawn_for_attrs(6)
        | attributes.discard_count_attrs({"params": 2})
    )
    trial = stored(discard, state=TrialState.PRUNED)
    assert (trial.outcome, trial.reason, trial.drawn_for) == (Outcome.DISCARDED, "params", 6)
    assert (trial.numeric_attr("macs"), trial.discards) == (8, {"params": 2})
    impossible = stored(attributes.discard_attrs("impossible_shape", None), state=TrialState.PRUNED)
    assert impossible.numeric_attr("macs") is None
    record = read_trial(impossible)
    assert (record.architecture, record.recipe, record.history, record.params) == (None, None, (), None)
    assert record.to_json()["architecture"] is record.to_json()["recipe"] is None


def test_queued_trial_stores_source_and_parameter_values():
    queued = attributes.enqueue_attrs("portfolio a", "f") | Attributes(system={"fixed_params": {"width": 3}})
    trial = stored(queued, state=TrialState.WAITING)
    assert (trial.source, trial.enqueued_fingerprint, trial.params) == ("portfolio a", "f", {"width": 3})
    assert trial.is_from_queue
    assert trial.has_candidate
    assert read_trial(trial).source == "portfolio a"


def test_retry_copies_candidate_and_source_of_original_trial():
    trial = stored(BEGUN, attributes.enqueue_attrs("portfolio a", "f"), attributes.end_attrs(Outcome.INTERRUPTED, ()))
    assert attributes.retry_attrs(trial).user == {
        "retry_of": 4,
        "fingerprint": "f",
        "candidate": 3,
        "num_draws": 5,
        "started_from": "portfolio a",
        "started_as": "f",
    }
    assert attributes.retry_attrs(stored()).user == {"retry_of": 4}


def test_unknown_outcome_error_names_trial_and_value():
    with pytest.raises(StudyError, match=r"^trial 4: outcome is 'lost', expected one of trained, diverged, pruned, "):
        assert stored(Attributes(user={"outcome": "lost"})).outcome


@pytest.mark.parametrize(
    ("note", "value", "error"),
    [
        ("nas:architecture", {"version": 2}, "trial 4: architecture: "),
        ("nas:recipe", {"epochs": 0}, "trial 4: recipe: "),
        ("nas:history", [{}], "trial 4: history[0]: "),
    ],
)
def test_damaged_attribute_error_names_trial_and_attribute(note, value, error):
    with pytest.raises(StudyError) as caught:
        read_trial(stored(BEGUN, Attributes(system={note: value})))
    assert str(caught.value).startswith(error)


def test_finalist_reports_mean_over_all_its_runs():
    end = attributes.end_attrs(Outcome.TRAINED, HISTORY) | attributes.completion_attrs(0.5, "artifact")
    record = read_trained(stored(BEGUN, end, state=TrialState.COMPLETE, value=0.75))
    assert runs_text(record) == ""
    values = {name: getattr(record, name) for name in TrialRecord.__dataclass_fields__} | {"further": (0.25, 0.5)}
    finalist = TrainedTrial(**values)
    assert finalist.mean_objective == 0.5
    assert finalist.to_json()["further"] == [0.25, 0.5]
    assert runs_text(finalist) == "mean of 3 runs 50.00%"
    assert runs_text(read_trial(stored(BEGUN))) == ""
