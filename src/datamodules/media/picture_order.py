"""The order in which a decoder shows the packets of a stream, read from the headers of their pictures.

A container can say anything about when a packet is shown. The codec's own headers decide what the decoder does, and a
few of their bits tell it without decoding (about 10 us a packet): the picture order count of H.264 and HEVC (ITU-T
H.264 8.2.1, H.265 8.3.1), the picture types of MPEG-1, MPEG-2 and MPEG-4 Part 2. Other codecs either never reorder, or
are not read here. Whatever is rare (order count type 1, resets within a group of pictures) comes out as unknown or in
another order than the container's: then the file is decoded once to know.
"""

from array import array
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.media.bitstream import Bits, annex_b_units, units

Key = tuple[int, int]
UNKNOWN = -(1 << 63)  # below every number of a key

_LAST = 1 << 62  # sorts behind every number of a B-picture
_HEADER_BYTES = 64  # more than the part of a slice's header that is read here
_H264_HIGH_PROFILES = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})


class PictureOrder:
    """Collects the display order of a stream's packets; here of a codec that never reorders.

    Attributes:
        num_packets: read so far.
        second_fields: places of packets that hold only the second field of a frame, which show no frame themselves.
        begins_closed: whether the first packet says that every picture after it can be shown.
    """

    def __init__(self) -> None:
        self.num_packets = 0
        self._numbers = array("q")  # two of each packet: its key
        self.second_fields: set[int] = set()
        self.begins_closed = True

    def read(self, data: bytes) -> None:
        """Take in the next packet of the stream."""
        try:
            key = self._key(data)
        except EOFError:  # a damaged header
            key = None
        self._numbers.extend(key or (UNKNOWN, UNKNOWN))
        self.num_packets += 1

    @property
    def keys(self) -> NDArray[np.int64]:
        """int64 [N, 2]: the key of each packet read so far; they ascend in the order of display. `UNKNOWN` in both."""
        return np.array(self._numbers, dtype=np.int64).reshape(-1, 2)

    def drop_last(self) -> None:
        """Forget the packet that was read last."""
        del self._numbers[-2:]
        self.num_packets -= 1
        self.second_fields.discard(self.num_packets)

    def _key(self, data: bytes) -> Key | None:
        return self.num_packets, 0


class _Unknown(PictureOrder):
    """Of a codec that reorders, and whose headers are not read here."""

    def _key(self, data: bytes) -> Key | None:
        return None


class _PictureTypes(PictureOrder):
    """MPEG-1, MPEG-2, MPEG-4: B-pictures are shown at once, others when the next that is no B-picture has come.

    Args:
        start: the bytes before the header of a picture.
        byte: of that header, which holds the picture's type.
        shift, mask: where in the byte.
        b_type: the type of B-pictures.
    """

    def __init__(self, start: bytes, byte: int, shift: int, mask: int, b_type: int) -> None:
        super().__init__()
        self._start, self._byte, self._shift, self._mask, self._b_type = start, byte, shift, mask, b_type
        self._num_anchors = 0

    def _key(self, data: bytes) -> Key | None:
        place = data.find(self._start)
        byte = place + len(self._start) + self._byte
        if place < 0 or byte >= len(data):
            return None
        if data[byte] >> self._shift & self._mask == self._b_type:
            return self._num_anchors, self.num_packets
        self._num_anchors += 1
        return self._num_anchors, _LAST


class _OrderCounts(PictureOrder):
    """H.264 and HEVC: picture order counts, which begin anew at some keyframes.

    Args:
        extradata: of the stream: parameter sets, in the form of MP4 or of Annex B.
        length_place: byte of the MP4 form that says how many bytes a unit's length takes.
    """

    def __init__(self, extradata: bytes, length_place: int) -> None:
        super().__init__()
        is_annex_b = extradata[:1] != b"\1" or len(extradata) <= length_place
        self._length_bytes = 0 if is_annex_b else (extradata[length_place] & 3) + 1
        self._epoch = 0  # counts the pictures at which order counts begin anew
        self._reference_count = 0  # the order count of the last picture that others are counted from
        try:
            for unit in annex_b_units(extradata) if is_annex_b else self._sets_in(extradata):
                self._read_set(unit)
        except (EOFError, IndexError):  # damaged: the sets in the stream itself may do
            pass

    def _key(self, data: bytes) -> Key | None:
        for unit in units(data, self._length_bytes) if self._length_bytes else annex_b_units(data):
            if self._is_slice(unit):
                return self._slice_key(Bits(unit[:_HEADER_BYTES]), unit)
            self._read_set(unit)
        return None

    def _unwrapped(self, count: int, num_bits: int, is_reference: bool) -> int:
        """The whole order count, of which the header holds the lowest bits: the nearest to that of the reference."""
        half = 1 << num_bits - 1
        whole = self._reference_count + (count - self._reference_count + half) % (2 * half) - half
        if is_reference:
            self._reference_count = whole
        return whole

    def _begin_anew(self) -> None:
        self._epoch += 1
        self._reference_count = 0

    def _sets_in(self, extradata: bytes) -> Iterator[bytes]:
        raise NotImplementedError

    def _read_set(self, unit: bytes) -> None:
        raise NotImplementedError

    def _is_slice(self, unit: bytes) -> bool:
        raise NotImplementedError

    def _slice_key(self, bits: Bits, unit: bytes) -> Key | None:
        raise NotImplementedError


class _H264(_OrderCounts):
    def __init__(self, extradata: bytes) -> None:
        self._order_type: int | None = None  # None: no parameter set yet
        self._frame_num_bits = self._count_bits = 0
        self._has_planes = self._has_fields = False
        self._field: tuple[int, int] | None = None  # frame number and parity of a first field that waits for its second
        super().__init__(extradata, 4)

    def _sets_in(self, extradata: bytes) -> Iterator[bytes]:
        return units(extradata[6:], 2, extradata[5] & 31)

    def _is_slice(self, unit: bytes) -> bool:
        return unit[0] & 31 in (1, 2, 5)

    def _read_set(self, unit: bytes) -> None:
        if unit[0] & 31 != 7:
            return
        bits = Bits(unit)
        bits.u(8)
        profile = bits.u(8)
        bits.u(16)
        bits.ue()
        has_planes = False
        if profile in _H264_HIGH_PROFILES:
            chroma = bits.ue()
            has_planes = chroma == 3 and bool(bits.u(1))
            bits.ue(), bits.ue(), bits.u(1)
            if bits.u(1):
                for number in range(12 if chroma == 3 else 8):
                    if bits.u(1):
                        bits.skip_scaling_list(16 if number < 6 else 64)
        frame_num_bits, order_type, count_bits = bits.ue() + 4, bits.ue(), 0
        if order_type == 0:
            count_bits = bits.count_bits()
        elif order_type == 1:
            bits.u(1), bits.ue(), bits.ue()
            for _ in range(bits.ue()):
                bits.ue()
        bits.ue(), bits.u(1), bits.ue(), bits.ue()
        self._has_fields = not bits.u(1)
        self._has_planes = has_planes  # all of them at the end: a set that was cut off changes nothing
        self._frame_num_bits, self._order_type, self._count_bits = frame_num_bits, order_type, count_bits

    def _slice_key(self, bits: Bits, unit: bytes) -> Key | None:
        is_idr = unit[0] & 31 == 5
        if not self.num_packets:
            self.begins_closed = is_idr
        if self._order_type is None:
            return None
        bits.u(8), bits.ue(), bits.ue(), bits.ue()
        if self._has_planes:
            bits.u(2)
        frame_num = bits.u(self._frame_num_bits)
        parity = bits.u(1) if self._has_fields and bits.u(1) else None
        if parity is not None and self._field == (frame_num, 1 - parity):
            self.second_fields.add(self.num_packets)
            self._field = None
        else:
            self._field = None if parity is None else (frame_num, parity)
            if is_idr:
                self._begin_anew()
        if self._order_type == 2:
            return self._epoch, self.num_packets
        if self._order_type != 0:  # type 1 is not read here, and there are no others
            return None
        if is_idr:
            bits.ue()
        return self._epoch, self._unwrapped(bits.u(self._count_bits), self._count_bits, bool(unit[0] & 0x60))


class _Hevc(_OrderCounts):
    def __init__(self, extradata: bytes) -> None:
        self._count_bits = 0
        self._has_planes = False
        self._pictures: dict[int, tuple[bool, int]] = {}  # by parameter set: (may hide pictures, bits to leave out)
        super().__init__(extradata, 21)

    def _sets_in(self, extradata: bytes) -> Iterator[bytes]:
        place = 23
        for _ in range(extradata[22]):
            count = int.from_bytes(extradata[place + 1 : place + 3], "big")
            for unit in units(extradata[place + 3 :], 2, count):
                yield unit
                place += 2 + len(unit)
            place += 3

    def _is_slice(self, unit: bytes) -> bool:
        return _hevc_type(unit) < 32 and not _hevc_layer(unit)

    def _read_set(self, unit: bytes) -> None:
        if _hevc_layer(unit):  # of another view or of a better quality, which are not decoded
            return
        if _hevc_type(unit) == 33:
            self._read_sequence(Bits(unit))
        elif _hevc_type(unit) == 34:
            bits = Bits(unit)
            bits.u(16)
            number = bits.ue()
            bits.ue(), bits.u(1)
            self._pictures[number] = bool(bits.u(1)), bits.u(3)

    def _read_sequence(self, bits: Bits) -> None:
        bits.u(16 + 4)
        num_sub_layers = bits.u(3)
        bits.u(1 + 96)
        flags = [(bits.u(1), bits.u(1)) for _ in range(8 if num_sub_layers else 0)]
        for has_profile, has_level in flags[:num_sub_layers]:
            bits.u(88 * has_profile + 8 * has_level)
        bits.ue()
        has_planes = bits.ue() == 3 and bool(bits.u(1))
        bits.ue(), bits.ue()
        if bits.u(1):
            bits.ue(), bits.ue(), bits.ue(), bits.ue()
        bits.ue(), bits.ue()
        self._has_planes, self._count_bits = has_planes, bits.count_bits()

    def _slice_key(self, bits: Bits, unit: bytes) -> Key | None:
        kind = _hevc_type(unit)
        is_idr = kind in (19, 20)
        if not self.num_packets:
            self.begins_closed = is_idr or kind == 18
        bits.u(17)
        if 16 <= kind <= 23:
            bits.u(1)
        may_hide, num_extra_bits = self._pictures.get(bits.ue(), (True, 0))
        bits.u(num_extra_bits)
        bits.ue()
        if not self._count_bits or (may_hide and not bits.u(1)):
            return None
        if self._has_planes:
            bits.u(2)
        if 16 <= kind <= 20:
            self._begin_anew()
        is_reference = not (unit[1] & 7) - 1 and not 6 <= kind <= 9 and not (kind <= 14 and kind % 2 == 0)
        return self._epoch, 0 if is_idr else self._unwrapped(bits.u(self._count_bits), self._count_bits, is_reference)


def picture_order(stream: Any) -> PictureOrder:
    """What collects the display order of the packets of `stream`."""
    codec = stream.codec_context.codec
    extradata = stream.codec_context.extradata or b""
    if not codec.reorder:
        return PictureOrder()
    match codec.canonical_name:
        case "h264":
            return _H264(extradata)
        case "hevc":
            return _Hevc(extradata)
        case "mpeg1video" | "mpeg2video":
            return _PictureTypes(b"\0\0\1\0", byte=1, shift=3, mask=7, b_type=3)
        case "mpeg4":
            return _PictureTypes(b"\0\0\1\xb6", byte=0, shift=6, mask=3, b_type=2)
    return _Unknown()


def _hevc_type(unit: bytes) -> int:
    return unit[0] >> 1 & 63


def _hevc_layer(unit: bytes) -> int:
    return (unit[0] & 1) << 5 | unit[1] >> 3 if len(unit) > 1 else 63
