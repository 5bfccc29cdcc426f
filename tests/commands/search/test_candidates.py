"""Outcomes of candidates: discarded, diverged, failed, enqueued by hand, duplicate."""

import optuna
import pytest
from support.searches import options, outcome

from nas.architecture.architecture import Architecture
from nas.architecture.cost import cost_of
from nas.commands import defaults
from nas.commands.events import EpochFinished
from nas.commands.search import search
from nas.commands.trials import trials
from nas.data import datasets
from nas.errors import StudyError
from nas.space.constraints import Constraint, most_violated
from nas.space.search_space import SearchSpace
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef
from nas.workers import in_process


def test_discards_are_stored_with_constraint_violations(tmp_path, tiny_space):
    search(**options(tmp_path, tiny_space, max_params=250, keep_discards=7, trials=2))
    study = StudyRecords.open(StudyRef(tmp_path / "results")).study
    pruned = study.get_trials(states=[optuna.trial.TrialState.PRUNED])
    assert len(pruned) == 7
    for trial in pruned:
        assert set(trial.constraints) == {"params<=250", "receptive_field>=10"}
        assert max(trial.constraints.values()) > 0
        if trial.user_attrs["reason"] == "params":
            assert trial.constraints["params<=250"] == pytest.approx((trial.user_attrs["params"] - 250) / 250)
    for trial in study.get_trials(states=[optuna.trial.TrialState.COMPLETE]):
        assert max(trial.constraints.values()) <= 0


def test_search_builds_only_feasible_networks_and_never_loads_test_split(tmp_path, tiny_space, monkeypatch):
    built = []
    build = Architecture.build
    monkeypatch.setattr(Architecture, "build", lambda self: (built.append(self), build(self))[1])
    monkeypatch.setattr(datasets, "load_test", lambda *args, **kwargs: pytest.fail("the test split was opened"))
    limits = (Constraint("params", "<=", 300), Constraint("receptive_field", ">=", 10))
    result = search(**options(tmp_path, tiny_space, max_params=300, trials=2))
    assert sum(result.discards.values()) > 0
    assert len(built) == 2
    assert all(most_violated(limits, cost_of(architecture)) is None for architecture in built)


@pytest.mark.slow
def test_exhausted_space_is_reported_and_repeat_adds_no_trials(tmp_path):
    space = tmp_path / "two.toml"
    space.write_text("[network]\nnum_blocks = 1\n[block]\nnum_convs = 1\n[conv]\nchannels = [3, 4]\n")
    given = options(tmp_path, str(space), trials=5, min_receptive_field=3, epochs=1)
    result = search(**given)
    assert result.tally.num_trained == 2
    lines = result.exhausted.splitlines()
    assert lines[0] == "none of 20,000 further draws is feasible and new"
    assert lines[1].startswith("space two: 10,000 of 10,000 random draws keep the limits (100.00%)")
    # A repeated search adds nothing to the study.
    before = trials(results=result.results)
    assert search(**given).discards == result.discards
    assert trials(results=result.results) == before
    assert [trial.outcome for trial in before if trial.state != "PRUNED"] == ["trained", "trained"]


def test_diverged_trials_count_as_trained_and_search_continues(tmp_path):
    space = tmp_path / "hot.toml"
    space.write_text(
        "[network]\nnum_blocks = 1\norder = 'act'\n[block]\nnum_convs = 2\n[conv]\nchannels = { low = 2, high = 9 }\n"
        "[recipe]\nsgd_learning_rate = 1e30\nschedule = 'constant'\n"
    )
    result = search(**options(tmp_path, str(space), trials=4, min_receptive_field=3, epochs=1))
    assert result.tally.num_trained == 4
    records = [trial for trial in trials(results=result.results) if trial.outcome == "diverged"]
    assert len(records) == 4
    assert {trial.state for trial in records} == {"FAIL"}
    assert all(trial.reason.startswith("diverged: loss nan in epoch 1") for trial in records)
    assert result.best == ()


def test_three_failed_trials_in_a_row_end_search(tmp_path, tiny_space, monkeypatch):
    def broken(architecture, *, seed):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(in_process, "initialise", broken)
    with pytest.raises(StudyError) as caught:
        search(**options(tmp_path, tiny_space))
    assert str(caught.value) == "3 trials in a row failed, the last one: RuntimeError: no such instruction"
    failed = [trial for trial in trials(results=tmp_path / "results") if trial.outcome == "failed"]
    assert [trial.reason for trial in failed] == ["RuntimeError: no such instruction"] * 3


def test_enqueued_trial_above_limit_is_discarded_without_building(tmp_path, tiny_space, monkeypatch):
    given = options(tmp_path, tiny_space, trials=1)
    search(**given)
    study = StudyRecords.open(StudyRef(tmp_path / "results")).study
    wide = {f"block{block}.conv{conv}.channels": 5 for block in (1, 2) for conv in (1, 2)}
    rest = {"block1.num_convs": 2, "block2.num_convs": 2, "block1.kernel_size": 5, "block2.kernel_size": 5}
    values = {**wide, **rest, "recipe.sgd_learning_rate": 0.1, "recipe.batch_size": 128}
    study.enqueue_trial(values)
    cost = cost_of(SearchSpace.load(tiny_space).architecture(values))
    assert cost.params > 900
    built = []
    build = Architecture.build
    monkeypatch.setattr(Architecture, "build", lambda self: (built.append(self), build(self))[1])
    assert search(**{**given, "trials": 2}).tally.num_trained == 2
    pruned = [trial for trial in trials(results=tmp_path / "results") if trial.params == cost.params]
    assert [(trial.state, trial.reason) for trial in pruned] == [("PRUNED", "params")]
    assert len(built) == 1
    assert cost_of(built[0]).params <= 900


@pytest.mark.slow
def test_number_of_stored_discards_does_not_change_tpe_search(tmp_path, tiny_space, monkeypatch):
    """TPE proposes the same candidates with all discards stored as with none."""
    monkeypatch.setattr(defaults, "NUM_STARTUP", 3)
    kept = options(tmp_path, tiny_space, trials=6, max_params=250, epochs=1, keep_discards=1000, sampler="tpe")
    none = {**kept, "keep_discards": 0, "results": tmp_path / "none"}
    assert search(**kept).discards == search(**none).discards
    assert outcome(trials(results=kept["results"])) == outcome(trials(results=none["results"]))
    assert not any(trial.state == "PRUNED" for trial in trials(results=none["results"]))


def test_callback_error_propagates_and_marks_no_trial_failed(tmp_path, tiny_space):
    def broken(event):
        if isinstance(event, EpochFinished):
            raise ZeroDivisionError("of the notebook")

    with pytest.raises(ZeroDivisionError):
        search(**options(tmp_path, tiny_space), on_event=broken)
    assert not any(trial.outcome == "failed" for trial in trials(results=tmp_path / "results"))


def test_space_of_one_candidate_trains_one_trial_and_is_exhausted(tmp_path):
    space = tmp_path / "one.toml"
    space.write_text("[network]\nnum_blocks = 1\n[block]\nnum_convs = 1\n[conv]\nchannels = 3\n")
    result = search(**options(tmp_path, str(space), min_receptive_field=3, epochs=1))
    assert result.tally.num_trained == 1
    assert result.exhausted


def test_enqueued_duplicate_is_discarded(tmp_path, tiny_space):
    given = options(tmp_path, tiny_space, trials=1, epochs=1)
    search(**given)
    study = StudyRecords.open(StudyRef(tmp_path / "results")).study
    study.enqueue_trial(study.best_trial.params)
    result = search(**{**given, "trials": 2})
    assert result.discards["duplicate"] == 1
    trained = [trial for trial in trials(results=tmp_path / "results") if trial.outcome == "trained"]
    assert trained[0].architecture != trained[1].architecture or trained[0].recipe != trained[1].recipe


@pytest.mark.parametrize(("name", "value"), [("block1.kernel_size", 4), ("block1.num_convs", 7)])
def test_enqueued_value_out_of_range_marks_trial_unused(tmp_path, tiny_space, name, value):
    given = options(tmp_path, tiny_space, trials=1, epochs=1)
    search(**given)
    study = StudyRecords.open(StudyRef(tmp_path / "results")).study
    study.enqueue_trial({**study.best_trial.params, name: value})
    assert search(**{**given, "trials": 2}).tally.num_trained == 2
    (unused,) = [trial for trial in trials(results=tmp_path / "results") if trial.outcome == "unused"]
    assert unused.reason.startswith(f"{name} is {value}, expected ")


def test_enqueued_trial_without_parameters_is_not_marked_unused(tmp_path, tiny_space):
    given = options(tmp_path, tiny_space, trials=1, epochs=1)
    search(**given)
    StudyRecords.open(StudyRef(tmp_path / "results")).study.enqueue_trial({})
    search(**{**given, "trials": 2})
    assert not [trial for trial in trials(results=tmp_path / "results") if trial.outcome == "unused"]
