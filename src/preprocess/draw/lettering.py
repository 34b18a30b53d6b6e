"""Lines of text in drawn images."""

from contextlib import suppress

from PIL import ImageDraw, ImageFont

from datamodules.printable import printable
from datamodules.samples.drawing import Colour

INK: Colour = (30, 34, 40)
GREY: Colour = (110, 118, 128)
_MAX_LINE = 400  # characters, more than fit


def write_line(draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, colour: Colour, size_px: int) -> None:
    """Write one line whose upper left corner is (x, y) = `corner`. What could mislead a reader is escaped."""
    line = printable(text[:_MAX_LINE])
    draw.text(corner, line, colour, _font(line, size_px))


def _font(text: str, size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font, which has ASCII alone; for other text one of the system's, if it is installed."""
    if not text.isascii():
        with suppress(OSError):
            return ImageFont.truetype("DejaVuSans.ttf", size_px)
    return ImageFont.load_default(size_px)
