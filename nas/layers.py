"""The layers that an architecture consists of, with the field names of torch.nn.

from nas import Architecture, cost_of
from nas.layers import Activation, Conv, Flatten, GlobalAvgPool

network = Architecture(
    input_shape=(1, 28, 28),
    layers=(Conv(out_channels=10, kernel_size=3), Activation(), GlobalAvgPool(), Flatten()),
)
print(cost_of(network).params)
"""

from nas.architecture.composites import DepthwiseSeparable, Repeat, Residual
from nas.architecture.layers import (
    Activation,
    AvgPool,
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Layer,
    Linear,
    MaxPool,
    Measure,
    SqueezeExcite,
)

__all__ = [
    "Activation",
    "AvgPool",
    "BatchNorm",
    "Conv",
    "DepthwiseSeparable",
    "Dropout",
    "Flatten",
    "GlobalAvgPool",
    "Layer",
    "Linear",
    "MaxPool",
    "Measure",
    "Repeat",
    "Residual",
    "SqueezeExcite",
]
