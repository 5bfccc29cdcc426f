"""FullCost: the cost of a network with the bytes and instructions of its C code, from its architecture alone."""

from dataclasses import asdict, dataclass, fields

from nas.architecture.architecture import Architecture
from nas.architecture.cost import FLOAT_BYTES, Cost, cost_of
from nas.inference.instructions import instructions
from nas.inference.int8 import int8_program, int8_weight_bytes, plan_int8_memory
from nas.inference.lowering import lower
from nas.inference.memory_plan import plan_memory


@dataclass(frozen=True, slots=True)
class FullCost(Cost):
    """Cost of a network with exact bytes and estimated instructions of its C code. They take about a millisecond.

    Attributes:
        float_arena_bytes: bytes of RAM for intermediate results of `network.c`.
        int8_arena_bytes: bytes of RAM for intermediate results of `network_int8.c`.
        int8_weight_bytes: bytes of all constants of `network_int8.c`: weights, biases, rescaling factors, tables.
        m0_instructions: estimated instructions of `network_int8.c` for one image on a Cortex-M0 or M0+.
        m4_instructions: the same on a Cortex-M3, M4, M7 or M33.
    """

    float_arena_bytes: int
    int8_arena_bytes: int
    int8_weight_bytes: int
    m0_instructions: int
    m4_instructions: int


C_CODE_METRICS = tuple(field.name for field in fields(FullCost) if field.name not in Cost.__dataclass_fields__)
"""Metrics of the C code: those that `FullCost` adds to `Cost`."""


def full_cost(architecture: Architecture, cost: Cost | None = None) -> FullCost:
    """Returns the cost of a network with that of its C code; `cost` is the rest if it is known.

    Raises:
        ShapeError: A layer does not fit.
        ArchitectureError: A kind of layer has no inference step.
    """
    program = lower(architecture)
    int8 = int8_program(program)
    return FullCost(
        **asdict(cost or cost_of(architecture)),
        float_arena_bytes=FLOAT_BYTES * plan_memory(program).length,
        int8_arena_bytes=plan_int8_memory(int8).length,
        int8_weight_bytes=int8_weight_bytes(int8),
        m0_instructions=instructions(int8, "cortex-m0"),
        m4_instructions=instructions(int8, "cortex-m4"),
    )
