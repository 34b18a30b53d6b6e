"""The units and bits of H.264 and HEVC streams.

A packet of these codecs is a sequence of NAL units: parameter sets, slices of a picture, and others. MP4 and Matroska
put the length of each unit before it; MPEG-TS and raw streams put the start code 00 00 01 before it (Annex B).
"""

from collections.abc import Iterator

_UNIT_BYTES = 4096  # longer than any parameter set: its longest part, 255 offsets of order count type 1, has 2 KB
_MAX_COUNT_BITS = 16  # of a picture order count, in both standards
_START_CODE = b"\0\0\1"


class BitReader:
    """Reads the first bits of a NAL unit; raises EOFError behind their end.

    Args:
        unit: with its header. Emulation prevention bytes, which keep start codes out of a unit, are removed.
    """

    def __init__(self, unit: bytes) -> None:
        # one big integer, from which bits are shifted: reading n bits takes n^2, so `unit` is cut
        content = unit[:_UNIT_BYTES].replace(b"\0\0\3", b"\0\0")
        self._value, self._num_left = int.from_bytes(content, "big"), 8 * len(content)

    def u(self, num_bits: int) -> int:
        """Read an unsigned integer, u(n) in the standards."""
        self._num_left -= num_bits
        if self._num_left < 0:
            raise EOFError
        return self._value >> self._num_left & ((1 << num_bits) - 1)

    def ue(self) -> int:
        """Read an unsigned integer in Exp-Golomb code, ue(v) in the standards."""
        num_zeros = 0
        while not self.u(1):
            num_zeros += 1
        return (1 << num_zeros) - 1 + self.u(num_zeros)

    def count_bits(self) -> int:
        """Read the number of bits of a picture order count; EOFError for more than the standards allow."""
        num_bits = self.ue() + 4
        if num_bits > _MAX_COUNT_BITS:
            raise EOFError
        return num_bits

    def skip_scaling_list(self, size: int) -> None:
        """Skip a scaling list of H.264 (7.3.2.1.1.1): differences, which end early where the scale becomes 0."""
        scale = 8
        for _ in range(size):
            number = self.ue()
            scale = (scale + (number + 1 >> 1 if number % 2 else -(number >> 1))) % 256
            if scale == 0:
                return


def length_prefixed_units(data: bytes, length_bytes: int, count: int | None = None) -> Iterator[bytes]:
    """Yield units that are each preceded by their length.

    Args:
        data: with the units.
        length_bytes: bytes of a length.
        count: of the units; None: all.
    """
    start = 0
    while start + length_bytes < len(data) and count != 0:
        end = start + length_bytes + int.from_bytes(data[start : start + length_bytes], "big")
        if unit := data[start + length_bytes : end]:
            yield unit
        start = end
        count = None if count is None else count - 1


def annex_b_units(data: bytes) -> Iterator[bytes]:
    """Yield units that are each preceded by a start code."""
    start = data.find(_START_CODE)
    while start >= 0:
        end = data.find(_START_CODE, start + 3)
        if unit := data[start + 3 : end if end >= 0 else None]:
            yield unit
        start = end
