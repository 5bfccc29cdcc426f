"""Compiles `network_int8.c` for the core of a board, and runs it in an emulator on test images."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nas.boards import Board
from nas.errors import NasError

COMPILER, SIZE, EMULATOR = "arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm"
FLAGS = ("-std=gnu99", "-ffreestanding", "-O2", "-Wall", "-Wextra", "-Werror", "-mthumb", "-ffunction-sections")
SOURCES = ("startup.c", "main.c", "startup.h", "link.ld")
EMULATOR_OPTIONS = "-nographic -monitor none -serial none -semihosting-config enable=on,target=native"
NUM_CORE_IMAGES = 4
"""Images that an export runs on the core."""
TIMEOUT_SECONDS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """An emulated machine with a core.

    Attributes:
        arguments: Arguments of the emulator.
        flash_origin: Address of the program.
        ram_origin: Address of the RAM.
        tick_instructions: Instructions during one tick of the core's timer; the emulator runs one each nanosecond.
    """

    arguments: tuple[str, ...]
    flash_origin: int = 0
    ram_origin: int = 0x2000_0000
    tick_instructions: float = 40  # 25 MHz


RAM_BYTES = 256 * 1024  # of every machine
MACHINES: Mapping[str, Machine] = {
    "cortex-m0": Machine(
        arguments=("-M", "microbit", "-global", f"nrf51-soc.sram-size={RAM_BYTES}"), tick_instructions=62.5
    ),
    "cortex-m3": Machine(arguments=("-M", "mps2-an385")),
    "cortex-m4": Machine(arguments=("-M", "mps2-an386")),
    "cortex-m7": Machine(arguments=("-M", "mps2-an500")),
    "cortex-m33": Machine(
        arguments=("-M", "mps2-an505"), flash_origin=0x1000_0000, ram_origin=0x3800_0000, tick_instructions=50
    ),
}
"""Machine that emulates each core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreRun:
    """Result of a run on an emulated core.

    Attributes:
        board: The board.
        flash_bytes: Bytes of flash of the network: code and constants.
        ram_bytes: Bytes of static RAM of the network.
        stack_bytes: Bytes of stack that `predict` used.
        instructions: Instructions an image, the largest of the images.
        num_images: Number of images, whose logits all equalled those of the reference.
        compiler: Name and version of the compiler.
    """

    board: Board
    flash_bytes: int
    ram_bytes: int
    stack_bytes: int
    instructions: int
    num_images: int
    compiler: str

    @property
    def fits(self) -> bool:
        """Whether the network fits into the share of the board's memory that searches allow."""
        return self.flash_bytes <= self.board.flash_limit and self.used_ram_bytes <= self.board.ram_limit

    @property
    def used_ram_bytes(self) -> int:
        """Bytes of static RAM and stack."""
        return self.ram_bytes + self.stack_bytes

    @property
    def milliseconds(self) -> float:
        """Time of an image at the board's clock if every instruction takes one cycle, in ms."""
        return self.instructions / (1000 * self.board.clock_mhz)

    def lines(self) -> list[str]:
        """Returns the result as lines of text."""
        board = self.board
        verdict = "PASS, " if self.fits else "DOES NOT FIT, though "
        return [
            f"{board.name}: {verdict}an emulated {board.core} gave the integers of the reference for"
            f" {self.num_images} images",
            f"  flash {self.flash_bytes:,} of {board.flash_limit:,} bytes (code and constants), RAM"
            f" {self.used_ram_bytes:,} of {board.ram_limit:,} ({self.stack_bytes:,} of them stack); the limits are half"
            " of the board's",
            f"  {self.instructions:,} instructions an image: {self.milliseconds:.1f} ms at {board.clock_mhz:g} MHz"
            " if each takes one cycle",
        ]


def missing_for(board: Board) -> str:
    """Returns why the board's core cannot be emulated here; empty if it can be."""
    if board.core not in MACHINES:
        return f"there is no emulator for the core {board.core}"
    missing = [name for name in (COMPILER, SIZE, EMULATOR) if shutil.which(name) is None]
    return f"{missing[0]} is not installed" if missing else ""


def run_on_core(folder: Path, board: Board, images: np.ndarray, expected: np.ndarray) -> CoreRun:
    """Runs the network in `folder` on the board's core.

    Args:
        folder: Folder with network_int8.h and network_int8.c.
        board: Board whose core has an emulator (`missing_for`).
        images: Pixels, uint8 (N, channels, height, width).
        expected: Logits of the reference, int16 (N, classes).

    Raises:
        NasError: The code does not compile, the program does not end, or a logit differs.
    """
    machine = MACHINES[board.core]
    with tempfile.TemporaryDirectory() as place:
        build = Path(place)
        for name in ("network_int8.h", "network_int8.c"):
            shutil.copy(folder / name, build)
        for name in SOURCES:
            shutil.copy(Path(__file__).with_name(name), build)
        (build / "vectors.h").write_text(_vectors(images, expected), encoding="ascii")
        flags = [*FLAGS, f"-mcpu={board.core}"]
        _run([COMPILER, *flags, "-c", "network_int8.c"], build)
        _, sizes = _run([SIZE, "network_int8.o"], build).splitlines()
        text, data, bss, *_ = map(int, sizes.split()[:3])
        symbols = {"flash_origin": machine.flash_origin, "ram_origin": machine.ram_origin, "ram_length": RAM_BYTES}
        defined = [f"-Wl,--defsym={name}={value}" for name, value in symbols.items()]
        options = ["-nostdlib", "-Wl,--gc-sections", *defined, "-T", "link.ld"]
        _run([COMPILER, *flags, *options, "startup.c", "main.c", "network_int8.o", "-lgcc", "-o", "test.elf"], build)
        options = [*EMULATOR_OPTIONS.split(), *machine.arguments, "-icount", "shift=0"]
        printed = _run([EMULATOR, *options, "-kernel", "test.elf"], build)
        compiler = _run([COMPILER, "--version"], build).splitlines()[0]
    numbers = re.findall(r"^(\w+) (\d+)$", printed, re.MULTILINE)
    ticks = [int(number) for name, number in numbers if name == "ticks"]
    found = {name: int(number) for name, number in numbers}
    if len(ticks) != len(images) or "differing" not in found or "fault" in found:
        raise NasError(f"{board.name}: the program on the emulated {board.core} did not end: {printed[-200:]!r}")
    if found["differing"]:
        raise NasError(
            f"{board.name}: {found['differing']} logits on the emulated {board.core} differ from the NumPy reference,"
            " expected the same integers"
        )
    return CoreRun(
        board=board,
        flash_bytes=text + data,
        ram_bytes=data + bss,
        stack_bytes=found["stack"],
        instructions=round(max(ticks) * machine.tick_instructions),
        num_images=len(images),
        compiler=compiler,
    )


def _vectors(images: np.ndarray, expected: np.ndarray) -> str:
    """Returns the C source of test images and their logits."""
    kinds = (("unsigned char", "images", images), ("short", "expected", expected))
    arrays = [
        f"static const {kind} {name}[NUM_IMAGES][{rows[0].size}] = {{\n{_rows(rows)}}};\n" for kind, name, rows in kinds
    ]
    return "\n".join([f"#define NUM_IMAGES {len(images)}\n", *arrays])


def _rows(rows: np.ndarray) -> str:
    return "".join(f"    {{{', '.join(map(str, row.flatten().tolist()))}}},\n" for row in rows)


def _run(command: Sequence[str], folder: Path) -> str:
    """Returns what a command prints; raises `NasError` with its last line if it fails or takes too long."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise NasError(f"{command[0]} did not end within {TIMEOUT_SECONDS} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        last = lines[0] if lines else f"exit status {done.returncode}"
        raise NasError(f"{command[0]}: {last}")
    return done.stdout + done.stderr if command[0] == EMULATOR else done.stdout
