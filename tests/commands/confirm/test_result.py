"""Results of a confirmation of a small study on digits, compared with single trainings."""

import json
import re
from dataclasses import replace
from statistics import fmean, stdev

import pytest
from support.confirmations import (
    ASKED,
    EPOCHS,
    NUM_RUNS,
    SEEDS,
    TARGET,
    TOP,
    Stop,
    finalists_of,
    is_ranked,
    keep,
    openings,
    runs_in,
    stop_at,
    untimed,
)

from nas.commands.confirm import ConfirmStarted, Ranked, RunFinished, StageStarted, confirm
from nas.data import datasets
from nas.seed_stats import Finalist, Ranking
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef
from nas.study.runs import FinalistChoice, Run
from nas.workers import in_process

pytestmark = pytest.mark.usefixtures("one_thread")


def test_best_trials_train_on_val_with_seeds_from_zero_then_winner_on_test(whole):
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


def test_events_report_stages_runs_and_ranking_in_order(whole):
    _, found, events = whole
    told = [event for event in events if event != "test"]
    assert [type(event) for event in told] == [
        ConfirmStarted,
        StageStarted,
        *[RunFinished] * (TOP * SEEDS),
        Ranked,
        StageStarted,
        *[RunFinished] * SEEDS,
    ]
    assert (told[0].target, told[0].target_source, told[0].num_runs, told[0].num_done) == (TARGET, "given", NUM_RUNS, 0)
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


def test_each_run_equals_single_training_with_its_seed(whole, fits):
    for event in whole[2]:
        if isinstance(event, RunFinished):
            fit = fits[event.run]
            assert fit.judged_on == event.run.judged_on
            assert untimed(event.history) == untimed(fit.history)


def test_finalists_are_ranked_by_mean_val_accuracy(whole, fits):
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
    assert found.ranking == Ranking.from_finalists(finalists)
    assert found.winner.number == found.ranking.winner.trial
    assert [event.ranking for event in events if isinstance(event, Ranked)] == [found.ranking]


def test_test_accuracies_equal_single_trainings_on_train_and_val(whole, fits):
    _, found, _ = whole
    runs = [fits[Run(trial=found.winner.number, judged_on="test", seed=seed)] for seed in range(SEEDS)]
    table = [tuple(metrics.val_accuracy for metrics in fit.history) for fit in runs]
    assert found.test.accuracies == tuple(table)
    assert found.test.num_images == len(datasets.load_test("digits").labels)
    assert (found.test.consistency, found.test.target) == (5, TARGET)
    assert found.test.lowest_accuracies == [min(row) for row in table]
    data = json.loads(json.dumps(found.to_json()))
    assert data["final_accuracy_mean"] == pytest.approx(fmean(row[-1] for row in table))
    assert data["final_accuracy_sd"] == pytest.approx(stdev(row[-1] for row in table))
    assert data["consistent_accuracy_mean"] == pytest.approx(fmean(map(min, table)))
    assert data["num_met"] == sum(min(row) >= TARGET for row in table)


def test_confirmation_is_stored_in_study(whole):
    folder, found, _ = whole
    records = StudyRecords.open(StudyRef(folder))
    assert records.study.user_attrs["confirmed"] == json.loads(json.dumps(found.to_json()))
    assert (found.study, found.dataset, found.num_openings) == ("search", "digits", 1)
    assert found.winner == records.trial(found.winner.number)
    (opening,) = openings(folder)
    assert (opening.trial, opening.seeds) == (found.winner.number, SEEDS)
    assert set(opening.finalists) == {trial.number for trial in finalists_of(folder)}
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", opening.date)


def test_confirmation_leaves_trials_of_search_unchanged(whole, searched):
    assert StudyRecords.open(StudyRef(whole[0])).trials() == StudyRecords.open(StudyRef(searched)).trials()


def test_smaller_of_tied_finalists_wins_despite_lower_mean(study):
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


def test_single_finalist_is_confirmed_without_ranking(study, jobs):
    """The val stage is skipped: the finalist is trained on train + val only."""
    (best,) = finalists_of(study, 1)
    found = confirm(**{**ASKED, "top": 1}, results=study)
    assert (found.winner.number, found.ranking) == (best.number, None)
    assert [(job.architecture, job.seed) for job in jobs] == [(best.architecture, seed) for seed in range(SEEDS)]
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["ranking"] is None


def test_default_top_skips_ranking_if_search_ranked_finalists(study, jobs):
    records = StudyRecords.open(StudyRef(study))
    asked = {**ASKED, "top": None}
    ranked = []
    with pytest.raises(Stop):
        confirm(**asked, results=study, on_event=lambda e: (ranked.append(e), stop_at(is_ranked)(e)))
    assert {finalist.trial for finalist in ranked[-1].ranking.finalists} == {trial.number for trial in records.best(5)}
    assert len(records.best(5)) == 3
    (best,) = finalists_of(study, 1)
    finals = FinalistChoice(trials=(best.number,), num_runs=1, num_candidates=3)
    records.runs.store_finalist_choice(finals)
    ranked.clear()
    with pytest.raises(Stop):
        confirm(**asked, results=study, on_event=lambda e: (ranked.append(e), stop_at(is_ranked)(e)))
    assert len(ranked[-1].ranking.finalists) == 3, "a run is missing"
    records.runs.store_history(finals.runs()[0], best.history)
    jobs.clear()
    found = confirm(**asked, results=study)
    assert (found.winner.number, found.ranking, len(jobs)) == (best.number, None, SEEDS)


def test_diverged_run_counts_as_zero_and_other_runs_continue(study, monkeypatch):
    best = finalists_of(study)[0]
    keep(study, "val", {trial.number: [0.5] for trial in finalists_of(study)})
    submit = in_process.InProcess.submit

    def hot(self, job):
        if job.architecture == best.architecture and job.seed == 1:
            job = replace(job, recipe=replace(job.recipe, learning_rate=1e38))
        submit(self, job)

    monkeypatch.setattr(in_process.InProcess, "submit", hot)
    events = []
    with pytest.raises(Stop):
        confirm(**ASKED, results=study, on_event=lambda event: (events.append(event), stop_at(is_ranked)(event)))
    diverged = [event.run for event in events if isinstance(event, RunFinished) and not event.history]
    assert diverged == [Run(trial=best.number, judged_on="val", seed=1)]
    ranking = events[-1].ranking
    (found,) = [finalist for finalist in ranking.finalists if finalist.trial == best.number]
    assert found.objectives == (0.5, 0.0)
    (other,) = [finalist for finalist in ranking.finalists if finalist.trial != best.number]
    assert ranking.standard_error == pytest.approx(Ranking.from_finalists([other]).standard_error)


def test_smaller_finalist_wins_if_all_val_runs_diverged(study):
    small, large = sorted(finalists_of(study), key=lambda trial: trial.params)
    keep(study, "val", {small.number: [None, None], large.number: [None, None]})
    keep(study, "test", {small.number: [None]})
    found = confirm(**ASKED, results=study)
    assert found.winner.number == small.number
    assert found.test.accuracies[0] == (0.0,) * EPOCHS
    assert found.test.accuracies[1][-1] > 0
    json.dumps(found.to_json(), allow_nan=False)
