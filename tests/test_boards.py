"""Boards: shipped and of one's own, and the limits that they set."""

import re

import pytest

from nas.boards import CODE_BYTES, CORES, STACK_BYTES, Board, load_boards
from nas.errors import NasError
from nas.space.constraints import limits

OWN = """
[mine]
title = "My board"
core = "cortex-m4"
clock_mhz = 100
ram_bytes = 40_000
flash_bytes = 200_000
source = "measured"
"""


def own(folder, text):
    file = folder / "boards.toml"
    file.write_text(text)
    return f"{file}:mine"


def test_every_shipped_board_leaves_room_for_a_network():
    boards = load_boards()
    assert len(boards) == len({board.name for board in boards}) >= 10
    assert {board.core for board in boards} == set(CORES)
    for board in boards:
        assert min(board.bounds().values()) > 0
        assert Board.load(board.name) == board


def test_limits_of_a_board_are_half_of_its_memory_without_stack_and_code(tmp_path):
    board = Board.load(own(tmp_path, OWN))
    assert board.bounds() == {
        "int8_arena_bytes": 20_000 - STACK_BYTES["cortex-m4"],
        "int8_weight_bytes": 100_000 - CODE_BYTES["cortex-m4"],
    }
    found = limits(board=own(tmp_path, OWN), max_params=8000)
    assert [str(limit) for limit in found] == [
        "params<=8000",
        "receptive_field>=28",
        "int8_arena_bytes<=18720",
        "int8_weight_bytes<=93344",
    ]


def test_own_limits_and_a_board_keep_the_tighter(tmp_path):
    found = limits(board=own(tmp_path, OWN), constraints=["int8_arena_bytes<=5000", "int8_weight_bytes<=999999"])
    assert {"int8_arena_bytes<=5000", "int8_weight_bytes<=93344"} <= set(map(str, found))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (OWN.replace("cortex-m4", "z80"), "[mine]: core is 'z80', expected one of avr, cortex-m0, "),
        (OWN.replace("40_000", "0"), "[mine]: ram_bytes is 0, expected an integer "),
        (OWN.replace("ram_bytes", "ram"), "[mine]: unknown key 'ram'"),
        (OWN.replace("[mine]", "[other]"), "board 'mine' is unknown, expected other, or FILE.toml:NAME"),
        ("mine = 3\n", "[mine]: 3 found, expected an object"),
        ("[mine", "boards.toml: not TOML: "),
        pytest.param(f"mine = {'[' * 5000}{']' * 5000}\n", "boards.toml: not TOML: ", id="nested"),
        (
            OWN.replace("= 100\n", "= 1e300\n"),
            "[mine]: clock_mhz is 1e+300, expected a number above 0 and at most 1e12",
        ),
        (OWN.replace("40_000", "2_000"), "board mine: 50% of 2,000 bytes of RAM and 200,000 of flash found, expected"),
    ],
)
def test_invalid_board_error_names_place_and_expected(text, error, tmp_path):
    with pytest.raises(NasError, match=re.escape(error)) as caught:
        Board.load(own(tmp_path, text)).bounds()
    assert "\n" not in str(caught.value)


def test_unknown_board_error_lists_known_ones():
    with pytest.raises(
        NasError,
        match=r"^board 'tico' is unknown \(did you mean pico\?\), expected one of arduino-uno, .*, or FILE\.toml:NAME$",
    ):
        Board.load("tico")


def test_latency_limits_the_instructions_of_the_core(tmp_path):
    assert Board.load(own(tmp_path, OWN)).bounds(max_latency_ms=2.5)["m4_instructions"] == 250_000
    assert "m0_instructions<=6650000" in map(str, limits(board="pico", max_latency_ms=50))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"max_latency_ms": 50}, "`max_latency_ms=50`: expected `board`, too"),
        (
            {"max_latency_ms": 0, "board": "pico"},
            "`max_latency_ms=0`: expected a number above 0 and at most 1e12",
        ),
        (
            {"max_latency_ms": 1e307, "board": "pico"},
            "`max_latency_ms=1e+307`: expected a number above 0 and at most 1e12",
        ),
        ({"board": 5}, "`board=5`: expected a str, such as 'pico'"),
        (
            {"max_latency_ms": 50, "board": "esp32-s3"},
            "`max_latency_ms`: board esp32-s3 has the core xtensa-lx7, expected one of cortex-m0, cortex-m3, cortex-m4,"
            " cortex-m7, cortex-m33",
        ),
    ],
)
def test_invalid_latency_error_names_what_was_expected(arguments, error):
    with pytest.raises(NasError) as caught:
        limits(**arguments)
    assert str(caught.value) == error
