"""MP4 files that no muxer writes, whose tables claim more in a few bytes than the file holds."""

import struct

FILE_OFFSET = 24  # of the content in a file of `file_with`
_VISUAL = bytes(6) + b"\0\1" + bytes(16) + struct.pack(">HH", 64, 64) + bytes(50)  # of a sample entry


def box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def numbers(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def file_with(header: bytes, content: bytes = bytes(64)) -> bytes:
    """An MP4 of that header, whose `content` begins at `FILE_OFFSET`."""
    return box(b"ftyp", b"isom", bytes(4)) + box(b"mdat", content) + header


def movie(num_samples: int, num_tracks: int = 1, num_chunks: int = 1, sample_bytes: int = 1) -> bytes:
    """The header of an MP4 whose tables say in a few bytes that each track has so many samples: JPEGs of 64x64 px.

    Each chunk of samples is at the beginning of the content, so that several have the same bytes.
    """
    tables = box(
        b"stbl",
        box(b"stsd", numbers(0, 1), box(b"jpeg", _VISUAL)),
        box(b"stts", numbers(0, 1, num_samples, 1)),
        box(b"stsc", numbers(0, 1, 1, num_samples // num_chunks, 1)),
        box(b"stsz", numbers(0, sample_bytes, num_samples)),
        box(b"stco", numbers(0, num_chunks, *[FILE_OFFSET] * num_chunks)),
    )
    media = box(b"mdhd", numbers(0, 0, 0, 1000, num_samples, 0)) + box(b"hdlr", bytes(8), b"vide", bytes(13))
    track = box(b"trak", box(b"tkhd", numbers(0, 0, 0, 1), bytes(68)), box(b"mdia", media, box(b"minf", tables)))
    fragments = box(b"mvex", box(b"trex", numbers(0, 1, 1, 1, 1, 0)))
    return box(b"moov", box(b"mvhd", numbers(0, 0, 0, 1000, 0), bytes(80)), *[track] * num_tracks, fragments)


def fragment(num_samples: int) -> bytes:
    run = box(b"trun", numbers(1, num_samples, 8))
    return box(b"moof", box(b"traf", box(b"tfhd", numbers(0x20000, 1)), run)) + box(b"mdat", bytes(64))
