"""Several steps of the native engine: weights, running statistics, and the evaluation that uses both."""

from dataclasses import replace

import pytest
import torch
from support.native import EVERYTHING, HEAD, HOST, conv, examples, machine, program_of, take_steps
from torch import nn
from torch.nn import functional

from nas.architecture.composites import Repeat
from nas.architecture.layers import Activation, BatchNorm, Dropout
from nas.recipe import Recipe
from nas.training.native.optimizer import NUM_RATES, rates
from nas.training.native.program import Program
from nas.training.native.trainer import blocks, split_into_lanes
from nas.training.optimizers import make_optimizer
from nas.training.schedule import learning_rate

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(HOST is None, reason="no machine code is written for this processor"),
]


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(momentum=0.0),
        Recipe(momentum=0.9),
        Recipe(momentum=0.8, weight_decay=0.1),
        Recipe(momentum=0.0, weight_decay=0.1),
        Recipe(optimizer="adam"),
        Recipe(optimizer="adam", momentum=0.0, weight_decay=0.1),
        Recipe(optimizer="adamw", momentum=0.7),
        Recipe(optimizer="adamw", weight_decay=0.5),
    ],
    ids=lambda recipe: f"{recipe.optimizer} {recipe.momentum} {recipe.weight_decay}",
)
def test_updates_match_torch(recipe: Recipe) -> None:
    """Compares weights, running statistics and batch counts after five steps in two calls, with changing rates."""
    recipe = replace(recipe, learning_rate=0.2 if recipe.optimizer == "sgd" else 0.02, epochs=1)
    shape = (2, 6, 5)
    shared = Repeat(layers=(conv(4, bias=False), BatchNorm(), Activation(function="silu")), times=2, shared=True)
    program, module = program_of((conv(4), Activation(function="silu"), shared, *HEAD), shape, recipe=recipe)
    images, labels = examples(shape, steps=5)
    schedule = [learning_rate(recipe, step, 5) for step in range(5)]
    table = torch.tensor(rates(recipe, 0, 5)).view(5, NUM_RATES)
    for steps in (slice(0, 2), slice(2, 5)):
        take_steps(program, images[steps], labels[steps], table=table[steps])

    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    module.double().train()
    optimizer = make_optimizer(module, recipe)
    for x, y, rate in zip(images.double(), labels, schedule, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        functional.cross_entropy(module(x), y).backward()
        optimizer.step()
    expected = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    program.save(module.float())
    assert expected["2.body.1.num_batches_tracked"] == 10
    for name, got in module.state_dict().items():
        moved = (expected[name] - before[name]).abs().max()
        assert moved > 1e-3, name
        assert (got - expected[name]).abs().max() <= 1e-4 * moved, name


@pytest.mark.parametrize("lanes", [16, 8, 1])
@pytest.mark.parametrize("count", [1, 16, 21, 40])
def test_evaluation_matches_torch(count: int, lanes: int, evaluated: dict[int, tuple[Program, nn.Module]]) -> None:
    program, module = evaluated[lanes]
    images, labels = examples((2, 12, 11), count=count)
    missing = -count % lanes
    whole, inside = blocks(program.image_layout, 1, (count + missing) // lanes)
    # Lanes without an example must not count.
    padded = torch.cat([images[0], torch.full((missing, 2, 12, 11), 1e3)])
    inside[0].copy_(split_into_lanes(padded, lanes))
    results = torch.zeros(2, dtype=torch.float64)
    program.run_evaluation(whole[0], torch.cat([labels[0], torch.full((missing,), -1)]).int(), results)
    with torch.no_grad():
        logits = module(images[0].double())
    loss = functional.cross_entropy(logits, labels[0], reduction="sum")
    assert results.tolist() == pytest.approx([loss.item(), (logits.argmax(1) == labels[0]).sum().item()], rel=2e-5)


@pytest.fixture(scope="module")
def evaluated() -> dict[int, tuple[Program, nn.Module]]:
    """By number of lanes: a program with dropout after two training batches, and its module in eval mode."""
    found = {}
    for lanes in (16, 8, 1):
        layers = (*EVERYTHING[:3], Dropout(rate=0.5), *EVERYTHING[3:], Dropout(rate=0.5))
        recipe = Recipe(momentum=0.0, label_smoothing=0.1)  # evaluation must not smooth labels
        program, module = program_of(layers, (2, 12, 11), on=machine(lanes, 32), recipe=recipe)
        take_steps(program, *examples((2, 12, 11), steps=2))
        program.save(module)
        found[lanes] = program, module.double().eval()
    return found
