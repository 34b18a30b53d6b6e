"""What an engine says of one image."""

from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["ok", "truncated", "empty"]


@dataclass(frozen=True)
class Caption:
    """What an engine says of one image.

    Attributes:
        text: without the prompt, and without white space around it.
        status: `truncated`: it was stopped at `max_new_tokens`; `empty`: the model ended at once, without text.
        num_tokens: number of generated tokens, thoughts included, the end mark excluded.
        entities: of Kosmos-2: {"text": a phrase, "begin", "end": its place in the text, half-open, in characters,
            "boxes": [[x1, y1, x2, y2], …], 0 to 1}; None of other models.
    """

    text: str
    status: Status
    num_tokens: int
    entities: list[dict[str, Any]] | None = None
