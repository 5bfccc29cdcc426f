"""The native trainer matches the reference trainer and rejects networks that it does not support."""

import math
from dataclasses import replace

import pytest
import torch
from support.images import EVERY_AUGMENTATION, scans
from torch import nn

from nas.architecture.architecture import Architecture
from nas.architecture.composites import Repeat, Residual
from nas.architecture.layers import (
    Activation,
    AvgPool,
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Layer,
    MaxPool,
    SqueezeExcite,
)
from nas.errors import TrainingDiverged
from nas.recipe import Recipe
from nas.training import reference
from nas.training.data import TrainingData
from nas.training.metrics import EpochMetrics
from nas.training.native import trainer
from nas.training.native.emit import Machine
from nas.training.native.graph import UnsupportedError
from nas.training.native.trainer import NativeTrainer
from nas.training.reference import evaluate, initialise, state_dict_on_cpu

CPU = torch.device("cpu")
HOST = Machine.host()

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(HOST is None, reason="no machine code is written for this processor"),
]

HEAD = (Conv(out_channels=10, kernel_size=1), GlobalAvgPool(), Flatten())


def network(*, dropout: float = 0.0) -> Architecture:
    # Smooth activations, no bias before a norm: rounding cannot flip a relu, and Adam cannot scale it up to a step.
    conv = Conv(out_channels=6, kernel_size=3, padding="same", bias=False)
    block = (conv, BatchNorm(), Activation(function="silu"), Dropout(rate=dropout))
    shared = Repeat(layers=block, times=2, shared=True)
    return Architecture(input_shape=(1, 12, 12), layers=(*block, shared, AvgPool(kernel_size=2), *block, *HEAD))


def noise(num_train: int = 100, num_val: int = 21) -> TrainingData:
    """Images that correlate weakly with their labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (num_train + num_val,), generator=generator)
    images = torch.randint(128, (num_train + num_val, 1, 12, 12), generator=generator) + 12 * labels.view(-1, 1, 1, 1)
    images = images.to(torch.uint8)
    return TrainingData(
        train_images=images[:num_train],
        train_labels=labels[:num_train],
        val_images=images[num_train:],
        val_labels=labels[num_train:],
        mean=(0.5,),
        std=(0.29,),
    )


GENTLE = Recipe(epochs=3, batch_size=32, learning_rate=0.01, momentum=0.5)

AUGMENTED = replace(
    GENTLE,
    label_smoothing=0.1,
    weight_decay=1e-3,
    **EVERY_AUGMENTATION,
)


def native(
    recipe: Recipe, *, seed: int = 0, data: TrainingData | None = None, dropout: float = 0.0
) -> tuple[list[EpochMetrics], nn.Module]:
    module = initialise(network(dropout=dropout), seed=0)
    epochs = NativeTrainer(module, recipe, data or noise(), seed=seed).epochs()
    return [replace(m, seconds=0.0) for m in epochs], module


@pytest.mark.parametrize(
    "recipe",
    [
        GENTLE,
        AUGMENTED,
        replace(AUGMENTED, optimizer="adam", learning_rate=1e-3, schedule="cosine", batch_size=48),
        replace(GENTLE, optimizer="adamw", learning_rate=1e-3, schedule="step", step_epochs=1, batch_size=16),
        replace(GENTLE, batch_size=33, schedule="constant"),  # no multiple of a vector width
        replace(GENTLE, batch_size=1000),  # larger than the training split
        replace(GENTLE, average_epochs=0.6),
        replace(AUGMENTED, optimizer="adamw", learning_rate=1e-3, average_epochs=2.0),
    ],
    ids=lambda recipe: f"{recipe.optimizer} {recipe.batch_size} {recipe.schedule} {recipe.average_epochs:g}",
)
def test_epochs_match_reference_trainer(recipe: Recipe) -> None:
    data = noise()
    expected_module = initialise(network(), seed=0)
    expected = list(reference.train(expected_module, recipe, data, seed=5, device=CPU))
    found, module = native(recipe, seed=5, data=data)
    assert [m.epoch for m in found] == [1, 2, 3]
    for one, other in zip(found, expected, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, abs=1e-4)
        assert one.val_loss == pytest.approx(other.val_loss, abs=1e-4)
        # Rounding decides the prediction of an example whose best two logits are almost equal.
        assert one.train_accuracy == pytest.approx(other.train_accuracy, abs=1.5 / 96)
        assert one.val_accuracy == pytest.approx(other.val_accuracy, abs=1.5 / 21)
        assert one.learning_rate == other.learning_rate
    _check_states(module, expected_module)


def _check_states(found: nn.Module, expected: nn.Module) -> None:
    """Compares the state dicts, including the counts of batches."""
    one, other = state_dict_on_cpu(found), state_dict_on_cpu(expected)
    assert list(one) == list(other)
    assert one["1.num_batches_tracked"] > 0
    for name, tensor in other.items():
        assert one[name].dtype == tensor.dtype
        if tensor.is_floating_point():
            assert (one[name] - tensor).abs().max() < 1e-3 * (tensor.abs().max() + 0.1), name
        else:
            assert torch.equal(one[name], tensor), name


@pytest.mark.parametrize(
    "recipe",
    [GENTLE, replace(AUGMENTED, optimizer="adam", learning_rate=1e-3), replace(AUGMENTED, average_epochs=1.0)],
)
def test_module_reproduces_metrics_of_each_epoch(recipe: Recipe) -> None:
    data = noise(num_val=50)
    module = initialise(network(dropout=0.2), seed=0)
    for metrics in NativeTrainer(module, recipe, data, seed=0).epochs():
        assert not module.training
        loss, accuracy = evaluate(
            module, data.val_images, data.val_labels, mean=data.mean, std=data.std, device=CPU, batch_size=7
        )
        assert metrics.val_loss == pytest.approx(loss, rel=1e-5)
        assert metrics.val_accuracy == pytest.approx(accuracy, abs=1.5 / 50)
        assert metrics.seconds > 0


def test_training_continues_from_trained_module() -> None:
    module = initialise(network(), seed=0)
    modules = [module, initialise(network(), seed=0)]
    for each in modules:
        list(reference.train(each, replace(GENTLE, epochs=1), noise(), seed=0, device=CPU))
    list(NativeTrainer(modules[0], replace(GENTLE, epochs=2), noise(), seed=1).epochs())
    list(reference.train(modules[1], replace(GENTLE, epochs=2), noise(), seed=1, device=CPU))
    _check_states(*modules)


@pytest.fixture(scope="module")
def augmented() -> tuple[list[EpochMetrics], nn.Module]:
    return native(AUGMENTED, seed=7, dropout=0.1)


def test_equal_seeds_give_bit_identical_results(augmented: tuple[list[EpochMetrics], nn.Module]) -> None:
    metrics, module = native(AUGMENTED, seed=7, dropout=0.1)
    assert metrics == augmented[0]
    assert _same_bits(module, augmented[1])


def test_different_seeds_give_different_results(augmented: tuple[list[EpochMetrics], nn.Module]) -> None:
    metrics, module = native(AUGMENTED, seed=8, dropout=0.1)
    assert metrics != augmented[0]
    assert not _same_bits(module, augmented[1])


def _same_bits(one: nn.Module, other: nn.Module) -> bool:
    state = other.state_dict()
    return all(torch.equal(tensor, state[name]) for name, tensor in one.state_dict().items())


def test_dropout_depends_on_seed_and_changes_every_epoch() -> None:
    # Copies of one image and almost no learning: neither order nor weights can change the loss.
    data = noise(num_train=64)
    data = replace(data, train_images=data.train_images[:1].expand(64, -1, -1, -1), train_labels=torch.full((64,), 3))
    recipe = Recipe(epochs=2, batch_size=32, learning_rate=1e-20, schedule="constant")
    losses = [m.train_loss for seed in (1, 2) for m in native(recipe, seed=seed, data=data, dropout=0.3)[0]]
    assert len({round(loss, 5) for loss in losses}) == 4
    without = [m.train_loss for seed in (1, 2) for m in native(recipe, seed=seed, data=data)[0]]
    assert without == pytest.approx([without[0]] * 4, abs=1e-6)


@pytest.mark.parametrize("chunk", [64, 16])
def test_chunk_size_does_not_change_results(
    chunk: int, augmented: tuple[list[EpochMetrics], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "CHUNK", chunk)  # two batches, then one; or one at a time, with the val split in two
    metrics, module = native(AUGMENTED, seed=7, dropout=0.1)
    assert metrics == augmented[0]
    assert _same_bits(module, augmented[1])


@pytest.mark.parametrize(("lanes", "registers"), [(8, 16), (4, 16), (1, 32)])
def test_narrower_vectors_give_equal_results_within_rounding(
    lanes: int, registers: int, gentle: tuple[list[EpochMetrics], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert HOST is not None
    narrow = replace(HOST, lanes=lanes, registers=registers)
    monkeypatch.setattr(Machine, "host", lambda: narrow)
    found, module = native(GENTLE)
    for one, other in zip(found, gentle[0], strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, abs=1e-5)
        assert one.val_loss == pytest.approx(other.val_loss, abs=1e-5)
    _check_states(module, gentle[1])


@pytest.fixture(scope="module")
def gentle() -> tuple[list[EpochMetrics], nn.Module]:
    return native(GENTLE)


def test_training_learns_digits(digits: TrainingData) -> None:
    relu = Activation()
    layers = (
        *(Conv(out_channels=8, kernel_size=3), BatchNorm(), relu, Dropout(rate=0.05), MaxPool(kernel_size=2)),
        *(Conv(out_channels=12, kernel_size=3), BatchNorm(), relu, MaxPool(kernel_size=2), *HEAD),
    )
    module = initialise(Architecture(input_shape=(1, 16, 16), layers=layers), seed=0)
    recipe = Recipe(epochs=6, batch_size=32, learning_rate=0.1, rotation=5.0, translation=0.02)
    metrics = list(NativeTrainer(module, recipe, digits, seed=0).epochs())
    assert metrics[0].val_accuracy < metrics[-1].val_accuracy
    assert metrics[-1].val_accuracy > 0.9


@pytest.fixture(scope="module")
def digits() -> TrainingData:
    return scans(16)


@pytest.mark.parametrize("rate", [1e8, 1e38])
def test_divergence_error_names_epoch(rate: float) -> None:
    recipe = Recipe(epochs=3, learning_rate=rate, schedule="constant", batch_size=10, weight_decay=0.1)
    with pytest.raises(TrainingDiverged, match=r"^diverged: loss (nan|inf) in epoch 1$") as caught:
        native(recipe)
    assert caught.value.epoch == 1
    assert not math.isfinite(caught.value.loss)


def test_divergence_at_last_step_raises() -> None:
    # The loss of the single step is still finite.
    recipe = Recipe(epochs=1, learning_rate=1e38, schedule="constant", batch_size=96)
    with pytest.raises(TrainingDiverged, match=r" in epoch 1$"):
        native(recipe)


def test_interleaved_trainings_and_caller_have_separate_random_states(
    augmented: tuple[list[EpochMetrics], nn.Module],
) -> None:
    torch.manual_seed(123)
    expected = torch.rand(4)
    torch.manual_seed(123)
    trainings = [
        NativeTrainer(initialise(network(dropout=0.1), seed=0), AUGMENTED, noise(), seed=seed).epochs()
        for seed in (7, 8)
    ]
    drawn, met = [torch.rand(1)], []
    for one, _ in zip(*trainings, strict=True):
        drawn.append(torch.rand(1))
        met.append(replace(one, seconds=0.0))
    assert torch.equal(torch.cat(drawn), expected)
    assert met == augmented[0]


CONV = Conv(out_channels=4, kernel_size=3)


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ((Conv(out_channels=4, kernel_size=3, stride=2),), "stride=(2, 2)"),
        ((Conv(out_channels=4, kernel_size=3, dilation=2),), "dilation=(2, 2)"),
        ((Conv(out_channels=4, kernel_size=2, padding="same"),), "padding=same"),
        ((Conv(out_channels=4, kernel_size=3, padding=3),), "padding=(3, 3)"),
        (
            (
                CONV,
                SqueezeExcite(),
            ),
            "SqueezeExcite",
        ),
        ((CONV, MaxPool(kernel_size=3, stride=2)), "MaxPool2d(kernel_size=3, stride=2"),
        ((CONV, AvgPool(kernel_size=2, stride=3)), "AvgPool2d(kernel_size=2, stride=3"),
        ((CONV, MaxPool(kernel_size=2, padding=1)), "padding=1"),
        ((BatchNorm(), CONV), "does not begin with a convolution"),
        ((MaxPool(kernel_size=2), CONV), "does not begin with a convolution"),
        ((GlobalAvgPool(),), "does not begin with a convolution"),
        ((Residual(layers=(BatchNorm(), Conv(out_channels=1, kernel_size=1))),), "does not begin with a convolution"),
        ((Residual(layers=(Conv(out_channels=1, kernel_size=3, padding=1),)), CONV), "a residual around the images"),
    ],
)
def test_unsupported_networks_raise(layers: tuple[Layer, ...], text: str) -> None:
    module = initialise(Architecture(input_shape=(1, 12, 12), layers=(*layers, *HEAD)), seed=0)
    with pytest.raises(UnsupportedError) as caught:
        NativeTrainer(module, GENTLE, noise(), seed=0)
    assert text in str(caught.value)


def test_unsupported_module_type_raises() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(400, 10))
    with pytest.raises(UnsupportedError, match="Tanh"):
        NativeTrainer(module, GENTLE, noise(), seed=0)


def test_logits_with_spatial_dimensions_raise() -> None:
    with pytest.raises(UnsupportedError, match=r"logits of shape \(10, 10, 10\)"):
        NativeTrainer(nn.Conv2d(1, 10, 3), GENTLE, noise(), seed=0)


def test_fewer_outputs_than_classes_raises() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(400, 9))
    with pytest.raises(ValueError, match=r"^9 outputs are fewer than the classes$"):
        NativeTrainer(module, GENTLE, noise(), seed=0)


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(400, 10)),
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(401, 10)),
        nn.Sequential(nn.Conv2d(1, 4, 13), nn.Flatten(), nn.Linear(4, 10)),
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(400, 10)),
    ],
)
def test_mismatched_layer_sizes_raise(module: nn.Module) -> None:
    with pytest.raises(ValueError, match="cannot take a map of"):
        NativeTrainer(module, GENTLE, noise(), seed=0)


def test_unsupported_processor_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "host", lambda: None)
    with pytest.raises(UnsupportedError, match=r"^this processor$"):
        native(GENTLE)
