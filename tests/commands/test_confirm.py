"""Confirm on real data: a small study on digits, trained again, killed and resumed, held against single trainings."""

import json
import re
import shutil
import sys
from contextlib import closing
from dataclasses import replace
from statistics import fmean, stdev

import optuna
import pytest
import torch
from optuna.storages import RDBStorage

from nas.cli import main as cli
from nas.commands.confirm import Ranked, RunFinished, StageStarted, confirm
from nas.commands.export import export_trial
from nas.commands.search import search
from nas.commands.train import train
from nas.data import datasets
from nas.errors import NasError, StudyError
from nas.seed_stats import Finalist, Ranking
from nas.study.confirmation import ConfirmedRecords, Run
from nas.study.database import default_storage
from nas.study.locks import locks
from nas.study.reader import StudyRecords
from nas.training.metrics import EpochMetrics
from nas.workers import in_process as here

pytestmark = pytest.mark.usefixtures("one_thread")

SPACE = """
[network]
num_blocks = 2

[block]
num_convs = 1
kernel_size = [3, 5]

[conv]
channels = { low = 2, high = 4 }

[recipe]
sgd_learning_rate = { low = 0.05, high = 0.5, log = true }
batch_size = 64
"""

EPOCHS, TOP, SEEDS, TARGET = 2, 2, 2, 0.15
NUM_RUNS = TOP * SEEDS + SEEDS
ON_CPU = {"device": "cpu", "workers": 1}
ASKED = {"top": TOP, "seeds": SEEDS, "target": TARGET, **ON_CPU}


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A results folder with a study of three trained trials. Read only."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "tiny.toml").write_text(SPACE)
    search(
        max_params=900,
        min_receptive_field=10,
        dataset="digits",
        space=str(folder / "tiny.toml"),
        epochs=EPOCHS,
        trials=3,
        sampler="random",  # of three sizes
        results=folder / "results",
        **ON_CPU,
    )
    return folder / "results"


@pytest.fixture(scope="module")
def whole(searched, tmp_path_factory):
    """The results folder after a confirmation that nothing interrupted (read only), what came out, and its events.

    Among the events, as "test", is each time that the test split was loaded.
    """
    folder = tmp_path_factory.mktemp("whole") / "results"
    shutil.copytree(searched, folder)
    events = []
    load_test = datasets.load_test
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(datasets, "load_test", lambda *a, **k: (events.append("test"), load_test(*a, **k))[1])
        found = confirm(**ASKED, results=folder, on_event=events.append)
    return folder, found, events


@pytest.fixture(scope="module")
def grown(whole, tmp_path_factory):
    """The same after another confirmation with one more seed (read only), what came out, and its runs."""
    folder = tmp_path_factory.mktemp("grown") / "results"
    shutil.copytree(whole[0], folder)
    events = []
    found = confirm(**{**ASKED, "seeds": SEEDS + 1}, again=True, results=folder, on_event=events.append)
    return folder, found, runs_in(events)


@pytest.fixture(scope="module")
def fits(whole):
    """Every run of the confirmation as a training of its own."""
    records = StudyRecords.open(results=whole[0])

    def fit(run):
        trial = records.trial(run.trial)
        on_test = run.judged_on == "test"
        return train(trial.architecture, trial.recipe, dataset="digits", seed=run.seed, device="cpu", test=on_test)

    return {run: fit(run) for run in runs_in(whole[2])}


@pytest.fixture
def study(searched, tmp_path):
    """A copy of the study that is not confirmed yet."""
    return shutil.copytree(searched, tmp_path / "results")


@pytest.fixture
def confirmed(whole, tmp_path):
    """A copy of the study that is confirmed."""
    return shutil.copytree(whole[0], tmp_path / "results")


@pytest.fixture
def ranked(study, whole):
    """A copy of the study in which the runs of the first stage have ended, and none of the second."""
    kept = ConfirmedRecords(StudyRecords.open(results=study))
    for event in whole[2]:
        if isinstance(event, RunFinished) and event.run.judged_on == "val":
            kept.keep(event.run, event.history)
    return study


@pytest.fixture
def jobs(monkeypatch):
    """Every training that is begun from here on."""
    begun = []
    submit = here.Here.submit
    monkeypatch.setattr(here.Here, "submit", lambda self, job: (begun.append(job), submit(self, job))[1])
    return begun


@pytest.fixture
def nas(monkeypatch, capsys):
    """Runs a command line in this process; exit status, standard output, standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["nas", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as stop:
            status = stop.code or 0
        out, err = capsys.readouterr()
        return status, out, err

    return run


def runs_in(events):
    return [event.run for event in events if isinstance(event, RunFinished)]


def openings(folder):
    return ConfirmedRecords(StudyRecords.open(results=folder)).openings()


def finalists_of(folder, top=TOP):
    """Numbers of the best trials, by the search's own figures."""
    trained = [trial for trial in StudyRecords.open(results=folder).trials() if trial.outcome == "trained"]
    return sorted(trained, key=lambda trial: (-trial.objective, trial.params))[:top]


def untimed(history):
    return [replace(metrics, seconds=0.0) for metrics in history]


def epochs_of(*accuracies):
    """The epochs of a run, as they would be stored."""
    return [
        EpochMetrics(
            epoch=epoch,
            train_loss=1.0,
            train_accuracy=0.5,
            val_loss=1.0,
            val_accuracy=accuracy,
            learning_rate=0.1,
            seconds=0.0,
        )
        for epoch, accuracy in enumerate(accuracies, start=1)
    ]


def keep(folder, judged_on, accuracies):
    """Stores runs as if they had ended: for each trial and seed the accuracy after every epoch, None: diverged."""
    kept = ConfirmedRecords(StudyRecords.open(results=folder))
    for trial, seeds in accuracies.items():
        for seed, accuracy in enumerate(seeds):
            history = [] if accuracy is None else epochs_of(*[accuracy] * EPOCHS)
            kept.keep(Run(trial=trial, judged_on=judged_on, seed=seed), history)


class Stop(KeyboardInterrupt):
    """An interruption of ours, told from the user's."""


def stop_at(wanted):
    """Raises at the first event that is wanted."""

    def on_event(event):
        if wanted(event):
            raise Stop

    return on_event


# -- what comes out ------------------------------------------------------------------------------------------


def test_the_best_trials_are_trained_with_seeds_from_zero_then_the_winner(whole):
    folder, found, events = whole
    best = {trial.number for trial in finalists_of(folder)}
    runs = runs_in(events)
    first, second = runs[: TOP * SEEDS], runs[TOP * SEEDS :]
    assert {(run.trial, run.seed, run.judged_on) for run in first} == {
        (trial, seed, "val") for trial in best for seed in range(SEEDS)
    }
    winner = found.winner.number
    assert winner in best
    assert sorted((run.trial, run.seed, run.judged_on) for run in second) == [
        (winner, seed, "test") for seed in range(SEEDS)
    ]
    assert len(set(runs)) == len(runs) == NUM_RUNS


def test_the_events_tell_each_stage_each_run_and_the_ranking_in_order(whole):
    _, found, events = whole
    told = [event for event in events if event != "test"]
    assert [type(event) for event in told] == [
        StageStarted,
        *[RunFinished] * (TOP * SEEDS),
        Ranked,
        StageStarted,
        *[RunFinished] * SEEDS,
    ]
    stages = [event for event in told if isinstance(event, StageStarted)]
    assert [(stage.judged_on, stage.num_runs, stage.num_done) for stage in stages] == [
        ("val", TOP * SEEDS, 0),
        ("test", SEEDS, 0),
    ]
    assert stages[1].trials == (found.winner.number,)
    ended = [event for event in told if isinstance(event, RunFinished)]
    assert [(event.num_done, event.num_runs) for event in ended] == [
        *[(done, TOP * SEEDS) for done in range(1, TOP * SEEDS + 1)],
        *[(done, SEEDS) for done in range(1, SEEDS + 1)],
    ]


def test_every_run_is_the_training_of_that_network_with_that_seed(whole, fits):
    for event in whole[2]:
        if isinstance(event, RunFinished):
            fit = fits[event.run]
            assert fit.judged_on == event.run.judged_on
            assert untimed(event.history) == untimed(fit.history)


def test_the_finalists_are_ranked_by_mean_val_accuracy(whole, fits):
    folder, found, events = whole
    finalists = [
        Finalist(
            trial=trial.number,
            cost=trial.params,
            objectives=tuple(
                fmean(m.val_accuracy for m in fits[Run(trial=trial.number, judged_on="val", seed=seed)].history)
                for seed in range(SEEDS)
            ),
        )
        for trial in finalists_of(folder)
    ]
    assert found.ranking == Ranking.of(finalists)
    assert found.winner.number == found.ranking.winner.trial
    assert [event.ranking for event in events if isinstance(event, Ranked)] == [found.ranking]


def test_the_test_figures_are_those_of_the_trainings_on_train_and_val(whole, fits):
    _, found, _ = whole
    runs = [fits[Run(trial=found.winner.number, judged_on="test", seed=seed)] for seed in range(SEEDS)]
    table = [tuple(metrics.val_accuracy for metrics in fit.history) for fit in runs]
    assert found.test.accuracies == tuple(table)
    assert found.test.num_images == len(datasets.load_test("digits").labels)
    assert (found.test.consistency, found.test.target) == (5, TARGET)
    assert found.test.consistent == [min(row) for row in table]
    data = json.loads(json.dumps(found.to_json()))
    assert data["final_accuracy_mean"] == pytest.approx(fmean(row[-1] for row in table))
    assert data["final_accuracy_sd"] == pytest.approx(stdev(row[-1] for row in table))
    assert data["consistent_accuracy_mean"] == pytest.approx(fmean(map(min, table)))
    assert data["num_met"] == sum(min(row) >= TARGET for row in table)


def test_what_came_out_is_stored_with_the_study(whole):
    folder, found, _ = whole
    records = StudyRecords.open(results=folder)
    assert records.study.user_attrs["confirmed"] == json.loads(json.dumps(found.to_json()))
    assert (found.study, found.dataset, found.num_openings) == ("search", "digits", 1)
    assert found.winner == records.trial(found.winner.number)
    (opening,) = openings(folder)
    assert (opening.trial, opening.seeds) == (found.winner.number, SEEDS)
    assert set(opening.finalists) == {trial.number for trial in finalists_of(folder)}
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", opening.date)


def test_confirming_leaves_the_trials_of_the_search_alone(whole, searched):
    assert StudyRecords.open(results=whole[0]).trials() == StudyRecords.open(results=searched).trials()


def test_the_smaller_of_the_tied_wins_though_its_mean_is_lower(study):
    small, large = sorted(finalists_of(study), key=lambda trial: trial.params)
    assert small.params < large.params
    keep(study, "val", {small.number: [0.5, 0.7], large.number: [0.55, 0.75]})
    ranked = []
    with pytest.raises(Stop):
        confirm(**ASKED, results=study, on_event=lambda e: (ranked.append(e), stop_at(is_ranked)(e)))
    ranking = ranked[-1].ranking
    assert [finalist.trial for finalist in ranking.finalists] == [large.number, small.number]
    assert ranking.winner.trial == small.number
    keep(study, "val", {large.number: [0.75, 0.95]})
    with pytest.raises(Stop):
        confirm(**ASKED, results=study, on_event=lambda e: (ranked.append(e), stop_at(is_ranked)(e)))
    assert ranked[-1].ranking.winner.trial == large.number
    assert openings(study) == []


def is_ranked(event):
    return isinstance(event, Ranked)


def test_a_single_finalist_is_confirmed_as_it_is(study, jobs):
    """There is nothing to pick: it is trained on train + val alone."""
    (best,) = finalists_of(study, 1)
    found = confirm(**{**ASKED, "top": 1}, results=study)
    assert (found.winner.number, found.ranking) == (best.number, None)
    assert [(job.architecture, job.seed) for job in jobs] == [(best.architecture, seed) for seed in range(SEEDS)]
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["ranking"] is None


# -- the test split ------------------------------------------------------------------------------------------


def test_the_test_split_is_opened_once_and_after_the_winner_is_fixed(whole):
    events = whole[2]
    assert events.count("test") == 1
    before = events[: events.index("test")]
    assert any(isinstance(event, Ranked) for event in before)
    assert {run.judged_on for run in runs_in(before)} == {"val"}
    assert len(runs_in(before)) == TOP * SEEDS


def test_until_the_winner_is_fixed_it_stays_closed(ranked, monkeypatch):
    monkeypatch.setattr(datasets, "load_test", lambda *a, **k: pytest.fail("the test split was opened"))
    with pytest.raises(Stop):
        confirm(**ASKED, results=ranked, on_event=stop_at(is_ranked))
    assert openings(ranked) == []


@pytest.mark.parametrize("change", [{"seeds": SEEDS + 1}, {"top": TOP + 1}, {"top": 1}])
def test_it_is_not_opened_again_for_another_question(confirmed, jobs, change):
    (opening,) = openings(confirmed)
    before = StudyRecords.open(results=confirmed).study.user_attrs
    events = []
    with pytest.raises(StudyError) as caught:
        confirm(**{**ASKED, **change}, results=confirmed, on_event=events.append)
    numbers = ", ".join(map(str, sorted(opening.finalists)))
    assert str(caught.value) == (
        f"the test split was opened once for study 'search' already, last on {opening.date} for trial {opening.trial}"
        f" (finalists {numbers}; {SEEDS} seeds): the same --top and --seeds, if the study has not grown, show what came"
        " out; --again opens it once more, for figures that are no longer quite unbiased"
    )
    assert (jobs, events) == ([], [])
    assert openings(confirmed) == [opening]
    assert StudyRecords.open(results=confirmed).study.user_attrs == before


def test_told_so_it_is_opened_again_and_counted(grown):
    folder, found, _ = grown
    assert found.num_openings == len(openings(folder)) == 2
    assert [opening.seeds for opening in openings(folder)] == [SEEDS, SEEDS + 1]
    with pytest.raises(StudyError, match=r"^the test split was opened 2 times for study 'search' already, last on "):
        confirm(**{**ASKED, "top": TOP + 1}, results=folder)


def test_more_seeds_use_the_runs_there_are(grown, whole):
    _, found, runs = grown
    first, second = whole[1].winner.number, found.winner.number
    wanted = [(trial.number, SEEDS, "val") for trial in finalists_of(whole[0])]
    wanted += [(second, seed, "test") for seed in range(SEEDS + 1) if second != first or seed == SEEDS]
    assert sorted((run.trial, run.seed, run.judged_on) for run in runs) == sorted(wanted)
    before = {each.trial: each.objectives for each in whole[1].ranking.finalists}
    assert {each.trial: each.objectives[:SEEDS] for each in found.ranking.finalists} == before
    assert {len(each.objectives) for each in found.ranking.finalists} == {SEEDS + 1}


def test_either_question_is_answered_again_without_a_training(grown, whole, tmp_path, jobs):
    folder = shutil.copytree(grown[0], tmp_path / "results")
    first = confirm(**ASKED, results=folder)
    assert (first.ranking, first.test, first.num_openings) == (whole[1].ranking, whole[1].test, 2)
    assert confirm(**{**ASKED, "seeds": SEEDS + 1}, results=folder) == grown[1]
    assert (jobs, len(openings(folder))) == ([], 2)


def test_the_same_call_again_trains_nothing_and_gives_the_same(confirmed, whole, jobs):
    events = []
    assert confirm(**ASKED, results=confirmed, on_event=events.append) == whole[1]
    assert confirm(**ASKED, again=True, results=confirmed) == whole[1]
    assert jobs == runs_in(events) == []
    assert len(openings(confirmed)) == 1
    stages = [event for event in events if isinstance(event, StageStarted)]
    assert all(stage.num_done == stage.num_runs for stage in stages)


def test_another_target_is_another_verdict_on_the_same_runs(confirmed, whole, jobs):
    lowest = whole[1].test.consistent
    for target in (min(lowest), max(lowest), 1.0):
        found = confirm(**{**ASKED, "target": target}, results=confirmed)
        assert found.test == replace(whole[1].test, target=target)
        wanted = "met" if target == min(lowest) else "met by some" if target == max(lowest) else "missed"
        assert found.test.verdict == wanted
        assert found.num_openings == 1
    assert jobs == []


# -- interruptions -------------------------------------------------------------------------------------------


def interrupt_and_resume(folder, num_ended, jobs, whole):
    """Interrupts after as many runs of this call as are wanted, calls again, and compares with the uninterrupted."""
    before = ConfirmedRecords(StudyRecords.open(results=folder))
    missing = [run for run in runs_in(whole[2]) if before.history(run) is None]
    events = []
    with pytest.raises(Stop):
        confirm(
            **ASKED,
            results=folder,
            on_event=lambda event: (events.append(event), stop_at(lambda _: len(runs_in(events)) == num_ended)(event)),
        )
    assert runs_in(events) == missing[:num_ended]
    jobs.clear()
    later = []
    assert confirm(**ASKED, results=folder, on_event=later.append) == whole[1]
    assert runs_in(later) == missing[num_ended:]
    assert [job.seed for job in jobs] == [run.seed for run in missing[num_ended:]]
    assert len(openings(folder)) == 1


@pytest.mark.parametrize("num_ended", range(1, TOP * SEEDS + 1))
def test_interrupted_after_any_run_it_goes_on_to_the_same_end(study, whole, jobs, num_ended):
    interrupt_and_resume(study, num_ended, jobs, whole)


@pytest.mark.parametrize("num_ended", range(1, SEEDS + 1))
def test_interrupted_after_any_run_of_the_winner_it_goes_on_to_the_same_end(ranked, whole, jobs, num_ended):
    interrupt_and_resume(ranked, num_ended, jobs, whole)


def test_interrupted_around_the_opening_it_counts_one(ranked, whole):
    def before_any_training_on_test(event):
        return isinstance(event, StageStarted) and event.judged_on == "test"

    for wanted, num_openings in [(is_ranked, 0), (before_any_training_on_test, 1), (before_any_training_on_test, 1)]:
        with pytest.raises(Stop):
            confirm(**ASKED, results=ranked, on_event=stop_at(wanted))
        assert len(openings(ranked)) == num_openings
    assert confirm(**ASKED, results=ranked) == whole[1]


class Killed(BaseException):
    """Ends the confirmation where it stands, as kill -9 would: nothing of ours catches it."""


def test_killed_at_any_write_after_the_winner_is_fixed_it_comes_to_the_same_end(ranked, whole, fits, monkeypatch):
    """Each call gets one write further than the one before it."""
    left = 0

    def counted(write):
        def either(*args, **kwargs):
            nonlocal left
            if not left:
                raise Killed
            left -= 1
            return write(*args, **kwargs)

        return either

    found, num_killed = None, 0
    with monkeypatch.context() as patched:
        for name in ("set_study_system_attr", "set_study_user_attr"):
            patched.setattr(RDBStorage, name, counted(getattr(RDBStorage, name)))
        while found is None:
            left = num_killed
            try:
                found = confirm(**ASKED, results=ranked)
            except Killed:
                num_killed += 1
    assert num_killed > 3
    assert found == whole[1]
    assert len(openings(ranked)) == 1
    stored = ConfirmedRecords(StudyRecords.open(results=ranked)).weights(found.winner.number)
    wanted = fits[Run(trial=found.winner.number, judged_on="test", seed=0)].weights
    assert all(torch.equal(stored[name], wanted[name]) for name in wanted)


def test_once_it_is_open_an_interruption_does_not_let_one_ask_otherwise(ranked):
    with pytest.raises(Stop):
        confirm(**ASKED, results=ranked, on_event=stop_at(lambda e: isinstance(e, RunFinished) and is_on_test(e)))
    with pytest.raises(StudyError, match=r"^the test split was opened once for study 'search' already"):
        confirm(**{**ASKED, "top": TOP + 1}, results=ranked)


def is_on_test(event):
    return event.run.judged_on == "test"


def test_a_run_that_diverges_counts_as_nothing_and_the_rest_goes_on(study, monkeypatch):
    best = finalists_of(study)[0]
    keep(study, "val", {trial.number: [0.5] for trial in finalists_of(study)})
    submit = here.Here.submit

    def hot(self, job):
        if job.architecture == best.architecture and job.seed == 1:
            job = replace(job, recipe=replace(job.recipe, learning_rate=1e38))
        submit(self, job)

    monkeypatch.setattr(here.Here, "submit", hot)
    events = []
    with pytest.raises(Stop):
        confirm(**ASKED, results=study, on_event=lambda event: (events.append(event), stop_at(is_ranked)(event)))
    diverged = [event.run for event in events if isinstance(event, RunFinished) and not event.history]
    assert diverged == [Run(trial=best.number, judged_on="val", seed=1)]
    ranking = events[-1].ranking
    (found,) = [finalist for finalist in ranking.finalists if finalist.trial == best.number]
    assert found.objectives == (0.5, 0.0)
    (other,) = [finalist for finalist in ranking.finalists if finalist.trial != best.number]
    assert ranking.standard_error == pytest.approx(Ranking.of([other]).standard_error)


def test_a_training_that_fails_is_named_and_what_had_ended_is_kept(study, monkeypatch, jobs):
    keep(study, "val", {trial.number: [0.5] for trial in finalists_of(study)})
    initialise, calls = here.initialise, []

    def broken(architecture, *, seed):
        calls.append(seed)
        if len(calls) == 2:
            raise RuntimeError("no such instruction")
        return initialise(architecture, seed=seed)

    monkeypatch.setattr(here, "initialise", broken)
    events = []
    with pytest.raises(StudyError) as caught:
        confirm(**ASKED, results=study, on_event=events.append)
    assert re.fullmatch(r"trial \d+ with seed 1 failed: RuntimeError: no such instruction", str(caught.value))
    assert len(runs_in(events)) == 1
    jobs.clear()
    with pytest.raises(Stop):
        confirm(**ASKED, results=study, on_event=stop_at(is_ranked))
    assert len(jobs) == TOP * SEEDS - 3


def test_the_smaller_wins_when_every_run_of_both_diverged(study):
    small, large = sorted(finalists_of(study), key=lambda trial: trial.params)
    keep(study, "val", {small.number: [None, None], large.number: [None, None]})
    keep(study, "test", {small.number: [None]})
    found = confirm(**ASKED, results=study)
    assert found.winner.number == small.number
    assert found.test.accuracies[0] == (0.0,) * EPOCHS
    assert found.test.accuracies[1][-1] > 0
    json.dumps(found.to_json(), allow_nan=False)


# -- export --------------------------------------------------------------------------------------------------


def test_the_weights_of_the_first_seed_are_exported(confirmed, whole, fits, tmp_path):
    exported = export_trial("confirmed", results=confirmed, output=tmp_path / "model")
    stored = torch.load(exported.folder / "weights.pt", weights_only=True)
    wanted = fits[Run(trial=whole[1].winner.number, judged_on="test", seed=0)].weights
    assert len(stored) == len(wanted)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(stored.values(), wanted.values(), strict=True))
    assert [remark[:40] for remark in exported.remarks] == ["The weights were trained on the val spli"]
    for name in ("model.py", "README.md"):
        text = (exported.folder / name).read_text()
        assert f"Trial {whole[1].winner.number} of study 'search', confirmed with {SEEDS} seeds." in text
        assert f"fixed beforehand: {whole[1].test.finals[0]:.2%} on the test split." in text
        assert "The test split was opened once for this study." in text
    assert f"nas confirm --top {len(whole[1].ranking.finalists)} --seeds {SEEDS} --target " in text
    assert f" --results {confirmed}\n```\n" in text


def test_before_a_confirmation_there_is_nothing_to_export(study, tmp_path):
    with pytest.raises(StudyError) as caught:
        export_trial("confirmed", results=study, output=tmp_path / "model")
    assert str(caught.value) == "study 'search' is not confirmed yet: `nas confirm` does it"
    assert not (tmp_path / "model").exists()


def test_damaged_weights_of_a_confirmation_are_named(confirmed, whole, tmp_path):
    before = {path.name for path in (confirmed / "artifacts").iterdir()}
    trials = StudyRecords.open(results=confirmed)
    for path in (confirmed / "artifacts").iterdir():
        path.write_bytes(b"x")
    with pytest.raises(StudyError) as caught:
        export_trial("confirmed", results=confirmed, output=tmp_path / "model")
    where, _, what = str(caught.value).partition(": ")
    assert where.rpartition("/")[2] in before
    assert (
        what == f"damaged, it held the confirmed weights of trial {whole[1].winner.number} ('File is not a zip file')"
    )
    assert trials.study.user_attrs["confirmed"]["trial"] == whole[1].winner.number


def test_where_the_first_seed_diverged_the_export_says_so(study, tmp_path):
    small, large = sorted(finalists_of(study), key=lambda trial: trial.params)
    keep(study, "val", {small.number: [0.5, 0.5], large.number: [0.1, 0.1]})
    keep(study, "test", {small.number: [None]})
    confirm(**ASKED, results=study)
    with pytest.raises(NasError, match=f"trial {small.number}"):
        export_trial("confirmed", results=study, output=tmp_path / "model")


# -- mistakes ------------------------------------------------------------------------------------------------


COUNT = "allowed: a whole number of at least"
FRACTION = "allowed: a fraction above 0, at most 1, such as 0.994"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"top": 4}, "--top 4: study 'search' has 3 trained trials, allowed: 1 to 3"),
        ({"top": 0}, f"top is 0, {COUNT} 1"),
        ({"seeds": 1}, f"seeds is 1, {COUNT} 2"),
        ({"seeds": -3}, f"seeds is -3, {COUNT} 2"),
        ({"workers": 0}, f"workers is 0, {COUNT} 1"),
        ({"target": 0.0}, f"target is 0.0, {FRACTION}"),
        ({"target": 1.5}, f"target is 1.5, {FRACTION}"),
        ({"target": 99.4}, f"target is 99.4, {FRACTION}"),
        ({"target": float("nan")}, f"target is nan, {FRACTION}"),
    ],
    ids=str,
)
def test_a_mistake_is_told_before_anything_is_trained(study, jobs, nas, change, text):
    asked = {**ASKED, **change}
    events = []
    with pytest.raises(NasError) as caught:
        confirm(**asked, results=study, on_event=events.append)
    assert str(caught.value) == text
    options = [part for name, value in asked.items() for part in (f"--{name}", value)]
    assert nas("confirm", *options, "--results", study) == (2, "", f"error: {text}\n")
    assert (jobs, events, openings(study)) == ([], [], [])


NOTES = {
    "command": "",
    "machine": "",
    "dataset_note": "",
    "normalisation": {"mean": [0.5], "std": [0.25]},
    "classes": ["0", "1"],
}


def test_a_study_that_has_trained_nothing_has_nothing_to_confirm(searched, tmp_path, nas):
    settings = StudyRecords.open(results=searched).settings
    (tmp_path / "results").mkdir()
    StudyRecords.create(settings, results=tmp_path / "results", notes=NOTES)
    text = "error: --top 1: study 'search' has 0 trained trials\n"
    assert nas("confirm", "--top", 1, "--results", tmp_path / "results") == (2, "", text)


def test_where_there_is_no_study_none_is_made(study, tmp_path, nas):
    text = f"error: sqlite:///{study / 'studies.db'}: no study 'other', allowed: search\n"
    assert nas("confirm", "--results", study, "--study", "other") == (2, "", text)
    assert not list(study.glob("*.other.lock"))
    missing = tmp_path / "missing"
    text = (
        f"error: {missing / 'studies.db'}: no such database;"
        " `nas search` makes one, --results or --storage names another\n"
    )
    assert nas("confirm", "--results", missing) == (2, "", text)
    assert not missing.exists()


def test_a_study_that_another_process_confirms_is_left_alone(study, jobs, nas):
    text = f"sqlite:///{study / 'studies.db'}: another process is confirming study 'search'"
    with closing(locks(default_storage(study), "search", study)) as other:
        assert other.hold("confirm")
        with pytest.raises(StudyError) as caught:
            confirm(**ASKED, results=study)
        assert str(caught.value) == text
        assert nas("confirm", "--results", study) == (2, "", f"error: {text}\n")
    assert jobs == []


def test_while_it_runs_no_other_confirmation_begins(study):
    def ask_again(event):
        with pytest.raises(StudyError, match=r"is confirming study 'search'$"):
            confirm(**ASKED, results=study)
        raise Stop

    with pytest.raises(Stop):
        confirm(**ASKED, results=study, on_event=ask_again)


@pytest.mark.parametrize("change", [{"data_fingerprint": "0" * 16}, {"split": "val 1 of 2, by hand"}])
def test_data_that_changed_since_the_search_are_refused(study, jobs, nas, change):
    with_other = StudyRecords.open(results=study).study
    with_other.set_user_attr("settings", {**with_other.user_attrs["settings"], **change})
    text = "digits is not what it was when the study was begun; give its --data-root"
    with pytest.raises(StudyError) as caught:
        confirm(**ASKED, results=study)
    assert str(caught.value) == text
    assert nas("confirm", "--top", TOP, "--results", study) == (2, "", f"error: {text}\n")
    assert (jobs, openings(study)) == ([], [])


def test_a_study_of_another_tool_is_refused(tmp_path):
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    optuna.create_study(study_name="search", storage=url).optimize(lambda trial: trial.suggest_float("x", 0, 1), 1)
    with pytest.raises(StudyError) as caught:
        confirm(**ASKED, results=tmp_path)
    assert str(caught.value) == f"{url}: study 'search' was not made by nas; take another --study NAME"


# -- the command line ----------------------------------------------------------------------------------------


def command(results, *more, top=TOP, seeds=SEEDS, target=TARGET):
    asked = ["--top", top, "--seeds", seeds, "--target", target, "--device", "cpu", "--workers", 1]
    return ["confirm", *asked, "--results", results, *more]


def test_the_command_has_help_with_an_example(nas):
    status, out, _ = nas("confirm", "--help")
    assert status == 0
    assert "Example: nas confirm " in out


def test_the_command_names_every_run_the_winner_the_verdict_and_the_opening(study, whole, nas):
    status, out, err = nas(*command(study))
    assert (status, err) == (0, "")
    found = whole[1]
    lines = out.splitlines()
    ended = [re.match(r" +(\d)/(\d)  trial (\d+), seed (\d): (val|test) final ", line) for line in lines]
    assert [(int(m[3]), m[5], int(m[4])) for m in ended if m] == [
        (run.trial, run.judged_on, run.seed) for run in runs_in(whole[2])
    ]
    winner = found.winner
    assert any(line.startswith(f"trial {winner.number} is picked") for line in lines)
    assert (
        f"Trial {winner.number} on digits: {winner.params:,} parameters, {winner.macs:,} MACs,"
        f" receptive field {winner.receptive_field}"
    ) in lines
    assert "\n".join(found.test.lines()) in out
    assert f"Target {found.test.verdict}: " in out
    assert "The test split of this study was opened once." in lines
    assert lines[-1] == f"  nas export --trial confirmed --results {study}"
    assert sum(re.match(r" +[12] .* \d/2 *$", line) is not None for line in lines) == EPOCHS  # the table of epochs


def test_the_command_again_prints_the_same_result(confirmed, whole, jobs, nas):
    status, out, err = nas(*command(confirmed))
    assert (status, err, jobs) == (0, "", [])
    assert "\n".join(whole[1].test.lines()) in out
    assert "The test split of this study was opened once.\n" in out
    for target, verdict in [(1e-9, "met"), (1, "missed")]:
        assert f"\nTarget {verdict}: " in nas(*command(confirmed, target=target))[1]


def test_the_command_says_how_often_the_test_split_was_opened(grown, tmp_path, nas):
    folder = shutil.copytree(grown[0], tmp_path / "results")
    out = nas(*command(folder))[1]
    assert "The test split of this study was opened 2 times: its figures are no longer unbiased.\n" in out


def test_the_command_as_json(confirmed, whole, nas):
    status, out, err = nas(*command(confirmed, "--json"))
    assert (status, err) == (0, "")
    assert json.loads(out) == json.loads(json.dumps(whole[1].to_json()))
    assert out.count("\n") == 1


def test_the_command_refuses_to_open_the_test_split_again(confirmed, nas):
    status, out, err = nas(*command(confirmed, top=TOP + 1))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: the test split was opened once for study 'search' already, last on ")


def test_the_command_interrupted_says_that_it_goes_on(study, whole, nas, monkeypatch):
    submit, begun = here.Here.submit, []

    def interrupted(self, job):
        begun.append(job)
        if len(begun) == 2:
            raise KeyboardInterrupt
        submit(self, job)

    monkeypatch.setattr(here.Here, "submit", interrupted)
    status, _, err = nas(*command(study))
    assert (status, err) == (130, "Interrupted: runs that have ended are kept, the same command goes on.\n")
    first, second = runs_in(whole[2])[:2]
    kept = ConfirmedRecords(StudyRecords.open(results=study))
    assert untimed(kept.history(first)) == untimed(whole[2][1].history)
    assert kept.history(second) is None


def test_the_command_exports_the_confirmed_trial(confirmed, whole, nas):
    status, out, _ = nas("export", "--trial", "confirmed", "--results", confirmed)
    assert status == 0
    folder = confirmed / "export" / f"search-confirmed-trial-{whole[1].winner.number}"
    assert out.startswith(f"Trial {whole[1].winner.number}: writing files")
    assert (folder / "weights.pt").exists()
