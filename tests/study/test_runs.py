"""Further runs of trials: keys, order and stored histories."""

import optuna
import pytest
from support.studies import new_study

from nas.errors import StudyError
from nas.study.optuna_storage import set_system_attr, system_attrs
from nas.study.runs import FinalistChoice, Run, StudyRuns
from nas.training.metrics import EpochMetrics

FIRST_SEED = 1_000_000


@pytest.fixture
def runs():
    return StudyRuns(new_study(), 2)


def history(*numbers):
    return tuple(
        EpochMetrics(epoch=n, train_loss=1, train_accuracy=0, val_loss=1, val_accuracy=0.5, learning_rate=1, seconds=1)
        for n in numbers
    )


def final(trial, seed):
    return Run(trial=trial, judged_on="val", seed=FIRST_SEED + seed)


def test_run_round_trips_through_its_key():
    run = Run(trial=12, judged_on="test", seed=3)
    assert run.key == "nas:run:12:test:3"
    assert Run.from_key(run.key) == run
    assert Run.from_key("nas:run:0:val:1000000") == final(0, 0)


@pytest.mark.parametrize(
    "key",
    [
        "nas:finals",
        "run:1:val:2",
        "xnas:run:1:val:2",
        "nas:run:1:val",
        "nas:run:1:val:2:3",
        "nas:run:1:train:2",
        "nas:run:x:val:2",
        "nas:run:1:val:-2",
        "nas:run::val:2",
        "nas:run:1:val:",
    ],
)
def test_invalid_key_is_not_parsed_as_run(key):
    assert Run.from_key(key) is None


def test_further_runs_alternate_between_finalists():
    finals = FinalistChoice(trials=(7, 3), num_runs=5, num_candidates=20)
    assert finals.runs() == [final(7, 0), final(3, 0), final(7, 1), final(3, 1), final(7, 2)]
    assert FinalistChoice().runs() == []


def test_history_is_none_until_run_is_stored(runs):
    runs.store_history(final(1, 0), history(1, 2))
    runs.store_history(final(1, 1), ())
    assert runs.history(final(1, 0)) == history(1, 2)
    assert runs.history(final(1, 1)) == (), "it diverged"
    assert runs.history(final(1, 2)) is None
    assert list(system_attrs(runs.study)) == ["nas:run:1:val:1000000", "nas:run:1:val:1000001"]


@pytest.mark.parametrize("numbers", [(1,), (2, 1), (1, 2, 3), (2, 3)])
def test_run_with_missing_extra_or_unordered_epochs_is_rejected(runs, numbers):
    set_system_attr(
        runs.study, final(1, 0).key, [{**each.to_json(), "epoch": max(1, each.epoch)} for each in history(*numbers)]
    )
    with pytest.raises(StudyError) as caught:
        runs.history(final(1, 0))
    found = f"{len(numbers)} epochs found, expected none, or 1 to 2 in order"
    assert str(caught.value) == f"study {runs.study.study_name!r}: nas:run:1:val:1000000: {found}"


def test_damaged_runs_are_rejected(runs):
    for key, value in ((final(1, 0).key, {}), (final(2, 0).key, [{"epoch": 1}])):
        set_system_attr(runs.study, key, value)
        with pytest.raises(StudyError, match=f"^study '.*': {key}"):
            runs.history(Run.from_key(key))


def test_finalists_are_ranked_after_all_their_runs_end(runs):
    assert runs.finalist_choice() == FinalistChoice()
    assert not runs.has_ranked_finalists()
    finals = FinalistChoice(trials=(4, 2), num_runs=3, num_candidates=9)
    runs.store_finalist_choice(finals)
    assert runs.finalist_choice() == finals
    for run in finals.runs():
        assert runs.missing_runs(finals)[0] == run
        assert not runs.has_ranked_finalists()
        runs.store_history(run, history(1, 2))
    assert runs.missing_runs(finals) == []
    assert runs.has_ranked_finalists()


@pytest.mark.parametrize(
    "value",
    [
        {"trials": [], "num_runs": 1, "num_candidates": 1},
        {"trials": [0], "num_runs": 0, "num_candidates": 1},
        {"trials": [0], "num_runs": 1},
    ],
)
def test_damaged_finalists_are_rejected(runs, value):
    set_system_attr(runs.study, "nas:finals", value)
    with pytest.raises(StudyError, match="nas:finals"):
        runs.finalist_choice()


def test_finals_exclude_confirmation_and_test_runs(runs):
    runs.store_history(Run(trial=1, judged_on="val", seed=FIRST_SEED - 1), history(1, 2))  # of a confirmation
    runs.store_history(Run(trial=1, judged_on="test", seed=FIRST_SEED), history(1, 2))
    runs.store_history(final(5, 1), ())
    runs.store_history(final(5, 0), history(1, 2))
    runs.store_history(final(2, 2), history(1, 2))
    assert runs.finalist_histories() == {2: [history(1, 2)], 5: [history(1, 2), ()]}


def test_chosen_finalists_are_read_from_database(tmp_path):
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    study = optuna.create_study(study_name="search", storage=url)
    finals = FinalistChoice(trials=(4,), num_runs=2, num_candidates=9)
    StudyRuns(study, 2).store_finalist_choice(finals)
    assert StudyRuns(optuna.load_study(study_name="search", storage=url), 2).finalist_choice() == finals
