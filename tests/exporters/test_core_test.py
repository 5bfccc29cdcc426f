"""int8 C gives the integers of the reference on emulated Cortex-M cores, within the bytes that boards allow for."""

import re
import shutil

import numpy as np
import pytest
from support.c_networks import every_kind, normalisation, random_images, random_weights, written

from nas.architecture.architecture import Architecture
from nas.architecture.layers import num_elements
from nas.boards import CODE_BYTES, STACK_BYTES, Board
from nas.commands.export import export_trial
from nas.errors import NasError
from nas.exporters.c.calibration import calibrate
from nas.exporters.c.int8_codegen import int8_c_files
from nas.exporters.c.int8_reference import run_int8
from nas.exporters.c.quantise import quantise
from nas.exporters.core_test import emulate
from nas.exporters.core_test.emulate import MACHINES, missing_for, run_on_core
from nas.inference.instructions import instructions
from nas.inference.int8 import int8_weight_bytes, plan_int8_memory

BOARDS = {"cortex-m0": "pico", "cortex-m3": "blue-pill", "cortex-m4": "microbit-v2", "cortex-m7": "nucleo-h743zi"}
BOARDS["cortex-m33"] = "pico-2"

needs_tools = pytest.mark.skipif(bool(missing_for(Board.load("pico"))), reason=missing_for(Board.load("pico")))


@pytest.fixture(scope="module", params=["every kind", "nas-2386-b"])
def network(request, tmp_path_factory):
    """A quantised network, its folder, images and their logits."""
    architecture = every_kind() if request.param == "every kind" else Architecture.load(request.param)
    channels = architecture.input_shape[0]
    calibration = random_images(architecture.input_shape, 16)
    quantised = quantise(
        calibrate(architecture, random_weights(architecture, 0), calibration, **normalisation(channels))
    )
    classes = [str(i) for i in range(num_elements(architecture.output_shape))]
    folder = written(int8_c_files(quantised, classes=classes, facts=[]), tmp_path_factory.mktemp("network"))
    images = random_images(architecture.input_shape, 2).numpy()
    return quantised, folder, images, run_int8(quantised, images)


def test_every_emulated_core_has_a_board():
    assert set(BOARDS) == set(MACHINES)
    assert all(Board.load(name).core == core for core, name in BOARDS.items())


@needs_tools
@pytest.mark.parametrize("core", MACHINES)
def test_core_gives_the_integers_of_the_reference_within_the_allowances(core, network):
    quantised, folder, images, expected = network
    run = run_on_core(folder, Board.load(BOARDS[core]), images, expected)
    constants, arena = int8_weight_bytes(quantised.program), plan_int8_memory(quantised.program).length
    assert arena <= run.ram_bytes <= arena + 3  # alignment
    assert 0 < run.flash_bytes - constants <= CODE_BYTES[core]
    assert 0 < run.stack_bytes <= STACK_BYTES[core]
    assert run.num_images == 2
    estimate = instructions(quantised.program, "cortex-m0" if core == "cortex-m0" else "cortex-m4")
    assert 0.8 < estimate / run.instructions < 1.2
    verdict = "PASS, an" if run.fits else "DOES NOT FIT, though an"
    assert run.lines()[0].startswith(f"{BOARDS[core]}: {verdict} emulated {core} ")
    assert run.fits == (run.ram_bytes + run.stack_bytes <= run.board.ram_bytes / 2)


@needs_tools
def test_instructions_are_those_that_a_known_loop_executes(tmp_path):
    """A loop of 3 instructions, run a million times; the timer counts 40 instructions a tick."""
    (tmp_path / "network_int8.h").write_text(
        "#include <stdint.h>\n#define NETWORK_CLASSES 1\nint predict(const unsigned char *pixels, int16_t *logits);\n"
    )
    (tmp_path / "network_int8.c").write_text(
        '#include "network_int8.h"\nint predict(const unsigned char *pixels, int16_t *logits)\n{\n'
        "    unsigned count = 1000000;\n    (void)pixels;\n"
        '    __asm__ volatile(".syntax unified\\n1: nop\\n subs %0, %0, #1\\n bne 1b" : "+r"(count));\n'
        "    logits[0] = 7;\n    return 0;\n}\n"
    )
    images, expected = np.zeros((1, 1, 2, 2), np.uint8), np.full((1, 1), 7, np.int16)
    for name in ("microbit", "nano-33-ble", "pico-2"):
        run = run_on_core(tmp_path, Board.load(name), images, expected)
        assert 3_000_000 <= run.instructions <= 3_000_200
    with pytest.raises(
        NasError, match=r"^microbit: 1 logits on the emulated cortex-m0 differ from the NumPy reference, "
    ):
        run_on_core(tmp_path, Board.load("microbit"), images, expected + 1)


@needs_tools
def test_code_that_does_not_compile_is_one_line(network, tmp_path):
    _, folder, images, expected = network
    files = {file.name: file.read_text() for file in folder.iterdir()}
    written(files | {"network_int8.c": files["network_int8.c"] + "int broken(void) { return undeclared; }\n"}, tmp_path)
    with pytest.raises(NasError, match=r"^arm-none-eabi-gcc: network_int8\.c:\d+:\d+: error: .*undeclared"):
        run_on_core(tmp_path, Board.load("pico"), images, expected)


@needs_tools
def test_export_for_a_board_states_pass_and_bytes(study_folder, tmp_path):
    done = export_trial(results=study_folder, output=tmp_path / "model", board="pico")
    assert done.core_run.board.name == "pico"
    card = (tmp_path / "model" / "README.md").read_text()
    assert "**PASS** on an emulated cortex-m0, the core of the Raspberry Pi Pico (RP2040)" in card
    top = card.partition("## Use")[0]
    assert "- Board pico: **PASS**, in int8 C on an emulated cortex-m0. See [On the board](#on-the-board).\n" in top
    assert f"| instructions an image | {done.core_run.instructions:,} |" in card
    assert "fits into half of the flash and half of the RAM" in re.sub(r"\s+", " ", card)
    assert "pico: PASS" in str(done)


def test_export_without_emulator_says_so_and_whether_it_fits(study_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(emulate, "EMULATOR", "no-such-emulator")
    done = export_trial(results=study_folder, output=tmp_path / "a", board="pico")
    assert done.core_run is None
    missing = "arm-none-eabi-gcc" if shutil.which("arm-none-eabi-gcc") is None else "no-such-emulator"
    assert done.remarks[0] == f"network_int8.c was not run on the core of board pico: {missing} is not installed."
    assert re.fullmatch(r"Board pico: the network fits: \d+ bytes of constants, at most 1,041,920; .*", done.remarks[1])
    assert (tmp_path / "a" / "network_int8.c").exists()
    done = export_trial(results=study_folder, output=tmp_path / "b", board="arduino-uno")
    expected = "network_int8.c was not run on the core of board arduino-uno: there is no emulator for the core avr."
    assert done.remarks[0] == expected
    assert done.remarks[1].startswith("Board arduino-uno: the network DOES NOT FIT: ")
    card = (tmp_path / "b" / "README.md").read_text()
    assert card.count(done.remarks[1]) == 1
    assert f"- {done.remarks[1]}\n" in card.partition("## Limits")[0]


def test_unknown_board_writes_nothing(study_folder, tmp_path):
    with pytest.raises(NasError, match=r"^board 'nosuch' is unknown"):
        export_trial(results=study_folder, output=tmp_path / "model", board="nosuch")
    assert list(tmp_path.iterdir()) == []
