"""`StudyStorage` holds in memory the same trials that Optuna's own storage reads from the database."""

import threading
from random import Random

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState, create_trial

from nas.study.database import open_storage
from nas.study.optuna_storage import StudyStorage, study_id

SPACE = {
    "width": IntDistribution(1, 64, log=True),
    "rate": FloatDistribution(1e-4, 1.0, log=True),
    "pool": CategoricalDistribution(("max", "average", None)),
}


@pytest.fixture
def storage(database):
    return StudyStorage(open_storage(database))


@pytest.fixture
def study(storage, request):
    return optuna.create_study(storage=storage, study_name=request.node.name, direction="maximize")


def fresh(study, database):
    """Returns the study's trials as another process reads them with Optuna's own storage."""
    return optuna.load_study(study_name=study.study_name, storage=open_storage(database)).get_trials()


def template(rng, state=TrialState.RUNNING):
    return create_trial(
        state=state,
        params={
            "width": rng.randint(1, 64),
            "rate": rng.uniform(1e-4, 1),
            "pool": rng.choice(["max", "average", None]),
        },
        distributions=SPACE,
        value=rng.random() if state == TrialState.COMPLETE else None,
        user_attrs={"params": rng.randint(0, 10**9), "pair": [1, 2]},
        system_attrs={"nas:note": {"a": [1, None, "é"]}},
        intermediate_values={1: rng.random(), 2: float("inf")} if rng.random() < 0.5 else {},
        constraints={"params<=8": rng.uniform(-1, 1)},
    )


def step(rng, study, storage, running):
    """Does one random operation of a search."""
    what = rng.choice(["begin", "add", "queue", "take", "write", "report", "end", "attribute", "parameter"])
    if what == "begin":
        running.append(storage.create_new_trial(study_id(study), template(rng)))
    elif what == "add":
        study.add_trial(template(rng, rng.choice([TrialState.COMPLETE, TrialState.PRUNED])))
    elif what == "queue":
        study.enqueue_trial({"width": rng.randint(1, 64)}, user_attrs={"retry_of": 3})
    elif what == "take":
        running.append(study.ask(SPACE)._trial_id)
    elif running:
        trial_id = rng.choice(running)
        if what == "write":
            storage.write(trial_id, user_attrs={"a": rng.random()}, system_attrs={"b": (1, 2)}, constraints={"c": 0.5})
        elif what == "report":
            taken = storage.get_trial(trial_id).intermediate_values
            storage.report([(trial_id, max(taken, default=0) + 1, rng.random())])
        elif what == "attribute":
            storage.set_trial_user_attr(trial_id, "c", {"d": (rng.random(),)})
            storage.set_trial_system_attr(trial_id, "d", [rng.random()])
        elif what == "parameter":
            storage.set_trial_param(trial_id, "extra", 3, IntDistribution(0, 5))
        else:
            running.remove(trial_id)
            state = rng.choice([TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
            values = [rng.random()] if state == TrialState.COMPLETE else None
            storage.end(trial_id, state, values, user_attrs={"outcome": "x"}, system_attrs={"nas:history": [1]})


@pytest.mark.parametrize("seed", range(4))
def test_trials_in_memory_equal_trials_read_from_database(study, storage, database, seed, monkeypatch):
    monkeypatch.setattr("nas.study.optuna_storage.EPOCHS_PAUSE", 0.0)
    rng, running = Random(seed), []
    for _ in range(60):
        step(rng, study, storage, running)
    theirs, ours = fresh(study, database), study.get_trials()
    assert len(ours) == len(theirs) > 5
    for mine, read in zip(ours, theirs, strict=True):
        mine.datetime_start, mine.datetime_complete = read.datetime_start, read.datetime_complete
        assert mine == read
    assert [trial.state for trial in storage.trials(study_id(study)).values()] == [trial.state for trial in theirs]


def test_concurrent_storages_see_each_others_trials(study, storage, database):
    """Two storages take turns; after each turn the other one sees the new states."""
    rng = Random(0)
    second = StudyStorage(open_storage(database))
    other = optuna.load_study(study_name=study.study_name, storage=second)
    sides = [(study, storage, []), (other, second, [])]
    for _ in range(60):
        (mine, my_storage, running), (theirs, their_storage, _) = rng.sample(sides, 2)
        step(rng, mine, my_storage, running)
        their_storage.read_changes(theirs._study_id)
        seen = their_storage.trials(theirs._study_id)
        assert {number: trial.state for number, trial in seen.items()} == {
            trial.number: trial.state for trial in mine.get_trials(deepcopy=False)
        }
    second.read_changes(other._study_id)
    assert [trial.number for trial in other.trials] == list(range(len(other.trials)))
    ended = [trial for trial in other.trials if trial.state.is_finished()]
    assert [trial.user_attrs for trial in ended] == [
        trial.user_attrs for trial in fresh(study, database) if trial.state.is_finished()
    ]


@pytest.mark.parametrize("end", ["end", "tell"])
def test_fast_epochs_are_written_in_batches_and_at_trial_end(study, storage, database, monkeypatch, end):
    monkeypatch.setattr("nas.study.optuna_storage.EPOCHS_PAUSE", 1e9)

    def read():
        return [trial.intermediate_values for trial in fresh(study, database)]

    first, second = (
        storage.create_new_trial(study_id(study), create_trial(state=TrialState.RUNNING)) for _ in range(2)
    )
    storage.report([(first, 1, 0.1), (second, 1, 0.2)])
    assert read() == [{1: 0.1}, {1: 0.2}], "the first ones at once"
    storage.report([(first, 2, 0.3)])
    storage.report([(second, 2, 0.4), (first, 3, 0.5)])
    assert [trial.intermediate_values for trial in study.get_trials()] == [{1: 0.1, 2: 0.3, 3: 0.5}, {1: 0.2, 2: 0.4}]
    assert read() == [{1: 0.1}, {1: 0.2}]
    if end == "end":
        storage.end(first, TrialState.COMPLETE, [1.0], user_attrs={}, system_attrs={}, epochs={4: 0.6})
        assert read() == [{1: 0.1, 2: 0.3, 3: 0.5, 4: 0.6}, {1: 0.2}]
    else:
        study.tell(0, 1.0)
        assert read() == [{1: 0.1, 2: 0.3, 3: 0.5}, {1: 0.2, 2: 0.4}]
    monkeypatch.setattr("nas.study.optuna_storage.EPOCHS_PAUSE", 0.0)
    storage.report([(second, 3, 0.7)])
    assert read()[1] == {1: 0.2, 2: 0.4, 3: 0.7}


def test_trial_ended_by_another_storage_rejects_writes(study, storage, database):
    trial_id = storage.create_new_trial(study_id(study), template(Random(0)))
    other = optuna.load_study(study_name=study.study_name, storage=open_storage(database))
    other.tell(0, state=TrialState.FAIL)
    for write in (
        lambda: storage.end(trial_id, TrialState.COMPLETE, [1.0], user_attrs={"outcome": "trained"}, system_attrs={}),
        lambda: storage.write(trial_id, user_attrs={"a": 1}, system_attrs={}),
    ):
        with pytest.raises(UpdateFinishedTrialError):
            write()
    assert storage.trials(study_id(study))[0].state == TrialState.RUNNING, "it is ours until it is given up"
    storage.release_trial(trial_id)
    storage.read_changes(study_id(study))
    assert storage.trials(study_id(study))[0].state == TrialState.FAIL
    assert "outcome" not in fresh(study, database)[0].user_attrs


def test_repeated_write_is_stored_once(study, storage, database):
    trial_id = storage.create_new_trial(study_id(study), template(Random(0)))
    for _ in range(2):
        storage.report([(trial_id, 7, 0.5)])
        storage.end(trial_id, TrialState.COMPLETE, [0.5], user_attrs={"outcome": "trained"}, system_attrs={"b": 1})
        storage._own_trial_ids.add(trial_id)
    (trial,) = fresh(study, database)
    assert (trial.value, trial.intermediate_values[7], trial.system_attrs["b"]) == (0.5, 0.5, 1)


def test_reads_and_writes_retry_while_postgres_restarts(postgres, request):
    """A search ends by storing the note and the figures; the server may be unavailable at that moment."""
    study = optuna.create_study(storage=StudyStorage(open_storage(postgres.url)), study_name=request.node.name)
    for use in (lambda: study.set_user_attr("note", "a"), lambda: study.user_attrs, lambda: study.directions):
        postgres.stop()
        starting = threading.Thread(target=postgres.start)
        starting.start()
        use()
        starting.join()
    assert study.user_attrs == {"note": "a"}
