"""Networks, weights and images for the tests of exported C."""

import os
import shutil
import subprocess

import pytest
import torch

from nas.architecture.architecture import Architecture
from nas.architecture.composites import DepthwiseSeparable, Repeat, Residual
from nas.architecture.layers import (
    ACTIVATIONS,
    Activation,
    AvgPool,
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool,
    SqueezeExcite,
)

COMPILER = shutil.which("cc")
STRICT = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wshadow", "-Wdouble-promotion")


def run(*command, folder, **options):
    """Returns what a command prints; it must succeed."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def sanitizers(folder):
    """Returns the options for the sanitizers of gcc and clang, which end a program at an error; skips without them."""
    options = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    (folder / "empty.c").write_text("int main(void) { return 0; }\n")
    try:
        run(COMPILER, *options, "empty.c", "-o", "empty", folder=folder)
    except AssertionError as error:
        pytest.skip(f"the compiler has no sanitizers: {error}")
    return options


def run_with_sanitizers(main, source, folder):
    """Returns what a program prints that is compiled with sanitizers.

    `main`: text of the program's main file. `source`: name of a network's C file in `folder`.
    """
    (folder / "main.c").write_text(main)
    run(COMPILER, *STRICT, "-O1", *sanitizers(folder), "main.c", source, "-o", "main", "-lm", folder=folder)
    return run(folder / "main", folder=folder, env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"})


def written(files, folder):
    """Writes the files into the folder and returns it."""
    for name, text in files.items():
        (folder / name).write_text(text, encoding="ascii")
    return folder


def random_weights(architecture, seed):
    """Weights whose batch norm parameters and statistics are far from their initial values."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    module = architecture.build()
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            for tensor in (layer.weight.data, layer.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
            for tensor in (layer.bias.data, layer.running_mean):
                tensor.normal_(generator=generator)
            layer.weight.data[::2] *= -1
    return module.state_dict()


def normalisation(channels):
    """Mean and standard deviation of each channel."""
    return {
        "mean": tuple(0.1 + 0.2 * i for i in range(channels)),
        "std": tuple(0.3 - 0.05 * i for i in range(channels)),
    }


def random_images(shape, number=8, seed=0):
    """Images uint8 (number, *shape); the first is black, the second white."""
    images = torch.randint(0, 256, (number, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    images[0], images[1] = 0, 255
    return images


def window_cases():
    """Convolutions and pools with all kinds of windows."""
    for kernel in (1, 2, 3, 4):
        for dilation in (1, 2, 3):
            yield Conv(out_channels=3, kernel_size=kernel, dilation=dilation, padding="same")
        yield Conv(
            out_channels=4, kernel_size=kernel, stride=2, padding=kernel + 1, groups=2
        )  # some windows contain only padding
        yield DepthwiseSeparable(out_channels=3, kernel_size=kernel, stride=3, padding=1)
        for stride in (1, 2, 3):
            yield MaxPool(kernel_size=kernel, stride=stride, padding=kernel // 2)
            yield AvgPool(kernel_size=kernel, stride=stride, padding=kernel // 2)


def every_kind():
    """One network that calls every kernel."""
    activations = tuple(Activation(function=function) for function in ACTIVATIONS)
    body = (Conv(out_channels=4, kernel_size=3, padding="same"), Activation(function="silu"))
    return Architecture(
        input_shape=(2, 12, 10),
        layers=(
            BatchNorm(),
            Conv(out_channels=4, kernel_size=2, padding="same", bias=False),
            BatchNorm(),
            *activations,
            BatchNorm(),
            Dropout(rate=0.5, per="channel"),
            Residual(layers=(BatchNorm(), Repeat(layers=body, times=2, shared=True))),
            MaxPool(kernel_size=3, stride=2, padding=1),
            SqueezeExcite(reduction=2),
            Residual(layers=(DepthwiseSeparable(out_channels=6, kernel_size=3, stride=2, padding=1),), projection=True),
            AvgPool(kernel_size=2, stride=1, padding=1),
            GlobalAvgPool(),
            Flatten(),
            Linear(out_features=9),
            Activation(),
            BatchNorm(),
            Linear(out_features=5, bias=False),
        ),
    )


def torch_logits(architecture, weights, images, mean, std):
    """Logits (N, classes) of images uint8 (N, channels, height, width), normalised as given."""
    module = architecture.build()
    module.load_state_dict(weights)
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (mean, std))
    with torch.inference_mode():
        return module.eval()((images / 255 - mean) / std).flatten(1)
