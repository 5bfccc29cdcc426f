"""A confirmation that is interrupted, killed or fails goes on where it was, to the same end."""

import re

import pytest
import torch
from optuna.storages import RDBStorage
from support.confirmations import ASKED, SEEDS, TOP, Stop, finalists_of, is_ranked, keep, openings, runs_in, stop_at

from nas.commands.confirm import RunFinished, StageStarted, confirm
from nas.errors import StudyError
from nas.study.confirmation import ConfirmedRecords
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef
from nas.study.runs import Run
from nas.workers import in_process

pytestmark = pytest.mark.usefixtures("one_thread")


def interrupt_and_resume(folder, num_ended, jobs, whole):
    """Interrupts after as many runs of this call as are wanted, calls again, and compares with the uninterrupted."""
    before = ConfirmedRecords(StudyRecords.open(StudyRef(folder)))
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


@pytest.mark.slow
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


@pytest.mark.faults
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
    stored = ConfirmedRecords(StudyRecords.open(StudyRef(ranked))).weights(found.winner.number)
    wanted = fits[Run(trial=found.winner.number, judged_on="test", seed=0)].weights
    assert all(torch.equal(stored[name], wanted[name]) for name in wanted)


def test_once_it_is_open_an_interruption_does_not_let_one_ask_otherwise(ranked):
    with pytest.raises(Stop):
        confirm(**ASKED, results=ranked, on_event=stop_at(lambda e: isinstance(e, RunFinished) and is_on_test(e)))
    with pytest.raises(StudyError, match=r"^the test split of study 'search' was opened once already"):
        confirm(**{**ASKED, "top": TOP + 1}, results=ranked)


def is_on_test(event):
    return event.run.judged_on == "test"


def test_a_training_that_fails_is_named_and_what_had_ended_is_kept(study, monkeypatch, jobs):
    keep(study, "val", {trial.number: [0.5] for trial in finalists_of(study)})
    initialise, calls = in_process.initialise, []

    def broken(architecture, *, seed):
        calls.append(seed)
        if len(calls) == 2:
            raise RuntimeError("no such instruction")
        return initialise(architecture, seed=seed)

    monkeypatch.setattr(in_process, "initialise", broken)
    events = []
    with pytest.raises(StudyError) as caught:
        confirm(**ASKED, results=study, on_event=events.append)
    assert re.fullmatch(r"trial \d+ with seed 1 failed: RuntimeError: no such instruction", str(caught.value))
    assert len(runs_in(events)) == 1
    jobs.clear()
    with pytest.raises(Stop):
        confirm(**ASKED, results=study, on_event=stop_at(is_ranked))
    assert len(jobs) == TOP * SEEDS - 3
