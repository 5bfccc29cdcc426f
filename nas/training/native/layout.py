"""Memory layout of one value for a block of examples."""

from collections.abc import Iterator
from dataclasses import dataclass

from nas.training.native.emit import Emitter, Index


@dataclass(frozen=True, slots=True)
class Layout:
    """Layout of one block: (channels, height, width, lanes) floats, one example in each lane.

    `halo` rows and columns of zeros surround each channel, so that convolutions need no bounds checks.
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
        """Floats in a block."""
        return self.channels * self.plane

    def index(self, e: Emitter, c: Index, y: Index, x: Index) -> Index:
        """Returns the index of the vector at channel c, row y and column x; y or x = -1 is in the halo."""
        start = self.halo * (self.row + self.lanes)
        return e.affine((c, self.plane), (y, self.row), (x, self.lanes), (start, 1))


def tiles(total: int, most: int) -> Iterator[tuple[int, int, int]]:
    """Divides `total` into as few tiles of at most `most` as possible, whose sizes differ by at most 1.

    Yields (size of a tile, start, number of tiles) for each run of equal tiles.
    """
    count = -(-total // most)
    size, larger = divmod(total, count)
    if larger:
        yield size + 1, 0, larger
    if count > larger:
        yield size, larger * (size + 1), count - larger
