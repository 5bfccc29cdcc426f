"""An interrupted, killed or failed confirmation resumes to the same result."""

import re

import pytest
import torch
from optuna.storages import RDBStorage
from support.confirmations import ASKED, SEEDS, TOP, Stop, finalists_of, is_ranked, keep, openings, runs_in, stop_at

from nas.commands.confirm import RunFinished, StageStarted, confirm
from nas.errors import StudyError
from nas.study.confirmation import ConfirmationRecords
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef
from nas.study.runs import Run
from nas.workers import in_process

pytestmark = pytest.mark.usefixtures("one_thread")


def interrupt_and_resume(folder, num_ended, jobs, whole):
    """Interrupts a confirmation after `num_ended` runs, repeats the call and compares it with an uninterrupted one."""
    before = ConfirmationRecords(StudyRecords.open(StudyRef(folder)))
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
def test_confirmation_interrupted_after_any_val_run_resumes_to_same_result(study, whole, jobs, num_ended):
    interrupt_and_resume(study, num_ended, jobs, whole)


@pytest.mark.parametrize("num_ended", range(1, SEEDS + 1))
def test_confirmation_interrupted_after_any_test_run_resumes_to_same_result(ranked, whole, jobs, num_ended):
    interrupt_and_resume(ranked, num_ended, jobs, whole)


def test_interruptions_around_opening_leave_one_opening(ranked, whole):
    def before_any_training_on_test(event):
        return isinstance(event, StageStarted) and event.judged_on == "test"

    for wanted, num_openings in [(is_ranked, 0), (before_any_training_on_test, 1), (before_any_training_on_test, 1)]:
        with pytest.raises(Stop):
            confirm(**ASKED, results=ranked, on_event=stop_at(wanted))
        assert len(openings(ranked)) == num_openings
    assert confirm(**ASKED, results=ranked) == whole[1]


class Killed(BaseException):
    """Ends the confirmation at once, like kill -9: `nas` does not catch it."""


@pytest.mark.faults
def test_confirmation_killed_at_any_write_resumes_to_same_result(ranked, whole, fits, monkeypatch):
    """Each call completes one write more than the call before."""
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
    stored = ConfirmationRecords(StudyRecords.open(StudyRef(ranked))).weights(found.winner.number)
    wanted = fits[Run(trial=found.winner.number, judged_on="test", seed=0)].weights
    assert all(torch.equal(stored[name], wanted[name]) for name in wanted)


def test_other_top_is_rejected_after_interruption_in_test_stage(ranked):
    with pytest.raises(Stop):
        confirm(**ASKED, results=ranked, on_event=stop_at(lambda e: isinstance(e, RunFinished) and is_on_test(e)))
    with pytest.raises(StudyError, match=r"^the test split of study 'search' was opened once already"):
        confirm(**{**ASKED, "top": TOP + 1}, results=ranked)


def is_on_test(event):
    return event.run.judged_on == "test"


def test_failed_run_is_named_and_finished_runs_are_kept(study, monkeypatch, jobs):
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
