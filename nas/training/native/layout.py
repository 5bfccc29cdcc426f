"""Memory layout of one value."""

from collections.abc import Iterator
from dataclasses import dataclass

from nas.training.native.emit import Emitter, Index


@dataclass(frozen=True, slots=True)
class Layout:
    """A block: one value for as many examples as a vector has lanes, (channels, height, width, lanes) floats.

    Around each channel lie `halo` rows and columns of zeros, so that convolutions need not look where a map ends.
    """

    channels: int
    height: int
    width: int
    halo: int
    lanes: int

    @property
    def row(self) -> int:
        """Floats from one row to the next."""
        return (self.width + 2 * self.halo) * self.lanes

    @property
    def plane(self) -> int:
        """Floats from one channel to the next."""
        return (self.height + 2 * self.halo) * self.row

    @property
    def size(self) -> int:
        """Floats of a block."""
        return self.channels * self.plane

    def index(self, e: Emitter, c: Index, y: Index, x: Index) -> Index:
        """Of the vector of channel c, row y and column x; -1 is the halo's last."""
        start = self.halo * (self.row + self.lanes)
        return e.affine((c, self.plane), (y, self.row), (x, self.lanes), (start, 1))


def tiles(total: int, most: int) -> Iterator[tuple[int, int, int]]:
    """`total` in as few tiles of at most `most` as can be, nearly equal: (size, start, count) of each run of equals."""
    count = -(-total // most)
    size, larger = divmod(total, count)
    if larger:
        yield size + 1, 0, larger
    if count > larger:
        yield size, larger * (size + 1), count - larger
