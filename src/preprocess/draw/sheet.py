"""Contact sheets: some frames of a drawing side by side, below a header."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from datamodules.samples.drawing import Image, LegendEntry, VideoDrawing, resized
from preprocess.draw.lettering import GREY, INK, write_line

_MAX_PANELS = 6
_SHEET_PX, _MARGIN_PX, _GAP_PX, _HEADER_PX, _FOOTER_PX = 1800, 32, 12, 84, 30


class ContactSheet:
    """Collects up to six frames of a drawing, evenly spaced, while they pass by.

    Args:
        key: of the sample, for the header.
        drawing: whose frames are given to `add`, in order.
    """

    def __init__(self, key: str, drawing: VideoDrawing) -> None:
        self._key, self._drawing, self._num_frames = key, drawing, 0
        spaced = np.linspace(0, drawing.num_frames - 1, _MAX_PANELS).round().astype(int)
        self._shown = set(spaced.tolist())
        self._panels: dict[int, Image] = {}

    def add(self, image: Image) -> None:
        """Take the next frame into account."""
        if self._num_frames in self._shown:
            self._panels[self._num_frames] = image
        self._num_frames += 1

    def save(self, path: Path) -> None:
        """Write the sheet as a PNG; its folder is made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        _arranged(self._key, self._drawing, self._panels).save(path)


def _arranged(key: str, drawing: VideoDrawing, panels: Mapping[int, Image]) -> PillowImage.Image:
    """Return `panels`, by frame number, side by side below the header."""
    height, width = drawing.size
    columns = min(len(panels), 6 if height > width else 3)
    rows = -(-len(panels) // columns)
    panel_width = (_SHEET_PX - 2 * _MARGIN_PX - (columns - 1) * _GAP_PX) // max(columns, 3)
    panel_height = max(1, round(panel_width * height / width))
    step = panel_width + _GAP_PX, panel_height + _FOOTER_PX
    sheet = PillowImage.new("RGB", (_SHEET_PX, _HEADER_PX + rows * step[1] + _MARGIN_PX // 2), "white")
    draw = ImageDraw.Draw(sheet)
    write_line(draw, (_MARGIN_PX, 16), key, INK, 24)
    write_line(draw, (_MARGIN_PX, 50), "   ".join(drawing.facts).replace("\n", " "), GREY, 17)
    _write_legend(draw, drawing.legend)
    corners = _rounded(panel_width, panel_height)
    for index, (frame_idx, image) in enumerate(panels.items()):
        x = _MARGIN_PX + index % columns * step[0]
        y = _HEADER_PX + index // columns * step[1]
        panel = PillowImage.fromarray(resized(image, (panel_height, panel_width)))
        sheet.paste(panel, (x, y), corners)
        draw.text((x + 2, y + panel_height + 5), f"frame {frame_idx}", GREY, ImageFont.load_default(16))
    return sheet


def _write_legend(draw: ImageDraw.ImageDraw, legend: Iterable[LegendEntry]) -> None:
    """Write the entries at the right of the header, each behind a dot of its colour."""
    x = float(_SHEET_PX - _MARGIN_PX)
    font = ImageFont.load_default(17)
    for entry in reversed(list(legend)):
        x -= draw.textlength(entry.text, font)
        draw.text((x, 50), entry.text, INK, font)
        draw.ellipse((x - 22, 54, x - 9, 67), entry.colour)
        x -= 46


def _rounded(width: int, height: int) -> PillowImage.Image:
    """Return a mask with rounded corners: drawn four times as large, because Pillow draws hard edges."""
    mask = PillowImage.new("L", (4 * width, 4 * height), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * width - 1, 4 * height - 1), 40, 255)
    return mask.resize((width, height), PillowImage.Resampling.BOX)
