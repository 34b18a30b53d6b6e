"""Texts beside their images, as an HTML page that needs no other file."""

import base64
import io
from collections.abc import Iterable
from html import escape

from PIL import Image as PillowImage

from datamodules.printable import printable, printable_lines
from datamodules.samples.drawing import TextDrawing

_SIDE_PX = 480  # the longer side of an image, at most
_PAGE = """<!doctype html>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 16px/1.45 system-ui, sans-serif; color: #1e2228; max-width: 1000px; margin: 32px auto; padding: 0 16px }}
article {{ display: grid; grid-template-columns: minmax(0, 480px) minmax(0, 1fr); gap: 24px; margin: 0 0 40px }}
img {{ max-width: 100%; border-radius: 8px }}
h2 {{ font-size: 16px; margin: 0; overflow-wrap: anywhere }}
p {{ margin: 8px 0; white-space: pre-wrap; overflow-wrap: anywhere }}
.about {{ color: #6e7680; font-size: 14px }}
</style>
<h1>{title}</h1>
{entries}
"""
_ENTRY = """<article>
<div>{image}</div>
<div><h2>{key}</h2>
<p>{text}</p>
<p class="about">{facts}</p>
<p class="about">{note}</p></div>
</article>"""


def page(title: str, entries: Iterable[str]) -> str:
    """Return the page of these entries; its policy lets a browser run no script and load nothing."""
    return _PAGE.format(title=_line(title), entries="\n".join(entries))


def entry_of(key: str, drawing: TextDrawing) -> str:
    """Return the entry of a sample.

    No part of a text is taken for HTML, and what could mislead a reader is escaped.
    """
    return _ENTRY.format(
        image=_image(drawing),
        key=_line(key),
        text=escape(printable_lines(drawing.text)),
        facts=_line("   ".join(drawing.facts)),
        note=escape(printable_lines(drawing.note)),
    )


def _line(text: str) -> str:
    return escape(printable(text))


def _image(drawing: TextDrawing) -> str:
    if drawing.image is None:
        return f'<p class="about">{_line(drawing.missing)}</p>'
    image = PillowImage.fromarray(drawing.image)
    image.thumbnail((_SIDE_PX, _SIDE_PX))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
