"""Assigns values to places in one arena; values with disjoint lifetimes share a place."""

from dataclasses import dataclass

from nas.architecture.layers import size
from nas.exporters.c.ir import Inference


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """`offsets[index]` is where in the arena of `length` float32 numbers the value of that index begins."""

    offsets: dict[int, int]
    length: int

    @property
    def scratch_bytes(self) -> int:
        """Bytes of the arena."""
        return 4 * self.length


@dataclass(eq=False, slots=True, kw_only=True)
class _Buffer:
    """A place for values that follow one another, in use from step `first` to step `last`, both included."""

    length: int
    first: int
    last: int
    offset: int = 0


def plan_memory(inference: Inference) -> MemoryPlan:
    """A place for every value: the largest first, each at the lowest offset where it meets none that is in use.

    "Greedy by size for offset calculation" of Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net
    Inference", 2020. An elementwise step writes over an input that nothing reads later. The output is read at the end.
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
    """The buffer of each value, by its index."""
    last_read = {value.index: time for time, step in enumerate(inference.steps) for value in step.inputs}
    last_read[inference.output.index] = len(inference.steps)
    buffers: dict[int, _Buffer] = {}
    for time, step in enumerate(inference.steps):
        length = size(step.output.shape)
        dying = [x for x in step.inputs if last_read[x.index] == time and size(x.shape) == length]
        if step.is_elementwise and dying:
            buffer = buffers[dying[0].index]
        else:
            buffer = _Buffer(length=length, first=time, last=time)
        buffer.last = last_read[step.output.index]
        buffers[step.output.index] = buffer
    return buffers
