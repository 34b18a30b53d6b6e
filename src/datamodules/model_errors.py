"""Errors of libraries over files of models, which may be damaged or come from someone else, as one line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from datamodules.errors import ConfigError, FramemillError
from datamodules.printable import printable

_MAX_SHOWN = 300  # characters
_NEEDED = re.compile(r"(?:GLOBAL|function|class) (\S+)")  # in torch's message about a pickle that it does not load
_NOT_RUN = (
    "and no code of a checkpoint is run. Convert it to safetensors with the code that made it, on a machine that you "
    "trust"
)
_TERSE = (LookupError, AttributeError, ArithmeticError)  # their texts say little without the type


@contextmanager
def raising_config_error(what: str) -> Iterator[None]:
    """Raise ConfigError in place of any exception that a library raises over a file.

    torch, transformers, tokenizers and safetensors have no common base class of errors, and also raise plain Exception:
    this is the only place that catches it. Keep our own code out of the block, because its errors would be reported as
    errors of the file.

    Args:
        what: what cannot be done with which file, to begin the message with.

    Raises:
        ConfigError: the block raised an exception. Framemill's own errors pass unchanged.
    """
    try:
        yield
    except FramemillError:
        raise
    except Exception as error:
        raise ConfigError(f"{what}: {reason(error)}") from error


def reason(error: Exception) -> str:
    """Return what is wrong with a file by what a library raised; never advice to load it without protection."""
    text = " ".join(str(error).split())
    if "TorchScript" in text:
        return f"it is TorchScript, which is code, {_NOT_RUN}"
    if "weights_only" in text:
        needed = _NEEDED.search(text.partition("add_safe_globals")[0])
        return f"it needs {printable(needed[1])}, {_NOT_RUN}" if needed else "it is damaged, or not a file of weights"
    if "trust_remote_code" in text:
        return "it needs code of its own, which is not run: use a model whose code is in transformers"
    if "ignore_mismatched_sizes" in text:
        return "its weights do not have the shapes that its config.json has"
    if isinstance(error, _TERSE) or not text:
        text = f"{type(error).__name__}: {text}".rstrip(": ")
    return printable(text)[:_MAX_SHOWN]
