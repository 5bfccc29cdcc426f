"""Exported C compiles without warnings and agrees with torch."""

import ctypes
import re
import shutil
from dataclasses import dataclass
from random import Random

import numpy as np
import pytest
import torch
from support.architectures import draw_architecture
from support.c_networks import (
    COMPILER,
    STRICT,
    every_kind,
    normalisation,
    random_images,
    random_weights,
    run,
    run_with_sanitizers,
    torch_logits,
    window_cases,
    written,
)
from support.effort import seeds

from nas.architecture.architecture import Architecture
from nas.architecture.layers import (
    Flatten,
    Linear,
    num_elements,
)
from nas.data.datasets import load
from nas.exporters.c.codegen import c_files
from nas.exporters.c.kernels import KERNELS
from nas.inference.lowering import C_KINDS, lower
from nas.inference.memory_plan import plan_memory
from nas.recipe import Recipe
from nas.training.data import TrainingData
from nas.training.select import train

TOLERANCE = 1e-4

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="there is no C compiler called cc"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),
    pytest.mark.usefixtures("one_thread"),
]


@dataclass
class Compiled:
    """`network.c` as a shared object."""

    library: ctypes.CDLL
    num_classes: int

    @classmethod
    def of(cls, files, folder, level):
        run(
            COMPILER,
            *STRICT,
            level,
            "-fPIC",
            "-shared",
            "network.c",
            "-o",
            "network.so",
            "-lm",
            folder=written(files, folder),
        )
        return cls(ctypes.CDLL(str(folder / "network.so")), macros(files)["CLASSES"])

    def __call__(self, images):
        """Logits (N, classes) and classes (N,) of images uint8 (N, channels, height, width)."""
        logits = np.full((len(images), self.num_classes), np.nan, dtype=np.float32)
        floats = ctypes.POINTER(ctypes.c_float)
        found = [
            self.library.predict(image.numpy().tobytes(), row.ctypes.data_as(floats))
            for image, row in zip(images, logits, strict=True)
        ]
        return torch.from_numpy(logits), torch.tensor(found)

    def class_names(self):
        return list((ctypes.c_char_p * self.num_classes).in_dll(self.library, "network_classes"))


def macros(files):
    return {name: int(value) for name, value in re.findall(r"#define NETWORK_([A-Z_]+) (\d+)", files["network.h"])}


def files_of(architecture, weights, **given):
    options = {
        "classes": [f"class {i}" for i in range(num_elements(architecture.output_shape))],
        "facts": ["Untrained."],
        **normalisation(architecture.input_shape[0]),
        **given,
    }
    return c_files(architecture, weights, **options)


def check_agreement(network, architecture, weights, images, mean, std):
    """Checks logits and classes. Returns the largest difference, relative to the largest logit of an image above 1."""
    expected = torch_logits(architecture, weights, images, mean, std)
    logits, classes = network(images)
    tolerance = TOLERANCE * expected.abs().amax(1).clamp(min=1)
    difference = (logits - expected).abs().amax(1)
    assert (difference <= tolerance).all(), (difference / tolerance).max()
    assert torch.equal(classes, logits.argmax(1))
    if expected.shape[1] > 1:
        first, second = expected.topk(2).values.T
        decided = first - second > tolerance
        assert torch.equal(classes[decided], expected.argmax(1)[decided])
    return float((difference / tolerance * TOLERANCE).max())


PUBLISHED = ["mnist-3928", "mnist-6136", "mnist-7825", "mnist-18962", "mnist-26756", "mnist-88584"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_agree_with_torch(name, tmp_path):
    architecture = Architecture.load(name)
    weights = random_weights(architecture, seed=1)
    network = Compiled.of(files_of(architecture, weights), tmp_path, "-O2")
    images = random_images(architecture.input_shape)
    check_agreement(network, architecture, weights, images, **normalisation(1))


@pytest.mark.parametrize("seed", seeds(90))
def test_random_networks_agree_with_torch(seed, tmp_path):
    architecture = draw_architecture(Random(seed), kinds=C_KINDS)
    weights = random_weights(architecture, seed)
    network = Compiled.of(files_of(architecture, weights), tmp_path, "-O0")
    images = random_images(architecture.input_shape, seed=seed)
    check_agreement(network, architecture, weights, images, **normalisation(architecture.input_shape[0]))


def test_random_networks_cover_every_supported_kind():
    def kinds(layers):
        return {layer.kind for layer in layers}.union(*(kinds(layer.children()) for layer in layers))

    drawn = [draw_architecture(Random(seed), kinds=C_KINDS) for seed in range(90)]
    assert set().union(*(kinds(architecture.layers) for architecture in drawn)) == set(C_KINDS)


@pytest.mark.parametrize("layer", list(window_cases()), ids=str)
def test_convolution_and_pooling_windows_agree_with_torch(layer, tmp_path):
    architecture = Architecture(input_shape=(4, 9, 7), layers=(layer,))
    weights = random_weights(architecture, seed=2)
    network = Compiled.of(files_of(architecture, weights), tmp_path, "-O0")
    check_agreement(network, architecture, weights, random_images((4, 9, 7)), **normalisation(4))


@pytest.mark.parametrize("level", ["-O0", "-O2", "-O3"])
def test_network_with_every_kernel_compiles_and_agrees_with_torch(level, tmp_path):
    architecture = every_kind()
    weights = random_weights(architecture, seed=3)
    files = files_of(architecture, weights)
    network = Compiled.of(files, tmp_path, level)
    images = random_images(architecture.input_shape, 64)
    assert check_agreement(network, architecture, weights, images, **normalisation(2)) < TOLERANCE / 10
    assert {name for name in KERNELS if re.search(rf"\b{name}\b", files["network.c"])} == set(KERNELS)


def test_exported_c_passes_sanitizers(tmp_path):
    """The sanitizers of gcc and clang find no access out of bounds and no undefined behaviour."""
    architecture = every_kind()
    files = files_of(architecture, random_weights(architecture, seed=3))
    written(files, tmp_path)
    assert run_with_sanitizers(MAIN, "network.c", tmp_path).startswith("class ")


MAIN = """
#include "network.h"
#include <stdio.h>
int main(void)
{
    static unsigned char pixels[NETWORK_CHANNELS * NETWORK_HEIGHT * NETWORK_WIDTH];
    float logits[NETWORK_CLASSES];
    puts(network_classes[predict(pixels, logits)]);
    return 0;
}
"""


def test_cpp_program_calls_exported_c(tmp_path):
    if shutil.which("c++") is None:
        pytest.skip("there is no C++ compiler called c++")
    architecture = Architecture.load("mnist-3928")
    written(files_of(architecture, random_weights(architecture, seed=0)), tmp_path)
    (tmp_path / "main.cpp").write_text(MAIN)
    run(COMPILER, *STRICT, "-c", "network.c", folder=tmp_path)
    run("c++", "-Wall", "-Wextra", "-Werror", "-pedantic", "main.cpp", "network.o", "-o", "main", folder=tmp_path)
    assert run(tmp_path / "main", folder=tmp_path).startswith("class ")


@pytest.mark.slow
def test_trained_network_classifies_digits_like_torch(tmp_path):
    dataset = load("digits")
    architecture = Architecture.load("mnist-7825")
    torch.manual_seed(0)
    module = architecture.build()
    recipe = Recipe(epochs=8, batch_size=64)
    *_, last = train(module, recipe, TrainingData.from_dataset(dataset), seed=0, device=torch.device("cpu"))
    assert last.val_accuracy > 0.9
    weights = module.state_dict()
    normalised = {"mean": dataset.mean, "std": dataset.std}
    network = Compiled.of(files_of(architecture, weights, classes=dataset.classes, **normalised), tmp_path, "-O2")
    images = torch.cat([dataset.train.images, dataset.val.images])
    assert len(images) > 1000
    expected = torch_logits(architecture, weights, images, **normalised)
    logits, classes = network(images)
    assert (logits - expected).abs().max() < TOLERANCE
    assert torch.equal(classes, expected.argmax(1))
    assert network.class_names() == [name.encode() for name in dataset.classes]


def test_sizes_in_header_match_arrays_in_source(tmp_path):
    architecture = Architecture.load("mnist-7825")
    weights = random_weights(architecture, seed=0)
    files = files_of(architecture, weights)
    program = lower(architecture)
    sizes = macros(files)
    assert sizes == {
        "CHANNELS": 1,
        "HEIGHT": 28,
        "WIDTH": 28,
        "CLASSES": 10,
        "PARAMETER_BYTES": program.parameter_bytes,
        "SCRATCH_BYTES": 4 * plan_memory(program).length,
    }
    arrays = re.findall(r"^static (?:const )?float (\w+)\[(\d+)\]", files["network.c"], re.MULTILINE)
    lengths = {name: 4 * int(length) for name, length in arrays}
    assert lengths.pop("scratch") == sizes["SCRATCH_BYTES"]
    assert sum(lengths.values()) == sizes["PARAMETER_BYTES"]


def test_c_source_is_deterministic_and_keeps_random_state():
    architecture = every_kind()
    weights = random_weights(architecture, seed=0)
    before = torch.get_rng_state()
    first = files_of(architecture, weights)
    assert torch.equal(torch.get_rng_state(), before)
    assert files_of(architecture, weights) == first
    assert "#include <math.h>" in first["network.c"]
    plain = Architecture.load("mnist-7825")
    assert "#include <" not in files_of(plain, random_weights(plain, 0))["network.c"]


HOSTILE = [
    'a "quoted" name',
    "back\\slash",
    "??/ and ??= and ????",
    "two\nlines\r\tand a tab",
    "Füße 数字 é1f 🙂0",
    "%s %n",
    "*/ int x; /*",
    "\\x41\\",
    "\x7f\x019",
    "",
]


def test_hostile_names_and_facts_compile_and_names_are_kept(tmp_path):
    architecture = Architecture(input_shape=(1, 2, 2), layers=(Flatten(), Linear(out_features=len(HOSTILE))))
    facts = [
        *HOSTILE,
        "/* again",
        "*/*/ #error out",
        "??/",
        "*??/",
        "ends in a backslash \\",
        "\\",
        "\u202e*/",
        "\0",
        "?" * 9,
    ]
    weights = random_weights(architecture, seed=0)
    network = Compiled.of(files_of(architecture, weights, classes=HOSTILE, facts=facts), tmp_path, "-O0")
    assert network.class_names() == [name.encode() for name in HOSTILE]


def test_mismatched_counts_and_nan_weights_raise():
    architecture = Architecture.load("mnist-3928")
    weights = random_weights(architecture, seed=0)
    with pytest.raises(ValueError, match=r"^2 classes for 10 logits$"):
        files_of(architecture, weights, classes=["a", "b"])
    with pytest.raises(ValueError, match=r"^3 means and 1 standard deviations for 1 channels$"):
        files_of(architecture, weights, mean=(0.1, 0.2, 0.3))
    next(iter(weights.values()))[0] = float("nan")
    with pytest.raises(ValueError, match=r"^a weight is nan, expected a finite number$"):
        files_of(architecture, weights)
