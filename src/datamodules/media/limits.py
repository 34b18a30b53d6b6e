"""Limits on what one image or video may take. A file above a limit fails its item, and the reason names the limit."""

import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datamodules.errors import DecodeError

# of an image or a frame: above it Pillow raises DecompressionBombError (2 * PIL.Image.MAX_IMAGE_PIXELS); 8K has
# 33,177,600 px
MAX_PIXELS = 178_956_970
# of an image or animation, which is read whole: `MAX_PIXELS` of 8 bytes (16 bits a channel, with alpha) are 1.4 GB
MAX_FILE_BYTES = 2 << 30
MAX_PACKETS = 24 * 3600 * 60  # of a video stream, or frames of an animation: a day at 60 frames per second
# above so many packets, those of an MP4 may have at most `MAX_REPEATS` times the bytes of the file; more share bytes
MAX_REPEATING_PACKETS, MAX_REPEATS = 500_000, 16
# of all frames of an animation, each of which is composed as a whole, twice: 4,822 frames of 1920x1080 px
MAX_ANIMATION_PIXELS = 10_000_000_000
# of memory to open a video and list its packets; a day at 60 frames per second with a sound track takes 0.8 GiB
MAX_INDEX_BYTES = 1 << 30
# of memory to decode a JPEG 2000 or TIFF: a constant, and for each pixel (JPEG 2000 of 4 channels takes 31 bytes)
MAX_DECODING_BYTES, MAX_DECODING_BYTES_PER_PIXEL = 512 << 20, 32

# `RLIMIT_DATA` belongs to the process: two threads at a time would restore each other's limit
_one_at_a_time = threading.RLock()


def require_pixels(name: str, width: int, height: int) -> None:
    """Raise DecodeError if frames of the file `name`, `width` x `height` px, are larger than `MAX_PIXELS`."""
    if width * height > MAX_PIXELS:
        raise DecodeError(f"{name} has frames of {width}x{height} px; the limit is {MAX_PIXELS:,} px")


def require_packets(name: str, count: int) -> None:
    """Raise DecodeError if a stream of the file `name` has or promises more packets (`count`) than `MAX_PACKETS`."""
    if count > MAX_PACKETS:
        raise DecodeError(
            f"{name} has {count:,} packets (frames) or more; the limit for one video is {MAX_PACKETS:,}: "
            "cut it into parts"
        )


def require_own_bytes(name: str, count: int, num_bytes: int, file_bytes: int) -> None:
    """Check that the packets of an MP4 do not repeat the same bytes of the file too often.

    Tables of a few bytes can declare one byte of a file to be a million packets, and so can an edit list that loops.

    Args:
        name: of the file.
        count: packets so far.
        num_bytes: sum of their sizes.
        file_bytes: size of the file.

    Raises:
        DecodeError: they do.
    """
    if count > MAX_REPEATING_PACKETS and num_bytes > MAX_REPEATS * file_bytes:
        raise DecodeError(
            f"{name} has {count:,} packets (frames) of {num_bytes:,} bytes in a file of {file_bytes:,}: the limit is "
            f"{MAX_REPEATS} times the file for more than {MAX_REPEATING_PACKETS:,} packets"
        )


def require_animation_pixels(name: str, count: int) -> None:
    """Raise DecodeError if all frames of the animation `name` have more px (`count`) than `MAX_ANIMATION_PIXELS`."""
    if count > MAX_ANIMATION_PIXELS:
        raise DecodeError(
            f"{name} has {count:,} px or more in all its frames; the limit for one animation is "
            f"{MAX_ANIMATION_PIXELS:,}: convert it to a video"
        )


@contextmanager
def limited_memory(name: str, num_bytes: int) -> Iterator[None]:
    """Let the block take at most `num_bytes` more memory than the process has now.

    A few bytes in a file can make a decoder take gigabytes, and no option of the decoders limits that:

    - FFmpeg expands the tables of a video when it opens the file: 35 bytes a packet, for each of up to 1000 streams.
    - JPEG 2000 has precincts, components and tiles, and TIFF has tiles, of any number or size in an image of any size.

    Works on Linux only. The limit holds for all threads of the process, so one thread after another enters a block; and
    the stacks of threads that the block starts count.

    Args:
        name: of the file that is read, for errors.
        num_bytes: the limit.

    Raises:
        DecodeError: the block takes more.
    """
    if sys.platform != "linux":
        yield
        return
    with _one_at_a_time:
        num_pages = int(Path("/proc/self/statm").read_text().split()[5])  # of data and stack: man 5 proc
        limit = num_pages * resource.getpagesize() + num_bytes
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        bounds = [limit, *(bound for bound in (soft, hard) if bound != resource.RLIM_INFINITY)]
        resource.setrlimit(resource.RLIMIT_DATA, (min(bounds), hard))
        try:
            yield
        except MemoryError as error:
            raise DecodeError(
                f"{name} takes more than {num_bytes >> 20:,} MiB of memory, the limit for a file of its kind and size"
            ) from error
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
