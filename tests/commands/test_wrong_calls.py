"""Plausible wrong calls of the Python functions: one line that names the argument, or what the user meant."""

import pytest

import nas

NETWORK = nas.Architecture.load("mnist-3928")
NO_NETWORK = "`architecture='mnist-7825'`: expected an Architecture, such as Architecture.load('mnist-7825')"
NO_NAME = "`network=7825`: expected an Architecture, such as 'nas-3686', a file or a folder"


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: nas.cost_of(7825), NO_NAME),
        (lambda: nas.layer_table(7825), NO_NAME),
        (lambda: nas.train(7825), NO_NAME),
        (lambda: nas.train_seeds(7825), NO_NAME),
        (lambda: nas.export("mnist-7825", {}, output="x", provenance=None), NO_NETWORK),
        (
            lambda: nas.train(NETWORK, "r.json"),
            "`recipe='r.json'`: expected a Recipe, such as Recipe(epochs=15) or Recipe.load('recipe.json')",
        ),
        (lambda: nas.train(NETWORK, seed="1"), "`seed='1'`: expected an integer from 0 to 2**64 - 1"),
        (lambda: nas.survey("grey"), "`space='grey'`: expected a SearchSpace, such as SearchSpace.load('grey')"),
        (
            lambda: nas.survey(nas.SearchSpace.load("grey"), [8000]),
            "`constraints=8000`: expected a Constraint, such as 'params<=8000'",
        ),
        (lambda: nas.export_trial("mine"), "`trial='mine'`: expected the number of a trial, best or confirmed"),
        (lambda: nas.search(8000), "`study=8000`: expected a name, such as 'mine'"),
        (lambda: nas.trials(5), "`study=5`: expected a name, such as 'mine'"),
        (lambda: nas.serve_dashboard(port="x"), "`port='x'`: expected an integer of at least 0"),
    ],
)
def test_wrong_argument_is_named_on_one_line(call, text):
    with pytest.raises(nas.NasError) as caught:
        call()
    assert str(caught.value) == text


@pytest.mark.parametrize("function", [nas.trials, nas.trials_dataframe, nas.confirm, nas.report, nas.serve_dashboard])
def test_first_argument_is_name_of_study(function, study_folder):
    with pytest.raises(nas.StudyError, match="no study 'nosuch' found, expected search"):
        function("nosuch", results=study_folder)


def test_search_takes_name_of_study_first(tmp_path, tiny_space):
    found = nas.search(
        "mine",
        dataset="digits",
        space=tiny_space,
        epochs=1,
        trials=1,
        max_params=900,
        min_receptive_field=10,
        constraints="macs<=9M",
        results=tmp_path,
        device="cpu",
        workers=1,
    )
    assert (found.study, len(found.best)) == ("mine", 1)
    assert len(nas.trials("mine", results=tmp_path)) >= 1


def test_export_takes_best_and_a_single_format(study_folder, tmp_path):
    with pytest.raises(nas.NasError, match="'d' found, expected one of int8, c, c-int8, arduino, makefile"):
        nas.export_trial("best", formats="d", results=study_folder, output=tmp_path / "model")
