"""Training with several seeds: each run equals a single training, and the statistics follow from the runs."""

import json
from dataclasses import replace
from statistics import fmean, stdev

import pytest
import torch

from nas.architecture.architecture import Architecture
from nas.architecture.layers import Activation, BatchNorm, Conv, Flatten, GlobalAvgPool
from nas.commands.train import train, train_seeds
from nas.errors import NasError, TrainingDiverged
from nas.recipe import Recipe
from nas.resources import shipped_designs

NETWORK = Architecture(
    input_shape=(1, 28, 28),
    layers=(
        *(Conv(out_channels=6, kernel_size=5, stride=3), BatchNorm(), Activation()),
        *(Conv(out_channels=10, kernel_size=3), GlobalAvgPool(), Flatten()),
    ),
)
RECIPE = Recipe(epochs=3, batch_size=64, average_epochs=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("test", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_each_run_equals_single_training_with_its_seed(test, workers):
    heard = []
    found = train_seeds(
        *(NETWORK, RECIPE),
        seeds=2,
        first_seed=3,
        target=0.3,
        dataset="digits",
        device="cpu",
        workers=workers,
        test=test,
        on_run=lambda seed, history: heard.append((seed, history)),
    )
    alone = {seed: train(NETWORK, RECIPE, dataset="digits", device="cpu", seed=seed, test=test) for seed in (3, 4)}
    assert list(found.histories) == [3, 4]
    for seed, fit in alone.items():
        accuracies = tuple(metrics.val_accuracy for metrics in fit.history)
        assert tuple(metrics.val_accuracy for metrics in found.histories[seed]) == accuracies
        assert accuracies in found.result.accuracies
    assert dict(heard) == found.histories
    first = alone[3]
    assert all(torch.equal(tensor, first.weights[name]) for name, tensor in found.fit.weights.items())
    timeless = {"history": (), "weights": {}, "data": None}
    assert replace(found.fit, **timeless) == replace(first, **timeless)


def test_named_network_is_trained_with_its_own_recipe(capsys):
    fit = train("nas-897", epochs=1, dataset="digits", device="cpu", progress=True)
    assert fit.architecture == Architecture.load("nas-897")
    assert fit.recipe == replace(Recipe.of_network("nas-897"), epochs=1)
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("dataset digits: ")
    assert second.startswith(f"recipe ({shipped_designs()['nas-897']}): epochs 1, optimizer sgd, learning_rate 0.4, ")


@pytest.mark.parametrize("given", [(), (RECIPE,)])
def test_architecture_is_trained_with_given_or_default_recipe_and_epochs(given, capsys):
    fit = train(NETWORK, *given, epochs=1, dataset="digits", device="cpu", progress=True)
    assert fit.recipe == replace(*given or (Recipe(),), epochs=1)
    assert len(fit.history) == 1
    assert ("\nrecipe (default): epochs 1, " in capsys.readouterr().out) == (not given)


def test_network_of_folder_is_trained_with_several_seeds(tmp_path):
    (tmp_path / "architecture.json").write_text(NETWORK.dumps())
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE.to_json()))
    found = train_seeds(tmp_path, epochs=1, seeds=2, dataset="digits", device="cpu", workers=1)
    assert (found.fit.architecture, found.fit.recipe) == (NETWORK, replace(RECIPE, epochs=1))
    assert [len(history) for history in found.histories.values()] == [1, 1]


def test_json_statistics_are_computed_from_runs():
    found = train_seeds(NETWORK, RECIPE, seeds=3, target=0.2, dataset="digits", device="cpu", workers=2)
    said = json.loads(json.dumps(found.to_json()))
    runs = [[metrics.val_accuracy for metrics in history] for history in found.histories.values()]
    finals, lowest = [run[-1] for run in runs], [min(run) for run in runs]
    assert said["accuracies"] == runs
    assert said["seeds"] == [0, 1, 2]
    assert said["final_accuracy_mean"] == pytest.approx(fmean(finals))
    assert said["final_accuracy_sd"] == pytest.approx(stdev(finals))
    assert said["consistent_accuracy_mean"] == pytest.approx(fmean(lowest))
    assert said["num_met"] == sum(accuracy >= 0.2 for accuracy in lowest)
    assert (said["params"], said["epochs"], said["judged_on"]) == (6 * 25 + 6 + 12 + 10 * 54 + 10, 3, "val")
    assert said["num_images"] == len(found.fit.data.val.labels)


def test_diverged_run_has_accuracy_zero_and_no_weights():
    wild = replace(RECIPE, learning_rate=1e38)
    found = train_seeds(NETWORK, wild, seeds=2, dataset="digits", device="cpu", workers=1)
    assert found.result.accuracies == ((0.0,) * 3,) * 2
    assert (found.fit.weights, found.fit.history) == ({}, ())
    with pytest.raises(TrainingDiverged):
        train(NETWORK, wild, dataset="digits", device="cpu")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"seeds": 1}, "`seeds=1`: expected an integer of at least 2"),
        ({"target": 1.5}, "`target=1.5`: expected a number above 0 and at most 1, such as 0.994"),
        ({"first_seed": -1}, "`first_seed=-1`: expected an integer from 0 to 2**64 - 5"),
        (
            {"first_seed": 2**64 - 1},
            "`first_seed=18446744073709551615`: expected an integer from 0 to 2**64 - 5",
        ),
        ({"epochs": 0}, "`epochs=0`: expected an integer of at least 1"),
        ({"workers": 0}, "`workers=0`: expected an integer of at least 1"),
    ],
)
def test_out_of_range_option_error_names_value_and_expected(options, text):
    with pytest.raises(NasError) as raised:
        train_seeds(NETWORK, RECIPE, dataset="digits", device="cpu", **options)
    assert str(raised.value) == text
