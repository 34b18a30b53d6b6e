"""Prompts of tracking: `car. person.` are the classes `car` and `person`, as GroundingDINO has them."""

from datamodules.errors import ExtractError

_OTHER_SEPARATORS = ",;|、，；。"


def classes_of(prompt: str) -> tuple[str, ...]:
    """The classes that `prompt` names, each once, in lower case; `.` stands between them.

    Raises:
        ExtractError: it names none; or a class has another separator than `.` in it, as a comma, so that several may be
            meant, which would be looked for as one.
    """
    named = (" ".join(part.split()).lower() for part in prompt.split("."))
    classes = tuple(dict.fromkeys(name for name in named if name))
    if not classes:
        raise ExtractError(f"the prompt {prompt!r} names nothing to look for: write classes, as 'car. person.'")
    if several := next((name for name in classes if any(mark in name for mark in _OTHER_SEPARATORS)), None):
        raise ExtractError(
            f"the prompt {prompt!r} has one class {several!r}. Separate classes by '.', as 'car. person.'; write one "
            f"class without {' '.join(mark for mark in _OTHER_SEPARATORS if mark in several)}"
        )
    return classes


def text_of(classes: tuple[str, ...]) -> str:
    """`classes` as one text for GroundingDINO."""
    return "".join(f"{name}. " for name in classes).rstrip()
