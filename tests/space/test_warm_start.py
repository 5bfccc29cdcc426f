"""Searches that start with known networks (`start_from`)."""

import json
import os
from dataclasses import replace

import pytest

from nas.architecture.architecture import Architecture
from nas.architecture.cost import cost_of
from nas.commands.events import EpochFinished, SearchStarted
from nas.commands.search import search
from nas.commands.trials import trials
from nas.errors import ArchitectureError, StudyError
from nas.recipe import Recipe
from nas.resources import shipped_designs, spaces_folder
from nas.space.constraints import limits
from nas.space.portfolio import Design
from nas.space.search_space import SearchSpace
from nas.space.warm_start import known_candidates, recipe_values
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef

KEPT = limits((1, 28, 28), max_params=8000)


@pytest.fixture(scope="module")
def mnist():
    return SearchSpace.load("mnist")


def test_start_reproduces_published_network_with_default_recipe(mnist):
    file = spaces_folder() / "published" / "mnist-7825.json"
    (start,), unfit = known_candidates([file], mnist, KEPT, seed=0)
    assert unfit == ()
    assert start.source == str(file)
    candidate = mnist.candidate(start.values)
    assert candidate.architecture == Architecture.load("mnist-7825")
    assert candidate.fingerprint() == start.fingerprint
    assert start.values.keys() == mnist.domains.keys()
    assert all(domain.accepts(start.values[name]) for name, domain in mnist.domains.items())
    # No recipe file: the default recipe, with the smallest weight decay and averaging that the space allows.
    assert candidate.recipe == Recipe(weight_decay=1e-6, average_epochs=0.5)
    assert known_candidates([file], mnist, KEPT, seed=0)[0] == [start]


def test_start_from_name_of_design_has_its_size_and_recipe():
    grey = SearchSpace.load("grey")
    (start,), _ = known_candidates(["nas-3686"], grey, KEPT, seed=0)
    design = Design.load(shipped_designs()["nas-3686"])
    candidate = grey.candidate(start.values)
    assert candidate.architecture == design.architecture
    assert candidate.recipe == replace(design.recipe, epochs=grey.epochs)


def test_recipe_beside_architecture_file_is_used(mnist, tmp_path):
    (tmp_path / "architecture.json").write_text(Architecture.load("mnist-7825").dumps())
    recipe = Recipe(optimizer="adamw", learning_rate=0.0123, rotation=6.0, label_smoothing=0.04, batch_size=64)
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.to_json()))
    for named in (tmp_path, tmp_path / "architecture.json"):
        (start,), _ = known_candidates([named], mnist, KEPT, seed=0)
        found = mnist.candidate(start.values).recipe
        assert (found.optimizer, found.learning_rate, found.rotation) == ("adamw", 0.0123, 6.0)
        assert (found.label_smoothing, found.batch_size) == (0.04, 64)


def test_recipe_values_are_nearest_in_space(mnist):
    values = recipe_values(mnist, Recipe(learning_rate=3.0, batch_size=100, rotation=50.0, schedule="step"))
    assert values["recipe.sgd_learning_rate"] == 0.5
    assert values["recipe.batch_size"] == 128
    assert values["recipe.rotation"] == 12.0
    assert values["recipe.schedule"] == "cosine"  # not a number: the first choice
    assert values.keys() == {name for name in mnist.domains if name.startswith("recipe.")}


def test_networks_outside_space_or_limits_are_left_out_with_reason(mnist):
    fitting, unfit = known_candidates(["mnist-26756", "mnist-7825", "mnist-6136"], mnist, KEPT, seed=0)
    assert [start.source for start in fitting] == ["mnist-7825"]
    assert [line.split(" is left out: ")[0] for line in unfit] == ["mnist-26756", "mnist-6136"]
    assert unfit[1] == "mnist-6136 is left out: block2.num_convs is 4, expected an integer from 1 to 3"
    _, unfit = known_candidates(["mnist-7825"], mnist, limits((1, 28, 28), max_params=7000), seed=0)
    assert unfit == ("mnist-7825 is left out: params is 7825, expected params<=7000 (such a network is not scaled)",)


def test_folder_is_expanded_to_its_architecture_files(mnist, tmp_path):
    for name in ("mnist-7825", "mnist-3928"):
        (tmp_path / f"{name}.json").write_text(Architecture.load(name).dumps())
    fitting, unfit = known_candidates([tmp_path], mnist, KEPT, seed=0)
    assert [start.source for start in fitting] == [str(tmp_path / "mnist-7825.json")]
    assert len(unfit) == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudyError) as caught:
        known_candidates([tmp_path / "empty"], mnist, KEPT, seed=0)
    assert (
        str(caught.value)
        == f"`start_from=['{tmp_path / 'empty'}']`: no architecture file (*.json) found in this folder"
    )


def test_unreadable_folder_error_names_folder(mnist, tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0)
    if os.access(folder, os.R_OK):
        pytest.skip("root may read everything")
    with pytest.raises(StudyError, match=r"^`start_from=\[.*closed\'\]`: Permission denied$"):
        known_candidates([folder], mnist, KEPT, seed=0)


def test_recipe_json_is_no_network_and_applies_only_in_its_folder(mnist, tmp_path, monkeypatch):
    (tmp_path / "net.json").write_text(Architecture.load("mnist-7825").dumps())
    (tmp_path / "recipe.json").write_text(json.dumps(Recipe().to_json()))
    (start,), _ = known_candidates([tmp_path], mnist, KEPT, seed=0)
    assert mnist.candidate(start.values).recipe.rotation == 0.0
    monkeypatch.chdir(tmp_path)
    (start,), _ = known_candidates(["mnist-7825"], mnist, KEPT, seed=0)
    assert mnist.candidate(start.values).recipe.rotation == 8.0


def test_own_recipe_of_design_comes_before_recipe_file_beside_it(mnist, tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps(Recipe(rotation=0.0).to_json()))
    design = tmp_path / "design.json"
    design.write_text(shipped_designs()["mnist-7825"].read_text())
    (start,), _ = known_candidates([design], mnist, KEPT, seed=0)
    assert mnist.candidate(start.values).recipe.rotation == 8.0


@pytest.mark.parametrize("start_from", [["mnist-7825"], ["mnist-7825", "mnist-6136"]])
def test_search_is_refused_if_no_given_network_fits(tmp_path, start_from):
    with pytest.raises(StudyError) as caught:
        search(dataset="digits", max_params=7000, start_from=start_from, results=tmp_path / "results")
    given, first = f"`start_from={start_from}`", "mnist-7825 is left out: params is 7825, expected params<=7000"
    expected = "expected a network that fits the search space and the limits"
    assert str(caught.value).startswith(f"{given}: {expected}; {first} (such a network is not scaled)")
    assert str(caught.value).count(" is left out: ") == len(start_from)
    assert not (tmp_path / "results").exists()


def test_search_warns_last_of_network_that_is_left_out(tmp_path, tiny_space, capsys):
    started = []
    options = {"dataset": "digits", "space": tiny_space, "epochs": 1, "max_params": 900, "min_receptive_field": 10}
    first = search(**options, trials=1, device="cpu", workers=1, results=tmp_path / "first")
    fits = tmp_path / "fits.json"
    fits.write_text(first.best[0].architecture.dumps())
    search(
        **options,
        **{"trials": 1, "device": "cpu", "workers": 1, "results": tmp_path / "second", "progress": True},
        start_from=[fits, "mnist-7825"],
        on_event=lambda event: started.append(event) if isinstance(event, SearchStarted) else None,
    )
    lines = capsys.readouterr().out.splitlines()
    ((unfit,),) = (event.unfit for event in started)
    assert unfit.startswith("mnist-7825 is left out: ")
    (number,) = (number for number, line in enumerate(lines) if line == f"warning: {unfit}")
    assert f"starts with known networks, as they are: {fits}" in lines
    assert lines[number - 1].startswith("study search in ")
    assert lines[number + 1].startswith("trial 0: ")


def test_network_with_other_input_shape_raises():
    space = SearchSpace.load("colour")
    with pytest.raises(StudyError) as caught:
        known_candidates(["mnist-7825"], space, (), seed=0)
    assert (
        str(caught.value) == "`start_from=['mnist-7825']`: input_shape is 1x28x28, expected 3x32x32 as in the dataset"
    )


def test_damaged_architecture_file_raises(mnist, tmp_path):
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ArchitectureError):
        known_candidates([tmp_path / "broken.json"], mnist, KEPT, seed=0)


@pytest.mark.slow
def test_search_trains_known_networks_first_and_once(tmp_path, tiny_space):
    options = {
        "dataset": "digits",
        "space": tiny_space,
        "epochs": 1,
        "max_params": 900,
        "min_receptive_field": 10,
        "device": "cpu",
        "workers": 1,
    }
    search(**options, trials=2, results=tmp_path / "first")
    known = [trial for trial in trials(results=tmp_path / "first") if trial.outcome == "trained"]
    files = []
    for number, trial in enumerate(known):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "architecture.json").write_text(trial.architecture.dumps())
        (folder / "recipe.json").write_text(json.dumps(trial.recipe.to_json()))
        files.append(folder)
    second = tmp_path / "second"
    search(**options, trials=1, seed=7, results=second, start_from=files)
    search(**options, trials=3, seed=7, results=second, start_from=files)
    found = [trial for trial in trials(results=second) if trial.outcome == "trained"]
    assert [trial.architecture for trial in found[:2]] == [trial.architecture for trial in known]
    assert [trial.recipe for trial in found[:2]] == [trial.recipe for trial in known]
    assert len(found) == 3
    # The third is a known network with one parameter changed, not a random draw.
    *known, child = [
        trial.params
        for trial in StudyRecords.open(StudyRef(second)).study.trials
        if trial.user_attrs["outcome"] == "trained"
    ]
    assert min(sum(child[name] != parent[name] for name in child) for parent in known) == 1
    assert all(cost_of(trial.architecture).params <= 900 for trial in found)


@pytest.mark.slow
@pytest.mark.parametrize("pruner", ["none", "asha"])
def test_interrupted_search_ends_with_same_trials(tmp_path, tiny_space, pruner):
    options = {
        "dataset": "digits",
        "space": tiny_space,
        "epochs": 5,
        "max_params": 900,
        "min_receptive_field": 10,
        "device": "cpu",
        "workers": 1,
    }
    search(**options, trials=4, results=tmp_path / "first", sampler="random")
    files = []
    for trial in trials(results=tmp_path / "first"):
        if trial.outcome == "trained":
            files.append(tmp_path / f"{trial.number}.json")
            files[-1].write_text(trial.architecture.dumps())
    given = {**options, "trials": 3, "start_from": files, "pruner": pruner, "seed": 1}

    def ended(folder):
        records = StudyRecords.open(StudyRef(folder))
        return [
            (
                trial.user_attrs.get("started_from"),
                trial.user_attrs["outcome"],
                trial.user_attrs["candidate"],
                trial.values,
            )
            for trial in records.study.trials
            if trial.user_attrs.get("outcome") in ("trained", "pruned")
        ]

    search(**given, results=tmp_path / "whole")
    for at in (1, 4, 6):
        left = [at]

        def interrupt(event, left=left):
            left[0] -= isinstance(event, EpochFinished)
            if not left[0]:
                raise KeyboardInterrupt

        search(**given, results=tmp_path / "pieces", on_event=interrupt)
    search(**given, results=tmp_path / "pieces")
    assert ended(tmp_path / "pieces") == ended(tmp_path / "whole")
    assert [row[0] for row in ended(tmp_path / "whole")][:3] == [str(file) for file in files[:3]]
