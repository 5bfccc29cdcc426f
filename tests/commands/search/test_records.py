"""Trials, weights and artifacts that a search of tiny networks on digits stores."""

import csv
import json
import shlex
import shutil
from collections import Counter

import pytest
import torch
from optuna.artifacts import get_all_artifact_meta
from support.searches import options

from nas.architecture.architecture import Architecture
from nas.architecture.cost import cost_of
from nas.commands.events import EpochFinished, SearchStarted, TrialFinished, TrialStarted
from nas.commands.search import search
from nas.commands.trials import trials
from nas.data import datasets
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef
from nas.training.metrics import EpochMetrics
from nas.training.reference import evaluate


def test_search_records_trained_and_discarded_trials(tmp_path, tiny_space):
    events = []
    result = search(**options(tmp_path, tiny_space), on_event=events.append)
    assert (result.tally.num_trained, result.budget.trials, result.interrupted, result.exhausted) == (3, 3, False, "")
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
    assert {trial.reason for trial in discarded} <= {
        "params",
        "receptive_field",
        "impossible_shape",
        "duplicate",
        "smaller",
    }
    assert sum(trial.num_draws for trial in trained) == 3 + sum(result.discards.values())
    assert list(result.best) == sorted(trained, key=lambda trial: -trial.objective)


def test_discards_are_counted_per_candidate(tmp_path, tiny_space):
    result = search(**options(tmp_path, tiny_space))
    counts = StudyRecords.open(StudyRef(result.results)).discards_by_candidate()
    assert len(counts) == 3
    assert sum(counts, Counter()) == result.discards


def test_search_stores_python_call_or_given_command(tmp_path, tiny_space):
    given = {**options(tmp_path, tiny_space, trials=1, epochs=1), "results": tmp_path, "storage": None, "study": "x"}
    call = (
        f"nas.search(study='x', max_params=900, epochs=1, trials=1, dataset='digits', space={tiny_space!r},"
        f" min_receptive_field=10, device='cpu', workers=1, results={str(tmp_path)!r})"
    )
    search(**given)
    assert StudyRecords.open(StudyRef(tmp_path, study="x")).notes.command == call
    search(**{**given, "study": "y"}, command="nas search")
    assert StudyRecords.open(StudyRef(tmp_path, study="y")).notes.command == "nas search"


def outcomes(folder):
    return [(t.outcome, t.parameters, t.objective) for t in trials(results=folder)]


def test_commands_of_enlarged_study_lead_to_the_study_as_it_is(tmp_path, tiny_space, nas):
    """A search with a larger budget adds its command; one that repeats a command, or trains nothing, adds none."""
    given = ["--space", tiny_space, "--dataset", "digits", "--epochs", 1, "--max-params", 900]
    given += ["--min-receptive-field", 10, "--device", "cpu", "--workers", 1, "--quiet", "--results", tmp_path / "a"]
    first = ["nas", "search", *map(str, given), "--sampler", "random", "--trials", "1"]
    second = ["nas", "search", *map(str, given), "--trials", "3"]
    assert [nas(*line[1:])[0] for line in (first, first, second, second, first)] == [0] * 5
    ref = StudyRef(tmp_path / "a")
    stored = StudyRecords.open(ref).commands()
    assert [shlex.split(command) for command in stored] == [first, second]
    assert StudyRecords.open(ref).tally().num_trained == 3
    shutil.move(tmp_path / "a", tmp_path / "before")
    assert [nas(*shlex.split(command)[1:])[0] for command in stored] == [0, 0]
    assert outcomes(tmp_path / "a") == outcomes(tmp_path / "before")


def test_further_command_is_in_language_of_first_one(tmp_path, tiny_space):
    given = options(tmp_path, tiny_space, epochs=1)

    def stored(study):
        notes = StudyRecords.open(StudyRef(given["results"], study=study)).notes
        assert "trials=2" in notes.commands[1]
        return len(notes.commands), notes.commands[1].partition("(")[0]

    search("begun-in-shell", **given | {"trials": 1}, command="nas search")
    search("begun-in-shell", **given | {"trials": 2})
    assert stored("begun-in-shell") == (2, "python -c 'import nas; nas.search")
    search("begun-in-python", **given | {"trials": 1})
    search("begun-in-python", **given | {"trials": 2}, command="nas search --trials 2")
    assert stored("begun-in-python") == (2, "nas.search")


def test_stored_weights_reproduce_accuracy_of_last_epoch(tmp_path, tiny_space):
    search(**options(tmp_path, tiny_space, trials=1))
    records = StudyRecords.open(StudyRef(tmp_path / "results"))
    (trial,) = records.best(1)
    module = trial.architecture.build()
    module.load_state_dict(records.weights(trial.number))
    data = datasets.load("digits")
    _, accuracy = evaluate(
        module, data.val.images, data.val.labels, mean=data.mean, std=data.std, device=torch.device("cpu")
    )
    assert accuracy == trial.history[-1].val_accuracy


@pytest.mark.slow
def test_pruned_trials_spend_budget_in_proportion_to_epochs(tmp_path, tiny_space):
    events = []
    given = options(tmp_path, tiny_space, epochs=10, trials=8, pruner="asha", sampler="random")
    result = search(**given, on_event=events.append)
    records = trials(results=result.results)
    pruned = [trial for trial in records if trial.outcome == "pruned"]
    trained = [trial for trial in records if trial.outcome == "trained"]
    assert len(pruned) >= 2
    assert len(trained) >= 2
    epochs = sum(len(trial.history) for trial in pruned + trained)
    assert 10 * 8 - 10 < epochs <= 10 * 8  # the unspent rest is less than one training
    assert result.tally.spent == pytest.approx(epochs / 10)
    assert (result.tally.num_trained, result.tally.num_pruned) == (len(trained), len(pruned))
    for trial in pruned:
        last = trial.history[-1]
        assert 2 <= len(trial.history) < 10
        assert trial.reason == f"stopped after epoch {last.epoch}, val {last.val_accuracy:.2%}"
        assert (trial.state, trial.objective) == ("PRUNED", None)
    ended = [event for event in events if isinstance(event, TrialFinished)]
    assert [event.trial.number for event in ended] == [t.number for t in records if t.outcome in ("pruned", "trained")]
    assert search(**given).tally == result.tally


def test_two_objectives_give_pareto_front(tmp_path, tiny_space):
    given = options(tmp_path, tiny_space, trials=6, epochs=1, objective="accuracy,macs", sampler="nsga2")
    result = search(**given)
    records = StudyRecords.open(StudyRef(result.results))
    assert [direction.name for direction in records.study.directions] == ["MAXIMIZE", "MINIMIZE"]
    trained = [trial for trial in records.trials() if trial.outcome == "trained"]
    assert len(trained) == 6
    for trial, stored in ((t, records.study.trials[t.number]) for t in trained):
        assert stored.values == [trial.objective, trial.macs]
    front = records.pareto()
    assert [trial.number for trial in front] == [t.number for t in sorted(front, key=lambda t: t.macs)]
    assert {t.number for t in front} == {t.number for t in records.study.best_trials}
    assert result.best[0].objective == max(trial.objective for trial in trained)
    assert search(**{**given, "objective": None, "trials": 7}).tally.num_trained == 7


def test_trained_and_pruned_trials_store_diagram_epochs_and_architecture(tmp_path, tiny_space):
    search(**options(tmp_path, tiny_space, epochs=4, trials=4, pruner="asha", sampler="random"))
    records = StudyRecords.open(StudyRef(tmp_path / "results"))
    seen = set()
    for trial, record in zip(records.study.trials, records.trials(), strict=True):
        metas = {meta.filename: meta for meta in get_all_artifact_meta(trial, storage=records.storage)}
        seen.add(record.outcome)
        if record.outcome == "discarded":
            assert metas == {}
            continue
        weights = {"weights.pt"} if record.outcome == "trained" else set()
        assert metas.keys() == {"architecture.svg", "architecture.json", "epochs.csv"} | weights
        content = {name: (records.artifacts.folder / meta.artifact_id).read_bytes() for name, meta in metas.items()}
        assert Architecture.from_json(json.loads(content["architecture.json"])) == record.architecture
        assert metas["architecture.svg"].mimetype == "image/svg+xml"
        assert f">Trial {record.number}<".encode() in content["architecture.svg"]
        assert metas["epochs.csv"].mimetype == "text/csv"
        rows = list(csv.DictReader(content["epochs.csv"].decode().splitlines()))
        assert [EpochMetrics(**{k: json.loads(v) for k, v in row.items()}) for row in rows] == list(record.history)
    assert seen == {"trained", "pruned", "discarded"}
