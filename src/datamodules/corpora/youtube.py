"""Videos of YouTube, as lists name them."""

import re
from typing import Any

_ID = re.compile(r"(?:v=|youtu\.be/|/embed/|/v/|/shorts/)([\w-]{11})(?![\w-])", re.ASCII)


def youtube_id(url: Any) -> str | None:
    """Return the id of the video of YouTube that has this URL; None: the value is no such URL."""
    match = _ID.search(url) if isinstance(url, str) else None
    return match[1] if match else None
