"""The caption of one image."""

from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["ok", "truncated", "empty"]


@dataclass(frozen=True)
class Caption:
    """What a model says about one image.

    Attributes:
        text: the caption, without the prompt and without white space around it.
        status: `ok`; `truncated`: it was cut off at `max_new_tokens`; `empty`: the model ended at once, without text.
        num_tokens: number of generated tokens, thoughts included, the end mark excluded.
        entities: of Kosmos-2, the phrases that it located: {"text": the phrase, "begin" and "end": the half-open range
            of its characters in `text`, "boxes": [[x1, y1, x2, y2], …], as shares (0 to 1) of width and height}; None
            for other models.
    """

    text: str
    status: Status
    num_tokens: int
    entities: list[dict[str, Any]] | None = None
