"""A study as a data frame: typed columns, also where values are missing, equal to the command line's CSV."""

import io
from dataclasses import replace

import pandas as pd
import pytest

from nas.commands.trials import Trials, trials, trials_dataframe
from nas.recipe import RECIPE_FIELDS
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef


@pytest.fixture(scope="module")
def frame(study_folder):
    return trials_dataframe(results=study_folder)


def test_columns_cover_recipe_fields_and_parameters(frame, study_folder):
    study = StudyRecords.open(StudyRef(study_folder)).study
    names = {f"parameter_{name}" for trial in study.trials for name in trial.params}
    assert {name for name in frame.columns if name.startswith("parameter_")} == names
    recipe = {name.removeprefix("recipe_") for name in frame.columns if name.startswith("recipe_")}
    assert recipe == RECIPE_FIELDS.keys()
    for name in names:
        told = [trial.params.get(name.removeprefix("parameter_")) for trial in study.trials]
        assert [None if pd.isna(value) else value for value in frame[name]] == told


def test_column_types_do_not_depend_on_missing_values(frame):
    empty = Trials().dataframe()
    assert frame[empty.columns].dtypes.equals(empty.dtypes)
    types = {"number": "Int64", "outcome": "string", "objective": "Float64", "recipe_rotation": "Float64"}
    assert {name: str(empty[name].dtype) for name in types} == types
    assert str(frame["parameter_block1.num_convs"].dtype) == "Int64"
    assert str(frame["parameter_recipe.sgd_learning_rate"].dtype) == "Float64"


def test_mixed_types_and_large_integers_are_kept(study_folder):
    first = trials(results=study_folder)[0]
    given = ((2**70, {"a": 1}), (2**53 + 1, {"a": "x"}))
    frame = Trials(replace(first, params=params, parameters=values) for params, values in given).dataframe()
    assert list(frame["params"]) == [2**70, 2**53 + 1]
    assert list(frame["parameter_a"]) == [1, "x"]


def test_command_line_csv_matches_data_frame(frame, study_folder, nas):
    _, out, _ = nas("trials", "--results", study_folder, "--format", "csv")
    assert out == frame.to_csv(index=False)
    read = pd.read_csv(io.StringIO(out))
    assert list(read.columns) == list(frame.columns)
    assert len(read) == len(frame)
