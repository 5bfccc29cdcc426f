"""Runs a quantised network in NumPy, with the same integers as the C code: the reference that C is verified against."""

import numpy as np
import torch

from nas.data.datasets import Split
from nas.exporters.c.float_program import convolve
from nas.exporters.c.int8_numbers import HIGH, LOW, WIDE
from nas.exporters.c.quantise import Int8Network, Int8Step
from nas.inference.program import Activation, Add, Convolution, Gate, Mean, Pool, Value, Widen

BATCH = 250
"""Images of which all values are kept in memory at the same time."""


def run_int8(network: Int8Network, pixels: np.ndarray) -> np.ndarray:
    """Returns the logits, int16 (N, classes), of images uint8 (N, channels, height, width)."""
    values: dict[int, np.ndarray] = {}

    def read(value: Value) -> np.ndarray:
        return values[value.index].reshape(len(pixels), *value.shape)

    for each in network.steps:
        step = each.step
        inputs = [read(value).astype(np.int64) for value in step.inputs]
        match step:
            case Convolution():
                out = _convolution(each, network, inputs[0] if inputs else pixels.astype(np.int64))
            case Activation() | Widen():
                assert each.table is not None
                out = each.table[inputs[0] - LOW]
            case Pool(kind="max"):
                out = _windows(step, inputs[0], LOW).max((-2, -1)).astype(np.int8)
            case Pool():
                out = _rescaled(each, network, _windows(step, inputs[0] - each.zeros[0], 0).sum((-2, -1)))
            case Mean():
                sums = (inputs[0] - each.zeros[0]).sum((2, 3), keepdims=True)
                out = _rescaled(each, network, sums)
            case Gate():
                gates = (inputs[1] - each.zeros[1]).reshape(*inputs[1].shape[:2], 1, 1)
                out = _rescaled(each, network, (inputs[0] - each.zeros[0]) * gates)
            case Add():
                out = _sum(each, network, inputs)
            case _:
                raise AssertionError(f"no function for {step}")
        values[step.output.index] = out.reshape(len(pixels), *step.output.shape)
    return values[network.program.output.index].reshape(len(pixels), -1).astype(np.int16)


def accuracy_of_int8(network: Int8Network, split: Split) -> float:
    """Returns the share of images whose largest logit is that of their label, 0 to 1."""
    logits = [run_int8(network, part.numpy()) for part in torch.split(split.images, BATCH)]
    return float((np.concatenate(logits).argmax(1) == split.labels.numpy()).mean())


def _convolution(each: Int8Step, network: Int8Network, maps: np.ndarray) -> np.ndarray:
    step = each.step
    assert isinstance(step, Convolution)
    assert each.bias is not None
    maps = maps.reshape(len(maps), *step.in_shape) - np.array(each.zeros)[:, None, None]
    # Sums stay below 2^53, so float64 holds them exactly.
    weight = torch.from_numpy(network.weights[step.parameters]).double()
    sums = convolve(step, torch.from_numpy(maps).double(), weight).numpy().astype(np.int64)
    return _rescaled(each, network, sums + each.bias[:, None, None])


def _windows(step: Pool, maps: np.ndarray, padding: int) -> np.ndarray:
    """Returns the windows of a pool, (N, channels, rows, columns, size, size), on maps padded with a number."""
    window, sides = step.window, [(step.window.padding, step.window.padding)] * 2
    padded = np.pad(maps, [(0, 0), (0, 0), *sides], constant_values=padding)
    every = np.lib.stride_tricks.sliding_window_view(padded, (window.size, window.size), (2, 3))
    strided: np.ndarray = every[:, :, :: window.stride, :: window.stride]
    return strided


def _rescaled(each: Int8Step, network: Int8Network, sums: np.ndarray) -> np.ndarray:
    """Returns int64 sums (N, channels, …) as the step's output."""
    assert each.rescaling is not None
    multiplier, shift = (x.reshape(-1, 1, 1) for x in each.rescaling.as_int64())
    return _stored(each, network, (sums * multiplier + (1 << (shift - 1))) >> shift)


def _sum(each: Int8Step, network: Int8Network, inputs: list[np.ndarray]) -> np.ndarray:
    assert each.rescaling is not None
    multiplier, shift = each.rescaling.as_int64()
    parts = [(x - zero) * factor for x, zero, factor in zip(inputs, each.zeros, multiplier, strict=True)]
    return _stored(each, network, (parts[0] + parts[1] + (1 << (shift[0] - 1))) >> shift[0])


def _stored(each: Int8Step, network: Int8Network, rescaled: np.ndarray) -> np.ndarray:
    """Adds the zero and clips to the range of the output."""
    is_logits = each.step.output.index == network.program.output.index
    low, high = (-WIDE, WIDE) if is_logits else (LOW, HIGH)
    if each.step.relu:
        low = max(low, each.zero)
    stored: np.ndarray = np.clip(rescaled + each.zero, low, high).astype(np.int16 if is_logits else np.int8)
    return stored
