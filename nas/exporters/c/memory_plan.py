"""Assigns each value an offset in one memory arena; values with disjoint lifetimes may overlap."""

from dataclasses import dataclass

from nas.architecture.layers import num_elements
from nas.exporters.c.ir import Inference


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Places of all values in one arena.

    offsets: Offset of each value by its index, in float32 elements.
    length: Size of the arena in float32 elements.
    """

    offsets: dict[int, int]
    length: int

    @property
    def scratch_bytes(self) -> int:
        """Size of the arena in bytes."""
        return 4 * self.length


@dataclass(eq=False, slots=True, kw_only=True)
class _Buffer:
    """Memory of one value or several successive ones, in use from step `first` to step `last`, inclusive."""

    length: int
    first: int
    last: int
    offset: int = 0


def plan_memory(inference: Inference) -> MemoryPlan:
    """Returns an offset for every value: largest first, each at the lowest offset that is free during its lifetime.

    "Greedy by size for offset calculation" of Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net
    Inference", 2020. An elementwise step overwrites an input of equal size that no later step reads. The network's
    output is kept until after the last step.
    """
    buffers = _buffers(inference)
    placed: list[_Buffer] = []
    for buffer in sorted(dict.fromkeys(buffers.values()), key=lambda buffer: (-buffer.length, buffer.first)):
        rivals = [other for other in placed if other.first <= buffer.last and buffer.first <= other.last]
        for other in sorted(rivals, key=lambda other: other.offset):
            if other.offset >= buffer.offset + buffer.length:
                break
            buffer.offset = max(buffer.offset, other.offset + other.length)
        placed.append(buffer)
    return MemoryPlan(
        offsets={index: buffer.offset for index, buffer in buffers.items()},
        length=max(buffer.offset + buffer.length for buffer in placed),
    )


def _buffers(inference: Inference) -> dict[int, _Buffer]:
    """Returns the buffer of each value by its index."""
    last_read = {value.index: time for time, step in enumerate(inference.steps) for value in step.inputs}
    last_read[inference.output.index] = len(inference.steps)
    buffers: dict[int, _Buffer] = {}
    for time, step in enumerate(inference.steps):
        length = num_elements(step.output.shape)
        dying = [x for x in step.inputs if last_read[x.index] == time and num_elements(x.shape) == length]
        if step.is_elementwise and dying:
            buffer = buffers[dying[0].index]
        else:
            buffer = _Buffer(length=length, first=time, last=time)
        buffer.last = last_read[step.output.index]
        buffers[step.output.index] = buffer
    return buffers
