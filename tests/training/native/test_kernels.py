"""Kernels of the native engine: loss and gradients match torch in double precision within rounding."""

from dataclasses import replace

import pytest
import torch
from support.draws import architecture_or_none, draws
from support.native import EVERYTHING, HEAD, HOST, conv, examples, machine, program_of, take_steps
from torch import Tensor, nn
from torch.nn import functional

from nas.architecture.composites import DepthwiseSeparable, Repeat, Residual
from nas.architecture.layers import (
    ACTIVATIONS,
    Activation,
    AvgPool,
    BatchNorm,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Layer,
    Linear,
    MaxPool,
)
from nas.recipe import Recipe
from nas.space.search_space import SearchSpace
from nas.training.native.emit import Machine

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(HOST is None, reason="no machine code is written for this processor"),
]

# Vectors may be wider or narrower than those of the processor.
MACHINES = [(lanes, registers) for registers in (16, 32) for lanes in (16, 8, 4, 1)]


def check_step(
    *layers: Layer,
    shape: tuple[int, int, int] = (2, 9, 8),
    on: Machine | None = None,
    count: int = 16,
    recipe: Recipe | None = None,
    tolerance: float = 3e-5,
    change: object = None,
) -> None:
    """Compares loss, number of correct predictions and all gradients of a step with torch in double precision.

    The tolerance includes the largest gradient, because a bias before a norm has gradient 0 except for rounding.
    """
    recipe = recipe or Recipe(momentum=0.0)
    program, module = program_of(layers, shape, count=count, on=on, recipe=recipe)
    images, labels = examples(shape, count=count)
    if change is not None:
        images = change(module, images)
        program.load(module)
    results = take_steps(program, images, labels)
    module.double().train()
    logits = module(images[0].double())
    loss = functional.cross_entropy(logits, labels[0], label_smoothing=recipe.label_smoothing)
    loss.backward()
    assert results[0, 0].item() / count == pytest.approx(loss.item(), rel=1e-5)
    assert results[0, 1].item() == (logits.argmax(1) == labels[0]).sum().item()
    largest = max(p.grad.abs().max().item() for p in module.parameters())
    assert program.gradients.keys() == dict(module.named_parameters()).keys()
    for name, parameter in module.named_parameters():
        wrong = (program.gradients[name] - parameter.grad).abs().max().item()
        allowed = tolerance * (parameter.grad.abs().max().item() + 0.1 * largest)
        assert wrong <= allowed, f"{name}: {wrong:.1e} off, at most {allowed:.1e}"


@pytest.mark.parametrize("kernel_size", range(1, 8))
def test_convolutions_match_torch_for_kernel_sizes_and_paddings(kernel_size: int) -> None:
    # With kernel size 7 the maps are 9x8, 3x2, 9x8 and 9x8.
    paddings = (0, kernel_size - 1, kernel_size // 2)
    registers = 16 if kernel_size % 2 else 32
    layers = [conv(out, kernel_size, padding) for out, padding in zip((5, 7, 3), paddings, strict=True)]
    check_step(*layers, *HEAD, on=machine(16, registers))


@pytest.mark.parametrize(
    ("in_channels", "between", "out_channels", "registers"),
    [(1, 1, 2, 16), (3, 13, 17, 16), (3, 13, 17, 32), (4, 23, 11, 32), (5, 32, 8, 16)],
)
def test_convolutions_match_torch_for_any_channel_counts(
    in_channels: int, between: int, out_channels: int, registers: int
) -> None:
    on = machine(16, registers)
    check_step(conv(between), conv(out_channels), *HEAD, shape=(in_channels, 6, 7), on=on)


@pytest.mark.parametrize("registers", [16, 32])
def test_grouped_convolutions_match_torch(registers: int) -> None:
    layers = (
        conv(6, groups=3),
        conv(6, groups=6),
        conv(12, 5, 1, groups=6),
        conv(9, 1, groups=3, bias=False),
        conv(6, 2, 1, groups=3),
        DepthwiseSeparable(out_channels=7, kernel_size=4, padding=2),
    )
    check_step(*layers, *HEAD, shape=(3, 8, 7), on=machine(16, registers))


@pytest.mark.parametrize("registers", [16, 32])
def test_convolution_with_more_row_weights_than_registers_matches_torch(registers: int) -> None:
    side = 14 if registers == 16 else 29
    shape = (1, side, side)
    check_step(conv(2), conv(5, side, 0), Flatten(), shape=shape, on=machine(16, registers), tolerance=1e-4)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 7), (3, 7, 1), (1, 2, 13), (2, 28, 3)])
def test_feature_maps_of_any_shape_match_torch(shape: tuple[int, int, int]) -> None:
    check_step(conv(4), BatchNorm(), Activation(function="silu"), conv(3), *HEAD, shape=shape)


@pytest.mark.parametrize(
    "head",
    [
        (GlobalAvgPool(), conv(5, 1), Flatten()),
        (GlobalAvgPool(), Flatten(), Linear(out_features=5, bias=False)),
        (conv(5, 1), GlobalAvgPool(), Flatten()),
        (MaxPool(kernel_size=2), conv(5, 4, 0), Flatten()),
        (Flatten(), Linear(out_features=5)),
        (BatchNorm(), Flatten(), Linear(out_features=5)),
        (MaxPool(kernel_size=2), Flatten(), Linear(out_features=5)),
        (conv(3, 3, 2), Flatten(), BatchNorm(), Activation(), Linear(out_features=6), Activation(), *HEAD[2:]),
    ],
)
def test_heads_match_torch(head: tuple[Layer, ...]) -> None:
    check_step(conv(6), BatchNorm(), Activation(), *head)


@pytest.mark.parametrize("function", ACTIVATIONS)
def test_activations_before_and_after_batch_norm_match_torch(function: str) -> None:
    activation = Activation(function=function)
    check_step(conv(5), BatchNorm(), activation, conv(4), activation, BatchNorm(), conv(3), activation, *HEAD)


def test_consecutive_norms_and_activations_match_torch() -> None:
    silu, gelu = Activation(function="silu"), Activation(function="gelu")
    check_step(conv(5), gelu, BatchNorm(), silu, gelu, BatchNorm(), BatchNorm(), conv(3), silu, silu, *HEAD)


@pytest.mark.parametrize("pool", [MaxPool(kernel_size=2), MaxPool(kernel_size=3), AvgPool(kernel_size=2)], ids=repr)
@pytest.mark.parametrize("sides", [(9, 11), (11, 10), (12, 12)])
def test_pools_with_and_without_remainder_match_torch(pool: Layer, sides: tuple[int, int]) -> None:
    leaky, silu = Activation(function="leaky_relu"), Activation(function="silu")
    block = (conv(5), BatchNorm(), leaky, pool, conv(4), silu, BatchNorm(), pool)
    check_step(*block, conv(3), *HEAD, shape=(2, *sides))


@pytest.mark.parametrize(
    "pool", [MaxPool(kernel_size=1), MaxPool(kernel_size=2), AvgPool(kernel_size=3), AvgPool(kernel_size=8)], ids=repr
)
def test_pools_directly_after_convolutions_match_torch(pool: Layer) -> None:
    check_step(conv(5), pool, conv(4), *HEAD)


@pytest.mark.parametrize("norm", [(), (BatchNorm(),)])
@pytest.mark.parametrize("size", [2, 3])
def test_max_pool_gradients_of_equal_values_match_torch(norm: tuple[Layer, ...], size: int) -> None:
    def quantise(module: nn.Module, images: Tensor) -> Tensor:
        with torch.no_grad():
            weight, bias = module[0].weight, module[0].bias
            weight.copy_((weight * 4).round() / 2)
            bias.copy_((bias * 4).round() / 2)
        images = images.round()
        values = module[0](images[0]).relu()
        windows = functional.unfold(values.flatten(0, 1)[:, None], size, stride=size)
        assert (windows.sort(1).values[:, -1] == windows.sort(1).values[:, -2]).float().mean() > 0.2
        return images

    check_step(conv(5), *norm, Activation(), MaxPool(kernel_size=size), conv(4), *HEAD, change=quantise)


@pytest.mark.parametrize("projection", [False, True])
def test_residuals_match_torch(projection: bool) -> None:
    block = (conv(5), BatchNorm(), Activation())
    inner = Residual(layers=(BatchNorm(), Activation(function="silu"), conv(5)), projection=projection)
    outer = Residual(layers=(conv(5), inner, *block), projection=projection)
    check_step(conv(5), BatchNorm(), Activation(), outer, conv(4), *HEAD)
    check_step(conv(5), outer, BatchNorm(), *HEAD)
    # Two layers read the activation, so the norm must not overwrite it.
    check_step(conv(5), Activation(function="silu"), inner, *HEAD)


def test_residual_of_images_with_projection_matches_torch() -> None:
    first = Residual(layers=(conv(6), BatchNorm(), Activation(), AvgPool(kernel_size=1), conv(3, 5)), projection=True)
    check_step(first, MaxPool(kernel_size=2), Residual(layers=(MaxPool(kernel_size=1),)), conv(4), *HEAD)


@pytest.mark.parametrize("times", [1, 3])
def test_shared_layers_sum_their_gradients(times: int) -> None:
    with_norm = (conv(5), BatchNorm(), Activation(function="silu"))
    shared = Repeat(layers=with_norm, times=times, shared=True)
    check_step(conv(5), Activation(), shared, *HEAD)
    bare = Repeat(layers=(conv(5), Activation()), times=times, shared=True)
    check_step(conv(5), BatchNorm(), bare, BatchNorm(), Residual(layers=(bare,)), *HEAD)


@pytest.mark.parametrize("smoothing", [0.1, 0.7])
def test_label_smoothing_matches_torch(smoothing: float) -> None:
    check_step(conv(5), *HEAD, recipe=Recipe(momentum=0.0, label_smoothing=smoothing))


def test_large_logits_match_torch() -> None:
    def enlarge(module: nn.Module, images: Tensor) -> Tensor:
        with torch.no_grad():
            module[-1].weight *= 300
        return images

    check_step(conv(5), *HEAD, change=enlarge, tolerance=2e-4)


def test_first_of_equal_logits_is_predicted() -> None:
    program, module = program_of((conv(3), *HEAD), (1, 4, 4))
    with torch.no_grad():
        module[-1].weight.zero_()
        module[-1].bias.copy_(torch.tensor([-1.0, 2.0, 0.0, 2.0, 2.0]))
    program.load(module)
    images, labels = examples((1, 4, 4))
    assert take_steps(program, images, labels)[0, 1] == (labels == 1).sum() > 0


def test_batch_norm_of_values_far_from_zero_matches_torch() -> None:
    """A sum of squares in single precision would lose the variance."""

    def shift(module: nn.Module, images: Tensor) -> Tensor:
        with torch.no_grad():
            module[0].bias += 1000
        return images

    layers = (conv(5, 3, 0), BatchNorm(), Activation(function="silu"), conv(3), *HEAD)
    check_step(*layers, change=shift, tolerance=2e-3)


@pytest.mark.parametrize(("lanes", "registers"), MACHINES)
def test_every_vector_width_matches_torch(lanes: int, registers: int) -> None:
    check_step(*EVERYTHING, shape=(2, 12, 11), on=machine(lanes, registers))


@pytest.mark.parametrize("count", [3, 10, 28])
def test_any_batch_size_matches_torch(count: int) -> None:
    check_step(*EVERYTHING, shape=(2, 12, 11), count=count)


@pytest.mark.parametrize("index", range(5))
def test_candidates_of_default_space_match_torch(index: int) -> None:
    space = SearchSpace.load("mnist").bind(input_shape=(1, 16, 16), num_classes=5, epochs=1)
    found = [architecture_or_none(space, values) for values in draws(space, 60)]
    architecture = [a for a in found if a is not None][index]
    on = machine(*MACHINES[index])
    # Looser: in deep networks rounding can flip a relu or the maximum of a pooling window.
    check_step(*map(without_dropout, architecture.layers), shape=(1, 16, 16), on=on, tolerance=2e-2)


def without_dropout(layer: Layer) -> Layer:
    if isinstance(layer, Dropout):
        return replace(layer, rate=0.0)
    if isinstance(layer, Residual | Repeat):
        return replace(layer, layers=tuple(map(without_dropout, layer.layers)))
    return layer
