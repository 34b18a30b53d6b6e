"""Prompts of tracking: `car. person.` names the classes `car` and `person`, as in GroundingDINO."""

from datamodules.errors import ExtractError

_OTHER_SEPARATORS = ",;|、，；。"


def classes_of(prompt: str) -> tuple[str, ...]:
    """Return the classes in `prompt`, separated by `.`, without duplicates, in lower case.

    Raises:
        ExtractError: there is no class; or a class contains another separator, such as a comma, and would be looked for
            as one class although several are probably meant.
    """
    named = (" ".join(part.split()).lower() for part in prompt.split("."))
    classes = tuple(dict.fromkeys(name for name in named if name))
    if not classes:
        raise ExtractError(f"the prompt {prompt!r} names nothing to look for. Write classes, such as 'car. person.'")
    if several := next((name for name in classes if any(mark in name for mark in _OTHER_SEPARATORS)), None):
        raise ExtractError(
            f"the prompt {prompt!r} has one class {several!r}. Separate classes by '.', as in 'car. person.'; write "
            f"one class without {' '.join(mark for mark in _OTHER_SEPARATORS if mark in several)}"
        )
    return classes


def text_of(classes: tuple[str, ...]) -> str:
    """Return `classes` as one text for GroundingDINO."""
    return "".join(f"{name}. " for name in classes).rstrip()
