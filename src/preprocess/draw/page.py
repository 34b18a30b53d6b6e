"""Captions beside their images, as a page of HTML that needs no other file."""

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.printable import printable, printable_lines
from datamodules.samples.captions import CaptionSample

_SIDE_PX = 480  # of a picture's longer side
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
{articles}
"""
_ARTICLE = """<article>
<div>{picture}</div>
<div><h2>{key}</h2>
<p>{caption}</p>
<p class="about">{facts}</p>
<p class="about">{prompt}</p></div>
</article>"""


@dataclass(frozen=True)
class Card:
    """A caption, and its image, uint8 [H, W, 3]; or why that cannot be shown."""

    sample: CaptionSample
    picture: NDArray[np.uint8] | None
    missing: str = ""


def page(title: str, cards: Iterable[Card]) -> str:
    """Return the page; nothing in the texts is taken for HTML, and what could mislead a reader is escaped.

    The page's policy lets a browser run no script and load nothing.
    """
    return _PAGE.format(title=_shown(title), articles="\n".join(map(_article, cards)))


def _article(card: Card) -> str:
    meta = card.sample.meta
    size = f"{meta['width']}x{meta['height']} px" if "width" in meta and "height" in meta else None
    tokens = f"{meta['num_tokens']} tokens" if meta.get("num_tokens") is not None else None
    facts = [meta.get("status"), tokens, size, meta.get("image"), meta.get("model")]
    return _ARTICLE.format(
        picture=_picture(card),
        key=_shown(card.sample.key),
        caption=escape(printable_lines(card.sample.caption)),
        facts=_shown("   ".join(str(fact) for fact in facts if fact)),
        prompt=escape(printable_lines(str(meta.get("prompt") or ""))),
    )


def _shown(text: str) -> str:
    return escape(printable(text))


def _picture(card: Card) -> str:
    if card.picture is None:
        return f'<p class="about">{_shown(card.missing)}</p>'
    image = Image.fromarray(card.picture)
    image.thumbnail((_SIDE_PX, _SIDE_PX))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
