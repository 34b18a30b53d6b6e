"""Clips: a few frames of a video, and the text that goes with them.

| file in the shard | type, shape        | meaning                                                                   |
|-------------------|--------------------|---------------------------------------------------------------------------|
| frames.npy        | uint8 [T, H, W, 3] | the frames, RGB                                                           |
| 000.jpg …         | JPEG, quality 95   | instead of frames.npy, a file per frame: a sixth of the bytes, but lossy  |
| mp4               | H.264, CRF 18      | instead of frames.npy, one smaller file: 8 frames per second, whatever    |
|                   |                    | their distance in the video; colours at half the resolution               |
| tokens.npy        | int64 [77]         | CLIP's tokens of the text, with start and end, padded with 0; missing in  |
|                   |                    | a run without a tokenizer                                                 |
| json              | object             | see below                                                                 |

The json holds the `FIELDS` below, and any other fields that the corpus has for the item.

Pillow writes the JPEGs, and libjpeg-turbo reads them (`datamodules.media.turbo_jpeg`).
"""

import io
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image as PillowImage

from datamodules.errors import ConfigError, DecodeError, RunError
from datamodules.media.container import error_text
from datamodules.media.limits import MAX_PIXELS, limited_memory
from datamodules.media.turbo_jpeg import decode_jpeg
from datamodules.samples import SampleKind
from datamodules.samples.arrays import Array, read_arrays, read_header, to_npy
from datamodules.samples.batching import as_tensor, require_alike
from datamodules.samples.columns import Column, span
from datamodules.samples.drawing import MAX_FRAMES, Image, SourceFrames, VideoDrawing, at_rate, display_size, resized
from datamodules.samples.fields import Field, decode_json, encode_json
from datamodules.samples.metrics import Metric
from datamodules.samples.sentence_fields import SENTENCE_FIELDS

Dtype = Literal["uint8", "float32"]

FIELDS = (
    Field("path", pa.string(), "of the video; relative to the corpus root"),
    Field("vid", pa.string(), "CLIP4MC: name of the pair", of_corpus=True),
    *SENTENCE_FIELDS,
    Field("begin_time", pa.float64(), "where the corpus says that the clip begins in its video", "s", of_corpus=True),
    Field("end_time", pa.float64(), "where it ends", "s", of_corpus=True),
    Field("duration", pa.float64(), "as the corpus says", "s", of_corpus=True),
    Field("size", pa.list_(pa.float64()), "CLIP4MC: sizes of the target; null or empty without any", of_corpus=True),
    Field("width", pa.int32(), "of the video, as players show it", "px"),
    Field("height", pa.int32(), "of the video, as players show it", "px"),
    Field("fps", pa.float64(), "frames per second of the video, by the times of its frames", "1/s"),
    Field(
        "pixel_aspect_ratio",
        pa.float64(),
        "width of the pixels that the video stores by their height; 1.0: square, or unknown",
    ),
    Field("num_frames", pa.int64(), "of the video"),
    Field("num_skipped_frames", pa.int32(), "frames of the video that no decoder can show"),
    Field("codec", pa.string(), "of the video"),
    Field("backends", pa.list_(pa.string()), "what decoded the frames; several after a fallback"),
    Field("pts_seconds", pa.list_(pa.float64()), "of the T frames of the clip, since the video's first", "s"),
    Field("num_tokens", pa.int32(), "of the whole text, start and end among them; missing without a tokenizer"),
    Field("truncated", pa.bool_(), "whether that is more than 77; missing without a tokenizer"),
)
ARRAYS = {"tokens.npy": Array("int64", (77,))}
COLUMNS = (
    Column(
        "tokens",
        "77; null without a tokenizer. Frames stay in the shards",
        lambda sample: sample.tokens,
        pa.list_(pa.int64()),
    ),
    Column("tokens_of_text", "start and end among them", lambda sample: sample.meta.get("num_tokens"), summary=span),
)
METRICS = (
    Metric("clip_seconds", "from the first to the last frame of the clip", lambda sample: _span(sample), "s", "low"),
    Metric("video_frames", "of the whole video", lambda sample: sample.meta.get("num_frames")),
    Metric("num_tokens", "of the whole text, start and end among them", lambda sample: sample.meta.get("num_tokens")),
)
_MAX_BYTES = 1 << 30  # of the decoded frames of a clip: 3,640 frames of 256x384 px
_MAX_INDEX_BYTES = 256 << 20  # of memory to open the MP4 of a clip
_JPEG_QUALITY = 95
_FPS = 8  # of an MP4
_DAMAGED = (DecodeError, ValueError, OSError, EOFError, SyntaxError, struct.error, PillowImage.DecompressionBombError)
# one thread and no instructions of one kind of CPU, so that the bytes are the same on every machine
_X264 = {"crf": "18", "threads": "1", "x264-params": "cpu-independent=1"}


@dataclass
class ClipSample:
    """One clip.

    Attributes:
        key: of the item; in the names of the files, not in their content.
        stored: the files of its frames by ending, from `raw_frames`, `jpeg_frames` or `mp4_frames`.
        tokens: int64 [77]; None without a tokenizer.
        meta: the json of the table above.
    """

    key: str
    stored: dict[str, bytes]
    tokens: NDArray[np.int64] | None
    meta: dict[str, Any]

    @cached_property
    def frames(self) -> NDArray[np.uint8]:
        """uint8 [T, H, W, 3], RGB. They are decoded at the first access, because much of what reads clips needs none.

        Raises:
            RunError: the files are damaged.
        """
        try:
            if "frames.npy" in self.stored:
                return _as_array(self.stored["frames.npy"])
            if "mp4" in self.stored:
                return _stacked(_decode_mp4(self.stored["mp4"]))
            return _stacked(_decode_jpeg(self.stored[name]) for name in sorted(self.stored, key=_jpeg_number))
        except _DAMAGED as error:
            reason = str(error).partition(" <_io.BytesIO")[0]  # Pillow ends with the address of the buffer
            raise RunError(f"the frames of {self.key} are damaged: {reason}; run `preprocess verify`") from error


class ClipSamples(SampleKind[ClipSample]):
    """The sample kind of the clips pipeline.

    Args:
        dtype: of the frames of a batch: `uint8`, 0 to 255, which is a quarter of the bytes to copy to the GPU; or
            `float32`, 0 to 1.

    Raises:
        ConfigError: `dtype` is neither.
    """

    fields = FIELDS
    columns = COLUMNS
    metrics = METRICS

    def __init__(self, dtype: Dtype = "uint8") -> None:
        if dtype not in get_args(Dtype):
            raise ConfigError(f"{dtype = }: choose from {', '.join(get_args(Dtype))}")
        self.dtype = dtype

    def encode(self, sample: ClipSample) -> dict[str, bytes]:
        """Return the files of the table above. A lone surrogate, which UTF-8 cannot hold, becomes a question mark."""
        tokens = {} if sample.tokens is None else {"tokens.npy": to_npy(sample.tokens)}
        return {**sample.stored, **tokens, "json": encode_json(sample.meta, FIELDS)}

    def decode(self, key: str, members: Mapping[str, bytes]) -> ClipSample:
        """Return the sample that has these files.

        Raises:
            RunError: a file is missing, or is not what `encode` writes.
        """
        stored = {name: content for name, content in members.items() if _holds_frames(name)}
        try:
            if not stored:
                raise KeyError("frames.npy, 000.jpg or mp4")
            tokens = read_arrays(members, ARRAYS)["tokens.npy"] if "tokens.npy" in members else None
            return ClipSample(key, stored, tokens, decode_json(members["json"], FIELDS))
        except (KeyError, ValueError) as error:
            raise RunError(f"{key} is no clip sample: {error}; run `preprocess verify`") from error

    def draw(self, sample: ClipSample, source: SourceFrames) -> VideoDrawing:
        """Return the stored frames, 8 per second.

        Raises:
            RunError: the frames are damaged.
        """
        height, width = sample.frames.shape[1:3]
        size, shown = display_size(height, width), sample.frames[:MAX_FRAMES]
        facts = [f"{len(sample.frames):,} frames", f"{sample.meta.get('width')}x{sample.meta.get('height')} px"]
        return VideoDrawing(
            frames=at_rate((resized(frame, size) for frame in shown), _FPS),
            num_frames=len(shown),
            size=size,
            facts=[*facts, str(sample.meta.get("text") or "")],
        )

    def collate(self, samples: Sequence[ClipSample]) -> dict[str, Any]:
        """Return a batch of clips.

        Returns:
            `frames` uint8 or float32 [B, T, 3, H, W], channels last in memory. `tokens` int64 [B, 77], if the samples
            have tokens. `text`, a list of B. `sizes` float32 [B, S], CLIP4MC's sizes of the target, padded with zeros
            to the longest, and `sizes_mask` bool [B, S] (True: a size, not padding). `key` and `meta`, lists of B.

        Raises:
            RunError: the frames of a clip are damaged, the clips differ in shape, or only some have tokens.
        """
        import torch  # exports and `view` decode samples without it
        from torch.utils.data import default_collate

        require_alike([(sample.key, _form(sample)) for sample in samples])
        frames = default_collate([as_tensor(sample.frames) for sample in samples]).permute(0, 1, 4, 2, 3)
        batch = {"frames": frames.float().div_(255) if self.dtype == "float32" else frames}
        tokens = [torch.from_numpy(sample.tokens) for sample in samples if sample.tokens is not None]
        if tokens:
            batch["tokens"] = torch.stack(tokens)
        sizes = [torch.tensor(sample.meta.get("size") or [], dtype=torch.float32) for sample in samples]
        lengths = torch.tensor([len(size) for size in sizes])
        batch["sizes"] = torch.nn.utils.rnn.pad_sequence(sizes, batch_first=True)
        batch["sizes_mask"] = torch.arange(int(lengths.max())) < lengths[:, None]
        return {
            **batch,
            "text": [sample.meta.get("text") or "" for sample in samples],
            "key": [sample.key for sample in samples],
            "meta": [sample.meta for sample in samples],
        }


def _form(sample: ClipSample) -> str:
    """Return what samples of one batch must have in common."""
    return f"frames {list(sample.frames.shape)} and {'no ' if sample.tokens is None else ''}tokens"


def raw_frames(frames: Sequence[Image]) -> dict[str, bytes]:
    """Return `frames.npy` of `frames`, which have one size. Each frame is copied once."""
    header = io.BytesIO()
    shape = (len(frames), *frames[0].shape)
    npy.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return {"frames.npy": b"".join([header.getvalue(), *(np.ascontiguousarray(frame).data for frame in frames)])}


def jpeg_frames(frames: Sequence[bytes]) -> dict[str, bytes]:
    """Return `000.jpg`, `001.jpg`, … for frames that are JPEG files already."""
    return {f"{number:03d}.jpg": content for number, content in enumerate(frames)}


def mp4_frames(frames: Sequence[Image]) -> dict[str, bytes]:
    """Return `mp4` of `frames`, which have one size, even in width and height."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", container_options={"fflags": "+bitexact"}) as file:
        stream = file.add_stream("libx264", rate=_FPS, options=_X264)
        stream.pix_fmt = "yuv420p"
        stream.height, stream.width = frames[0].shape[:2]
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    return {"mp4": buffer.getvalue()}


def jpeg(frame: Image) -> bytes:
    """Return `frame` as a JPEG of quality 95."""
    buffer = io.BytesIO()
    PillowImage.fromarray(frame).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _as_array(content: bytes) -> NDArray[np.uint8]:
    """Return the array of `frames.npy`, without a copy."""
    shape, dtype, order, start = read_header(content)
    if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape:
        raise ValueError(f"frames.npy is {dtype} {list(shape)}")
    return np.ndarray(shape, dtype, content, start, order=order)


def _decode_jpeg(content: bytes) -> Image:
    if (frame := decode_jpeg(content)) is not None:
        return frame
    with PillowImage.open(io.BytesIO(content), formats=["JPEG"]) as image:
        return np.asarray(image)


def _decode_mp4(content: bytes) -> Iterator[Image]:
    import av

    num_left = len(content)
    try:
        with limited_memory("mp4", _MAX_INDEX_BYTES):
            file = av.open(io.BytesIO(content), "r", format="mp4")
        with file:
            file.streams.video[0].thread_type = "NONE"
            file.streams.video[0].codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            for packet in file.demux(video=0):
                num_left -= packet.size
                if num_left < 0:  # an index of a few bytes can name one packet a million times
                    raise ValueError(f"mp4: its packets have more bytes than the file, which has {len(content):,}")
                for frame in packet.decode():
                    yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"mp4: {error_text(error)}") from error


def _stacked(frames: Iterable[Image]) -> NDArray[np.uint8]:
    """Return uint8 [T, H, W, 3] of `frames`.

    Raises:
        ValueError: they differ in size, have more than `_MAX_BYTES`, or there are none.
    """
    kept: list[Image] = []
    for frame in frames:
        kept.append(frame)
        if frame.ndim != 3 or len(kept) * frame.nbytes > _MAX_BYTES:
            raise ValueError(f"{len(kept)} frames of {list(frame.shape)}; at most {_MAX_BYTES:,} bytes are decoded")
    if not kept:
        raise ValueError("it has no frame")
    return np.stack(kept)


def _holds_frames(name: str) -> bool:
    stem, _, ending = name.partition(".")
    return name in ("frames.npy", "mp4") or (ending == "jpg" and stem.isdecimal())


def _jpeg_number(name: str) -> int:
    return int(name.partition(".")[0])


def _span(sample: ClipSample) -> float | None:
    """Return the time from the first to the last frame of a clip in s; None if it has no times."""
    times = sample.meta.get("pts_seconds")
    return times[-1] - times[0] if times else None
