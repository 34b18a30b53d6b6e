"""The display order of the packets of a stream, read from the codec's own headers.

A container can claim anything about when a packet is shown. What the decoder does is decided by the codec's headers,
and a few of their bits tell it without decoding, in about 10 us a packet: the picture order counts of H.264 (ITU-T
H.264, 8.2.1) and HEVC (ITU-T H.265, 8.3.1), and the picture types of MPEG-1, MPEG-2 and MPEG-4 Part 2. Other codecs
either never reorder, or are not read here.

Rare features (order count type 1, resets within a group of pictures) give an unknown order, or one that differs from
the container's. Then the file is decoded once to learn the order, so a mistake here costs time, but no wrong frame.
"""

from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from datamodules.media.bitstream import BitReader, annex_b_units, length_prefixed_units

if TYPE_CHECKING:
    from av.video.stream import VideoStream


Key = tuple[int, int]
UNKNOWN = -(1 << 63)  # in both numbers of the key of a packet whose header says nothing; below every other number

_LAST = 1 << 62  # sorts after the number of every B-picture
_HEADER_BYTES = 64  # longer than the part of a slice header that is read here

# NAL unit types of H.264 (table 7-1) and HEVC (table 7-1)
_H264_SLICES, _H264_IDR, _H264_SEQUENCE_SET = (1, 2, 5), 5, 7
_H264_HIGH_PROFILES = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})
_HEVC_RASL_RADL = range(6, 10)  # leading pictures
_HEVC_LAST_SUB_LAYER = 14  # up to here, even types are not referenced within their sub-layer
_HEVC_KEYFRAMES = range(16, 24)
_HEVC_RESETS = range(16, 21)  # BLA and IDR: order counts begin anew
_HEVC_BLA_WITHOUT_LEADING, _HEVC_IDR = 18, (19, 20)
_HEVC_NUM_SLICE_TYPES, _HEVC_SEQUENCE_SET, _HEVC_PICTURE_SET = 32, 33, 34


class PictureOrder:
    """Collects the display order of a stream's packets. This base class is for codecs that never reorder.

    Attributes:
        num_packets: packets read so far.
        second_fields: indices of packets with only the second field of a frame, which show no frame of their own.
        begins_closed: whether all pictures after the first packet can be shown, by its header.
    """

    def __init__(self) -> None:
        self.num_packets = 0
        self._numbers = array("q")  # two for each packet: its key
        self.second_fields: set[int] = set()
        self.begins_closed = True

    def read(self, data: bytes) -> None:
        """Read the header in the next packet of the stream."""
        try:
            key = self._key(data)
        except EOFError:  # a damaged header
            key = None
        self._numbers.extend(key or (UNKNOWN, UNKNOWN))
        self.num_packets += 1

    @property
    def keys(self) -> NDArray[np.int64]:
        """int64 [N, 2]: a key for each packet read so far; keys ascend in display order. `UNKNOWN` if not known."""
        return np.array(self._numbers, dtype=np.int64).reshape(-1, 2)

    def drop_last(self) -> None:
        """Forget the packet that was read last."""
        del self._numbers[-2:]
        self.num_packets -= 1
        self.second_fields.discard(self.num_packets)

    def _key(self, data: bytes) -> Key | None:
        """Return the key of a packet; None if its header does not tell."""
        return self.num_packets, 0


class _Unknown(PictureOrder):
    """A codec that reorders, and whose headers are not read here."""

    def _key(self, data: bytes) -> Key | None:
        return None


class _PictureTypes(PictureOrder):
    """MPEG-1, MPEG-2, MPEG-4: a B-picture is shown at once, any other one when the next one that is not B comes.

    So B-pictures share the first number of their keys with the previous anchor, and sort before it by the second.

    Args:
        start_code: the bytes before the header of a picture.
        byte: index of the byte of that header that holds the picture's type.
        shift: position of the type in that byte.
        mask: of the type, after the shift.
        b_type: type of a B-picture.
    """

    def __init__(self, start_code: bytes, byte: int, shift: int, mask: int, b_type: int) -> None:
        super().__init__()
        self._start_code, self._byte, self._shift, self._mask, self._b_type = start_code, byte, shift, mask, b_type
        self._num_anchors = 0  # pictures so far that are not B

    def _key(self, data: bytes) -> Key | None:
        start = data.find(self._start_code)
        byte = start + len(self._start_code) + self._byte
        if start < 0 or byte >= len(data):
            return None
        if data[byte] >> self._shift & self._mask == self._b_type:
            return self._num_anchors, self.num_packets
        self._num_anchors += 1
        return self._num_anchors, _LAST


class _OrderCounts(PictureOrder):
    """H.264 and HEVC: picture order counts, which begin anew at some keyframes.

    A key is (number of resets so far, order count since the last one).

    Args:
        extradata: the stream's parameter sets, in the form of MP4 (avcC, hvcC) or of Annex B.
        length_byte: index of the byte of the MP4 form that says how many bytes a unit's length takes.
    """

    def __init__(self, extradata: bytes, length_byte: int) -> None:
        super().__init__()
        is_annex_b = extradata[:1] != b"\1" or len(extradata) <= length_byte
        self._length_bytes = 0 if is_annex_b else (extradata[length_byte] & 3) + 1
        self._epoch = 0  # pictures so far at which order counts began anew
        self._reference_count = 0  # order count of the last picture that later counts are relative to
        try:
            for unit in annex_b_units(extradata) if is_annex_b else self._sets_in(extradata):
                self._read_set(unit)
        except (EOFError, IndexError):  # damaged: the stream itself may repeat the sets
            pass

    def _key(self, data: bytes) -> Key | None:
        units = length_prefixed_units(data, self._length_bytes) if self._length_bytes else annex_b_units(data)
        for unit in units:
            if self._is_slice(unit):  # the first slice of the picture is enough
                return self._slice_key(BitReader(unit[:_HEADER_BYTES]), unit)
            self._read_set(unit)
        return None

    def _unwrap(self, low_bits: int, num_bits: int, is_reference: bool) -> int:
        """Return the whole order count, of which a slice header holds the lowest bits.

        It is the one nearest to the count of the last reference picture (H.264 8.2.1.1, H.265 8.3.1).
        """
        half = 1 << num_bits - 1
        count = self._reference_count + (low_bits - self._reference_count + half) % (2 * half) - half
        if is_reference:
            self._reference_count = count
        return count

    def _reset(self) -> None:
        self._epoch += 1
        self._reference_count = 0

    def _sets_in(self, extradata: bytes) -> Iterator[bytes]:
        """Yield the parameter sets of the MP4 form."""
        raise NotImplementedError

    def _read_set(self, unit: bytes) -> None:
        """Read a parameter set; ignore any other unit."""
        raise NotImplementedError

    def _is_slice(self, unit: bytes) -> bool:
        raise NotImplementedError

    def _slice_key(self, bits: BitReader, unit: bytes) -> Key | None:
        """Return the key of a picture from one of its slices, whose header `bits` reads."""
        raise NotImplementedError


class _H264(_OrderCounts):
    """H.264: sequence parameter sets (7.3.2.1.1) say how to read slice headers (7.3.3)."""

    def __init__(self, extradata: bytes) -> None:
        self._order_type: int | None = None  # None: no parameter set yet
        self._frame_num_bits = self._count_bits = 0
        self._has_planes = self._has_fields = False
        # frame_num and parity of a first field that waits for its second
        self._first_field: tuple[int, int] | None = None
        super().__init__(extradata, 4)

    def _sets_in(self, extradata: bytes) -> Iterator[bytes]:
        return length_prefixed_units(extradata[6:], 2, extradata[5] & 31)

    def _is_slice(self, unit: bytes) -> bool:
        return unit[0] & 31 in _H264_SLICES

    def _read_set(self, unit: bytes) -> None:
        if unit[0] & 31 != _H264_SEQUENCE_SET:
            return
        bits = BitReader(unit)
        bits.u(8)
        profile = bits.u(8)
        bits.u(16)
        bits.ue()  # seq_parameter_set_id
        has_planes = False
        if profile in _H264_HIGH_PROFILES:
            chroma = bits.ue()
            has_planes = chroma == 3 and bool(bits.u(1))  # separate_colour_plane_flag
            bits.ue(), bits.ue(), bits.u(1)  # bit depths; qpprime_y_zero_transform_bypass_flag
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
        bits.ue(), bits.u(1), bits.ue(), bits.ue()  # max_num_ref_frames, gaps_in_frame_num, width, height
        self._has_fields = not bits.u(1)  # frame_mbs_only_flag
        # assigned together, at the end: a set that is cut off raises EOFError before, and changes nothing
        self._has_planes = has_planes
        self._frame_num_bits, self._order_type, self._count_bits = frame_num_bits, order_type, count_bits

    def _slice_key(self, bits: BitReader, unit: bytes) -> Key | None:
        is_idr = unit[0] & 31 == _H264_IDR
        if not self.num_packets:
            self.begins_closed = is_idr
        if self._order_type is None:
            return None
        bits.u(8), bits.ue(), bits.ue(), bits.ue()  # header, first_mb_in_slice, slice_type, pic_parameter_set_id
        if self._has_planes:
            bits.u(2)
        frame_num = bits.u(self._frame_num_bits)
        parity = bits.u(1) if self._has_fields and bits.u(1) else None  # bottom_field_flag; None: a whole frame
        if parity is not None and self._first_field == (frame_num, 1 - parity):
            self.second_fields.add(self.num_packets)
            self._first_field = None
        else:
            self._first_field = None if parity is None else (frame_num, parity)
            if is_idr:
                self._reset()
        if self._order_type == 2:  # display order is decoding order
            return self._epoch, self.num_packets
        if self._order_type != 0:  # type 1 is not read here, and there are no others
            return None
        if is_idr:
            bits.ue()  # idr_pic_id
        is_reference = bool(unit[0] & 0x60)  # nal_ref_idc
        return self._epoch, self._unwrap(bits.u(self._count_bits), self._count_bits, is_reference)


class _Hevc(_OrderCounts):
    """HEVC: sequence (7.3.2.2) and picture (7.3.2.3) parameter sets say how to read slice headers (7.3.6)."""

    def __init__(self, extradata: bytes) -> None:
        self._count_bits = 0
        self._has_planes = False
        # by pic_parameter_set_id: (output_flag_present_flag, num_extra_slice_header_bits)
        self._pictures: dict[int, tuple[bool, int]] = {}
        super().__init__(extradata, 21)

    def _sets_in(self, extradata: bytes) -> Iterator[bytes]:
        start = 23
        for _ in range(extradata[22]):  # arrays of units of one type
            count = int.from_bytes(extradata[start + 1 : start + 3], "big")
            for unit in length_prefixed_units(extradata[start + 3 :], 2, count):
                yield unit
                start += 2 + len(unit)
            start += 3

    def _is_slice(self, unit: bytes) -> bool:
        return _hevc_type(unit) < _HEVC_NUM_SLICE_TYPES and not _hevc_layer(unit)

    def _read_set(self, unit: bytes) -> None:
        if _hevc_layer(unit):  # another view or a better quality, which is not decoded
            return
        if _hevc_type(unit) == _HEVC_SEQUENCE_SET:
            self._read_sequence(BitReader(unit))
        elif _hevc_type(unit) == _HEVC_PICTURE_SET:
            bits = BitReader(unit)
            bits.u(16)
            number = bits.ue()
            bits.ue(), bits.u(1)  # pps_seq_parameter_set_id, dependent_slice_segments_enabled_flag
            self._pictures[number] = bool(bits.u(1)), bits.u(3)

    def _read_sequence(self, bits: BitReader) -> None:
        bits.u(16 + 4)
        num_sub_layers = bits.u(3)
        bits.u(1 + 96)  # temporal id nesting; general profile, tier and level
        flags = [(bits.u(1), bits.u(1)) for _ in range(8 if num_sub_layers else 0)]
        for has_profile, has_level in flags[:num_sub_layers]:
            bits.u(88 * has_profile + 8 * has_level)
        bits.ue()  # sps_seq_parameter_set_id
        has_planes = bits.ue() == 3 and bool(bits.u(1))  # chroma_format_idc, separate_colour_plane_flag
        bits.ue(), bits.ue()  # width, height
        if bits.u(1):
            bits.ue(), bits.ue(), bits.ue(), bits.ue()  # conformance window
        bits.ue(), bits.ue()  # bit depths
        self._has_planes, self._count_bits = has_planes, bits.count_bits()

    def _slice_key(self, bits: BitReader, unit: bytes) -> Key | None:
        kind = _hevc_type(unit)
        is_idr = kind in _HEVC_IDR
        if not self.num_packets:
            self.begins_closed = is_idr or kind == _HEVC_BLA_WITHOUT_LEADING
        bits.u(17)  # unit header, first_slice_segment_in_pic_flag
        if kind in _HEVC_KEYFRAMES:
            bits.u(1)  # no_output_of_prior_pics_flag
        has_output_flag, num_extra_bits = self._pictures.get(bits.ue(), (True, 0))
        bits.u(num_extra_bits)
        bits.ue()  # slice_type
        is_hidden = has_output_flag and not bits.u(1)  # pic_output_flag
        if not self._count_bits or is_hidden:
            return None
        if self._has_planes:
            bits.u(2)
        if kind in _HEVC_RESETS:
            self._reset()
        # of temporal layer 0, no leading picture, and referenced within its sub-layer (8.3.1)
        is_reference = (
            unit[1] & 7 == 1 and kind not in _HEVC_RASL_RADL and not (kind <= _HEVC_LAST_SUB_LAYER and kind % 2 == 0)
        )
        return self._epoch, 0 if is_idr else self._unwrap(bits.u(self._count_bits), self._count_bits, is_reference)


def picture_order(stream: "VideoStream") -> PictureOrder:
    """Return a collector for the codec of a stream.

    Args:
        stream: of PyAV.
    """
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
