"""A server that speaks OpenAI's chat completions, and whose fault it is when it gives no answer.

| what the server does                                     | what becomes of it                                     |
|----------------------------------------------------------|--------------------------------------------------------|
| 429, 408, 409, 5xx; drops the connection; takes too long | asked again, after what it says in Retry-After or with |
|                                                          | back-off, `max_retries` times                          |
| 400, 413, 422                                            | ExtractError: it does not take this request            |
| 429 to every try; any other 4xx (401, 403: the key; 404: | EnvironmentFailure                                     |
| the model)                                               |                                                        |
| 408, 409, 5xx or no answer to every try; an answer that  | DoubtfulError: whether the request or the server is to |
| is no JSON, has no choices, or was broken off by it      | blame shows by how it answers another                  |

The asking again is the `openai` package's. No message bears what a server says of a key that it refuses.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import openai

from datamodules.errors import ConfigError, EnvironmentFailure, ExtractError

_AT_ONCE_SECONDS = 5.0  # to connect; and for what needs no thinking
_REFUSED = (400, 413, 422)
_DOUBTFUL = (408, 409)  # and 5xx
_GO_ON = "What is done is safe: mend it, and run the same command again"
_BROKEN_OFF = ("abort", "error", "content_filter")  # finish reasons of vLLM, SGLang and OpenAI


class DoubtfulError(ExtractError):
    """A request got no answer that can be used: it may be to blame, or the server."""


class Chat:
    """One server, by its URL.

    Args:
        url: of its API, for example `http://localhost:8000/v1`.
        api_key: what it is told; None: nothing that is secret.
        max_retries: of each request.
        timeout_seconds: for each try.
    """

    def __init__(self, url: str, api_key: str | None, max_retries: int, timeout_seconds: float) -> None:
        timeout = openai.Timeout(timeout_seconds, connect=min(timeout_seconds, _AT_ONCE_SECONDS))
        self.url = url
        with _without_defaults():
            self._client = openai.AsyncOpenAI(
                base_url=url, api_key=api_key or "none", max_retries=max_retries, timeout=timeout
            )

    async def models(self) -> dict[str, dict[str, Any]]:
        """What it says of the models that it serves, by name; asked once.

        Raises:
            ConfigError: nobody answers there, or not as such a server does.
        """
        try:
            options: Any = {"max_retries": 0, "timeout": _AT_ONCE_SECONDS}
            answer: Any = await self._client.get("/models", cast_to=object, options=options)
            return {model["id"]: model for model in answer["data"]}
        except openai.APIStatusError as error:
            raise ConfigError(_refusal(f"{self.url}/models", error)) from error
        except openai.APIConnectionError as error:
            raise ConfigError(
                f"no server answers at {self.url} ({_cause(error)}): start it, or give its URL"
            ) from error
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            path = urlsplit(self.url).path
            raise ConfigError(
                f"{self.url}/models is not what an OpenAI-compatible server says; is the path {path!r} right?"
            ) from error

    async def answer(self, request: dict[str, Any]) -> tuple[str, bool, int]:
        """What it says to `request`: (text, whether that was stopped at the limit, tokens by its own count).

        Raises:
            ExtractError, DoubtfulError, EnvironmentFailure: see the module's table.
        """
        try:
            return _choice(await self._client.post("/chat/completions", cast_to=object, body=request))
        except openai.APIStatusError as error:
            if error.status_code in _REFUSED:
                raise ExtractError(f"the server refuses it ({error.status_code}): {_message(error)}") from error
            if error.status_code in _DOUBTFUL or error.status_code >= 500:
                raise DoubtfulError(f"the server fails at it ({error.status_code}): {_message(error)}") from error
            raise EnvironmentFailure(f"{_refusal(self.url, error)}. {_GO_ON}") from error
        except openai.APIConnectionError as error:
            raise DoubtfulError(
                f"the server hangs up, or takes more than --model.server.timeout_seconds ({_cause(error)})"
            ) from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DoubtfulError("the server's answer is no JSON") from error

    async def close(self) -> None:
        """Close its connections."""
        await self._client.close()


@contextmanager
def _without_defaults() -> Iterator[None]:
    """In it, no client takes key, organization, project or headers of another server from the environment."""
    held = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("OPENAI_")}
    try:
        yield
    finally:
        os.environ.update(held)


def _choice(answer: Any) -> tuple[str, bool, int]:
    try:
        choice = answer["choices"][0]
        text, finish = (choice["message"].get("content") or "").strip(), choice.get("finish_reason")
        num_tokens = (answer.get("usage") or {}).get("completion_tokens") or 0
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise DoubtfulError(f"the server's answer has no choices: {_short(answer)}") from error
    if finish in _BROKEN_OFF:
        raise DoubtfulError(f"the server broke it off: {finish}")
    return text, finish == "length", num_tokens


def _refusal(url: str, error: openai.APIStatusError) -> str:
    if error.status_code in (401, 403):
        return f"{url} refuses the API key ({error.status_code}); --model.server.api_key_env names what holds it"
    return f"{url} answers {error.status_code}: {_message(error)}"


def _message(error: openai.APIStatusError) -> str:
    """What the server says, which comes in as many shapes as there are servers."""
    body = error.body
    if isinstance(body, dict):
        body = body.get("message", body.get("error", body.get("detail", body)))
    return _short(body)


def _short(said: Any) -> str:
    return " ".join(str(said).split())[:200]


def _cause(error: openai.APIConnectionError) -> str:
    return _short(error.__cause__) or type(error.__cause__).__name__
