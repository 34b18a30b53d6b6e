"""Separates image files from their metadata: reads the orientation, and drops what no pixel depends on.

Pillow parses EXIF, texts, colour profiles and the directories of thumbnails when it opens a file, and fails where they
are damaged or large although the image is whole. So it gets files without them.

| format            | dropped                                                | orientation                            |
|-------------------|--------------------------------------------------------|----------------------------------------|
| JPEG, MPO         | APPn segments except JFIF's and Adobe's, comments      | EXIF, else XMP                         |
| PNG               | ancillary chunks except transparency's and animation's | eXIf, "Raw profile type exif"; or XMP  |
| TIFF              | tags that decoding does not need, thumbnails, masks    | tag 274, else XMP                      |
| AVIF              | EXIF                                                   | irot and imir; EXIF's is informational |
| WebP, GIF, others | nothing: Pillow does not parse it                      | EXIF, else XMP                         |

An orientation that is not one integer from 1 to 8 counts as 1: upright.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

_EXIF_PREFIX = b"Exif\0\0"

_JPEG = b"\xff\xd8\xff"
START_OF_SCAN = 0xDA
_STANDALONE = frozenset({0x01, *range(0xD0, 0xDA)})  # markers without a length: TEM, RST, SOI, EOI
_APP0, _APP1, _APP14, _APP15, _COMMENT = 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
_JPEG_XMP_PREFIX = b"http://ns.adobe.com/xap/1.0/\0"
_NUM_BYTES_OF_JFIF, _NUM_BYTES_OF_ADOBE = 14, 12  # libjpeg ignores shorter segments

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = frozenset({b"tRNS", b"acTL", b"fcTL", b"fdAT"})  # kept: pixels or the number of frames depend on them
_PNG_XMP, _PNG_RAW_EXIF = b"XML:com.adobe.xmp", b"Raw profile type exif"
_MAX_TEXT_BYTES = 1 << 20  # decompressed of XMP or raw EXIF: the orientation is at its beginning

_TIFF_HEADERS = frozenset({b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+"})  # those that Pillow accepts
_TIFF_INTEGERS = {1: "B", 3: "H", 4: "L", 6: "b", 8: "h", 9: "l"}  # by type
_SUBFILE_TYPE, _WIDTH, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _XMP = 254, 256, 259, 262, 274, 700
_THUMBNAIL_OR_MASK = 0b101  # bits of the subfile type
_OLD_JPEG = 6  # a compression whose values are always YCbCr
_WHITE_IS_ZERO, _BLACK_IS_ZERO = 0, 1
_MAX_DIRECTORIES = 1000  # of one TIFF; an image has at most a few dozen smaller copies and masks
_PIXEL_TAGS = frozenset(  # size, coding and meaning of samples, in TIFF 6.0 and libtiff
    {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 332, 334, 338, 339}
    | {347, *range(512, 522), 529, 530, 532, 50674}
)

# an item's entry in the "meta" box of ISO 14496-12: version and flags, id, protection; then the type, which becomes one
# that libavif ignores
_BMFF_EXIF_ITEM = re.compile(rb"(infe\x02.....\0\0|infe\x03.......\0\0)Exif", re.DOTALL)
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:=["\']|>)\s*([1-8])\b')


class Separated(NamedTuple):
    """An image file without metadata, and what the metadata said.

    Attributes:
        content: the file without metadata.
        orientation: EXIF orientation, 1 to 8; None: in a format that keeps its metadata.
        white_is_zero: whether 0 is white in the file; `content` then declares that 0 is black.
    """

    content: bytes
    orientation: int | None = None
    white_is_zero: bool = False


def separate(content: bytes) -> Separated:
    """Separate an image file from its metadata. Damaged metadata is dropped like any other.

    Args:
        content: of the file.

    Raises:
        ValueError: it is a TIFF of several pages, or one that does not say what its values mean.
    """
    if content.startswith(_JPEG):
        return _separate_jpeg(content)
    if content.startswith(_PNG):
        return _separate_png(content)
    if content[:4] in _TIFF_HEADERS:
        return _separate_tiff(content)
    if content[4:8] == b"ftyp":
        return Separated(_BMFF_EXIF_ITEM.sub(rb"\1skip", content))
    return Separated(content)


def read_orientation(exif: bytes, xmp: bytes) -> int:
    """Return the orientation, 1 to 8, of `exif`; of `xmp` if EXIF has none; or else 1."""
    tiff = _Tiff(re.sub(rb"\A(Exif\0\0)+", b"", exif))
    tags = next(tiff.directories(), {}) if tiff.is_valid else {}
    return _orientation(tiff, tags, xmp)


def jpeg_segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) of a JPEG's segments, up to the first scan, as Pillow and libjpeg find them."""
    start = 2  # after the start of image
    while (start := content.find(b"\xff", start)) >= 0 and start + 4 <= len(content):
        marker = content[start + 1]
        if marker in (0x00, 0xFF):  # stuffing and padding are not markers
            start += 1
            continue
        end = start + 2 + (0 if marker in _STANDALONE else int.from_bytes(content[start + 2 : start + 4], "big"))
        yield marker, start, end
        if marker == START_OF_SCAN:
            break
        start = end


def _separate_jpeg(content: bytes) -> Separated:
    kept, exif, xmp, copied = [], [], b"", 0
    for marker, start, end in jpeg_segments(content):
        payload = content[start + 4 : end]
        is_for_decoder = (
            (marker == _APP0 and payload.startswith(b"JFIF\0") and len(payload) >= _NUM_BYTES_OF_JFIF)
            or (marker == _APP14 and payload.startswith(b"Adobe") and len(payload) >= _NUM_BYTES_OF_ADOBE)
            or not (_APP0 <= marker <= _APP15 or marker == _COMMENT)
        )
        if is_for_decoder:
            continue
        if marker == _APP1 and payload.startswith(_EXIF_PREFIX):
            exif.append(payload.removeprefix(_EXIF_PREFIX))  # EXIF of more than 64 KB is split into several segments
        elif marker == _APP1 and payload.startswith(_JPEG_XMP_PREFIX):
            xmp = payload
        kept.append(content[copied:start])
        copied = end
    return Separated(b"".join([*kept, content[copied:]]), read_orientation(b"".join(exif), xmp))


def _separate_png(content: bytes) -> Separated:
    kept, exif, raw_exif, xmp = [_PNG], b"", b"", b""
    start = len(_PNG)
    while start + 8 <= len(content):
        kind = content[start + 4 : start + 8]
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        if end > len(content) or not kind.isalpha():
            break  # damaged: Pillow will say how
        if kind[:1].isupper() or kind in _PNG_KEPT:
            kept.append(content[start:end])
        elif kind == b"eXIf":
            exif = content[start + 8 : end - 4]
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword, text = _png_text(kind, content[start + 8 : end - 4])
            if keyword == _PNG_XMP:
                xmp = text
            elif keyword == _PNG_RAW_EXIF:
                raw_exif = text
        start = end
    return Separated(b"".join([*kept, content[start:]]), read_orientation(exif or _from_hex(raw_exif), xmp))


def _png_text(kind: bytes, chunk: bytes) -> tuple[bytes, bytes]:
    """Return the keyword and the text of a chunk; the text is empty if it is damaged, or not of interest here."""
    keyword, _, text = chunk.partition(b"\0")
    if keyword not in (_PNG_XMP, _PNG_RAW_EXIF):
        return keyword, b""
    is_compressed = kind == b"zTXt"
    if kind == b"iTXt":
        is_compressed, text = text[:1] == b"\1", text[1:]
    if kind != b"tEXt":
        text = text[1:]  # the compression method, which is always 0
    if kind == b"iTXt":
        text = text.split(b"\0", 2)[-1]  # after the language and the translated keyword
    if is_compressed:
        try:
            text = zlib.decompressobj().decompress(text, _MAX_TEXT_BYTES)
        except zlib.error:
            text = b""
    return keyword, text


def _from_hex(profile: bytes) -> bytes:
    r"""Return the bytes of ImageMagick's "raw profile": b"\nexif\n  <length>\n<lines of hexadecimal digits>\n"."""
    with suppress(ValueError):
        return bytes.fromhex(b"".join(profile.split(b"\n")[3:]).decode("ascii"))
    return b""


def _separate_tiff(content: bytes) -> Separated:
    tiff = _Tiff(content)
    tags = _page(tiff)
    if tags is None:
        return Separated(content)  # damaged: Pillow will say how
    if _PHOTOMETRIC not in tags and tiff.integer(tags, _COMPRESSION) != _OLD_JPEG:
        raise ValueError("it does not say what its values mean: TIFF tag 262, PhotometricInterpretation, is missing")
    orientation = _orientation(tiff, tags, tiff.data(tags, _XMP))
    white_is_zero = tiff.integer(tags, _PHOTOMETRIC) == _WHITE_IS_ZERO
    kept = {tag: entry for tag, entry in tags.items() if tag in _PIXEL_TAGS}
    if white_is_zero:
        kept[_PHOTOMETRIC] = tiff.short(_BLACK_IS_ZERO)
    return Separated(tiff.with_only(kept), orientation, white_is_zero)


def _page(tiff: "_Tiff") -> "_Tags | None":
    """Return the tags of the only page, or else of the first thumbnail or mask; None if the file has no image.

    Raises:
        ValueError: it has several pages, or more directories than `_MAX_DIRECTORIES`.
    """
    page, other, num_pages = None, None, 0
    for number, tags in enumerate(tiff.directories()):
        if number == _MAX_DIRECTORIES:
            raise ValueError(f"it has more than {_MAX_DIRECTORIES:,} pages, thumbnails and masks, the limit")
        if _WIDTH not in tags:
            continue
        if (tiff.integer(tags, _SUBFILE_TYPE) or 0) & _THUMBNAIL_OR_MASK:
            other = other or tags
        else:
            page, num_pages = page or tags, num_pages + 1
    if num_pages > 1:
        raise ValueError(f"it has {num_pages} pages, and one image is expected")
    return page or other


def _orientation(tiff: "_Tiff", tags: "_Tags", xmp: bytes) -> int:
    if _ORIENTATION in tags:
        orientation = tiff.integer(tags, _ORIENTATION) or 1
        return orientation if orientation in range(1, 9) else 1
    match = _XMP_ORIENTATION.search(xmp)
    return int(match[1]) if match else 1


class _Entry(NamedTuple):
    """One tag of a TIFF directory. `value` is its data, padded; or the offset of the data if it needs more bytes."""

    type: int
    num_values: int
    value: bytes


_Tags = dict[int, _Entry]


class _Tiff:
    """A TIFF or BigTIFF file; or EXIF, which is a TIFF without image. Damaged parts count as missing.

    Args:
        content: of the file.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.is_valid = content[:4] in _TIFF_HEADERS
        order, is_big = ("<" if content.startswith(b"II") else ">"), b"+" in content[2:4]
        formats = ("Q", "HHQ8s", "Q", "H6x") if is_big else ("H", "HHL4s", "L", "H2x")
        self._count, self._entry, self._pointer, self._short = (struct.Struct(order + form) for form in formats)
        self._order, self._first = order, 8 if is_big else 4

    def directories(self) -> Iterator[_Tags]:
        """Yield the tags of each directory, up to the size of the file in all.

        Directories may overlap, so that a small file could declare billions of tags.
        """
        num_bytes_left, pointer, seen = len(self.content), self._first, {0}
        while (start := self._number(self._pointer, pointer)) not in seen:
            seen.add(start)
            start += self._count.size
            pointer = start + self._number(self._count, start - self._count.size) * self._entry.size
            entries = self.content[start:pointer]
            num_bytes_left -= len(entries)
            if num_bytes_left < 0:
                return
            whole = entries[: len(entries) // self._entry.size * self._entry.size]
            yield {tag: _Entry(*entry) for tag, *entry in self._entry.iter_unpack(whole)}

    def integer(self, tags: _Tags, tag: int) -> int | None:
        """Return the value of `tag`; None if it is missing, or not one integer."""
        entry = tags.get(tag)
        if entry is None or entry.num_values != 1 or entry.type not in _TIFF_INTEGERS:
            return None
        value: int = struct.unpack_from(self._order + _TIFF_INTEGERS[entry.type], entry.value)[0]
        return value

    def data(self, tags: _Tags, tag: int) -> bytes:
        """Return the value of `tag`, whose type must have one byte; empty if it is missing."""
        if tag not in tags:
            return b""
        [start] = self._pointer.unpack(tags[tag].value)
        return self.content[start : start + tags[tag].num_values]

    def short(self, value: int) -> _Entry:
        """Return an entry with one SHORT."""
        return _Entry(3, 1, self._short.pack(value))

    def with_only(self, tags: _Tags) -> bytes:
        """Return the file with a single directory, which has only `tags`, at its end. Their data stays in place."""
        start = len(self.content) + len(self.content) % 2  # directories begin at even offsets
        directory = self._count.pack(len(tags)) + b"".join(self._entry.pack(tag, *tags[tag]) for tag in tags)
        head = self.content[: self._first] + self._pointer.pack(start)
        body = self.content[len(head) :].ljust(start - len(head), b"\0")
        return head + body + directory + self._pointer.pack(0)

    def _number(self, form: struct.Struct, start: int) -> int:
        """Return the integer at `start`; 0 behind the end."""
        if start + form.size > len(self.content):
            return 0
        number: int = form.unpack_from(self.content, start)[0]
        return number
