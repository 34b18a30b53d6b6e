"""The page of a report: one HTML file with its script, style and data, which loads nothing but `media/` beside it."""

import base64
import hashlib
import math
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

_FOLDER = files("preprocess.report") / "assets"
_SCRIPTS = ("elements", "summary", "timeline", "failures", "distributions", "gallery", "main")


def page(document: dict[str, Any]) -> str:
    """Return the HTML of a report.

    Names and texts of the run are data: the script puts them into the page as text, never as HTML. The page's policy
    lets a browser run no other script, and load images and videos from beside the page only.

    Args:
        document: see `preprocess.report.document`.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    script = "\n".join(_read(f"{name}.js") for name in _SCRIPTS)
    style = _read("page.css")
    return environment.from_string(_read("index.html.jinja")).render(
        title=document["location"],
        document=_finite(document),
        script=Markup(script),  # ours: it holds no text of a run
        style=Markup(style),
        script_hash=_hash(script),
        style_hash=_hash(style),
    )


def _read(name: str) -> str:
    return (_FOLDER / name).read_text("utf-8")


def _hash(text: str) -> str:
    """Return the source expression of a Content Security Policy that allows this inline text."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _finite(value: Any) -> Any:
    """Return a JSON value without numbers that JSON does not have; these become null."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
