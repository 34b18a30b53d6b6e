"""Videos of many codecs and containers whose frames show their numbers."""

import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

_BITS = 8  # of a number: as many bars


@dataclass(frozen=True)
class Kind:
    """How a video is written. `times` gives the pts of frame k in 1/1000 s; `change` is done to the finished file.

    `skips`: whether frames that nobody wants can be left out of decoding, which takes B-frames on which none depends.
    """

    suffix: str = "mp4"
    codec: str = "libx264"
    options: Mapping[str, str] = field(default_factory=lambda: {"g": "30", "bf": "3"})
    pix_fmt: str = "yuv420p"
    size: tuple[int, int] = (128, 96)
    times: Callable[[int], int] = lambda k: 40 * k
    hidden: int = 0  # frames before the first, which an edit list hides
    num_streams: int = 1
    change: Callable[[bytes], bytes] = bytes
    skips: bool = False
    pixel_aspect_ratio: Fraction | None = None
    container_options: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_timed(self) -> bool:
        """Whether the codec takes times in 1/1000 s; the older ones know frame rates only."""
        return not self.codec.startswith(("mpeg", "mjpeg")) and self.suffix != "avi"


def picture(number: int, size: tuple[int, int] = (128, 96)) -> Picture:
    """uint8 [H, W, 3]: `number` in white and black bars, over something that moves."""
    width, height = size
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    moving = 60 + 40 * np.sin((x + 5 * number) / 9) + 30 * np.cos((y - 3 * number) / 7)
    pixels: Picture = np.stack([moving, moving[::-1], 160 - moving], axis=-1).clip(0, 255).astype(np.uint8)
    for bit, column in enumerate(_bars(width)):
        pixels[height // 4 : 3 * height // 4, column] = 255 if number >> bit & 1 else 0
    return pixels


def number_in(pixels: Picture) -> int:
    """The number that a decoded frame, uint8 [H, W, 3], shows."""
    height, width = pixels.shape[:2]
    middle = pixels[3 * height // 8 : 5 * height // 8]
    return sum(int(middle[:, column].mean() > 127) << bit for bit, column in enumerate(_bars(width)))


def _bars(width: int) -> list[slice]:
    step = width // _BITS
    return [slice(bit * step + 2, (bit + 1) * step - 2) for bit in range(_BITS)]


def write(path: Path, kind: Kind, num_frames: int = 60) -> Path:
    """A video of that kind, `path` with its suffix; frame k shows the number k, in stream s the number 100 s + k."""
    path = path.with_name(f"{path.name}.{kind.suffix}")
    try:
        _write(path, kind, num_frames)
    # seen once in some thousand of x265's single frames; the same again succeeds
    except (av.error.PatchWelcomeError, av.error.ArgumentError):
        _write(path, kind, num_frames)
    path.write_bytes(kind.change(path.read_bytes()))
    return path


def _write(path: Path, kind: Kind, num_frames: int) -> None:
    with av.open(str(path), "w", options=dict(kind.container_options)) as container:
        streams = [_stream(container, kind) for _ in range(kind.num_streams)]
        for place, stream in enumerate(streams):
            for packet in _packets(stream, kind, num_frames, 100 * place):
                container.mux(packet)


def _stream(container: Any, kind: Kind) -> Any:
    stream = container.add_stream(kind.codec, rate=25, options={**kind.options, "threads": "1"})
    stream.width, stream.height = kind.size
    stream.pix_fmt = kind.pix_fmt
    if kind.pixel_aspect_ratio:
        stream.codec_context.sample_aspect_ratio = kind.pixel_aspect_ratio
    if kind.is_timed:
        stream.codec_context.time_base = Fraction(1, 1000)
    return stream


def _packets(stream: Any, kind: Kind, num_frames: int, first: int) -> Iterator[Any]:
    """The packets of numbered frames, after those that are to be hidden, which have times below 0."""
    time_base = stream.codec_context.time_base or Fraction(1, 25)
    for k in range(kind.hidden + num_frames):
        number = first + k - kind.hidden if k >= kind.hidden else 255
        frame = av.VideoFrame.from_ndarray(picture(number, kind.size), format="rgb24").reformat(format=kind.pix_fmt)
        frame.pts = kind.times(k) if kind.is_timed else k
        frame.time_base = time_base
        yield from _shifted(stream.encode(frame), kind)
    yield from _shifted(stream.encode(), kind)


def _shifted(packets: Sequence[Any], kind: Kind) -> Iterator[Any]:
    for packet in packets:
        if kind.hidden:
            packet.pts -= kind.times(kind.hidden)
            packet.dts -= kind.times(kind.hidden)
        yield packet


def _displayed(content: bytes, a: int, b: int, c: int, d: int) -> bytes:
    """An MP4 with the matrix in its track's header that turns or mirrors it."""
    place = content.index(b"tkhd") + 4 + 40
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    return content[:place] + matrix + content[place + 36 :]


def rotated(content: bytes) -> bytes:
    """An MP4 that is to be turned by 90 degrees."""
    return _displayed(content, 0, 1, -1, 0)


def _mirrored(content: bytes) -> bytes:
    return _displayed(content, -1, 0, 0, 1)


def upright(name: str, frame: Picture) -> Picture:
    """The picture of a kind as it was drawn, from how it is to be shown."""
    return np.rot90(frame) if name == "rotation" else frame[:, ::-1] if name == "mirrored" else frame


def _x264(**options: int | str) -> dict[str, str]:
    return {"x264-params": ":".join(f"{name}={value}" for name, value in options.items())}


def _x265(**options: int | str) -> dict[str, str]:
    given = {**options, "pools": "none", "frame_threads": 1, "log_level": "none"}
    return {"x265-params": ":".join(f"{name.replace('_', '-')}={value}" for name, value in given.items())}


def _uneven(k: int) -> int:
    return 40 * k + (13 * k) % 29 + (400 if k > 30 else 0)


KINDS: dict[str, Kind] = {
    "b-frames": Kind(skips=True),
    "no b-frames": Kind(options={"g": "30", "bf": "0"}),
    "gop 1": Kind(options={"g": "1", "bf": "0"}),
    "gop 250": Kind(options={"g": "250", "bf": "3"}, skips=True),
    "open gop": Kind(options=_x264(keyint=12, bframes=3, open_gop=1, b_adapt=0), skips=True),
    "intra-refresh": Kind(options=_x264(keyint=15, bframes=2, intra_refresh=1)),
    "variable rate": Kind(times=_uneven, skips=True),
    "variable rate in matroska": Kind("mkv", times=_uneven, skips=True),
    "edit list": Kind(hidden=17, options={"g": "25", "bf": "3", "sc_threshold": "0"}, skips=True),
    "start offset": Kind("mkv", times=lambda k: 1400 + 40 * k, skips=True),
    "rotation": Kind("mov", change=rotated, skips=True),
    "mirrored": Kind("mov", change=_mirrored, skips=True),
    "odd size": Kind(size=(131, 97), pix_fmt="yuv444p", skips=True),
    "10 bit": Kind(pix_fmt="yuv420p10le", skips=True),
    "fragments": Kind(container_options={"movflags": "frag_keyframe+empty_moov"}, skips=True),
    "two streams": Kind(num_streams=2, skips=True),
    "hevc": Kind(codec="libx265", options=_x265(keyint=20, bframes=3), skips=True),
    "hevc open gop": Kind(codec="libx265", options=_x265(keyint=9, open_gop=1), skips=True),
    "vp8": Kind("webm", "libvpx", {"g": "20", "auto-alt-ref": "1", "lag-in-frames": "10", "b": "1M"}),
    "vp9": Kind("webm", "libvpx-vp9", {"g": "20", "lag-in-frames": "10", "deadline": "realtime", "b": "1M"}),
    "av1": Kind("mkv", "libsvtav1", {"g": "20", "preset": "12", "svtav1-params": "lp=1"}),
    "mpeg-ts": Kind("ts"),
    "mpeg-2 in mpeg-ps": Kind("mpg", "mpeg2video", {"g": "12", "bf": "2"}),
    "flv": Kind("flv", skips=True),
    "mpeg-4 in avi": Kind("avi", "mpeg4", {"g": "12", "bf": "2", "b": "1M"}),
    "h.264 in avi": Kind("avi"),
    "motion jpeg in avi": Kind("avi", "mjpeg", {}, "yuvj420p"),
    "wmv": Kind("wmv", "wmv2", {"g": "12", "b": "1M"}),
}  # fmt: skip


def numbers(frames: Sequence[Picture]) -> list[int]:
    """Return the number that each of `frames` shows."""
    return [number_in(frame) for frame in frames]


Retime = Callable[[int, int, int], tuple[int, int]]  # (place, pts, dts) to (pts, dts), in frames


def remux(source: Path, path: Path, retime: Retime | None = None, start: int = 0) -> Path:
    """The packets of a video of 25 frames a second, from the one at `start` on, in another file, with other times."""
    with av.open(str(source)) as file, av.open(str(path), "w") as container:
        stream = file.streams.video[0]
        written = container.add_stream_from_template(stream)
        assert stream.time_base is not None
        frame = Fraction(1, 25) / stream.time_base
        for place, packet in enumerate(packet for packet in file.demux(stream) if packet.size):
            if place < start:
                continue
            if retime is not None:
                assert packet.pts is not None
                assert packet.dts is not None
                times = retime(place, round(packet.pts / frame), round(packet.dts / frame))
                packet.pts, packet.dts = (round(time * frame) for time in times)
            packet.stream = written
            container.mux(packet)
    return path


def joined(path: Path, *parts: Path) -> Path:
    """Files one after another, as `cat` joins them; of FLV without the file headers of all but the first."""
    header = 13 if path.suffix == ".flv" else 0
    first, *others = (part.read_bytes() for part in parts)
    path.write_bytes(first + b"".join(other[header:] for other in others))
    return path


def write_field_pictures(path: Path, num_frames: int) -> Path:
    """Interlaced H.264 with a picture and a packet for each field (PAFF), which x264 does not write."""
    width, height = size = (128, 32)
    content = bytes(NalUnit(0x67).u(24, 77 << 16 | 30).ue(0, 0, 0, 4, 1).u(1, 0).ue(7, 0).u(5, 0b00100))
    content += bytes(NalUnit(0x68).ue(0, 0).u(2, 0).ue(0, 0, 0).u(3, 0).ue(0, 0, 0).u(3, 0b100))
    for number in range(2 * num_frames):
        k, is_bottom = divmod(number, 2)
        frame = av.VideoFrame.from_ndarray(picture(k, size), format="rgb24").reformat(format="yuv420p")
        planes = np.split(frame.to_ndarray().ravel(), [width * height, width * height * 5 // 4])
        unit = NalUnit(0x61 if number else 0x65).ue(0, 7, 0).u(4, k % 16).u(2, 2 + is_bottom)
        unit.ue(*([] if number else [0])).u(8, number % 256).u(1 if number else 2, 0).ue(0, 1)
        for column in range(width // 16):
            unit.ue(25).align()  # I_PCM: the pixels as they are
            for plane, side in zip(planes, (16, 8, 8), strict=True):
                field = plane.reshape(2 * side, -1)[is_bottom::2]
                unit.raw(field[:, column * side : (column + 1) * side].tobytes())
        content += bytes(unit)
    raw = path.with_suffix(".h264")
    raw.write_bytes(content)
    if path == raw:
        return path
    with av.open(str(raw)) as file, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(file.streams.video[0])
        for number, packet in enumerate(packet for packet in file.demux(video=0) if packet.size):
            packet.stream, packet.time_base = stream, Fraction(1, 50)
            packet.pts = packet.dts = number
            container.mux(packet)
    return path


def as_intra_only(keyframe: bytes) -> bytes:
    """VP9's keyframe as a hidden intra-only frame, and a frame that shows it, in one packet (VP9 specification, 6.2).

    Such a frame is read by other rules than a keyframe, so it shows something else.
    """
    bits = "".join(f"{byte:08b}" for byte in keyframe)
    place = 69  # behind the marks, the sync code, the colours, the size and no other size to be shown at

    def take(num_bits: int) -> str:
        nonlocal place
        place += num_bits
        return bits[place - num_bits : place]

    take(4 + 9)  # contexts; the loop filter, with its changes for references and modes
    if take(1) == "1" and take(1) == "1":
        for _ in range(6):
            take(7 * int(take(1)))
    take(8)  # the quantizer, with its changes
    for _ in range(3):
        take(5 * int(take(1)))
    assert take(1) == "0", "no segments are expected"
    take(int(take(1)) + 16)  # rows of tiles, and the size of the other header
    header = "1000" + "0100" + "1" + "00" + bits[8:32] + "1" * 8 + bits[36:68] + "0" + bits[69:place]
    header += "0" * (-len(header) % 8)
    frame = int(header, 2).to_bytes(len(header) // 8, "big") + keyframe[-(-place // 8) :]
    mark = bytes([0b110_01_001])  # two frames, whose sizes take two bytes each
    return frame + bytes([0b1000_1000]) + mark + struct.pack("<HH", len(frame), 1) + mark


class NalUnit:
    """A unit of H.264 that is being written: `u` an unsigned number, `ue` Exp-Golomb codes, `raw` bytes."""

    def __init__(self, header: int) -> None:
        self._header, self._bits = header, ""

    def u(self, num_bits: int, value: int) -> "NalUnit":
        self._bits += f"{value:0{num_bits}b}"
        return self

    def ue(self, *values: int) -> "NalUnit":
        for code in (f"{value + 1:b}" for value in values):
            self._bits += "0" * (len(code) - 1) + code
        return self

    def align(self) -> "NalUnit":
        self._bits += "0" * (-len(self._bits) % 8)
        return self

    def raw(self, content: bytes) -> "NalUnit":
        self._bits += "".join(f"{byte:08b}" for byte in content)
        return self

    def __bytes__(self) -> bytes:
        bits = self._bits + "1" + "0" * (-(len(self._bits) + 1) % 8)
        content = int(bits, 2).to_bytes(len(bits) // 8, "big")
        return b"\0\0\0\1" + bytes([self._header]) + re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", content)
