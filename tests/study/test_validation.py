"""`check_study` accepts what this package stores; its errors name the invalid attribute."""

from copy import deepcopy
from dataclasses import asdict

import pytest
from optuna.trial import TrialState, create_trial

from nas.architecture.cost import METRICS
from nas.errors import StudyError
from nas.study.settings import Settings
from nas.study.validation import check_study

SETTINGS = Settings(
    **dict.fromkeys(("dataset", "data_fingerprint", "split", "space", "space_fingerprint"), ""),
    constraints=(),
    epochs=1,
    consistency=1,
    seed=0,
)
ATTRS = {
    "settings": asdict(SETTINGS),
    "command": "nas search",
    "dataset_note": "",
    "machine": "",
    "normalisation": {"mean": [0.0], "std": [0.5]},
    "classes": ["a", "b"],
}
CONFIRMED = {
    "study": "search",
    "dataset": "digits",
    "trial": 0,
    "num_openings": 1,
    "num_images": 1,
    "target": 1.0,
    "accuracies": [[0.5], [1.0]],
    "ranking": None,
}
RANKING = {"finalists": [{"trial": n, "cost": 0, "objectives": [0.0, 1.0]} for n in (0, 1)], "standard_error": 0.0}
USER = {"outcome": "trained", **dict.fromkeys(METRICS, 1), "consistent_accuracy": 0.5, "seconds": 0.0}
NOTES = {"nas:architecture": {}, "nas:recipe": {}, "nas:history": [{}]}


def trial(number, outcome="trained", state=TrialState.COMPLETE, *, user=None, notes=None, values=(0.5,)):
    """Returns a trial as a search stores it; `user` and `notes` override attributes, None removes one."""
    made = create_trial(state=TrialState.RUNNING)
    made.number, made.state = number, state
    made.values = values if state == TrialState.COMPLETE else None
    user_attrs = {**(USER if outcome == "trained" else {"outcome": outcome}), **(user or {})}
    system_attrs = {**(NOTES if outcome == "trained" else {}), **(notes or {}), "other": object()}
    made.user_attrs = {key: value for key, value in user_attrs.items() if value is not None}
    made.system_attrs = {key: value for key, value in system_attrs.items() if value is not None}
    return made


def refusal(attrs=ATTRS, trials=(), directions=1):
    with pytest.raises(StudyError) as caught:
        check_study(attrs, trials, directions, "here")
    return str(caught.value)


def changed(attrs, *keys, value):
    """Returns a copy of the attributes with `value` at the path `keys`; None removes the entry."""
    copy = deepcopy(attrs)
    place = copy
    for key in keys[:-1]:
        place = place[key]
    if value is None:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    return copy


def test_study_with_valid_trials_and_confirmation_is_accepted():
    pruned = {"outcome": "pruned", "state": TrialState.PRUNED, "notes": {"nas:history": [{}]}}
    trials = [
        trial(0),
        trial(1, **pruned),
        trial(2, "discarded", TrialState.PRUNED, user={"reason": "params"}, notes={"nas:drawn_for": 0}),
        trial(3, "diverged", TrialState.FAIL, notes={"nas:discards": {"params": 0, "macs": 3}}),
        trial(4, None, TrialState.RUNNING, user={"candidate": 0, "num_draws": 0, "seed": 0}),
        trial(5, None, TrialState.WAITING),
    ]
    check_study(ATTRS, trials, 1, "here")
    check_study(ATTRS | {"confirmed": CONFIRMED}, trials, 1, "here")
    check_study(ATTRS | {"confirmed": CONFIRMED | {"ranking": RANKING, "target": 0.0}}, trials, 1, "here")


def test_objectives_must_be_valid_and_match_optuna_directions():
    both = changed(ATTRS, "settings", "objectives", value=["accuracy", "macs"])
    check_study(both, [trial(0, values=(0.5, 9.0))], 2, "here")
    text = "here: settings: objectives is {} with {} directions in Optuna, expected accuracy, or accuracy and one of"
    assert refusal(both, directions=1).startswith(text.format("('accuracy', 'macs')", 1))
    assert refusal(directions=2).startswith(text.format("('accuracy',)", 2))
    swapped = changed(ATTRS, "settings", "objectives", value=["macs", "accuracy"])
    assert refusal(swapped, directions=2).startswith(text.format("('macs', 'accuracy')", 2))
    twice = changed(ATTRS, "settings", "objectives", value=["accuracy", "accuracy"])
    assert refusal(twice, directions=2).startswith(text.format("('accuracy', 'accuracy')", 2))


@pytest.mark.parametrize(
    ("keys", "value", "error"),
    [
        (("settings", "epochs"), 0, "here: settings: epochs is 0, expected an integer from 1 to 1e12"),
        (("command",), 3, "here: command is 3, expected a string"),
        (("dataset_note",), 3, "here: dataset_note is 3, expected a string"),
        (("machine",), None, "here: machine is missing"),
        (("classes",), ["a"], "here: classes is ['a'], expected a list of at least 2 items"),
        (("classes",), None, "here: classes is missing"),
        (("normalisation",), None, "here: normalisation is missing"),
        (("normalisation", "mean"), None, "here: normalisation: mean is missing"),
        (("normalisation", "mean"), [], "here: normalisation: mean is [], expected a list of at least 1 item"),
        (("normalisation", "mean"), [-0.1], "here: normalisation: mean[0] is -0.1, expected a number of at least 0"),
        (("normalisation", "std"), None, "here: normalisation: std is missing"),
        (("normalisation", "std"), [], "here: normalisation: std is [], expected a list of at least 1 item"),
        (("normalisation", "std"), [0.0], "here: normalisation: std[0] is 0.0, expected a number above 0"),
    ],
)
def test_invalid_study_attribute_error_names_attribute(keys, value, error):
    assert refusal(changed(ATTRS, *keys, value=value)) == error


@pytest.mark.parametrize(
    ("keys", "value", "error"),
    [
        *(((key,), None, f"{key} is missing") for key in CONFIRMED if key != "ranking"),
        (("trial",), 2, "trial is 2, expected the number of a trained trial"),
        (("trial",), 1, "trial is 1, expected the number of a trained trial"),
        (("trial",), -1, "trial is -1, expected an integer from 0 to 1e12"),
        (("num_openings",), 0, "num_openings is 0, expected an integer from 1 to 1e12"),
        (("num_images",), 0, "num_images is 0, expected an integer from 1 to 1e12"),
        (("target",), 1.1, "target is 1.1, expected a number from 0 to 1"),
        (("accuracies",), [[0.5]], "accuracies is [[0.5]], expected a list of at least 2 items"),
        (("accuracies", 1), [], "accuracies[1] is [], expected a list of at least 1 item"),
        (("accuracies", 0), [-0.1], "accuracies[0][0] is -0.1, expected a number from 0 to 1"),
        (("ranking", "standard_error"), -0.1, "ranking: standard_error is -0.1, expected a number of at least 0"),
        (("ranking", "standard_error"), None, "ranking: standard_error is missing"),
        (("ranking", "finalists"), None, "ranking: finalists is missing"),
        (("ranking", "finalists"), [], "ranking: finalists is [], expected a list of at least 2 items"),
        (("ranking", "finalists", 0, "cost"), None, "ranking: finalists[0]: cost is missing"),
        (("ranking", "finalists", 0, "trial"), -1, "ranking: finalists[0]: trial is -1, expected an integer from 0 to"),
        (("ranking", "finalists", 1, "objectives"), [0.5], "ranking: finalists[1]: objectives is [0.5], expected"),
        (("ranking", "finalists", 1, "objectives", 1), 2, "ranking: finalists[1]: objectives[1] is 2, expected"),
    ],
)
def test_invalid_confirmation_error_names_attribute(keys, value, error):
    confirmed = changed(CONFIRMED | {"ranking": RANKING}, *keys, value=value)
    trials = [trial(0), trial(1, "diverged", TrialState.FAIL)]
    assert refusal(ATTRS | {"confirmed": confirmed}, trials).startswith(f"here: confirmed: {error}")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        *(({"user": {key: None}}, f"{key} is missing") for key in USER),
        *(({"notes": {key: None}}, f"{key.removeprefix('nas:')} is missing") for key in NOTES),
        ({"user": {"consistent_accuracy": 1.5}}, "consistent_accuracy is 1.5, expected a number from 0 to 1"),
        ({"user": {"seconds": -1}}, "seconds is -1, expected a number of at least 0"),
        ({"user": {"params": 0.5}}, "params is 0.5, expected an integer from 0 to 1e100"),
        ({"user": {"retry_of": -1}}, "retry_of is -1, expected an integer from 0 to 1e12"),
        ({"user": {"fingerprint": 7}}, "fingerprint is 7, expected a string"),
        ({"notes": {"nas:history": []}}, "history is [], expected at least one epoch"),
        ({"notes": {"nas:history": {}}}, "history is {}, expected a list"),
        ({"notes": {"nas:history": [1]}}, "history[0]: 1 found, expected an object"),
        ({"notes": {"nas:discards": {"params": -1}}}, "discards: params is -1, expected an integer from 0 to 1e12"),
        ({"notes": {"nas:weights": 1}}, "weights is 1, expected a string"),
        ({"notes": {"nas:session": 1}}, "session is 1, expected a string"),
        ({"notes": {"nas:drawn_for": 0.5}}, "drawn_for is 0.5, expected an integer from 0 to 1e12"),
        ({"notes": {"nas:recipe": []}}, "recipe: [] found, expected an object"),
        ({"values": (-0.5,)}, "values[0] is -0.5, expected a number of at least 0"),
        ({"values": (0.5, 1.0)}, "values is [0.5, 1.0], expected a list of 1 item"),
        ({"outcome": None}, "consistent_accuracy, macs, outcome, params, peak_activation_bytes, receptive_field"),
        ({"state": TrialState.RUNNING, "user": {"seconds": None}}, "seconds is missing"),
        ({"outcome": "lost", "state": TrialState.FAIL}, "outcome is 'lost', expected one of trained, diverged, pruned"),
        ({"outcome": "pruned", "state": TrialState.PRUNED}, "history is missing"),
        (
            {"outcome": "pruned", "state": TrialState.PRUNED, "notes": {"nas:history": []}},
            "history is [], expected at least one epoch",
        ),
    ],
)
def test_invalid_trial_error_names_trial_and_attribute(options, error):
    assert refusal(trials=[trial(0), trial(1, **options)]).startswith(f"here: trial 1: {error}")


def test_missing_trial_error_names_number():
    assert refusal(trials=[trial(0), trial(2)]) == "here: trial 1: number is 2, expected 1"
