"""Settings of a study: reading, validation and differences."""

import json
from dataclasses import asdict, replace

import pytest

from nas.errors import StudyError
from nas.study.settings import Settings

FIRST = Settings(
    dataset="digits",
    data_fingerprint="d1",
    split="80 to 20",
    space="grey",
    space_fingerprint="s1",
    epochs=5,
    consistency=2,
    constraints=("params<=900", "macs<=9000"),
    seed=0,
)


def test_settings_round_trip_through_json():
    written = replace(FIRST, objectives=("accuracy", "macs"), portfolio=("a", "b"), num_startup=0, seed=10**100)
    assert Settings.from_json(json.loads(json.dumps(asdict(written)))) == written


def test_settings_of_earlier_version_get_defaults():
    later = {"objectives", "sampler", "num_startup", "choices", "pruner", "portfolio"}
    read = Settings.from_json({key: value for key, value in asdict(FIRST).items() if key not in later})
    assert (read.objectives, read.sampler, read.num_startup) == (("accuracy",), "tpe", 20)
    assert (read.choices, read.pruner, read.portfolio) == (1, "none", ())


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"epochs": 0}, "here: epochs is 0, expected an integer from 1 to 1e12"),
        ({"consistency": 1.5}, "here: consistency is 1.5, expected an integer from 1 to 1e12"),
        ({"choices": 0}, "here: choices is 0, expected an integer from 1 to 1e12"),
        ({"num_startup": -1}, "here: num_startup is -1, expected an integer from 0 to 1e12"),
        ({"seed": -1}, "here: seed is -1, expected an integer from 0 to 1e100"),
        ({"seed": 10**100 + 1}, f"here: seed is {str(10**100 + 1)[:18]}...{str(10**100 + 1)[-19:]}, expected"),
        ({"dataset": 3}, "here: dataset is 3, expected a string"),
        ({"pruner": None}, "here: pruner is None, expected a string"),
        ({"constraints": "params"}, "here: constraints is 'params', expected a list"),
        ({"portfolio": [1]}, "here: portfolio[0] is 1, expected a string"),
        ({"objectives": []}, "here: objectives is [], expected a list of 1 to 2 items"),
        ({"objectives": ["accuracy"] * 3}, "here: objectives is ['accuracy', 'accuracy', 'accuracy'], expected a list"),
        ({"objectives": ["speed"]}, "here: objectives[0] is 'speed', expected one of accuracy, params, macs, peak_"),
        ({"colour": 1}, "here: unknown key 'colour', expected one of dataset, "),
    ],
)
def test_invalid_setting_error_names_value_and_expected(change, error):
    with pytest.raises(StudyError) as caught:
        Settings.from_json(asdict(FIRST) | change, where="here")
    assert str(caught.value).startswith(error)


def test_missing_setting_error_names_setting():
    with pytest.raises(StudyError, match=r"^settings: split is missing$"):
        Settings.from_json({key: value for key, value in asdict(FIRST).items() if key != "split"})


def test_cost_is_second_objective_or_params():
    assert FIRST.cost == "params"
    assert replace(FIRST, objectives=("accuracy", "macs")).cost == "macs"


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({}, []),
        ({"epochs": 7}, ["epochs is 5 in the study, 7 now"]),
        ({"constraints": ("params<=9",)}, ["constraints is params<=900 and macs<=9000 in the study, params<=9 now"]),
        ({"constraints": ()}, ["constraints is params<=900 and macs<=9000 in the study, none now"]),
        ({"data_fingerprint": "d2"}, ["dataset digits has changed"]),
        ({"space_fingerprint": "s2"}, ["space grey has changed"]),
        ({"space": "rgb", "space_fingerprint": "s2"}, ["space is grey in the study, rgb now"]),
        (
            {"dataset": "mnist", "data_fingerprint": "d2", "seed": 3},
            ["dataset is digits in the study, mnist now", "seed is 0 in the study, 3 now"],
        ),
    ],
)
def test_each_difference_gives_one_text(changes, texts):
    assert FIRST.differences(replace(FIRST, **changes)) == texts
