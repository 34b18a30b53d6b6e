"""Errors of libraries over files of models, in one line."""

import pytest

from datamodules.errors import ConfigError
from datamodules.model_errors import raising_config_error, reason


class Odd(Exception):
    """Of a library: safetensors and tokenizers have such errors."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Odd("not\n this \x1b[2J"), "not this \\x1b[2J"),
        (KeyError("added_tokens"), "KeyError: 'added_tokens'"),
        (MemoryError(), "MemoryError"),
        (RuntimeError("x" * 1000), "x" * 300),
        (RuntimeError("details: set weights_only"), "it is damaged, or not a file of weights"),
        (
            RuntimeError("set `ignore_mismatched_sizes`"),
            "its weights do not have the shapes that its config.json has",
        ),
    ],
)
def test_whatever_a_library_raises_is_one_short_line(error: Exception, expected: str) -> None:
    assert reason(error) == expected
    with pytest.raises(ConfigError, match=r"^a file: "), raising_config_error("a file"):
        raise error
