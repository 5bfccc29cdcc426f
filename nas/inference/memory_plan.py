"""Assigns each value an offset in one memory arena; values with disjoint lifetimes may overlap."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nas.architecture.layers import num_elements
from nas.inference.program import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Places of all values in one arena.

    Attributes:
        offsets: Offset of each value by its index, in elements.
        length: Size of the arena in elements.
    """

    offsets: dict[int, int]
    length: int


MAX_DEAD_ENDS = 10_000
"""Dead ends after which the search for a plan gives up. No network of the shipped spaces needs more than a few."""


@dataclass(eq=False, slots=True, kw_only=True)
class _Buffer:
    """Memory of one value or several successive ones, in use from step `first` to step `last`, inclusive."""

    length: int
    first: int
    last: int
    offset: int = 0


def plan_memory(program: Program, *, output_in_arena: bool = True) -> MemoryPlan:
    """Returns an offset for every value, in an arena that is as small as possible for nearly all networks.

    No arena is smaller than the values that are in use at the same time. A search tries to reach this bound; where it
    does not, buffers are placed greedily. An elementwise step overwrites an input of equal size that no later step
    reads. The network's output is kept until after the last step; it has no place if `output_in_arena` is False.
    """
    by_value = _buffers(program)
    if not output_in_arena:
        del by_value[program.output.index]
    buffers = list(dict.fromkeys(by_value.values()))
    if not buffers:
        return MemoryPlan(offsets={}, length=0)
    times = range(len(program.steps) + 1)
    length = max(sum(buffer.length for buffer in buffers if buffer.first <= time <= buffer.last) for time in times)
    if not _Placement(buffers, length).succeeds():
        length = _place_largest_first(buffers)
    return MemoryPlan(offsets={index: buffer.offset for index, buffer in by_value.items()}, length=length)


def _place_largest_first(buffers: Sequence[_Buffer]) -> int:
    """Places each buffer at the lowest offset that is free during its lifetime; returns the length of the arena.

    "Greedy by size for offset calculation" of Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net
    Inference", 2020.
    """
    placed: list[_Buffer] = []
    for buffer in sorted(buffers, key=lambda buffer: (-buffer.length, buffer.first)):
        buffer.offset = 0
        rivals = [other for other in placed if other.first <= buffer.last and buffer.first <= other.last]
        for other in sorted(rivals, key=lambda other: other.offset):
            if other.offset >= buffer.offset + buffer.length:
                break
            buffer.offset = max(buffer.offset, other.offset + other.length)
        placed.append(buffer)
    return max(buffer.offset + buffer.length for buffer in buffers)


class _Placement:
    """Places buffers into an arena of a given length, in the order in which they come into use.

    Each buffer is tried at both ends of the arena, and below and above each buffer that is still in use.
    """

    def __init__(self, buffers: Sequence[_Buffer], length: int) -> None:
        self.buffers = sorted(buffers, key=lambda buffer: buffer.first)
        self.length = length
        self.dead_ends: set[tuple[int, ...]] = set()

    def succeeds(self) -> bool:
        """Sets the offsets of all buffers; returns False if none are found at which they fit."""
        options = [self._offsets(0)]
        while options and len(self.dead_ends) < MAX_DEAD_ENDS:
            offset = next(options[-1], None)
            if offset is None:
                options.pop()
                continue
            self.buffers[len(options) - 1].offset = offset
            if len(options) == len(self.buffers):
                return True
            options.append(self._offsets(len(options)))
        return False

    def _offsets(self, index: int) -> Iterator[int]:
        """Yields the offsets at which a buffer fits beside the earlier ones."""
        buffer = self.buffers[index]
        in_use = [other for other in self.buffers[:index] if other.last >= buffer.first]
        state = (index, *(other.offset for other in in_use))  # all that the later buffers depend on
        if state in self.dead_ends:
            return
        highest = self.length - buffer.length
        offsets = {0, highest, *(other.offset + other.length for other in in_use)}
        offsets |= {other.offset - buffer.length for other in in_use}
        for offset in sorted(offsets):
            if 0 <= offset <= highest and not any(
                other.offset < offset + buffer.length and offset < other.offset + other.length for other in in_use
            ):
                yield offset
        self.dead_ends.add(state)  # no offset led to a plan


def _buffers(program: Program) -> dict[int, _Buffer]:
    """Returns the buffer of each value by its index."""
    last_read = {value.index: time for time, step in enumerate(program.steps) for value in step.inputs}
    last_read[program.output.index] = len(program.steps)
    buffers: dict[int, _Buffer] = {}
    for time, step in enumerate(program.steps):
        length = num_elements(step.output.shape)
        reusable = [x for x in step.inputs if last_read[x.index] == time and num_elements(x.shape) == length]
        if step.is_elementwise and reusable:
            buffer = buffers[reusable[0].index]
        else:
            buffer = _Buffer(length=length, first=time, last=time)
        buffer.last = last_read[step.output.index]
        buffers[step.output.index] = buffer
    return buffers
