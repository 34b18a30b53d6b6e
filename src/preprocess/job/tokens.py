"""Count generated tokens in the results of language models; a run's status shows tokens per second."""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class HasTokens(Protocol):
    """A result of `Extractor.extract` that a language model has generated.

    Attributes:
        num_tokens: number of tokens that were generated for the result.
    """

    @property
    def num_tokens(self) -> int: ...


def count_tokens(results: Iterable[Any]) -> int:
    """Return the number of generated tokens of all `results`; a result that is no `HasTokens` counts as 0."""
    return sum(result.num_tokens for result in results if isinstance(result, HasTokens))
