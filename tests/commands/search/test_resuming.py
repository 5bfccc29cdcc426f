"""An interrupted or killed search resumes to the same study."""

import errno
import json
import os
import signal
import subprocess
import sys
from random import Random

import optuna
import pytest
from optuna.storages import RDBStorage
from support.searches import options, outcome

from nas.commands.events import EpochFinished, TrialFinished
from nas.commands.search import search
from nas.commands.trials import trials
from nas.errors import StudyError
from nas.space.search_space import SearchSpace
from nas.study.artifacts import Artifacts
from nas.study.database import default_storage
from nas.study.optuna_storage import StudyStorage


@pytest.mark.slow
def test_search_in_two_steps_equals_search_in_one(tmp_path, tiny_space):
    whole = options(tmp_path, tiny_space, results=tmp_path / "whole", trials=4)
    pieces = options(tmp_path, tiny_space, results=tmp_path / "pieces", trials=2)
    search(**whole)
    search(**pieces)
    before = trials(results=tmp_path / "pieces")
    assert search(**pieces).tally.num_trained == 2
    assert trials(results=tmp_path / "pieces") == before
    search(**{**pieces, "trials": 4})
    assert outcome(trials(results=tmp_path / "pieces")) == outcome(trials(results=tmp_path / "whole"))


def test_interrupted_trial_is_requeued_and_retrained(tmp_path, tiny_space):
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


@pytest.mark.faults
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_search_ended_by_signal_resumes_to_same_study(tmp_path, tiny_space, sent):
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
            # The second trial is in training.
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


class Killed(BaseException):
    """Ends the search at once, like kill -9: `nas` does not catch it."""


WRITES = {
    RDBStorage: ["create_new_study", "set_study_user_attr", "set_study_system_attr"],
    StudyStorage: ["create_new_trial", "set_trial_param", "set_trial_state_values", "write", "end", "report"],
}


@pytest.mark.faults
def test_search_killed_at_any_write_resumes_to_same_study(tmp_path, tiny_space, monkeypatch):
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
    """Returns how many writes to the storage `run` makes; raises `Killed` in place of write number `kill_at`."""
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


def test_search_completes_half_created_study(tmp_path, tiny_space):
    given = options(tmp_path, tiny_space, trials=1, epochs=1)
    (tmp_path / "results").mkdir()
    optuna.create_study(study_name="search", storage=default_storage(tmp_path / "results"), direction="maximize")
    assert search(**given).tally.num_trained == 1


@pytest.mark.slow
def test_interrupted_search_with_pruner_equals_uninterrupted_search(tmp_path, tiny_space):
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

        def interrupt(event, left=[at]):  # noqa: B006  # each session has its own count
            if isinstance(event, EpochFinished):
                left[0] -= 1
                if not left[0]:
                    raise KeyboardInterrupt

        stopped += search(**pieces, on_event=interrupt).interrupted
    assert stopped >= 3
    search(**pieces)
    assert ended(tmp_path / "pieces") == ended(tmp_path / "whole")


@pytest.mark.slow
def test_full_disk_raises_error_and_search_resumes_afterwards(tmp_path, tiny_space, monkeypatch):
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


def test_resumed_search_without_space_uses_space_of_study(tmp_path):
    given = options(tmp_path, None, epochs=1, max_params=8000, min_receptive_field=28, max_macs=200_000)
    assert search(**given | {"space": "mnist_small", "trials": 1}).tally.num_trained == 1
    events = []
    assert search(**given | {"trials": 2}, on_event=events.append).tally.num_trained == 2
    assert (events[0].space, events[0].portfolio) == ("mnist_small", ())


def test_new_study_starts_with_portfolio_and_rejects_search_without(tmp_path):
    given = options(tmp_path, None, epochs=1, max_params=1500, min_receptive_field=28, trials=1)
    events = []
    result = search(**given, on_event=events.append)
    assert events[0].portfolio == SearchSpace.load("grey").portfolio
    assert result.best[0].source == f"portfolio {events[0].portfolio[0]}"
    with pytest.raises(StudyError, match=r"portfolio is nas-3686 and .* in the study, none now"):
        search(**given, portfolio=False)
    assert search(**given).tally.num_trained == 1
