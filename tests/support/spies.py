"""Functions that record their calls, to replace functions that the code under test calls."""

from collections.abc import Callable
from typing import Any


def spied(function: Callable[..., Any], note: Callable[..., object]) -> Callable[..., Any]:
    """Return a function that calls `note` and then `function` with its arguments, and returns what `function` does."""

    def call(*args: Any, **kwargs: Any) -> Any:
        note(*args, **kwargs)
        return function(*args, **kwargs)

    return call
