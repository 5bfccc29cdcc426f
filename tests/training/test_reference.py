"""The reference trainer learns, is reproducible bit for bit, and keeps the caller's random state."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.images import EVERY_AUGMENTATION, noise, scans
from support.lanes import same
from torch import Tensor, nn
from torch.nn import functional

from nas.architecture.architecture import Architecture
from nas.architecture.composites import Repeat
from nas.architecture.layers import Activation, BatchNorm, Conv, Dropout, Flatten, GlobalAvgPool, MaxPool
from nas.errors import TrainingDiverged
from nas.recipe import Recipe
from nas.training.data import TrainingData
from nas.training.device import pick_device
from nas.training.metrics import EpochMetrics
from nas.training.reference import evaluate, initialise, state_dict_on_cpu, train
from nas.training.schedule import learning_rate

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


def small(side: int = 12, *, width: int = 8, dropout: float = 0.1) -> Architecture:
    # No bias before batch norm: its gradient is rounding noise, which Adam would scale up to full steps.
    conv = Conv(out_channels=width, kernel_size=3, padding="same", bias=False)
    block = (conv, BatchNorm(), Activation(), Dropout(rate=dropout))
    return Architecture(
        input_shape=(1, side, side),
        layers=(
            Conv(out_channels=width, kernel_size=3, stride=2),
            Repeat(layers=block, times=2),
            MaxPool(kernel_size=2),
            *block,
            Conv(out_channels=10, kernel_size=1),
            GlobalAvgPool(),
            Flatten(),
        ),
    )


@pytest.fixture(scope="module")
def digits() -> TrainingData:
    return scans(28)


EVERYTHING = Recipe(
    epochs=3,
    batch_size=16,
    label_smoothing=0.1,
    **EVERY_AUGMENTATION,
)


def run(seed: int = 0, *, recipe: Recipe = EVERYTHING) -> tuple[list[EpochMetrics], dict[str, Tensor]]:
    module = initialise(small(), seed=0)
    metrics = [replace(m, seconds=0.0) for m in train(module, recipe, noise(), seed=seed, device=CPU)]
    return metrics, state_dict_on_cpu(module)


@pytest.mark.parametrize(
    ("optimizer", "rate", "schedule"),
    [("sgd", 0.1, "one_cycle"), ("adam", 0.01, "cosine"), ("adamw", 0.01, "step"), ("sgd", 0.02, "constant")],
)
def test_training_learns_digits(digits: TrainingData, optimizer: str, rate: float, schedule: str) -> None:
    recipe = Recipe(
        epochs=6,
        optimizer=optimizer,
        learning_rate=rate,
        schedule=schedule,
        step_epochs=4,
        batch_size=32,
        weight_decay=1e-4,
        rotation=5.0,
        translation=0.02,
    )
    module = initialise(small(28, width=16, dropout=0.0), seed=0)
    before = evaluate(
        module, digits.val_images, digits.val_labels, mean=digits.mean, std=digits.std, device=CPU, batch_size=100
    )
    metrics = list(train(module, recipe, digits, seed=0, device=CPU))
    assert before[1] < 0.3
    assert metrics[-1].val_accuracy > 0.9
    assert metrics[-1].val_loss < before[0] - 1
    assert [m.epoch for m in metrics] == [1, 2, 3, 4, 5, 6]
    assert [m.learning_rate for m in metrics] == [learning_rate(recipe, 46 * e - 1, 46) for e in range(1, 7)]
    assert all(m.seconds > 0 for m in metrics)
    # The caller's module reproduces the metrics of the last epoch.
    after = evaluate(module, digits.val_images, digits.val_labels, mean=digits.mean, std=digits.std, device=CPU)
    assert after == (metrics[-1].val_loss, metrics[-1].val_accuracy)


def test_equal_seeds_give_bit_identical_results() -> None:
    metrics, weights = run(7)
    again, weights_again = run(7)
    assert metrics == again
    assert same(weights, weights_again)


def test_different_seeds_give_different_weights() -> None:
    assert not same(run(7)[1], run(8)[1])


def test_dropout_depends_on_seed() -> None:
    # One batch with all examples, no augmentation: their order changes only the rounding, dropout changes far more.
    recipe = Recipe(epochs=1, batch_size=50, learning_rate=0.01, schedule="constant")
    losses = [run(seed, recipe=recipe)[0][0].train_loss for seed in (1, 2, 1)]
    assert losses[0] == losses[2]
    assert abs(losses[0] - losses[1]) > 1e-4


def test_interleaved_trainings_and_caller_have_separate_random_states() -> None:
    torch.manual_seed(123)
    expected_draws = torch.rand(6)
    torch.manual_seed(123)
    modules = [initialise(small(), seed=0) for _ in range(2)]
    draws, metrics = [torch.rand(1)], [[], []]
    trainings = [train(m, EVERYTHING, noise(), seed=seed, device=CPU) for m, seed in zip(modules, (7, 8), strict=True)]
    for pair in zip(*trainings, strict=True):
        draws.append(torch.rand(1))
        for collected, m in zip(metrics, pair, strict=True):
            collected.append(replace(m, seconds=0.0))
    draws.append(torch.rand(2))
    assert torch.equal(torch.cat(draws), expected_draws)
    for module, collected, seed in zip(modules, metrics, (7, 8), strict=True):
        alone, weights = run(seed)
        assert collected == alone
        assert same(state_dict_on_cpu(module), weights)


def test_closing_early_keeps_module_usable_and_random_state() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    module = initialise(small(), seed=0)
    training = train(module, EVERYTHING, noise(), seed=7, device=CPU)
    first = next(training)
    training.close()
    assert torch.equal(torch.get_rng_state(), before)
    assert replace(first, seconds=0.0) == run(7)[0][0]
    data = noise()
    after = evaluate(module, data.val_images, data.val_labels, mean=data.mean, std=data.std, device=CPU)
    assert after == (first.val_loss, first.val_accuracy)


def test_initialise_is_seeded_and_keeps_random_state() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, other, third = (initialise(small(), seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(one, other)
    assert not same(one, third)
    torch.manual_seed(1)
    assert same(one, small().build().state_dict())


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_training_matches_plain_pytorch_loop(optimizer: str) -> None:
    """The plain loop has no fused kernels, no channels_last, torch's scheduler, and one batch with all examples."""
    data = noise()
    recipe = Recipe(
        epochs=5,
        optimizer=optimizer,
        learning_rate=0.02,
        schedule="cosine",
        momentum=0.8,
        weight_decay=0.1,
        batch_size=1000,
        label_smoothing=0.2,
    )
    module = initialise(small(dropout=0.0), seed=3)
    metrics = list(train(module, recipe, data, seed=0, device=CPU))

    plain = initialise(small(dropout=0.0), seed=3)
    if optimizer == "sgd":
        steps = torch.optim.SGD(plain.parameters(), lr=0.02, momentum=0.8, nesterov=True, weight_decay=0.1)
    else:
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer]
        steps = kind(plain.parameters(), lr=0.02, betas=(0.8, 0.999), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(steps, 5)
    x = (data.train_images / 255 - 0.5) / 0.29
    for m in metrics:
        plain.train()
        assert m.learning_rate == pytest.approx(steps.param_groups[0]["lr"])
        logits = plain(x)
        loss = functional.cross_entropy(logits, data.train_labels, label_smoothing=0.2)
        steps.zero_grad()
        loss.backward()
        steps.step()
        schedule.step()
        assert m.train_loss == pytest.approx(loss.item(), abs=1e-4)
        assert m.train_accuracy == pytest.approx((logits.argmax(1) == data.train_labels).double().mean().item())
    plain.eval()
    val_logits = plain((data.val_images / 255 - 0.5) / 0.29)
    assert metrics[-1].val_loss == pytest.approx(functional.cross_entropy(val_logits, data.val_labels).item(), abs=1e-4)
    for ours, theirs in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


class Recorder(nn.Module):
    """Records the training batches; its logits are a learned constant."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(10))
        self.batches: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.batches.append(x.detach().clone())
        return self.logits.expand(len(x), 10)


def test_every_step_of_every_epoch_draws_new_dropout_mask() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), Recorder())
    data = noise(num_train=40)
    data = replace(data, train_images=torch.full_like(data.train_images, 255))
    list(train(module, Recipe(epochs=3, batch_size=10), data, seed=0, device=CPU))
    masks = {tuple((batch == 0).flatten().tolist()) for batch in module[2].batches}
    assert len(masks) == 3 * 4


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"), [(10, 4, [4, 4]), (8, 4, [4, 4]), (3, 128, [3]), (1, 1, [1]), (5, 1, [1] * 5)]
)
def test_batches_have_equal_size_and_no_example_repeats_in_epoch(count: int, batch_size: int, sizes: list[int]) -> None:
    numbers = torch.arange(count, dtype=torch.uint8)
    data = TrainingData(
        train_images=numbers.view(-1, 1, 1, 1),
        train_labels=numbers.long() % 10,
        val_images=numbers.view(-1, 1, 1, 1),
        val_labels=numbers.long() % 10,
        mean=(0.0,),
        std=(1 / 255,),
    )
    module = Recorder()
    epochs = []
    for _ in train(module, Recipe(epochs=4, batch_size=batch_size), data, seed=0, device=CPU):
        epochs.append(torch.cat(module.batches).flatten().round().int().tolist())
        assert [len(batch) for batch in module.batches] == sizes
        assert not module.training
        module.batches.clear()
    for order in epochs:
        assert len(set(order)) == len(order) == sum(sizes)
        assert set(order) <= set(range(count))
    if count >= 5:
        assert len(set(map(tuple, epochs))) > 1


def test_input_is_normalised_per_channel() -> None:
    images = torch.tensor([[0, 255], [51, 102]], dtype=torch.uint8).view(2, 2, 1, 1)
    labels = torch.tensor([0, 1])
    data = TrainingData(
        train_images=images, train_labels=labels, val_images=images, val_labels=labels, mean=(0.1, 0.5), std=(0.2, 0.5)
    )
    module = Recorder()
    list(train(module, Recipe(epochs=1, batch_size=2), data, seed=0, device=CPU))
    met = module.batches[0].view(2, 2)
    expected = torch.tensor([[-0.5, 1.0], [0.5, -0.2]])
    torch.testing.assert_close(met[met[:, 0].argsort()], expected)


@pytest.mark.parametrize("batch_size", [1, 7, 21, 1000])
def test_evaluate_counts_every_example(batch_size: int) -> None:
    data = noise()
    module = initialise(small(), seed=0)
    loss, accuracy = evaluate(
        module, data.val_images, data.val_labels, mean=data.mean, std=data.std, device=CPU, batch_size=batch_size
    )
    logits = initialise(small(), seed=0).eval()((data.val_images / 255 - 0.5) / 0.29)
    assert loss == pytest.approx(functional.cross_entropy(logits, data.val_labels).item(), rel=1e-4)
    assert accuracy == (logits.argmax(1) == data.val_labels).sum().item() / 21


def test_divergence_error_names_epoch_and_keeps_random_state() -> None:
    module = initialise(small(), seed=0)
    recipe = Recipe(epochs=5, learning_rate=1e6, schedule="constant", batch_size=10, weight_decay=0.1)
    before = torch.get_rng_state()
    with pytest.raises(TrainingDiverged, match=r"^diverged: loss (nan|inf) in epoch 1$") as caught:
        list(train(module, recipe, noise(), seed=0, device=CPU))
    assert caught.value.epoch == 1
    assert not math.isfinite(caught.value.loss)
    assert torch.equal(torch.get_rng_state(), before)


def test_divergence_at_last_step_raises() -> None:
    module = initialise(small(dropout=0.0), seed=0)
    recipe = Recipe(epochs=1, learning_rate=1e38, schedule="constant", batch_size=50)
    with pytest.raises(TrainingDiverged, match=r" in epoch 1$"):  # the loss of the single step is still finite
        list(train(module, recipe, noise(), seed=0, device=CPU))


def test_module_with_strided_pointwise_convolution_stays_contiguous() -> None:
    """On the CPU such modules do not train in channels_last (oneDNN issue 6035)."""
    pointwise = nn.Conv2d(4, 10, 1, stride=2)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), pointwise, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    list(train(module, Recipe(epochs=1), noise(), seed=0, device=CPU))
    assert all(p.is_contiguous() for p in module.parameters())


def test_state_dict_is_contiguous_copy_loadable_with_weights_only(tmp_path: Path) -> None:
    module = initialise(small(), seed=0)
    list(train(module, replace(EVERYTHING, epochs=1), noise(), seed=0, device=CPU))
    assert not all(p.is_contiguous() for p in module.parameters())  # trained in channels_last
    weights = state_dict_on_cpu(module)
    assert all(t.is_contiguous() and not t.requires_grad and t.device == CPU for t in weights.values())
    assert same(weights, module.state_dict())
    torch.save(weights, tmp_path / "weights.pt")
    assert same(torch.load(tmp_path / "weights.pt", weights_only=True), weights)
    with torch.no_grad():
        next(module.parameters()).zero_()
    assert not same(weights, module.state_dict())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"train_images": torch.zeros(50, 1, 12, 12)}, "train: images torch.float32 (50, 1, 12, 12), labels"),
        ({"val_labels": torch.zeros(20, dtype=torch.int64)}, "val: 21 images and 20 labels"),
        ({"val_images": torch.zeros(0, 1, 2, 2, dtype=torch.uint8)}, "val: 0 images and 21 labels"),
    ],
)
def test_invalid_training_data_raises(change: dict[str, Tensor], text: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        replace(noise(), **change)
    assert str(caught.value).startswith(text)


@pytest.mark.gpu
def test_training_on_cuda_keeps_cuda_random_state() -> None:
    device = pick_device("cuda")
    before = torch.cuda.get_rng_state(device)
    module = initialise(small(), seed=0)
    recipe = replace(EVERYTHING, learning_rate=0.01)
    on_cuda = list(train(module, recipe, noise(), seed=7, device=device))
    assert torch.equal(torch.cuda.get_rng_state(device), before)
    assert next(module.parameters()).device == device
    assert len(on_cuda) == 3
    assert all(t.device == CPU for t in state_dict_on_cpu(module).values())
