"""Several searches on one study, in real processes, on SQLite and PostgreSQL."""

import json
import subprocess
import sys
from collections import Counter

import pytest

from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef


@pytest.fixture
def place(database, tmp_path, request):
    """Storage, study name and results folder for one test."""
    return {"storage": database, "study": request.node.name, "results": tmp_path / "results"}


@pytest.fixture
def begin(tiny_space):
    """Starts `nas search` in a separate process, which prints each event as a line of JSON."""
    processes = []

    def started(place, trials, epochs=3):
        command = [sys.executable, "-m", "nas", "search", "--dataset", "digits", "--space", tiny_space, "--json"]
        command += ["--max-params", "900", "--min-receptive-field", "10", "--device", "cpu", "--workers", "1"]
        command += ["--epochs", str(epochs), "--trials", str(trials)]
        command += [word for name, value in place.items() for word in (f"--{name}", str(value))]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        return process

    yield started
    for process in processes:
        process.kill()
        process.communicate()


def events(process, until=None):
    """Yields the events that the process prints, up to the first event named `until` or to the end."""
    for line in process.stdout:
        event = json.loads(line)
        yield event
        if event.get("event") == until:
            return


def outcomes(place, epochs=3):
    """Checks an idle study; returns its trials counted by outcome, and its trained trials counted by session.

    No candidate is trained twice, no trial is running or waiting, and all histories and weights are complete.
    """
    records = StudyRecords.open(StudyRef(**place))
    trials = records.study.get_trials()
    trained = [trial for trial in trials if trial.user_attrs.get("outcome") == "trained"]
    assert len({trial.user_attrs["fingerprint"] for trial in trained}) == len(trained)
    assert not any(trial.state.name in ("RUNNING", "WAITING") for trial in trials)
    assert all(len(record.history) == epochs for record in records.trials() if record.outcome == "trained")
    for trial in trained:
        records.weights(trial.number)
    return Counter(trial.user_attrs["outcome"] for trial in trials), Counter(
        trial.system_attrs["nas:session"] for trial in trained
    )


@pytest.mark.slow
def test_two_searches_share_candidates_and_budget(begin, place):
    pair = [begin(place, 7), begin(place, 7)]
    for process in pair:
        seen = list(events(process))
        last = seen[-1] if seen else pytest.fail(process.stderr.read())
        assert process.wait() == 0, process.stderr.read()
        assert last["num_trained"] == 7, "each ends when the budget is spent, whoever spent it"
    found, sessions = outcomes(place)
    assert found["trained"] == 7
    assert not {"failed", "interrupted"} & found.keys()
    assert len(sessions) == 2


@pytest.mark.faults
def test_trial_of_killed_search_is_retrained_by_other_search(begin, place):
    """The first search holds the whole budget; the second waits until it detects that the first has ended."""
    first = begin(place, 1, epochs=180)
    list(events(first, until="TrialStarted"))
    second = begin(place, 1, epochs=180)
    waited = list(events(second, until="OthersAwaited"))
    assert waited[-1] == {"event": "OthersAwaited", "num_running": 1}
    first.kill()
    first.wait()
    rest = list(events(second))
    assert second.wait() == 0, second.stderr.read()
    found, sessions = outcomes(place, epochs=180)
    assert (found["trained"], found["interrupted"], len(sessions)) == (1, 1, 1)
    (again,) = (event for event in rest if event["event"] == "TrialStarted")
    assert rest[-1]["num_trained"] == 1
    records = StudyRecords.open(StudyRef(**place))
    assert records.trial(again["number"]).seed == records.trial(again["number"] - 1).seed


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_search_survives_postgres_restart(begin, postgres, tmp_path, request, end, settled):
    place = {"storage": postgres.url, "study": request.node.name, "results": tmp_path / "results"}
    search = begin(place, 8)
    for _ in range(3):
        list(events(search, until="TrialFinished"))
    getattr(postgres, end)()
    postgres.start()
    last = list(events(search))[-1]
    assert search.wait() == 0, search.stderr.read()
    assert last["num_trained"] == 8
    found, sessions = outcomes(place)
    assert (found["trained"], len(sessions)) == (8, 1)
    assert found["interrupted"] <= 1, "one at the most that was made when the answer was lost"
