"""Pruners: Optuna's rules, applied to candidates in order and independent of parallel training."""

from random import Random

import optuna
import pytest
from optuna.pruners import BasePruner, MedianPruner, SuccessiveHalvingPruner
from optuna.trial import TrialState
from support.studies import new_study, view_of

from nas.errors import NasError
from nas.sampling.pruners import PRUNERS, CandidatePruner, pruner_named

EPOCHS = 15


def curves(count, seed=0):
    """Returns learning curves that end between about 0.76 and 0.96 and differ from the first epoch."""
    rng = Random(seed)
    ends = [0.8 + 0.2 * rng.random() for _ in range(count)]
    return [[end * (1 - 0.8 / (epoch + 1)) + 0.01 * rng.random() for epoch in range(1, EPOCHS + 1)] for end in ends]


def train(study, asked, curve, index, *, until=EPOCHS):
    """Trains a candidate for at most `until` epochs, stores how it ended, and returns its number of epochs."""
    trial = study.ask()
    trial.set_user_attr("candidate", index)
    for epoch, accuracy in enumerate(curve[:until], start=1):
        trial.report(accuracy, epoch)
        if epoch < EPOCHS and asked.should_prune(trial.number, index):
            study.tell(trial, state=TrialState.PRUNED)
            return epoch
    if until == EPOCHS:
        study.tell(trial, curve[-1])
    return until


def epochs_of(name, every, lag=0):
    study = new_study()
    asked = CandidatePruner(pruner_named(name, EPOCHS), view_of(study), lag=lag)
    return [train(study, asked, curve, index) for index, curve in enumerate(every)]


@pytest.mark.parametrize("name", [name for name in PRUNERS if name != "none"])
def test_pruner_stops_weak_candidates_but_not_best(name):
    every = curves(40)
    taken = epochs_of(name, every)
    best = max(range(40), key=lambda index: every[index][-1])
    assert taken[best] == EPOCHS
    assert sum(taken) < 0.8 * 40 * EPOCHS
    assert min(taken) >= 3  # a fifth of the epochs
    stopped = [every[i][-1] for i in range(40) if taken[i] < EPOCHS]
    kept = [every[i][-1] for i in range(40) if taken[i] == EPOCHS]
    assert sum(stopped) / len(stopped) < sum(kept) / len(kept)


def test_none_never_prunes():
    assert epochs_of("none", curves(10)) == [EPOCHS] * 10


@pytest.mark.parametrize("rule", [MedianPruner(5, 3), SuccessiveHalvingPruner(3, 2)], ids=["median", "asha"])
def test_sequential_pruning_matches_optuna(rule: BasePruner):
    every = curves(30, seed=1)
    plain = optuna.create_study(direction="maximize", pruner=rule)
    taken = []
    for curve in every:
        trial = plain.ask()
        for epoch, accuracy in enumerate(curve, start=1):
            trial.report(accuracy, epoch)
            if epoch < EPOCHS and trial.should_prune():
                plain.tell(trial, state=TrialState.PRUNED)
                break
        else:
            plain.tell(trial, curve[-1])
        taken.append(epoch)
    study = new_study()
    asked = CandidatePruner(rule, view_of(study))
    assert [train(study, asked, curve, index) for index, curve in enumerate(every)] == taken


@pytest.mark.parametrize("name", PRUNERS)
def test_discards_and_interruptions_do_not_change_pruning(name):
    every = curves(25, seed=2)
    study = new_study()
    rng = Random(0)
    taken = []
    for index, curve in enumerate(every):
        if rng.random() < 0.5:  # a stored discard
            study.add_trial(optuna.create_trial(state=TrialState.PRUNED))
        asked = CandidatePruner(pruner_named(name, EPOCHS), view_of(study))  # a new session
        if rng.random() < 0.4:  # interrupted: its trial fails and the candidate runs again
            train(study, asked, curve, index, until=rng.randrange(1, 5))
            running = study.trials[-1]
            if running.state == TrialState.RUNNING:
                study.tell(running.number, state=TrialState.FAIL)
            else:
                taken.append(running.last_step)
                continue
        taken.append(train(study, asked, curve, index))
    assert taken == epochs_of(name, every)


@pytest.mark.parametrize("name", PRUNERS)
def test_parallel_candidates_do_not_change_pruning(name):
    every = curves(24, seed=3)
    study, lag = new_study(), 2
    asked = CandidatePruner(pruner_named(name, EPOCHS), view_of(study), lag=lag)
    rng = Random(1)
    running, taken, started = {}, {}, 0
    while len(taken) < len(every):
        # A candidate starts when all but the last `lag` earlier candidates have ended.
        if started < len(every) and all(index >= started - lag for index in running) and rng.random() < 0.5:
            trial = study.ask()
            trial.set_user_attr("candidate", started)
            running[started] = trial, 0
            started += 1
        if not running:
            continue
        index = rng.choice(list(running))
        trial, epoch = running[index]
        epoch += 1
        trial.report(every[index][epoch - 1], epoch)
        running[index] = trial, epoch
        if epoch < EPOCHS and asked.should_prune(trial.number, index):
            study.tell(trial, state=TrialState.PRUNED)
        elif epoch == EPOCHS:
            study.tell(trial, every[index][-1])
        else:
            continue
        taken[index] = epoch
        del running[index]
    assert [taken[index] for index in range(len(every))] == epochs_of(name, every, lag=lag)


def test_unknown_pruner_error_lists_names():
    with pytest.raises(NasError) as caught:
        pruner_named("meadian", EPOCHS)
    assert (
        str(caught.value) == "`pruner='meadian'` (did you mean median?): expected one of none, median, asha, hyperband"
    )


@pytest.mark.parametrize("epochs", [1, 2, 5, 15])
@pytest.mark.parametrize("name", PRUNERS)
def test_pruners_return_bool_for_any_number_of_epochs(name, epochs):
    study = new_study()
    asked = CandidatePruner(pruner_named(name, epochs), view_of(study))
    for index in range(8):
        trial = study.ask()
        trial.set_user_attr("candidate", index)
        for epoch in range(1, epochs + 1):
            trial.report(0.5 + 0.01 * index, epoch)
            assert asked.should_prune(trial.number, index) in ((False,) if name == "none" else (False, True))
        study.tell(trial, 0.5)
