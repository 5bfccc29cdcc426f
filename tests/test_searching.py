"""The loop on real data: digits, tiny networks, real SQLite, real processes that are killed."""

import json
import os
import signal
import subprocess
import sys

import optuna
import pytest
import torch

from nas import datasets, searching
from nas.architecture import Architecture
from nas.constraints import Constraint, worst
from nas.cost import cost_of
from nas.errors import ConstraintError, InfeasibleError, NasError, StudyError
from nas.records import StudyRecords, trials
from nas.search_space import SearchSpace
from nas.searching import EpochFinished, SearchStarted, TrialFinished, TrialStarted, search
from nas.training import evaluate


def options(tmp_path, tiny_space, **others):
    return {
        "dataset": "digits",
        "space": tiny_space,
        "epochs": 2,
        "trials": 3,
        "max_params": 900,
        "min_receptive_field": 10,
        "results": tmp_path / "results",
        "device": "cpu",
        **others,
    }


def outcome(records):
    """What must not depend on interruptions: network, recipe and numbers of each trained candidate, in order."""
    return [
        (t.architecture.fingerprint(), t.recipe, t.objective, [m.val_loss for m in t.history])
        for t in records
        if t.outcome == "trained"
    ]


def test_a_search_records_what_it_trained(tmp_path, tiny_space):
    events = []
    result = search(**options(tmp_path, tiny_space), on_event=events.append)
    assert (result.num_trained, result.budget, result.interrupted, result.exhausted) == (3, 3, False, "")
    assert isinstance(events[0], SearchStarted)
    assert events[0].constraints == ("params<=900", "receptive_field>=10")
    assert [type(event) for event in events[1:]] == [TrialStarted, EpochFinished, EpochFinished, TrialFinished] * 3
    records = trials(results=result.results)
    trained = [trial for trial in records if trial.state == "COMPLETE"]
    assert len(trained) == 3
    for trial in trained:
        accuracies = [metrics.val_accuracy for metrics in trial.history]
        assert trial.objective == pytest.approx(sum(accuracies) / 2)
        assert trial.consistent_accuracy == min(accuracies)
        cost = cost_of(trial.architecture)
        assert (trial.params, trial.macs, trial.receptive_field) == (cost.params, cost.macs, cost.receptive_field)
        assert cost.params <= 900
        assert cost.receptive_field >= 10
        assert trial.recipe.epochs == 2
    discarded = [trial for trial in records if trial.state == "PRUNED"]
    assert len(discarded) == min(100, sum(result.discards.values()))
    assert {trial.reason for trial in discarded} <= {"params", "receptive_field", "impossible_shape", "duplicate"}
    assert sum(trial.num_draws for trial in trained) == 3 + sum(result.discards.values())
    assert list(result.best) == sorted(trained, key=lambda trial: -trial.objective)


def test_the_stored_weights_are_those_of_the_last_epoch(tmp_path, tiny_space):
    search(**options(tmp_path, tiny_space, trials=1))
    records = StudyRecords.open(results=tmp_path / "results")
    (trial,) = records.best(1)
    module = trial.architecture.build()
    module.load_state_dict(records.weights(trial.number))
    data = datasets.load("digits")
    _, accuracy = evaluate(
        module, data.val.images, data.val.labels, mean=data.mean, std=data.std, device=torch.device("cpu")
    )
    assert accuracy == trial.history[-1].val_accuracy


def test_discards_are_kept_with_their_violations(tmp_path, tiny_space):
    search(**options(tmp_path, tiny_space, max_params=250, keep_discards=7, trials=2))
    study = StudyRecords.open(results=tmp_path / "results").study
    pruned = study.get_trials(states=[optuna.trial.TrialState.PRUNED])
    assert len(pruned) == 7
    for trial in pruned:
        assert set(trial.constraints) == {"params<=250", "receptive_field>=10"}
        assert max(trial.constraints.values()) > 0
        if trial.user_attrs["reason"] == "params":
            assert trial.constraints["params<=250"] == pytest.approx((trial.user_attrs["params"] - 250) / 250)
    for trial in study.get_trials(states=[optuna.trial.TrialState.COMPLETE]):
        assert max(trial.constraints.values()) <= 0


def test_nothing_infeasible_is_built_and_the_test_split_stays_closed(tmp_path, tiny_space, monkeypatch):
    built = []
    build = Architecture.build
    monkeypatch.setattr(Architecture, "build", lambda self: (built.append(self), build(self))[1])
    monkeypatch.setattr(datasets, "load_test", lambda *args, **kwargs: pytest.fail("the test split was opened"))
    limits = (Constraint("params", "<=", 300), Constraint("receptive_field", ">=", 10))
    result = search(**options(tmp_path, tiny_space, max_params=300, trials=2))
    assert sum(result.discards.values()) > 0
    assert len(built) == 2
    assert all(worst(limits, cost_of(architecture)) is None for architecture in built)


def test_a_study_in_pieces_is_the_study_in_one(tmp_path, tiny_space):
    whole = options(tmp_path, tiny_space, results=tmp_path / "whole", trials=4)
    pieces = options(tmp_path, tiny_space, results=tmp_path / "pieces", trials=2)
    search(**whole)
    search(**pieces)
    before = trials(results=tmp_path / "pieces")
    assert search(**pieces).num_trained == 2
    assert trials(results=tmp_path / "pieces") == before
    search(**{**pieces, "trials": 4})
    assert outcome(trials(results=tmp_path / "pieces")) == outcome(trials(results=tmp_path / "whole"))


def test_an_interrupted_trial_goes_back_into_the_queue(tmp_path, tiny_space):
    whole = options(tmp_path, tiny_space, results=tmp_path / "whole")
    search(**whole)

    def interrupt(event):
        if isinstance(event, EpochFinished) and event.metrics.epoch == 1 and len(finished) == 1:
            raise KeyboardInterrupt
        if isinstance(event, TrialFinished):
            finished.append(event)

    finished = []
    pieces = options(tmp_path, tiny_space)
    result = search(**pieces, on_event=interrupt)
    assert result.interrupted
    assert result.num_trained == 1
    records = trials(results=tmp_path / "results")
    stopped = next(trial for trial in records if trial.outcome == "interrupted")
    assert stopped.reason == "interrupted; its parameters went back into the queue"
    assert [trial.state for trial in records].count("WAITING") == 1
    assert not any(trial.state == "RUNNING" for trial in records)
    search(**pieces)
    records = trials(results=tmp_path / "results")
    assert sum(trial.architecture == stopped.architecture and trial.recipe == stopped.recipe for trial in records) == 2
    assert outcome(records) == outcome(trials(results=tmp_path / "whole"))


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_search_resumes_with_nothing_lost(tmp_path, tiny_space, sent):
    whole = options(tmp_path, tiny_space, results=tmp_path / "whole")
    search(**whole)
    results = tmp_path / "results"
    command = [sys.executable, "-m", "nas", "search", "--json", "--dataset", "digits", "--space", tiny_space]
    command += ["--epochs", "2", "--trials", "3", "--max-params", "900", "--min-receptive-field", "10"]
    command += ["--results", str(results), "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as run:
        events = []
        for line in run.stdout:
            events.append(json.loads(line))
            # In the middle of the second trial: one is finished by then.
            if events[-1]["event"] == "EpochFinished" and any(e["event"] == "TrialFinished" for e in events):
                break
        run.send_signal(sent)
        rest, _ = run.communicate()
    assert run.returncode == (-signal.SIGKILL if sent == signal.SIGKILL else 130)
    if sent != signal.SIGKILL:
        assert json.loads(rest.splitlines()[-1])["interrupted"] is True
    done = [trial for trial in trials(results=results) if trial.state == "COMPLETE"]
    assert [trial.number for trial in done] == [e["number"] for e in events if e["event"] == "TrialFinished"]
    again = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert json.loads(again.stdout.splitlines()[0])["num_trained"] == 1
    records = trials(results=results)
    assert [trial for trial in records if trial.number == done[0].number] == done
    assert outcome(records) == outcome(trials(results=tmp_path / "whole"))
    assert {trial.state for trial in records} <= {"COMPLETE", "PRUNED", "FAIL"}


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"epochs": 3}, "epochs: 2, not 3"),
        ({"space": "mnist"}, "space: tiny, not mnist; space_fingerprint: "),
        ({"max_params": 800}, "constraints: params<=900 and receptive_field>=10, not params<=800 and "),
    ],
)
def test_unlike_results_are_not_mixed(tmp_path, tiny_space, change, difference):
    begun = options(tmp_path, tiny_space, trials=1)
    search(**begun)
    with pytest.raises(StudyError) as caught:
        search(**{**begun, **change})
    assert str(caught.value).startswith(f"study 'search' holds other results: {difference}")
    assert str(caught.value).endswith("; give the options it was begun with, or another --study NAME")
    assert search(**{**begun, **change, "study": "other"}).study == "other"


def test_another_dataset_is_not_mixed_in(tmp_path, tiny_space, mnist_root):
    begun = options(tmp_path, tiny_space, trials=1)
    search(**begun)
    with pytest.raises(StudyError, match="dataset: digits, not mnist; data_fingerprint: "):
        search(**{**begun, "dataset": "mnist"})
    # Without a name, the study's own is taken, though MNIST is at hand now.
    assert search(**{**begun, "dataset": None}).num_trained == 1


def test_limits_that_nothing_keeps_end_the_search_with_a_report(tmp_path, tiny_space):
    with pytest.raises(InfeasibleError) as caught:
        search(**options(tmp_path, tiny_space, max_params=30))
    lines = str(caught.value).splitlines()
    assert lines[0] == "(almost) nothing in the search space keeps the limits"
    assert lines[1] == "space tiny: 0 of 10,000 random draws keep the limits (0.00%)"
    assert any(line.startswith("params<=30: kept by 0.00% of the draws; this limit binds; params<=") for line in lines)
    assert any(line.startswith("smallest found within the other limits: ") for line in lines)
    assert not (tmp_path / "results").exists()


def test_limits_that_contradict_are_refused(tmp_path, tiny_space):
    with pytest.raises(ConstraintError, match=r"^limits contradict: params>=1000 and params<=900$"):
        search(**options(tmp_path, tiny_space, constraints=["params>=1000"]))


def test_a_space_that_runs_dry_says_so(tmp_path):
    space = tmp_path / "two.toml"
    space.write_text("[network]\nnum_blocks = 1\n[block]\nnum_convs = 1\n[conv]\nchannels = [3, 4]\n")
    given = options(tmp_path, str(space), trials=5, min_receptive_field=3, epochs=1)
    result = search(**given)
    assert result.num_trained == 2
    assert result.exhausted == "none of 20,000 more draws is feasible and new"
    assert result.discards["duplicate"] >= 20_000
    assert [trial.outcome for trial in trials(results=result.results) if trial.state == "FAIL"] == ["unused"]


def test_a_diverged_trial_counts_as_trained_and_the_search_goes_on(tmp_path):
    space = tmp_path / "hot.toml"
    space.write_text(
        "[network]\nnum_blocks = 1\norder = 'act'\n[block]\nnum_convs = 2\n[conv]\nchannels = { low = 2, high = 9 }\n"
        "[recipe]\nsgd_learning_rate = 1e30\nschedule = 'constant'\n"
    )
    result = search(**options(tmp_path, str(space), trials=4, min_receptive_field=3, epochs=1))
    assert result.num_trained == 4
    records = [trial for trial in trials(results=result.results) if trial.outcome == "diverged"]
    assert len(records) == 4
    assert {trial.state for trial in records} == {"FAIL"}
    assert all(trial.reason.startswith("diverged: loss nan in epoch 1") for trial in records)
    assert result.best == ()


def test_three_failures_in_a_row_stop_the_search(tmp_path, tiny_space, monkeypatch):
    def broken(architecture, *, seed):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(searching, "initialise", broken)
    with pytest.raises(StudyError) as caught:
        search(**options(tmp_path, tiny_space))
    assert str(caught.value) == "3 trials in a row failed, the last one: RuntimeError: no such instruction"
    failed = [trial for trial in trials(results=tmp_path / "results") if trial.outcome == "failed"]
    assert [trial.reason for trial in failed] == ["RuntimeError: no such instruction"] * 3


def test_one_search_at_a_time(tmp_path, tiny_space):
    given = options(tmp_path, tiny_space, trials=1)
    search(**given)
    with (
        StudyRecords.open(results=tmp_path / "results").lock(),
        pytest.raises(StudyError, match=r"search\.lock: another search is at work on study 'search'$"),
    ):
        search(**{**given, "trials": 2})


@pytest.mark.parametrize("name", ["epochs", "trials"])
def test_counts_below_one_are_refused(tmp_path, tiny_space, name):
    with pytest.raises(NasError, match=f"^{name} is 0, allowed: a whole number of at least 1$"):
        search(**options(tmp_path, tiny_space, **{name: 0}))


def test_what_someone_enqueued_is_held_to_the_limits(tmp_path, tiny_space, monkeypatch):
    given = options(tmp_path, tiny_space, trials=1)
    search(**given)
    study = StudyRecords.open(results=tmp_path / "results").study
    wide = {f"block{block}.conv{conv}.channels": 5 for block in (1, 2) for conv in (1, 2)}
    rest = {"block1.num_convs": 2, "block2.num_convs": 2, "block1.kernel_size": 5, "block2.kernel_size": 5}
    values = {**wide, **rest, "recipe.sgd_learning_rate": 0.1, "recipe.batch_size": 128}
    study.enqueue_trial(values)
    cost = cost_of(SearchSpace.load(tiny_space).architecture(values))
    assert cost.params > 900
    built = []
    build = Architecture.build
    monkeypatch.setattr(Architecture, "build", lambda self: (built.append(self), build(self))[1])
    assert search(**{**given, "trials": 2}).num_trained == 2
    pruned = [trial for trial in trials(results=tmp_path / "results") if trial.params == cost.params]
    assert [(trial.state, trial.reason) for trial in pruned] == [("PRUNED", "params")]
    assert len(built) == 1
    assert cost_of(built[0]).params <= 900
