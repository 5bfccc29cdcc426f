"""The loop on real data: digits, tiny networks, real SQLite, real processes that are killed."""

import csv
import errno
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import optuna
import pytest
import torch
from optuna.artifacts import get_all_artifact_meta
from optuna.storages import RDBStorage

from nas.architecture.architecture import Architecture
from nas.architecture.cost import cost_of
from nas.commands import search as searching
from nas.commands.events import EpochFinished, SearchStarted, TrialFinished, TrialStarted
from nas.commands.search import search
from nas.data import datasets
from nas.errors import ConstraintError, InfeasibleError, NasError, StudyError
from nas.space.constraints import Constraint, worst
from nas.space.search_space import SearchSpace
from nas.study.artifacts import Artifacts
from nas.study.database import default_storage
from nas.study.optuna_storage import Mirror
from nas.study.reader import StudyRecords, trials
from nas.training.metrics import EpochMetrics
from nas.training.reference import evaluate
from nas.workers import in_process as here


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
        "workers": 1,
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
    assert (result.tally.num_trained, result.budget, result.interrupted, result.exhausted) == (3, 3, False, "")
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
    assert search(**pieces).tally.num_trained == 2
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
    assert result.tally.num_trained == 1
    records = trials(results=tmp_path / "results")
    stopped = next(trial for trial in records if trial.outcome == "interrupted")
    assert stopped.reason == "interrupted; its parameters went back into the queue"
    assert [trial.state for trial in records].count("WAITING") == 1
    assert not any(trial.state == "RUNNING" for trial in records)
    search(**pieces)
    records = trials(results=tmp_path / "results")
    assert sum(trial.architecture == stopped.architecture and trial.recipe == stopped.recipe for trial in records) == 2
    assert outcome(records) == outcome(trials(results=tmp_path / "whole"))


@pytest.fixture
def _ctrl_c_is_heard():
    """Who runs the tests in the background may have Ctrl-C ignored, and their children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c_is_heard")
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_search_resumes_with_nothing_lost(tmp_path, tiny_space, sent):
    whole = options(tmp_path, tiny_space, results=tmp_path / "whole")
    search(**whole)
    results = tmp_path / "results"
    command = [sys.executable, "-m", "nas", "search", "--json", "--dataset", "digits", "--space", tiny_space]
    command += ["--epochs", "2", "--trials", "3", "--max-params", "900", "--min-receptive-field", "10"]
    command += ["--results", str(results), "--device", "cpu", "--workers", "1"]
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
        ({"space": "mnist"}, "space: tiny, not mnist"),
        ({"seed": 3}, "seed: 0, not 3"),
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
    with pytest.raises(StudyError, match="other results: dataset: digits, not mnist; split: "):
        search(**{**begun, "dataset": "mnist"})
    # Without a name, the study's own is taken, though MNIST is at hand now.
    assert search(**{**begun, "dataset": None}).tally.num_trained == 1


def test_limits_that_nothing_keeps_end_the_search_with_a_report(tmp_path, tiny_space):
    with pytest.raises(InfeasibleError) as caught:
        search(**options(tmp_path, tiny_space, max_params=30))
    lines = str(caught.value).splitlines()
    assert lines[0] == "fewer than 1 in 10,000 candidates of the search space keep the limits"
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
    assert result.tally.num_trained == 2
    lines = result.exhausted.splitlines()
    assert lines[0] == "none of 20,000 more draws is feasible and new"
    assert lines[1].startswith("space two: 10,000 of 10,000 random draws keep the limits (100.00%)")
    # It leaves nothing behind, however often it is tried.
    before = trials(results=result.results)
    assert search(**given).discards == result.discards
    assert trials(results=result.results) == before
    assert [trial.outcome for trial in before if trial.state != "PRUNED"] == ["trained", "trained"]


def test_a_diverged_trial_counts_as_trained_and_the_search_goes_on(tmp_path):
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


def test_three_failures_in_a_row_stop_the_search(tmp_path, tiny_space, monkeypatch):
    def broken(architecture, *, seed):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(here, "initialise", broken)
    with pytest.raises(StudyError) as caught:
        search(**options(tmp_path, tiny_space))
    assert str(caught.value) == "3 trials in a row failed, the last one: RuntimeError: no such instruction"
    failed = [trial for trial in trials(results=tmp_path / "results") if trial.outcome == "failed"]
    assert [trial.reason for trial in failed] == ["RuntimeError: no such instruction"] * 3


@pytest.mark.parametrize("name", ["epochs", "trials", "workers"])
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
    assert search(**{**given, "trials": 2}).tally.num_trained == 2
    pruned = [trial for trial in trials(results=tmp_path / "results") if trial.params == cost.params]
    assert [(trial.state, trial.reason) for trial in pruned] == [("PRUNED", "params")]
    assert len(built) == 1
    assert cost_of(built[0]).params <= 900


def test_what_is_stored_of_the_discards_does_not_change_the_search(tmp_path, tiny_space, monkeypatch):
    """With as many stored discards as there are, TPE must propose what it proposes with none."""
    monkeypatch.setattr(searching, "NUM_STARTUP", 3)
    kept = options(tmp_path, tiny_space, trials=6, max_params=250, epochs=1, keep_discards=1000, sampler="tpe")
    none = {**kept, "keep_discards": 0, "results": tmp_path / "none"}
    assert search(**kept).discards == search(**none).discards
    assert outcome(trials(results=kept["results"])) == outcome(trials(results=none["results"]))
    assert not any(trial.state == "PRUNED" for trial in trials(results=none["results"]))


class Killed(BaseException):
    """Ends the search where it stands, as kill -9 would: nothing of ours catches it."""


WRITES = {
    RDBStorage: ["create_new_study", "set_study_user_attr", "set_study_system_attr"],
    Mirror: ["create_new_trial", "set_trial_param", "set_trial_state_values", "write", "end", "report"],
}


def test_killed_at_any_write_it_resumes_to_the_same_study(tmp_path, tiny_space, monkeypatch):
    given = options(tmp_path, tiny_space, trials=2, max_params=250, epochs=1, keep_discards=5)
    whole = search(**{**given, "results": tmp_path / "whole"})
    wanted = outcome(trials(results=tmp_path / "whole"))
    number_of_writes = count_writes(monkeypatch, lambda: search(**{**given, "results": tmp_path / "counted"}))
    assert number_of_writes >= 20
    for kill_at in sorted(Random(0).sample(range(number_of_writes), 12)):
        here = {**given, "results": tmp_path / f"killed-{kill_at}"}
        with pytest.raises(Killed):
            count_writes(monkeypatch, lambda here=here: search(**here), kill_at)
        resumed = search(**here)
        records = trials(results=here["results"])
        assert outcome(records) == wanted, kill_at
        assert resumed.tally.num_trained == 2
        assert resumed.discards == whole.discards, kill_at
        assert sum(trial.outcome == "discarded" for trial in records) == 5, kill_at
        assert {trial.state for trial in records} <= {"COMPLETE", "PRUNED", "FAIL"}
        trained = [trial for trial in records if trial.outcome == "trained"]
        assert sum(trial.num_draws for trial in trained) == 2 + sum(whole.discards.values()), kill_at


def count_writes(monkeypatch, run, kill_at=None):
    """How many writes to the storage `run` makes; `Killed` instead of the one with that index."""
    done = 0

    def counted(write):
        def either(*args, **kwargs):
            nonlocal done
            if done == kill_at:
                raise Killed
            done += 1
            return write(*args, **kwargs)

        return either

    with monkeypatch.context() as patched:
        for owner, names in WRITES.items():
            for name in names:
                patched.setattr(owner, name, counted(getattr(owner, name)))
        run()
    return done


def test_a_broken_display_is_not_the_networks_fault(tmp_path, tiny_space):
    def broken(event):
        if isinstance(event, EpochFinished):
            raise ZeroDivisionError("of the notebook")

    with pytest.raises(ZeroDivisionError):
        search(**options(tmp_path, tiny_space), on_event=broken)
    assert not any(trial.outcome == "failed" for trial in trials(results=tmp_path / "results"))


def test_a_space_of_one_candidate_trains_it_once(tmp_path):
    space = tmp_path / "one.toml"
    space.write_text("[network]\nnum_blocks = 1\n[block]\nnum_convs = 1\n[conv]\nchannels = 3\n")
    result = search(**options(tmp_path, str(space), min_receptive_field=3, epochs=1))
    assert result.tally.num_trained == 1
    assert result.exhausted


def test_what_someone_enqueued_twice_is_trained_once(tmp_path, tiny_space):
    given = options(tmp_path, tiny_space, trials=1, epochs=1)
    search(**given)
    study = StudyRecords.open(results=tmp_path / "results").study
    study.enqueue_trial(study.best_trial.params)
    result = search(**{**given, "trials": 2})
    assert result.discards["duplicate"] == 1
    trained = [trial for trial in trials(results=tmp_path / "results") if trial.outcome == "trained"]
    assert trained[0].architecture != trained[1].architecture or trained[0].recipe != trained[1].recipe


def test_artifacts_that_cannot_be_written_are_said_before_anything_is_trained(tmp_path, tiny_space):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "artifacts").write_text("mine")
    with pytest.raises(StudyError, match=r"/artifacts: File exists$"):
        search(**options(tmp_path, tiny_space))
    assert trials(results=tmp_path / "results") == []


def test_a_space_that_changed_under_its_name_is_refused(tmp_path, tiny_space):
    given = options(tmp_path, tiny_space, trials=1)
    search(**given)
    path = Path(tiny_space)
    path.write_text(path.read_text().replace("high = 5", "high = 6"))
    with pytest.raises(StudyError, match="holds other results: space: tiny is not what it was; give the options"):
        search(**given)


def test_a_folder_of_images_that_changes_during_a_search_is_refused_and_nothing_lost(tmp_path, tiny_space):
    """A search keeps the images that it began with; the next one sees that they are no longer those of the study."""
    from PIL import Image

    folder, rng = tmp_path / "images", Random(0)
    for part, name, number in itertools.product(("train", "test"), ("a", "b"), range(12)):
        path = folder / part / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.frombytes("L", (28, 28), rng.randbytes(28 * 28)).save(path)

    def touch(event):
        if isinstance(event, TrialStarted):
            Image.frombytes("L", (28, 28), rng.randbytes(28 * 28)).save(folder / "train" / "a" / "3.png")

    given = options(tmp_path, tiny_space, dataset=f"folder:{folder}", trials=1, epochs=1)
    assert search(**given, on_event=touch).tally.num_trained == 1
    before = outcome(trials(results=tmp_path / "results"))
    with pytest.raises(StudyError, match="holds other results: "):
        search(**{**given, "trials": 2})
    assert outcome(trials(results=tmp_path / "results")) == before


def test_a_study_whose_creation_was_cut_short_is_begun_again(tmp_path, tiny_space):
    given = options(tmp_path, tiny_space, trials=1, epochs=1)
    (tmp_path / "results").mkdir()
    optuna.create_study(study_name="search", storage=default_storage(tmp_path / "results"), direction="maximize")
    assert search(**given).tally.num_trained == 1


def test_damaged_weights_are_named(tmp_path, tiny_space):
    search(**options(tmp_path, tiny_space, trials=1, epochs=1))
    records = StudyRecords.open(results=tmp_path / "results")
    (trial,) = records.best(1)
    name = records.study.trials[trial.number].system_attrs["nas:weights"]
    artifact = tmp_path / "results" / "artifacts" / name
    for content in (b"", b"x", artifact.read_bytes()[:-100]):
        artifact.write_bytes(content)
        with pytest.raises(StudyError) as caught:
            records.weights(trial.number)
        assert str(caught.value).startswith(f"{artifact}: damaged, it held the weights of trial {trial.number} (")
    artifact.unlink()
    with pytest.raises(StudyError, match=f"^{artifact}: missing, it held the weights of trial {trial.number}$"):
        records.weights(trial.number)


def test_what_a_pruner_stops_costs_the_share_of_its_epochs(tmp_path, tiny_space):
    events = []
    given = options(tmp_path, tiny_space, epochs=10, trials=8, pruner="asha", sampler="random")
    result = search(**given, on_event=events.append)
    records = trials(results=result.results)
    pruned = [trial for trial in records if trial.outcome == "pruned"]
    trained = [trial for trial in records if trial.outcome == "trained"]
    assert len(pruned) >= 2
    assert len(trained) >= 2
    epochs = sum(len(trial.history) for trial in pruned + trained)
    assert 10 * 8 - 10 < epochs <= 10 * 8  # less than a whole training is left
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


def test_a_search_with_a_pruner_in_pieces_is_the_search_in_one(tmp_path, tiny_space):
    given = options(tmp_path, tiny_space, epochs=6, trials=6, pruner="asha", sampler="evolution")

    def ended(folder):
        return [
            (trial.architecture.fingerprint(), trial.outcome, trial.reason, len(trial.history))
            for trial in trials(results=folder)
            if trial.outcome in ("pruned", "trained")
        ]

    search(**{**given, "results": tmp_path / "whole"})
    pieces = {**given, "results": tmp_path / "pieces"}
    stopped = 0
    for at in (5, 9, 4, 7):

        def interrupt(event, left=[at]):  # noqa: B006  # a count of its own for each session
            if isinstance(event, EpochFinished):
                left[0] -= 1
                if not left[0]:
                    raise KeyboardInterrupt

        stopped += search(**pieces, on_event=interrupt).interrupted
    assert stopped >= 3
    search(**pieces)
    assert ended(tmp_path / "pieces") == ended(tmp_path / "whole")


def test_two_objectives_give_a_pareto_front(tmp_path, tiny_space):
    given = options(tmp_path, tiny_space, trials=6, epochs=1, objective="accuracy,macs", sampler="nsga2")
    result = search(**given)
    records = StudyRecords.open(results=result.results)
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


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"pruner": "median", "objective": "accuracy,params"},
            "--pruner median with two objectives, allowed: none: it compares accuracies alone",
        ),
        ({"pruner": "soon"}, "--pruner 'soon', allowed: none, median, asha, hyperband"),
        ({"sampler": "tea"}, "--sampler 'tea', allowed: evolution, tpe, gp, nsga2, random"),
        (
            {"objective": "params"},
            "--objective 'params', allowed: accuracy, accuracy,params, accuracy,macs, accuracy,peak_activation_bytes,"
            " accuracy,weight_bytes",
        ),
        (
            {"objective": "accuracy,params,macs"},
            "--objective 'accuracy,params,macs', allowed: accuracy, accuracy,params, accuracy,macs,"
            " accuracy,peak_activation_bytes, accuracy,weight_bytes",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_searched_with_is_said_before_a_study_is_made(tmp_path, tiny_space, change, text):
    with pytest.raises(NasError) as caught:
        search(**options(tmp_path, tiny_space, **change))
    assert str(caught.value) == text
    assert not (tmp_path / "results").exists()


def test_another_sampler_or_pruner_is_another_study(tmp_path, tiny_space):
    given = options(tmp_path, tiny_space, trials=1)
    search(**given)
    with pytest.raises(StudyError, match="sampler: evolution, not random"):
        search(**given, sampler="random")
    assert search(**given, sampler="evolution").tally.num_trained == 1


def test_a_study_of_an_earlier_version_goes_on(tmp_path, tiny_space):
    given = options(tmp_path, tiny_space, trials=1, sampler="tpe")
    search(**given)
    study = StudyRecords.open(results=tmp_path / "results").study
    settings = study.user_attrs["settings"]
    old = {name: value for name, value in settings.items() if name not in ("objectives", "sampler", "pruner")}
    study.set_user_attr("settings", old)
    assert search(**{**given, "sampler": None, "trials": 2}).tally.num_trained == 2


def test_trained_and_stopped_trials_come_with_a_picture_a_table_and_their_file(tmp_path, tiny_space):
    search(**options(tmp_path, tiny_space, epochs=4, trials=4, pruner="asha", sampler="random"))
    records = StudyRecords.open(results=tmp_path / "results")
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


def test_a_full_disk_is_said_and_the_search_goes_on_where_it_was(tmp_path, tiny_space, monkeypatch):
    given = options(tmp_path, tiny_space, trials=2, epochs=1)
    whole = {**given, "results": tmp_path / "whole"}
    search(**whole)
    write = Artifacts.write

    def full(self, content, name="weights.pt"):
        if name == "epochs.csv":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder / "x"))
        return write(self, content, name)

    with monkeypatch.context() as patched:
        patched.setattr(Artifacts, "write", full)
        with pytest.raises(StudyError, match=r"/artifacts/x: No space left on device$"):
            search(**given)
    search(**given)
    assert outcome(trials(results=given["results"])) == outcome(trials(results=whole["results"]))
