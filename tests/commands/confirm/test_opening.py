"""A study opens the test split once, after the winner is fixed; every opening is counted."""

import shutil
from dataclasses import replace

import pytest
from support.confirmations import ASKED, SEEDS, TOP, Stop, finalists_of, is_ranked, openings, runs_in, stop_at

from nas.commands.confirm import Ranked, StageStarted, confirm
from nas.data import datasets
from nas.errors import StudyError
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef

pytestmark = pytest.mark.usefixtures("one_thread")


def test_test_split_is_opened_once_and_after_winner_is_fixed(whole):
    events = whole[2]
    assert events.count("test") == 1
    before = events[: events.index("test")]
    assert any(isinstance(event, Ranked) for event in before)
    assert {run.judged_on for run in runs_in(before)} == {"val"}
    assert len(runs_in(before)) == TOP * SEEDS


def test_test_split_stays_closed_until_winner_is_fixed(ranked, monkeypatch):
    monkeypatch.setattr(datasets, "load_test", lambda *a, **k: pytest.fail("the test split was opened"))
    with pytest.raises(Stop):
        confirm(**ASKED, results=ranked, on_event=stop_at(is_ranked))
    assert openings(ranked) == []


@pytest.mark.parametrize("change", [{"seeds": SEEDS + 1}, {"top": TOP + 1}, {"top": 1}])
def test_other_top_or_seeds_does_not_open_test_split_again(confirmed, jobs, change):
    (opening,) = openings(confirmed)
    before = StudyRecords.open(StudyRef(confirmed)).study.user_attrs
    events = []
    with pytest.raises(StudyError) as caught:
        confirm(**{**ASKED, **change}, results=confirmed, on_event=events.append)
    numbers = ", ".join(map(str, sorted(opening.finalists)))
    assert str(caught.value) == (
        f"the test split of study 'search' was opened once already, last on {opening.date} for trial {opening.trial}"
        f" (finalists {numbers}; {SEEDS} seeds); repeat that `top` and `seeds` to see the result, unless the study has"
        " grown, or give `again=True` to open it once more: its figures are then no longer unbiased"
    )
    assert (jobs, events) == ([], [])
    assert openings(confirmed) == [opening]
    assert StudyRecords.open(StudyRef(confirmed)).study.user_attrs == before


def test_again_option_opens_test_split_once_more_and_counts_it(grown):
    folder, found, _ = grown
    assert found.num_openings == len(openings(folder)) == 2
    assert [opening.seeds for opening in openings(folder)] == [SEEDS, SEEDS + 1]
    with pytest.raises(StudyError, match=r"^the test split of study 'search' was opened 2 times already, last on "):
        confirm(**{**ASKED, "top": TOP + 1}, results=folder)


def test_more_seeds_reuse_existing_runs(grown, whole):
    _, found, runs = grown
    first, second = whole[1].winner.number, found.winner.number
    wanted = [(trial.number, SEEDS, "val") for trial in finalists_of(whole[0])]
    wanted += [(second, seed, "test") for seed in range(SEEDS + 1) if second != first or seed == SEEDS]
    assert sorted((run.trial, run.seed, run.judged_on) for run in runs) == sorted(wanted)
    before = {each.trial: each.objectives for each in whole[1].ranking.finalists}
    assert {each.trial: each.objectives[:SEEDS] for each in found.ranking.finalists} == before
    assert {len(each.objectives) for each in found.ranking.finalists} == {SEEDS + 1}


def test_both_confirmations_can_be_repeated_without_training(grown, whole, tmp_path, jobs):
    folder = shutil.copytree(grown[0], tmp_path / "results")
    first = confirm(**ASKED, results=folder)
    assert (first.ranking, first.test, first.num_openings) == (whole[1].ranking, whole[1].test, 2)
    assert confirm(**{**ASKED, "seeds": SEEDS + 1}, results=folder) == grown[1]
    assert (jobs, len(openings(folder))) == ([], 2)


def test_repeated_call_trains_nothing_and_returns_same_result(confirmed, whole, jobs):
    events = []
    assert confirm(**ASKED, results=confirmed, on_event=events.append) == whole[1]
    assert confirm(**ASKED, again=True, results=confirmed) == whole[1]
    assert jobs == runs_in(events) == []
    assert len(openings(confirmed)) == 1
    stages = [event for event in events if isinstance(event, StageStarted)]
    assert all(stage.num_done == stage.num_runs for stage in stages)


def test_other_target_changes_verdict_without_training(confirmed, whole, jobs):
    lowest = whole[1].test.lowest_accuracies
    for target in (min(lowest), max(lowest), 1.0):
        found = confirm(**{**ASKED, "target": target}, results=confirmed)
        assert found.test == replace(whole[1].test, target=target)
        wanted = "met" if target == min(lowest) else "met by some" if target == max(lowest) else "missed"
        assert found.test.verdict == wanted
        assert found.num_openings == 1
    assert jobs == []
