"""Weight averaging matches torch's AveragedModel and the average of the weights after each training step."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.images import noise
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from nas.architecture.architecture import Architecture
from nas.architecture.layers import Activation, BatchNorm, Conv, Dropout, Flatten, GlobalAvgPool
from nas.recipe import Recipe
from nas.training import reference
from nas.training.averaging import AverageWeights, averaging_share, weight_tracker
from nas.training.metrics import EpochMetrics
from nas.training.reference import initialise, state_dict_on_cpu

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=3, batch_size=50, learning_rate=0.05, average_epochs=0.5)
NETWORK = Architecture(
    input_shape=(1, 12, 12),
    layers=(
        *(Conv(out_channels=6, kernel_size=3, bias=False), BatchNorm(), Activation(), Dropout(rate=0.1)),
        *(Conv(out_channels=10, kernel_size=1), GlobalAvgPool(), Flatten()),
    ),
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_averaging_share_literal_values() -> None:
    assert [averaging_share(RECIPE, step, 10) for step in (0, 1, 9)] == [1.0, 0.9, 0.5]
    assert averaging_share(RECIPE, 100, 10) == pytest.approx(1 - math.exp(-0.2))
    assert averaging_share(replace(RECIPE, average_epochs=0.0), 100, 10) == 1.0


@given(st.floats(0, 1e9), st.integers(1, 5000), st.integers(0, 100_000))
def test_averaging_share_starts_at_one_and_never_grows(average_epochs: float, steps: int, step: int) -> None:
    recipe = replace(RECIPE, average_epochs=average_epochs)
    assert averaging_share(recipe, 0, steps) == 1
    assert 0 < averaging_share(recipe, step + 1, steps) <= averaging_share(recipe, step, steps) <= 1


def test_average_matches_torch_averaged_model() -> None:
    module = initialise(NETWORK, seed=0)
    average = AverageWeights(module)

    def averaged(before: Tensor, current: Tensor, number: Tensor) -> Tensor:
        return before + averaging_share(RECIPE, int(number), 10) * (current - before)

    expected = AveragedModel(module, avg_fn=averaged, use_buffers=True)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for step in range(20):
        loss = module(torch.randn(8, 1, 12, 12, generator=torch.Generator().manual_seed(step))).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(averaging_share(RECIPE, step, 10))
        expected.update_parameters(module)
    last = state_dict_on_cpu(module)
    average.swap()
    for name, tensor in expected.module.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(module.state_dict()[name], tensor)
            assert not torch.equal(last[name], tensor), name
    average.swap()
    assert all(map(torch.equal, module.state_dict().values(), last.values()))


def test_trained_module_holds_average_of_weights_of_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Averaging does not change the training: train losses and last weights stay equal."""
    passed: list[list[Tensor]] = []

    class Watching(AverageWeights):
        def update(self, share: float | Tensor) -> None:
            super().update(share)
            passed.append([tensor.clone() for tensor in self.current])

    monkeypatch.setattr("nas.training.reference.weight_tracker", lambda module, recipe: Watching(module))
    found, module = train(RECIPE)
    monkeypatch.undo()
    plain, trained = train(replace(RECIPE, average_epochs=0.0))
    assert [m.train_loss for m in found] == [m.train_loss for m in plain]
    assert [m.val_loss for m in found] != [m.val_loss for m in plain]
    assert len(passed) == 3 * 3
    held = [tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.is_floating_point()]
    last = [tensor for tensor in (*trained.parameters(), *trained.buffers()) if tensor.is_floating_point()]
    for tensor, steps, end in zip(held, zip(*passed, strict=True), last, strict=True):
        expected = torch.zeros_like(tensor)
        for number, after in enumerate(steps):
            expected = expected.lerp(after, averaging_share(RECIPE, number, 3))
        torch.testing.assert_close(tensor.detach(), expected, atol=1e-6, rtol=1e-5)
        assert torch.equal(steps[-1], end)


def test_zero_average_epochs_leaves_weights_unchanged() -> None:
    module = initialise(NETWORK, seed=0)
    kept = weight_tracker(module, replace(RECIPE, average_epochs=0.0))
    before = state_dict_on_cpu(module)
    kept.update(0.5)
    kept.swap()
    kept.restart()
    assert all(map(torch.equal, module.state_dict().values(), before.values()))


def train(recipe: Recipe) -> tuple[list[EpochMetrics], nn.Module]:
    module = initialise(NETWORK, seed=0)
    return list(reference.train(module, recipe, noise(150), seed=1, device=CPU)), module
