"""Boards with a microcontroller: what their memory allows a network, and the processor core that runs it."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.errors import NasError, one_of, short_repr, suggestion
from nas.schema import COUNT, MAX_COUNT, TEXT, Interval, ObjectOf, OneOf, check, check_instance
from nas.text import read_text

SHIPPED = Path(__file__).with_name("boards.toml")
CORES = ("avr", "cortex-m0", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33", "xtensa-lx7")
CORTEX_CODE_BYTES = 6_656
"""Upper bound of the bytes of machine code on a Cortex-M.

A network that calls every int8 kernel has 6,245 on a Cortex-M0 and 5,449 on the others, with arm-none-eabi-gcc 12.2.1
-O2; small networks have about two thirds of that.
"""
CODE_BYTES = {
    **{core: CORTEX_CODE_BYTES for core in CORES if core.startswith("cortex")},
    "avr": 12_288,  # 9,656 with avr-gcc 5.4.0 -Os
    "xtensa-lx7": 8_192,  # not measured
}
STACK_BYTES = {core: 640 if core == "avr" else 1_280 for core in CORES}
"""Allowance for the stack of `predict`.

732 to 1,052 bytes were measured on emulated Cortex-M cores with -O2; avr-gcc 5.4.0 -Os states frames of 362, 127 and
some smaller ones.
"""
SHARE = 0.5
"""Share of a board's RAM and flash that a network may use."""
INSTRUCTION_METRICS = {
    "cortex-m0": "m0_instructions",
    **dict.fromkeys(("cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33"), "m4_instructions"),
}
"""Metric that estimates the instructions of a network on each core. Those with Thumb-2 differ by about 1 %."""

BOARD_FIELDS = ObjectOf(
    {
        **dict.fromkeys(("title", "source"), TEXT),
        "core": OneOf(CORES),
        "clock_mhz": Interval(float, 0, MAX_COUNT, open_low=True),
        **dict.fromkeys(("ram_bytes", "flash_bytes"), COUNT),
    },
    required={"title", "core", "clock_mhz", "ram_bytes", "flash_bytes", "source"},
    closed=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A board with a microcontroller.

    Attributes:
        name: short name, such as "pico".
        title: full name, and the microcontroller.
        core: one of `CORES`.
        clock_mhz: highest clock frequency, in MHz.
        ram_bytes: bytes of RAM.
        flash_bytes: bytes of flash memory.
        source: where these figures come from.
    """

    name: str
    title: str
    core: str
    clock_mhz: float
    ram_bytes: int
    flash_bytes: int
    source: str

    @classmethod
    def load(cls, name: str) -> "Board":
        """Returns a shipped board by name, or a board "FILE.toml:NAME" of a file like `boards.toml`.

        Raises `NasError` if there is no such board or the file is not valid.
        """
        check_instance("board", name, str, "'pico'")
        file, _, key = name.rpartition(":") if ".toml:" in name else ("", "", name)
        tables = _tables(Path(file) if file else SHIPPED)
        if key not in tables:
            place = f"{file}: " if file else ""
            expected = f"{one_of(tables)}, or FILE.toml:NAME"
            found = f"board {short_repr(key)} is unknown{suggestion(key, tables)}"
            raise NasError(f"{place}{found}, expected {expected}")
        return cls._from_table(key, tables[key], where=file or SHIPPED.name)

    @classmethod
    def _from_table(cls, name: str, table: Any, *, where: str) -> "Board":
        check(table, BOARD_FIELDS, f"{where}: [{name}]", NasError)
        return cls(name=name, **table)

    @property
    def ram_limit(self) -> int:
        """Bytes of RAM that a network may use; the rest is for the user's own program."""
        return int(SHARE * self.ram_bytes)

    @property
    def flash_limit(self) -> int:
        """Bytes of flash that a network may use; the rest is for the user's own program."""
        return int(SHARE * self.flash_bytes)

    def bounds(self, *, max_latency_ms: float | None = None) -> dict[str, int]:
        """Returns the upper limits of a network in int8 C by metric.

        RAM holds the arena and the stack, flash the constants and the code. `max_latency_ms` also limits the estimated
        instructions of an image, each taken as one cycle of the board's clock. Raises `NasError` if not even the code
        fits, or if there is no such estimate for the core.
        """
        stack, code = STACK_BYTES[self.core], CODE_BYTES[self.core]
        bounds = {"int8_arena_bytes": self.ram_limit - stack, "int8_weight_bytes": self.flash_limit - code}
        if min(bounds.values()) < 1:
            raise NasError(
                f"board {self.name}: {SHARE:.0%} of {self.ram_bytes:,} bytes of RAM and {self.flash_bytes:,} of flash"
                f" found, expected more than {stack:,} for the stack and {code:,} for code"
            )
        if max_latency_ms is not None:
            if self.core not in INSTRUCTION_METRICS:
                cores = one_of(INSTRUCTION_METRICS)
                raise NasError(f"`max_latency_ms`: board {self.name} has the core {self.core}, expected {cores}")
            instructions = int(max_latency_ms * 1000 * self.clock_mhz)
            bounds[INSTRUCTION_METRICS[self.core]] = instructions
        return bounds

    def fit_text(self, constants: int, arena: int) -> str:
        """Returns whether int8 C code with that many bytes of constants and arena fits, in a sentence."""
        bounds = self.bounds()
        most_constants, most_arena = bounds["int8_weight_bytes"], bounds["int8_arena_bytes"]
        verdict = "fits" if constants <= most_constants and arena <= most_arena else "DOES NOT FIT"
        return (
            f"Board {self.name}: the network {verdict}: {constants:,} bytes of constants, at most {most_constants:,};"
            f" {arena:,} bytes of arena, at most {most_arena:,}."
        )


def load_boards() -> list[Board]:
    """Returns the shipped boards."""
    return [Board.load(name) for name in _tables(SHIPPED)]


def _tables(path: Path) -> dict[str, Any]:
    """Returns the tables of a TOML file by name; raises `NasError` if it cannot be read."""
    try:
        return tomllib.loads(read_text(path, NasError))
    except (ValueError, RecursionError) as error:
        raise NasError(f"{path}: not TOML: {error}") from None
