"""The projects compile without warnings, for this machine and for chips, and print the class of the reference."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from support.c_networks import COMPILER, STRICT, normalisation, random_images, random_weights, run, written

from nas.architecture.architecture import Architecture
from nas.architecture.layers import Activation, BatchNorm, Conv, Flatten, GlobalAvgPool, Linear
from nas.boards import Board
from nas.exporters.c.calibration import calibrate
from nas.exporters.c.int8_codegen import int8_c_files
from nas.exporters.c.int8_reference import run_int8
from nas.exporters.c.quantise import quantise
from nas.exporters.c.source import stated_bytes
from nas.exporters.core_test.emulate import MACHINES, missing_for
from nas.exporters.formats import PROJECTS
from nas.exporters.projects.write import shown_image, write_project

CLASSES = ["zero", "un", "dvě", "*/ trois", "vier", "пять", "ses", "seven", 'e"ight', "nine"]
WARNINGS = ("-Wall", "-Wextra", "-Werror")


def needs(*tools):
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed")


needs_emulator = pytest.mark.skipif(bool(missing_for(Board.load("pico"))), reason=missing_for(Board.load("pico")))

ARDUINO_H = """
#include <stddef.h>
#include <stdint.h>
#ifdef __AVR__
#include <avr/pgmspace.h>
#include <string.h>
#else
#define PROGMEM
#define memcpy_P memcpy
extern "C" void *memcpy(void *to, const void *from, size_t length);
extern "C" int memcmp(const void *left, const void *right, size_t length);
#endif

struct Port {
    void begin(unsigned long baud);
    void print(const char *text);
    void print(unsigned long number);
    void println(const char *text);
};
extern Port Serial;
unsigned long micros();
void delay(unsigned long milliseconds);
void setup();
void loop();
"""

RUNTIME = """
#include "Arduino.h"
Port Serial;
void Port::begin(unsigned long) {}
void delay(unsigned long) {}
unsigned long micros() { static unsigned long now; return now += 42; }
#ifdef ON_HOST
#include <cstdio>
void Port::print(const char *text) { fputs(text, stdout); }
void Port::print(unsigned long number) { printf("%lu", number); }
void Port::println(const char *text) { puts(text); }
#else
void Port::print(const char *) {}
void Port::print(unsigned long) {}
void Port::println(const char *) {}
#endif
int main() { setup(); loop(); return 0; }
"""


@pytest.fixture(scope="module")
def network():
    """A quantised network of 28 x 28 pixels that is small enough for an Arduino Mega."""
    layers = (
        *(Conv(out_channels=8, kernel_size=3, stride=2, padding=1), BatchNorm(), Activation()),
        *(Conv(out_channels=12, kernel_size=3, stride=2, padding=1), Activation(function="silu")),
        *(GlobalAvgPool(), Flatten(), Linear(out_features=10)),
    )
    architecture = Architecture(input_shape=(1, 28, 28), layers=layers)
    return quantise(
        calibrate(architecture, random_weights(architecture, 0), random_images((1, 28, 28), 16), **normalisation(1))
    )


@pytest.fixture(scope="module")
def logits_of_image(network):
    image = random_images((1, 28, 28), 3, seed=7).numpy()[2:]
    return image[0], run_int8(network, image)[0]


def write_all(network, logits_of_image, folder, change=0):
    """Writes both projects; `change` is added to a logit that their programs expect."""
    written(int8_c_files(network, classes=CLASSES, facts=[]), folder)
    pixels, logits = logits_of_image
    logits = logits + np.int16(change) * (np.arange(10) == 3)
    for kind in PROJECTS:
        write_project(
            kind, folder, pixels=pixels, logits=logits, class_name=CLASSES[3], sentence="digits:\n99.0 ± 0.1 %.\nurl=no"
        )


@pytest.fixture(scope="module")
def projects(network, logits_of_image, tmp_path_factory):
    folder = tmp_path_factory.mktemp("projects")
    write_all(network, logits_of_image, folder)
    return folder


def compile_sketch(library, place, *, prefix="", c=STRICT, cpp=("-std=gnu++11", "-pedantic"), options=()):
    """Compiles the example as Arduino's tools do: the network as C, the sketch as C++ behind Arduino.h."""
    (place / "Arduino.h").write_text(ARDUINO_H)
    (place / "runtime.cpp").write_text(RUNTIME)
    include = ("-I", library / "src", "-I", place)
    run(f"{prefix}gcc", *c, *options, "-c", library / "src" / "network_int8.c", "-o", "network.o", folder=place)
    sketch = ("-x", "c++", "-include", "Arduino.h", library / "examples" / "classify" / "classify.ino")
    run(f"{prefix}g++", *cpp, *WARNINGS, *options, *include, "-c", *sketch, "-o", "sketch.o", folder=place)
    run(f"{prefix}g++", *cpp, *WARNINGS, *options, *include, "-c", "runtime.cpp", "-o", "runtime.o", folder=place)
    return "sketch.o", "network.o", "runtime.o"


@needs("gcc", "g++")
@pytest.mark.parametrize("change", [0, 1])
def test_sketch_prints_the_class_of_the_reference(change, network, logits_of_image, tmp_path):
    write_all(network, logits_of_image, tmp_path, change)
    place = tmp_path / "place"
    place.mkdir()
    objects = compile_sketch(tmp_path / "arduino", place, options=("-DON_HOST",))
    run("g++", *objects, "-o", "sketch", folder=place)
    name = CLASSES[logits_of_image[1].argmax()]
    verdict = "DIFFER from the reference" if change else "equal the reference"
    assert run(place / "sketch", folder=place) == f"class {name}, 42 us, logits {verdict}\n"


@needs("avr-gcc", "avr-g++", "avr-size")
def test_sketch_for_avr_has_weights_and_image_in_flash(projects, tmp_path):
    chip = ("-mmcu=atmega2560", "-Os")
    objects = compile_sketch(
        projects / "arduino", tmp_path, prefix="avr-", c=("-std=gnu11", *WARNINGS), cpp=("-std=gnu++11",), options=chip
    )
    run("avr-gcc", *chip, *objects, "-o", "sketch.elf", folder=tmp_path)
    text, data, bss = map(int, run("avr-size", "sketch.elf", folder=tmp_path).splitlines()[1].split()[:3])
    constants, scratch = stated_bytes((projects / "network_int8.h").read_text())
    pixels, logits, strings = 28 * 28, 2 * 10, 300
    assert scratch + pixels + 2 * logits <= data + bss <= scratch + pixels + 2 * logits + strings
    assert text > constants + pixels


@needs("arm-none-eabi-gcc", "arm-none-eabi-g++")
@pytest.mark.parametrize("core", ["cortex-m0", "cortex-m4"])
def test_sketch_compiles_for_cortex_m(core, projects, tmp_path):
    options = (f"-mcpu={core}", "-mthumb", "-O2", "-ffreestanding")
    compile_sketch(projects / "arduino", tmp_path, prefix="arm-none-eabi-", options=options)


@needs("make", "cc")
@pytest.mark.parametrize("change", [0, 1])
def test_makefile_builds_a_program_for_this_machine(change, network, logits_of_image, tmp_path):
    write_all(network, logits_of_image, tmp_path, change)
    command = ["make", "-s", "run", f"CC=cc {' '.join(STRICT)}"]
    done = subprocess.run(command, cwd=tmp_path / "makefile", capture_output=True, text=True, check=False)
    assert done.stdout == text_of_program(logits_of_image[1], "DIFFER from" if change else "equal")
    assert (done.returncode != 0) == bool(change), done.stderr
    run("make", "clean", folder=tmp_path / "makefile")
    assert {path.name for path in (tmp_path / "makefile").iterdir()} == set(PROJECTS["makefile"])


def text_of_program(logits, verdict):
    return f"class {CLASSES[logits.argmax()]}\nlogits {' '.join(map(str, logits))}\nThey {verdict} the reference.\n"


@needs("make")
@needs_emulator
@pytest.mark.parametrize("core", MACHINES)
def test_makefile_builds_a_program_for_every_emulated_core(core, projects, logits_of_image, tmp_path):
    folder = shutil.copytree(projects / "makefile", tmp_path / "makefile")
    command = ("make", "-s", "run", "CROSS=arm-none-eabi-", f"CPU={core}", "CFLAGS=-O2 -Wall -Wextra -Werror")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == text_of_program(logits_of_image[1], "equal")


@needs("make")
@needs_emulator
def test_makefile_takes_the_addresses_of_a_chip(projects, tmp_path):
    folder = shutil.copytree(projects / "makefile", tmp_path / "makefile")
    cross = ("make", "-s", "CROSS=arm-none-eabi-", "CPU=cortex-m3")
    run(*cross, "FLASH=0x08000000", "RAM=0x20000000", "RAM_BYTES=20480", folder=folder)
    symbols = run("arm-none-eabi-nm", "build/cortex-m3/main", folder=folder)
    assert "20005000 T stack_top" in symbols or "20005000 B stack_top" in symbols
    assert re.search(r"^0800\w+ . predict$", symbols, re.M)
    for options, message in ((("RAM_BYTES=1000",), "region `RAM' overflowed"), (("CPU=",), "CPU is not set, expected")):
        done = subprocess.run([*cross, *options], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert message in done.stderr


def test_library_properties_are_those_of_the_specification(projects):
    lines = (projects / "arduino" / "library.properties").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split("=", 1) for line in lines)
    required = ["name", "version", "author", "maintainer", "sentence", "paragraph", "category", "url", "architectures"]
    assert list(fields) == [*required, "includes"]
    assert all(fields.values())
    assert re.fullmatch(r"[A-Za-z0-9][\w .-]{,62}", fields["name"], re.ASCII)
    assert re.fullmatch(r"\d+\.\d+\.\d+", fields["version"])
    assert fields["category"] == "Data Processing"
    assert fields["sentence"] == r"digits:\n99.0 ± 0.1 %.\nurl=no"
    assert all((projects / "arduino" / "src" / name).exists() for name in fields["includes"].split(","))


def test_projects_hold_their_files_and_the_network_of_the_export(exported):
    for kind, files in PROJECTS.items():
        folder = exported.folder / kind
        assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == set(files)
        for path in folder.rglob("network_int8.*"):
            assert path.read_bytes() == (exported.folder / path.name).read_bytes()
    card = (exported.folder / "README.md").read_text()
    assert "`arduino` is a library for the Arduino IDE" in card
    assert "`make -C makefile run`" in card


@pytest.mark.skipif(COMPILER is None or shutil.which("make") is None, reason="cc or make not installed")
def test_exported_program_classifies_an_image_of_the_validation_split(exported, tmp_path):
    folder = shutil.copytree(exported.folder / "makefile", tmp_path / "makefile")
    name = re.search(r"image of class (.*), and", (folder / "test_vector.h").read_text())[1]
    assert run("make", "-s", "run", folder=folder).startswith(f"class {name}\n")


def test_shown_image_is_the_first_that_is_classified_right():
    logits = np.array([[1, 2], [3, 4], [9, 8]])
    assert shown_image(logits, np.array([0, 1, 0])) == 1
    assert shown_image(logits, np.array([0, 0, 1])) == 0
