"""Bits and units of H.264 and HEVC streams."""

from collections.abc import Iterator

_UNIT_BYTES = 4096  # more than a parameter set takes: its longest part, 255 offsets of order count type 1, has 2 KB
_MAX_COUNT_BITS = 16  # of an order count, in both standards
_ANNEX_B_START = b"\0\0\1"


class Bits:
    """The first bits of a unit, without the bytes that keep start codes out of it; EOFError behind their end."""

    def __init__(self, unit: bytes) -> None:
        content = unit[:_UNIT_BYTES].replace(b"\0\0\3", b"\0\0")  # reading n bits takes time in n^2
        self._value, self._num_left = int.from_bytes(content, "big"), 8 * len(content)

    def u(self, num_bits: int) -> int:
        """An unsigned number of so many bits."""
        self._num_left -= num_bits
        if self._num_left < 0:
            raise EOFError
        return self._value >> self._num_left & ((1 << num_bits) - 1)

    def ue(self) -> int:
        """An unsigned number in Exp-Golomb code."""
        num_zeros = 0
        while not self.u(1):
            num_zeros += 1
        return (1 << num_zeros) - 1 + self.u(num_zeros)

    def count_bits(self) -> int:
        """How many bits an order count takes; EOFError for more than the standards allow."""
        num_bits = self.ue() + 4
        if num_bits > _MAX_COUNT_BITS:
            raise EOFError
        return num_bits

    def skip_scaling_list(self, size: int) -> None:
        """Go past a list of H.264, of differences that end early where the scale becomes 0."""
        scale = 8
        for _ in range(size):
            number = self.ue()
            scale = (scale + (number + 1 >> 1 if number % 2 else -(number >> 1))) % 256
            if scale == 0:
                return


def units(data: bytes, length_bytes: int, count: int | None = None) -> Iterator[bytes]:
    """Units that are each preceded by their length; `count` of them, or all."""
    place = 0
    while place + length_bytes < len(data) and count != 0:
        end = place + length_bytes + int.from_bytes(data[place : place + length_bytes], "big")
        if unit := data[place + length_bytes : end]:
            yield unit
        place = end
        count = None if count is None else count - 1


def annex_b_units(data: bytes) -> Iterator[bytes]:
    """Units between start codes."""
    place = data.find(_ANNEX_B_START)
    while place >= 0:
        end = data.find(_ANNEX_B_START, place + 3)
        if unit := data[place + 3 : end if end >= 0 else None]:
            yield unit
        place = end
