"""Where a caption server is, and how it is asked."""

import math
import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from datamodules.errors import ConfigError
from datamodules.network import without_credentials

_MAX_CONNECTIONS = 1000  # the client's own limit


@dataclass(frozen=True)
class Server:
    """A server that speaks OpenAI's chat completions. None of these options changes captions.

    Attributes:
        url: of the server's API, by http or https; `/v1` is added to a URL without a path.
        api_key_env: name of the environment variable that holds the API key; None: the server needs no key.
        max_concurrency: limit on the requests of one rank that are in flight, 1 to 1000.
        max_retries: how often a request is repeated that the server puts off or does not answer.
        request_timeout_seconds: for each attempt of a request, until the last byte of the answer. All attempts, one
            more, and the pauses between them must fit into --output.extract_timeout_seconds.

    Raises:
        ConfigError: an option is out of its range; or the URL or the variable's name is not one.
    """

    url: str = "http://localhost:8000/v1"
    api_key_env: str | None = None
    max_concurrency: int = 64
    max_retries: int = 4
    request_timeout_seconds: float = 90.0

    def __post_init__(self) -> None:
        _require_url(self.url)
        if self.api_key_env is not None and not re.fullmatch(r"[A-Za-z_]\w*", self.api_key_env, re.ASCII):
            raise ConfigError(  # without the value, which may be a key
                "--model.backend.server.api_key_env is not the name of an environment variable. Set a variable to the "
                "key, and give the variable's name"
            )
        if not 1 <= self.max_concurrency <= _MAX_CONNECTIONS:
            raise ConfigError(f"max_concurrency = {self.max_concurrency} must be 1 to {_MAX_CONNECTIONS}")
        if self.max_retries < 0 or not 0 < self.request_timeout_seconds < math.inf:
            raise ConfigError(
                f"max_retries = {self.max_retries} must be 0 or more, and "
                f"request_timeout_seconds = {self.request_timeout_seconds} above 0"
            )

    @property
    def base_url(self) -> str:
        """The URL that paths such as `/models` are added to."""
        return self.url.rstrip("/") + ("" if urlsplit(self.url).path.strip("/") else "/v1")

    def api_key(self) -> str | None:
        """Return the API key; None if the server needs none.

        Raises:
            ConfigError: its environment variable is not set, or has a value that HTTP cannot send.
        """
        if self.api_key_env is None:
            return None
        if not (key := os.environ.get(self.api_key_env)):
            raise ConfigError(
                f"the environment variable {self.api_key_env} is not set, though --model.backend.server.api_key_env "
                "names it"
            )
        if not (key.isascii() and key.isprintable() and key == key.strip()):
            raise ConfigError(
                f"the environment variable {self.api_key_env} has a space or a line break around the key, or a "
                "character that is not printable ASCII. HTTP cannot send such a key"
            )
        return key


def _require_url(url: str) -> None:
    """Raise ConfigError unless requests can be sent to `url`; the message shows no password."""
    from httpx2 import URL, InvalidURL

    option = "--model.backend.server.url"
    if "@" in url:  # anywhere, since a password may hold a / or a #
        raise ConfigError(f"{option} holds a password. Give the key by --model.backend.server.api_key_env")
    shown = repr(without_credentials(url))
    try:
        parts, _ = urlsplit(url), URL(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (ValueError, InvalidURL) as error:
        raise ConfigError(f"{option} {shown} is not a URL: {error}") from error
    if not is_usable or parts.query or parts.fragment:
        raise ConfigError(f"{option} {shown} cannot be used. Give one such as http://localhost:8000/v1")
