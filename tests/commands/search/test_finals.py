"""The last stage of a search: finalists are trained with further seeds and ranked by their mean."""

from statistics import fmean

import pytest
from support.paths import FIXTURES
from support.searches import options, outcome

from nas.commands.events import FinalRunFinished, FinalsStarted, TrialFinished
from nas.commands.search import search
from nas.commands.trials import trials
from nas.errors import StudyError
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef
from nas.study.runs import FIRST_FINALIST_SEED, Run
from nas.workers import in_process

BUDGET = 20
SPACE = str(FIXTURES / "tiny.toml")


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """Result, events and options of a search with a budget of 20 trainings."""
    events = []
    given = options(tmp_path_factory.mktemp("finals"), SPACE, trials=BUDGET, epochs=1)
    return search(**given, on_event=events.append), events, given


def test_last_fifth_of_budget_retrains_two_best_trials(searched):
    result, events, _ = searched
    assert (result.tally.num_trained, result.tally.num_further, result.tally.spent) == (16, 4, BUDGET)
    (started,) = [event for event in events if isinstance(event, FinalsStarted)]
    trained = [trial for trial in trials(results=result.results) if trial.outcome == "trained"]
    by_objective = sorted(trained, key=lambda trial: (-trial.objective, trial.params))
    assert started.trials == tuple(trial.number for trial in by_objective[:2])
    ended = [event for event in events if isinstance(event, FinalRunFinished)]
    assert [(event.num_done, event.num_runs) for event in ended] == [(n, 4) for n in (1, 2, 3, 4)]
    expected = [(trial, FIRST_FINALIST_SEED + index) for index in (0, 1) for trial in started.trials]
    assert sorted((event.run.trial, event.run.seed) for event in ended) == sorted(expected)
    assert max(i for i, e in enumerate(events) if isinstance(e, TrialFinished)) < events.index(started)


def test_finalists_come_first_and_are_ranked_by_mean_of_runs(searched):
    result, events, _ = searched
    finalists, others = result.best[:2], result.best[2:]
    runs = {}
    for event in events:
        if isinstance(event, FinalRunFinished):
            runs.setdefault(event.run.trial, []).append(event.history[-1].val_accuracy)
    for trial in finalists:
        assert sorted(trial.further) == sorted(runs[trial.number])
        assert trial.mean_objective == pytest.approx(fmean([trial.objective, *runs[trial.number]]))
    assert finalists[0].mean_objective >= finalists[1].mean_objective
    assert [trial.further for trial in others] == [()] * len(others)
    assert [trial.objective for trial in others] == sorted((t.objective for t in others), reverse=True)


def test_finals_leave_candidates_and_objectives_unchanged(searched, tmp_path):
    result, _, _ = searched
    without = search(**options(tmp_path, SPACE, trials=16, epochs=1))
    assert without.tally.num_further == 0
    assert outcome(trials(results=result.results)) == outcome(trials(results=without.results))


def test_repeated_search_trains_nothing_and_returns_same_result(searched):
    result, _, given = searched
    events = []
    again = search(**given, on_event=events.append)
    assert [type(event).__name__ for event in events] == ["SearchStarted"]
    assert (again.best, again.tally) == (result.best, result.tally)


@pytest.mark.slow
def test_interrupted_finals_resume_with_missing_runs(searched, tmp_path):
    result, _, _ = searched

    def stop(event):
        if isinstance(event, FinalRunFinished) and event.num_done == 2:
            raise KeyboardInterrupt

    given = options(tmp_path, SPACE, trials=BUDGET, epochs=1)
    assert search(**given, on_event=stop).interrupted
    records = StudyRecords.open(StudyRef(tmp_path / "results"))
    assert records.tally().num_further == 2
    events = []
    whole = search(**given, on_event=events.append)
    assert [event.num_runs for event in events if isinstance(event, FinalsStarted)] == [2]
    assert [(t.number, sorted(t.further)) for t in whole.best] == [(t.number, sorted(t.further)) for t in result.best]


@pytest.mark.slow
def test_best_finalist_of_extended_study_has_highest_mean_of_all(tmp_path):
    given = options(tmp_path, SPACE, epochs=1)
    search(**given | {"trials": BUDGET})
    longer = search(**given | {"trials": 2 * BUDGET})
    assert (longer.tally.num_trained + longer.tally.num_further, longer.tally.spent) == (2 * BUDGET, 2 * BUDGET)
    records = StudyRecords.open(StudyRef(tmp_path / "results"))
    best = records.best(1)[0]
    assert best.further
    assert best.number == records.best_by_mean(1)[0].number


@pytest.mark.slow
def test_interrupted_finals_restart_with_finalists_of_larger_budget(tmp_path):
    def stop(event):
        if isinstance(event, FinalRunFinished):
            raise KeyboardInterrupt

    given = options(tmp_path, SPACE, epochs=1)
    assert search(**given | {"trials": BUDGET}, on_event=stop).interrupted
    records = StudyRecords.open(StudyRef(tmp_path / "results"))
    assert not records.runs.has_ranked_finalists()
    events = []
    result = search(**given | {"trials": 2 * BUDGET}, on_event=events.append)
    assert (result.tally.num_trained, result.tally.num_further) == (32, 8)
    (started,) = [event for event in events if isinstance(event, FinalsStarted)]
    assert started.num_runs == 7
    assert records.runs.has_ranked_finalists()
    had = [len(trial.further) for trial in result.best if trial.number in started.trials]
    assert sorted(had) == [1, 2, 2, 2]


def fail_seeds(monkeypatch, *seeds):
    """Makes trainings with these seeds fail."""
    submit = in_process.InProcess.submit

    def fail(self, job):
        if job.seed in seeds:
            self._reports.append(in_process._failure_report(job.key, MemoryError("no memory")))
        else:
            submit(self, job)

    monkeypatch.setattr(in_process.InProcess, "submit", fail)


@pytest.mark.slow
def test_failed_final_run_is_reported_and_frees_budget_for_candidates(tmp_path, monkeypatch):
    given = options(tmp_path, SPACE, trials=BUDGET, epochs=1)
    events = []
    fail_seeds(monkeypatch, FIRST_FINALIST_SEED)
    tally = search(**given, on_event=events.append).tally
    assert (tally.num_trained, tally.num_further, tally.spent) == (18, 2, BUDGET)
    reasons = [event.reason for event in events if isinstance(event, FinalRunFinished)]
    assert reasons.count("MemoryError: no memory") == 2
    records = StudyRecords.open(StudyRef(tmp_path / "results"))
    assert not records.runs.has_ranked_finalists()


@pytest.mark.slow
def test_three_failed_final_runs_in_a_row_end_search(tmp_path, monkeypatch):
    fail_seeds(monkeypatch, FIRST_FINALIST_SEED, FIRST_FINALIST_SEED + 1)
    with pytest.raises(StudyError, match="3 runs of finalists in a row failed, the last one: MemoryError: no memory"):
        search(**options(tmp_path, SPACE, trials=BUDGET, epochs=1))


@pytest.mark.slow
def test_pareto_search_spends_whole_budget_on_candidates(tmp_path):
    given = options(tmp_path, SPACE, epochs=1, trials=BUDGET, objective="accuracy,params")
    tally = search(**given).tally
    assert (tally.num_trained, tally.num_further) == (BUDGET, 0)


def test_run_key_round_trips_and_other_keys_return_none():
    run = Run(trial=3, judged_on="val", seed=7)
    assert Run.from_key(run.key) == run
    for key in ("nas:run:3:val", "nas:run:3:train:7", "other:run:3:val:7", "nas:run:x:val:7", "nas:openings"):
        assert Run.from_key(key) is None
