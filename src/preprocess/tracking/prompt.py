"""Prompts of tracking: `car. person.` are the classes `car` and `person`, as GroundingDINO has them."""

from datamodules.errors import ExtractError


def classes_of(prompt: str) -> tuple[str, ...]:
    """The classes that `prompt` names, each once, in lower case; `.` stands between them.

    Raises:
        ExtractError: it names none.
    """
    named = (" ".join(part.split()).lower() for part in prompt.split("."))
    classes = tuple(dict.fromkeys(name for name in named if name))
    if not classes:
        raise ExtractError(f"the prompt {prompt!r} names nothing to look for: write classes, as 'car. person.'")
    return classes


def text_of(classes: tuple[str, ...]) -> str:
    """`classes` as one text for GroundingDINO."""
    return "".join(f"{name}. " for name in classes).rstrip()
