"""Elementary functions, activations, hash and dropout of the native engine."""

import ctypes
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from llvmlite import ir
from support.native import HEAD, HOST, conv, examples, program_of, take_steps
from torch import Tensor, nn
from torch.nn import functional

from nas.architecture.layers import Activation, BatchNorm, Dropout, Flatten, Linear, MaxPool
from nas.training.native import functions
from nas.training.native.emit import I32, I64, POINTER, Emitter, MachineCode
from nas.training.native.pointwise import hash32

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(HOST is None, reason="no machine code is written for this processor"),
]

INF, NAN = float("inf"), float("nan")

MODULES = {
    "relu": nn.ReLU(),
    "leaky_relu": nn.LeakyReLU(),
    "silu": nn.SiLU(),
    "hardswish": nn.Hardswish(),
    "gelu": nn.GELU(),
}


def test_exp_is_within_two_ulps(mapped: "Mapped") -> None:
    x = np.linspace(-87, 88, 400_000, dtype=np.float32)
    assert _ulps(mapped("exp", x), np.exp(x.astype(np.float64))).max() <= 2
    assert mapped("exp", [0.0, -0.0]).tolist() == [1, 1]


def test_exp_outside_its_range_is_clamped(mapped: "Mapped") -> None:
    lowest, highest = mapped("exp", [-87, 88])
    assert mapped("exp", [-88, -1e30, -INF]).tolist() == [lowest] * 3
    assert mapped("exp", [88.1, 1e30, INF]).tolist() == [highest] * 3
    assert lowest < 2e-38
    assert 1e38 < highest < INF


def test_log_is_within_three_ulps(mapped: "Mapped") -> None:
    everywhere = np.exp(np.linspace(-87, 88, 400_000)).astype(np.float32)
    around_one = np.linspace(0.5, 2, 400_000, dtype=np.float32)
    for x in (everywhere, around_one, np.float32([1.1754944e-38, 3.4e38])):
        assert _ulps(mapped("log", x), np.log(x.astype(np.float64))).max() <= 3
    assert mapped("log", [1.0]) == 0


def test_sigmoid_is_within_four_ulps_and_saturates(mapped: "Mapped") -> None:
    x = np.linspace(-80, 80, 200_001, dtype=np.float32)
    wide = x.astype(np.float64)
    assert _ulps(mapped("sigmoid", x), 1 / (1 + np.exp(-wide))).max() <= 4
    assert mapped("sigmoid", [0, 200, INF]).tolist() == [0.5, 1, 1]
    assert (mapped("sigmoid", [-200, -INF]) < 1e-38).all()


def test_erf_is_within_error_bound_and_saturates(mapped: "Mapped") -> None:
    x = np.linspace(-6, 6, 200_001, dtype=np.float32)
    exact = torch.erf(torch.from_numpy(x).double()).numpy()
    assert np.abs(mapped("erf", x) - exact).max() <= 5e-7
    assert mapped("erf", [-INF, -20, 20, INF]).tolist() == [-1, -1, 1, 1]


@pytest.mark.parametrize("name", ["exp", "log", "sigmoid", "erf", *MODULES])
def test_functions_propagate_nan(name: str, mapped: "Mapped") -> None:
    found = mapped(name, [NAN, 1, -NAN, 2])
    assert np.isnan(found).tolist() == [True, False, True, False]


@pytest.mark.parametrize("name", MODULES)
def test_activations_and_slopes_match_torch(name: str, mapped: "Mapped") -> None:
    x = torch.cat([torch.linspace(-12, 12, 100_003), torch.linspace(-90, 90, 1001), torch.zeros(1)])
    wide = x.double().requires_grad_()
    value = MODULES[name](wide)
    value.sum().backward()
    scale = 1 + x.abs().double()
    assert ((torch.from_numpy(mapped(name, x)) - value.detach()).abs() / scale).max() < 3e-7
    # hardswish has no slope at its kinks; versions of torch differ there.
    smooth = (x.abs() != 3) | (name != "hardswish")
    assert ((torch.from_numpy(mapped(f"{name} slope", x)) - wide.grad).abs() / scale)[smooth].max() < 1e-6


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "hardswish"])
def test_activations_of_infinities_match_torch(name: str, mapped: "Mapped") -> None:
    infinities = [INF, -INF]
    np.testing.assert_array_equal(mapped(name, infinities), MODULES[name](torch.tensor(infinities)).numpy())


def test_hash_matches_lowbias32_and_has_no_collisions(mapped: "Mapped") -> None:
    numbers = np.random.default_rng(0).integers(0, 2**32, 4096, dtype=np.uint32)
    for key in (0, 1, -1, 0x7FEB352D, -(2**31)):
        assert (mapped.hash(numbers, key) == _hash32(numbers, key)).all()
    assert len(set(_hash32(np.arange(100_000, dtype=np.uint32), 5).tolist())) == 100_000


def test_hash_bits_are_independent_of_neighbours_and_keys() -> None:
    numbers = np.arange(2**16, dtype=np.uint32)
    base = _hash32(numbers, 12345)
    for other in (_hash32(numbers + 1, 12345), _hash32(numbers + 16, 12345), _hash32(numbers, 12346)):
        flipped = np.unpackbits((base ^ other).view(np.uint8)).reshape(len(numbers), 32).mean(0)
        assert np.abs(flipped - 0.5).max() < 0.02  # ten standard deviations


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.9])
def test_dropout_keeps_and_scales_expected_share_of_values(rate: float) -> None:
    masks = _masks(Dropout(rate=rate), (8, 10, 10), (0x1234567, -99))
    kept = masks > 0.5
    assert torch.allclose(masks, kept / (1 - rate), atol=1e-4)
    assert kept.float().mean().item() == pytest.approx(1 - rate, abs=5 * (rate * (1 - rate) / kept.numel()) ** 0.5)
    # Neighbours along every axis (keys, examples, channels, rows, columns) are kept independently.
    for axis in range(masks.ndim):
        both = kept.narrow(axis, 1, kept.shape[axis] - 1) & kept.narrow(axis, 0, kept.shape[axis] - 1)
        assert both.float().mean().item() == pytest.approx((1 - rate) ** 2, abs=0.02)


def test_channel_dropout_drops_whole_channels() -> None:
    masks = _masks(Dropout(rate=0.4, per="channel"), (64, 3, 5), (7, 8))
    kept = masks > 0.5
    assert torch.allclose(masks, kept / 0.6, atol=1e-4)
    assert (kept == kept[..., :1, :1]).all()
    assert kept.float().mean().item() == pytest.approx(0.6, abs=0.06)
    assert 0 < (kept[0] == kept[1])[..., 0, 0].float().mean() < 0.7


def test_dropout_of_rate_zero_keeps_everything() -> None:
    assert (_masks(Dropout(rate=0), (3, 4, 4), (5,)) - 1).abs().max() < 1e-4


def test_dropout_of_rate_close_to_one_keeps_nothing() -> None:
    assert _masks(Dropout(rate=1 - 1e-11), (3, 4, 4), (5,)).abs().max() == 0


def test_equal_dropout_keys_give_equal_losses_and_others_differ() -> None:
    layers = (conv(6), Dropout(rate=0.5), *HEAD)
    program, _ = program_of(layers, (1, 6, 6))
    images, labels = examples((1, 6, 6))
    images, labels = images.expand(4, *images.shape[1:]), labels.expand(4, -1)
    losses = take_steps(program, images, labels, keys=torch.tensor([[1], [2], [1], [3]], dtype=torch.int32))[:, 0]
    assert losses[0] == losses[2]
    assert len(set(losses.tolist())) == 3


@pytest.mark.parametrize("lanes", [16, 4])
@pytest.mark.parametrize("per", ["element", "channel"])
def test_forward_and_backward_pass_use_same_dropout_mask(per: str, lanes: int) -> None:
    """Loss and gradients match torch with the masks that the hash gives."""
    assert HOST is not None
    drop, silu = Dropout(rate=0.3, per=per), Activation(function="silu")
    layers = (
        *(conv(5), silu, drop, BatchNorm(), drop, MaxPool(kernel_size=2)),
        *(conv(4), BatchNorm(), silu, drop),
        *(Flatten(), Linear(out_features=6), Dropout(rate=0.5), BatchNorm(), Linear(out_features=5)),
    )
    shape, count = (2, 7, 8), 32
    program, module = program_of(layers, shape, count=count, on=replace(HOST, lanes=lanes))
    images, labels = examples(shape, count=count)
    keys = torch.tensor([[11, -22, 2**31 - 1, 44]], dtype=torch.int32)
    assert program.num_keys == 4
    results = take_steps(program, images, labels, keys=keys)

    module.double().train()
    value, remaining = images[0].double(), keys[0].tolist()
    for child in module:
        if isinstance(child, nn.Dropout | nn.Dropout2d):
            value = value * _mask(tuple(value.shape), remaining.pop(0), lanes, child.p, isinstance(child, nn.Dropout2d))
        else:
            value = child(value)
    loss = functional.cross_entropy(value, labels[0])
    loss.backward()
    assert results[0, 0].item() / count == pytest.approx(loss.item(), rel=1e-5)
    for name, parameter in module.named_parameters():
        wrong = (program.gradients[name] - parameter.grad).abs().max()
        assert wrong <= 5e-5 * parameter.grad.abs().max() + 1e-6, name


class Mapped:
    """Applies the functions of `functions` to arrays, in machine code."""

    def __init__(self) -> None:
        assert HOST is not None
        self.lanes = HOST.lanes
        named: dict[str, Callable[[Emitter, ir.Value], ir.Value]] = {
            name: getattr(functions, name) for name in ("exp", "log", "sigmoid", "erf")
        }
        for name, (function, slope) in functions.ACTIVATIONS.items():
            named |= {name: function, f"{name} slope": slope}
        module = ir.Module()
        for name, function in named.items():
            e = Emitter(module, HOST, name, [POINTER, POINTER, I64])
            source, target, count = e.args
            with e.loop(count, self.lanes) as i:
                e.store(function(e, e.load(source, i)), target, i)
            e.finish()
        e = Emitter(module, HOST, "hash", [POINTER, POINTER, I64, I32])
        source, target, count, key = e.args
        with e.loop(count, self.lanes) as i:
            integers = ir.VectorType(I32, self.lanes)
            numbers = e.builder.bitcast(e.load(source, i), integers)
            e.store(e.builder.bitcast(hash32(e, numbers, e.splat(key)), e.vector), target, i)
        e.finish()
        self.compiled = MachineCode(module, HOST)

    def __call__(self, name: str, numbers: object) -> np.ndarray:
        padded, count = self._padded(torch.as_tensor(numbers, dtype=torch.float32))
        found = torch.empty_like(padded)
        run = self.compiled.function(name, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
        run(padded.data_ptr(), found.data_ptr(), len(padded))
        return found[:count].numpy()

    def hash(self, numbers: np.ndarray, key: int) -> np.ndarray:
        padded, count = self._padded(torch.from_numpy(numbers.view(np.int32)))
        found = torch.empty_like(padded)
        run = self.compiled.function("hash", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32)
        run(padded.data_ptr(), found.data_ptr(), len(padded), key)
        return found[:count].numpy().view(np.uint32)

    def _padded(self, numbers: Tensor) -> tuple[Tensor, int]:
        """An aligned copy, padded to a multiple of the lanes, and the length before padding."""
        return functional.pad(numbers, (0, -len(numbers) % self.lanes)).clone(), len(numbers)


@pytest.fixture(scope="module")
def mapped() -> Mapped:
    return Mapped()


def _ulps(found: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Errors in units in the last place of the exact results."""
    nearest = exact.astype(np.float32)
    return np.abs(found.astype(np.float64) - exact) / np.spacing(np.abs(nearest)).astype(np.float64)


def _hash32(numbers: np.ndarray, key: int) -> np.ndarray:
    """lowbias32 with the key added before each of its rounds, modulo 2^32."""
    x, k = numbers.astype(np.uint64), np.uint64(key % 2**32)
    low = np.uint64(2**32 - 1)
    x = (x + k) & low
    x = ((x ^ (x >> np.uint64(16))) * np.uint64(0x7FEB352D)) & low
    x = (x + k) & low
    x = ((x ^ (x >> np.uint64(15))) * np.uint64(0x846CA68B)) & low
    return (x ^ (x >> np.uint64(16))).astype(np.uint32)


def _mask(shape: tuple[int, ...], key: int, lanes: int, rate: float, per_channel: bool) -> Tensor:
    """Dropout mask, kept values scaled, for values of `shape`, (N, C, H, W) or (N, C)."""
    count, *sides = shape
    each = [sides[0], *(1 for _ in sides[1:])] if per_channel else sides
    # Elements are numbered in memory order: block, channel, row, column, lane.
    places = np.arange(count * int(np.prod(each)), dtype=np.uint32).reshape(count // lanes, *each, lanes)
    places = np.moveaxis(places, -1, 1).reshape(count, *each)
    kept = _hash32(places, key) <= round((1 - rate) * 2**32) - 1
    return torch.from_numpy(kept).double().expand(shape) / (1 - rate)


def _masks(dropout: Dropout, shape: tuple[int, int, int], keys: tuple[int, ...]) -> Tensor:
    """Dropout masks (keys, examples, *shape), computed from the weight gradients of a network.

    A convolution with bias 1 and weights 0 outputs ones. So the input of the linear layer is the mask, and the
    gradient of its weights contains the masks of the examples.
    """
    channels, height, width = shape
    count = HOST.lanes * 2
    layers = (conv(channels, 1), dropout, Flatten(), Linear(out_features=count + 1))
    program, module = program_of(layers, (1, height, width), count=count)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        module[0].bias.fill_(1)
    program.load(module)
    images = torch.zeros(1, count, 1, height, width)
    labels = torch.arange(count)[None]
    found = []
    for key in keys:
        take_steps(program, images, labels, keys=torch.tensor([[key]], dtype=torch.int32))
        # All logits are equal, so the softmax adds the same term to the gradient of every output. The labels subtract
        # the mask of example i from the gradient of output i, and nothing from that of the last output.
        gradient = program.gradients["3.weight"] * count
        found.append((gradient[-1] - gradient[:-1]).view(count, *shape))
    return torch.stack(found)
