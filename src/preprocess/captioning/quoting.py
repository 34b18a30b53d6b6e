"""Quotations of a server in messages: short, on one line, escaped, and without the API key."""

from reprlib import Repr

from datamodules.network import masked
from datamodules.printable import printable

_MAX_SHOWN = 200  # characters
_MAX_READ = 10_000  # characters; only so many are searched for secrets, since an answer may have millions

_repr = Repr()  # its result is short, and it does not recurse as deep as an answer may be nested
_repr.maxdict = _repr.maxlist = 100
_repr.maxstring = _MAX_READ


class Quote:
    """Makes quotations of a server.

    Args:
        api_key: masked in quotations; None: the server needs no key.
    """

    def __init__(self, api_key: str | None = None) -> None:
        self._api_key = api_key

    def __call__(self, value: object, max_length: int = _MAX_SHOWN) -> str:
        """Return `value`, which was parsed from JSON, as a text of at most `max_length` characters."""
        text = (value if isinstance(value, str) else _repr.repr(value))[:_MAX_READ]
        return printable(masked(" ".join(text.split()), self._api_key))[:max_length]
