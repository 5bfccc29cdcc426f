"""A lane matches the reference trainer. On the CPU its steps run without streams and graphs."""

from dataclasses import replace

import pytest
import torch
from support.effort import seeds
from support.images import noise
from support.lanes import RECIPE, broken, drawn, run_lane, run_reference, same, small, timeless, weights
from torch import Tensor, nn

from nas.training.cuda.lane import GeneratorDropout, Lane, num_steps_per_graph
from nas.training.cuda.runner import EagerRunner
from nas.training.metrics import EpochMetrics
from nas.training.reference import initialise

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),
]


@pytest.mark.usefixtures("contiguous")
@pytest.mark.parametrize("seed", seeds(12))
def test_lane_is_bit_identical_to_reference_trainer(seed: int) -> None:
    architecture = drawn(seed)
    metrics, trained = run_lane(architecture)
    expected, expected_weights = run_reference(architecture)
    assert metrics == expected
    assert same(trained, expected_weights)


@pytest.mark.usefixtures("contiguous")
@pytest.mark.parametrize(
    "change",
    [
        {"momentum": 0.0},
        {"schedule": "cosine", "weight_decay": 0.0},
        {"schedule": "step", "step_epochs": 1},
        {"schedule": "constant", "batch_size": 1000},
        {"average_epochs": 0.7},
        {"batch_size": 64, "rotation": 0.0, "translation": 0.0, "scale": 0.0, "shear": 0.0},
    ],
)
def test_lane_with_sgd_recipes_is_bit_identical_to_reference_trainer(change: dict[str, object]) -> None:
    recipe = replace(RECIPE, **change)
    metrics, trained = run_lane(small(), recipe)
    expected, expected_weights = run_reference(small(), recipe)
    assert metrics == expected
    assert same(trained, expected_weights)


@pytest.mark.usefixtures("contiguous")
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_lane_with_adam_matches_reference_trainer_within_rounding(optimizer: str) -> None:
    recipe = replace(RECIPE, optimizer=optimizer, learning_rate=1e-3)
    metrics, trained = run_lane(small(), recipe)
    expected, expected_weights = run_reference(small(), recipe)
    for name, tensor in trained.items():
        torch.testing.assert_close(tensor, expected_weights[name], atol=1e-5, rtol=1e-4)
    assert metrics[1].val_loss == pytest.approx(expected[1].val_loss, abs=1e-5)
    assert [m.learning_rate for m in metrics] == [m.learning_rate for m in expected]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("average_epochs", [0.0, 0.5])
def test_warm_up_does_not_change_results(optimizer: str, steps: int, average_epochs: float) -> None:
    recipe = replace(RECIPE, optimizer=optimizer, learning_rate=0.01, average_epochs=average_epochs)
    architecture = small(dropout=0.3)
    assert same(run_lane(architecture, recipe, warm_up=steps)[1], run_lane(architecture, recipe)[1])
    assert run_lane(architecture, recipe, warm_up=steps)[0] == run_lane(architecture, recipe)[0]


def test_failed_warm_up_does_not_change_results() -> None:
    def trained(module: nn.Module, *, warm_up: bool) -> tuple[list[EpochMetrics], dict[str, Tensor]]:
        before = weights(module)
        lane = Lane(module, RECIPE, noise(150), seed=7, runner=EagerRunner())
        if warm_up:
            with pytest.raises(ValueError, match="broken"):
                lane.warm_up(3)
            assert same(weights(module), before)
            assert all(p.grad is None for p in module.parameters())
        list(lane.launches())
        return timeless([lane.metrics(0.0)]), weights(module)

    torch.manual_seed(0)
    after = trained(broken(at=2), warm_up=True)
    torch.manual_seed(0)
    untouched = trained(broken(at=1000), warm_up=False)
    assert after[0] == untouched[0]
    assert same(after[1], untouched[1])


@pytest.mark.parametrize("per", ["element", "channel"])
def test_dropout_draws_only_from_generator_of_lane(per: str) -> None:
    architecture = small(dropout=0.3, per=per)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    metrics, trained = run_lane(architecture)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, trained_again = run_lane(architecture)
    assert metrics == again
    assert same(trained, trained_again)
    assert not same(trained, run_lane(small())[1])
    initialise(architecture, seed=1).load_state_dict(trained)  # keeps the keys of the original module


def test_dropout_keeps_mean_and_drops_whole_channels() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.ones(50, 20, 4, 4)
    elements = GeneratorDropout(0.25, generator, per_channel=False)(x)
    assert elements.unique().tolist() == pytest.approx([0, 4 / 3])
    assert elements.mean().item() == pytest.approx(1, abs=0.03)
    channels = GeneratorDropout(0.25, generator, per_channel=True)(x)
    assert (channels.amin((2, 3)) == channels.amax((2, 3))).all()
    assert channels.mean().item() == pytest.approx(1, abs=0.1)
    vectors = GeneratorDropout(0.25, generator, per_channel=True)(torch.ones(50, 20))
    assert vectors.unique().tolist() == pytest.approx([0, 4 / 3])
    state = generator.get_state()
    assert GeneratorDropout(0.0, generator, per_channel=False)(x) is x
    assert GeneratorDropout(0.5, generator, per_channel=False).eval()(x) is x
    assert torch.equal(generator.get_state(), state)


def test_training_keeps_structure_and_tensors_of_module() -> None:
    module = initialise(small(dropout=0.3), seed=0)
    text, tensors = repr(module), [*module.parameters(), *module.buffers()]
    lane = Lane(module, RECIPE, noise(150), seed=7, runner=EagerRunner())
    list(lane.launches())
    assert repr(module) == text
    assert all(one is other for one, other in zip(tensors, [*module.parameters(), *module.buffers()], strict=True))


@pytest.mark.parametrize("num_steps", [1, 2, 7, 8, 9, 15, 16, 17, 97, 390, 468, 937])
def test_piece_size_leaves_smallest_remainder_of_epoch(num_steps: int) -> None:
    several = num_steps_per_graph(num_steps)
    assert min(num_steps, 8) <= several <= 16
    assert num_steps % several == min(num_steps % k for k in range(min(num_steps, 8), min(num_steps, 16) + 1))


@pytest.mark.parametrize(("batch_size", "steps", "pieces"), [(16, 9, 1 + 1), (7, 21, 2 + 1 + 1), (5, 30, 2 + 1)])
def test_lane_launches_epoch_in_few_pieces(batch_size: int, steps: int, pieces: int) -> None:
    recipe = replace(RECIPE, batch_size=batch_size)
    lane = Lane(initialise(small(), seed=0), recipe, noise(150), seed=7, runner=EagerRunner())
    for _ in range(2):
        assert len(list(lane.launches())) == pieces  # graphs of 9, 10 and 15 steps, the rest of one, evaluation
        assert lane.num_steps == steps
