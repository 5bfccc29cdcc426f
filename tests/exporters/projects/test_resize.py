"""`resize.h` averages areas exactly: bit for bit as integers in NumPy, and without undefined behaviour."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support.c_networks import COMPILER, STRICT, run, sanitizers
from support.effort import seeds

from nas.exporters import projects

FOLDER = Path(projects.__file__).parent

pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler called cc")

MAIN = """
#include "resize.h"
#include <stdio.h>
#include <stdlib.h>

/* Reads the sizes and an image from standard input and writes the resized one, all in memory of exactly their bytes. */
int main(void)
{
    uint16_t sizes[6];
    if (fread(sizes, 2, 6, stdin) != 6) {
        return 1;
    }
    const uint16_t width = sizes[0], height = sizes[1], stride = sizes[2], channels = sizes[3];
    const size_t length = (size_t)stride * (height - 1u) + (size_t)width * channels;
    const size_t target_length = (size_t)channels * sizes[4] * sizes[5];
    uint8_t *source = malloc(length), *target = malloc(target_length);
    if (fread(source, 1, length, stdin) != length) {
        return 1;
    }
    resize(source, width, height, stride, (uint8_t)channels, target, sizes[4], sizes[5]);
    const size_t written = fwrite(target, 1, target_length, stdout);
    free(source);
    free(target);
    return written != target_length;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resize")
    (folder / "main.c").write_text(MAIN)
    options = (*sanitizers(folder), "-O1", "-I", FOLDER)
    run(COMPILER, *STRICT, *options, "main.c", "-o", "resize", folder=folder)
    return folder / "resize"


def resized(program, frame, width, target_height, target_width):
    """The first `width` columns of a frame (rows, columns, channels), resized in C: (channels, rows, columns)."""
    height, columns, channels = frame.shape
    sizes = np.array([width, height, columns * channels, channels, target_width, target_height], np.uint16)
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    given = sizes.tobytes() + frame.tobytes()
    done = subprocess.run([program], input=given, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return np.frombuffer(done.stdout, np.uint8).reshape(channels, target_height, target_width)


def overlaps(num, target):
    """Lengths (target, num) that target pixels and source pixels have in common, if `num * target` is the whole."""
    ends, target_ends = np.arange(1, num + 1) * target, np.arange(1, target + 1)[:, None] * num
    return np.clip(np.minimum(ends, target_ends) - np.maximum(ends - target, target_ends - num), 0, None)


def expected(image, target_height, target_width):
    """Mean of areas in integers, halves up."""
    height, width, channels = image.shape
    sums = [
        overlaps(height, target_height) @ image[..., channel].astype(np.int64) @ overlaps(width, target_width).T
        for channel in range(channels)
    ]
    return (2 * np.array(sums) + height * width) // (2 * height * width)


def mean_of_line(line, target):
    """Mean of equal parts of a line in float, as differences of its integral."""
    num, integral = len(line), np.concatenate([[0], np.cumsum(line)])
    return np.diff(np.interp(np.arange(target + 1) * num / target, np.arange(num + 1), integral)) * target / num


def float_mean(image, target_height, target_width):
    rows = np.apply_along_axis(mean_of_line, 0, image.astype(float), target_height)
    return np.apply_along_axis(mean_of_line, 1, rows, target_width).transpose(2, 0, 1)


def check(program, frame, width, target_height, target_width):
    found, image = resized(program, frame, width, target_height, target_width), frame[:, :width]
    np.testing.assert_array_equal(found, expected(image, target_height, target_width))
    assert np.abs(found - float_mean(image, target_height, target_width)).max() < 0.5 + 1e-6


@pytest.mark.parametrize("seed", seeds(100))
def test_random_sizes_equal_integers_in_numpy_and_are_close_to_float(seed, program):
    rng = np.random.default_rng(seed)
    height, width, target_height, target_width = (int(n) for n in np.exp(rng.uniform(0, np.log(80), 4)).round())
    channels, margin = int(rng.choice([1, 3])), int(rng.integers(3))
    frame = rng.integers(0, 256, (height, width + margin, channels), np.uint8)
    check(program, frame, width, target_height, target_width)


@pytest.mark.parametrize("size", [(96, 96), (120, 160), (240, 320), (28, 28), (14, 14), (1, 1), (27, 29)])
@pytest.mark.parametrize("channels", [1, 3])
def test_camera_frames_become_28_pixels_a_side(size, channels, program):
    check(program, np.random.default_rng(0).integers(0, 256, (*size, channels), np.uint8), size[1], 28, 28)


def test_the_largest_image_of_white_pixels_stays_white(program):
    """Its sums are the largest that fit into 32 bits."""
    frame = np.full((256, 65535, 1), 255, np.uint8)  # 16,776,960 pixels
    assert (resized(program, frame, 65535, 3, 5) == 255).all()


def test_image_of_the_target_size_is_copied_and_halves_are_rounded_up(program):
    image = np.random.default_rng(1).integers(0, 256, (9, 7, 3), np.uint8)
    np.testing.assert_array_equal(resized(program, image, 7, 9, 7), image.transpose(2, 0, 1))
    assert resized(program, np.array([[[0], [1]]], np.uint8), 2, 1, 1).item() == 1
    assert resized(program, np.array([[[0], [1], [0]]], np.uint8), 3, 1, 1).item() == 0


@pytest.mark.parametrize(
    "compiler",
    [
        ("g++", "-std=c++11", "-pedantic", "-Wconversion", "-Wshadow"),
        ("avr-gcc", "-mmcu=atmega2560", "-std=gnu11"),
        ("avr-g++", "-mmcu=atmega2560", "-std=gnu++11"),
        ("arm-none-eabi-g++", "-mcpu=cortex-m0", "-mthumb", "-ffreestanding"),
    ],
    ids=lambda options: options[0],
)
def test_header_compiles_as_c_and_cpp_for_chips(compiler, tmp_path):
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"{compiler[0]} is not installed")
    suffix = "cpp" if "++" in compiler[0] else "c"
    (tmp_path / f"frame.{suffix}").write_text(
        '#include "resize.h"\nvoid shrink(const uint8_t *frame, uint8_t *out);\n'
        "void shrink(const uint8_t *frame, uint8_t *out) { resize(frame, 160, 120, 160, 1, out, 28, 28); }\n"
    )
    warnings = ("-Wall", "-Wextra", "-Werror", "-Os")
    run(*compiler, *warnings, "-I", FOLDER, "-c", f"frame.{suffix}", folder=tmp_path)
