"""A server that speaks OpenAI's chat completions, and whose fault it is when it gives no answer.

| what the server does                                     | what becomes of it                                     |
|----------------------------------------------------------|--------------------------------------------------------|
| 429, 408, 409, 5xx; drops the connection; takes too long | asked again, after what it says in Retry-After or with |
|                                                          | back-off, `max_retries` times                          |
| 400, 413, 422                                            | ExtractError: it does not take this request            |
| 400, 422: it does not take `max_tokens`                  | asked again, from then on with `max_completion_tokens` |
| refuses to answer; filters the answer; a part of it is   | ExtractError                                           |
| no text                                                  |                                                        |
| 429 to every try; any other 4xx (401, 403: the key; 404: | EnvironmentFailure                                     |
| the model; 407: a proxy)                                 |                                                        |
| 408, 409, 5xx or no answer to every try; an answer that  | DoubtfulError: whether the request or the server is to |
| is no JSON, has no choices, or was broken off by it      | blame shows by how it answers another                  |

The asking again is the `openai` package's. No message bears what a server says of a key that it refuses. Where requests
go through a proxy, messages name it, as its answers look like those of the server.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import openai

from datamodules.errors import ConfigError, EnvironmentFailure, ExtractError
from datamodules.network import PROXY_VARIABLES, is_excepted, naming_no_proxy, proxy_for, require_usable

_AT_ONCE_SECONDS = 5.0  # to connect; and for what needs no thinking
_REFUSED = (400, 413, 422)
_DOUBTFUL = (408, 409)  # and 5xx
_PROXY_REFUSES = 407
_NO_CONNECTION = ("ConnectError", "ConnectTimeout", "ProxyError")  # of httpx2, or of httpx in older openai packages
_GO_ON = "What is done is safe: mend it, and run the same command again"
_BROKEN_OFF = ("abort", "error")  # finish reasons of vLLM and SGLang
# fields of a message: of vLLM, OpenRouter and Ollama; of DeepSeek, SGLang and llama.cpp; of OpenRouter
_THOUGHTS = ("reasoning", "reasoning_content", "reasoning_details")
_TEXT_PARTS = ("text", "output_text")
_THOUGHT_PARTS = ("thinking", "redacted_thinking", "reasoning")  # of Mistral's content, and of Anthropic's
_CUT = ("length", "max_tokens", "model_length")  # finish reasons; the last is Mistral's
_OTHER_LIMIT = re.compile(  # a server that does not take `max_tokens`, in the words of OpenAI, or of pydantic
    r"(?=.*max_(?:completion_)?tokens).*"
    r"\b(?:unsupported|unrecognized|unknown|unexpected|deprecated|extra|use\W+max_completion_tokens"
    r"|not\W+(?:supported|permitted|allowed))\b",
    re.DOTALL | re.IGNORECASE,
)


class DoubtfulError(ExtractError):
    """A request got no answer that can be used: it may be to blame, or the server."""


class Completion(NamedTuple):
    """What a server answers to a request.

    Attributes:
        text: what the model generated, or the text parts of it, joined.
        has_thought: whether the server says that the model thought as well.
        is_cut: whether the model was stopped at the limit.
        num_tokens: the number of generated tokens, by the server's count; 0 if it does not say.
    """

    text: str
    has_thought: bool
    is_cut: bool
    num_tokens: int


class Chat:
    """One server, by its URL.

    Args:
        url: of its API, for example `http://localhost:8000/v1`.
        api_key: what it is told; None: nothing that is secret.
        max_retries: of each request.
        timeout_seconds: for each try.

    Raises:
        ConfigError: a proxy or certificates that the environment names cannot be used.
    """

    def __init__(self, url: str, api_key: str | None, max_retries: int, timeout_seconds: float) -> None:
        timeout = openai.Timeout(timeout_seconds, connect=min(timeout_seconds, _AT_ONCE_SECONDS))
        self.url = url
        self._proxy = proxy_for(url)
        self._limit = "max_tokens"
        with _without_defaults(url):
            require_usable()
            with naming_no_proxy():
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
            raise ConfigError(self._refusal(f"{self.url}/models", error)) from error
        except openai.APIConnectionError as error:
            raise ConfigError(
                self._dead_proxy(error)
                or f"no server answers at {self.url} ({_cause(error)}): start it, or give its URL"
            ) from error
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            path = urlsplit(self.url).path
            raise ConfigError(
                f"{self.url}/models is not what an OpenAI-compatible server says; is the path {path!r} right?"
            ) from error

    async def answer(self, request: dict[str, Any]) -> Completion:
        """Return what the server answers to `request`, whose limit on generated tokens is `max_tokens`.

        Raises:
            ExtractError, DoubtfulError, EnvironmentFailure: see the module's table.
        """
        try:
            return _completion(await self._post(request))
        except openai.APIStatusError as error:
            status = error.status_code
            if status in _REFUSED:
                raise ExtractError(f"the server{self._or_proxy} refuses it ({status}): {_message(error)}") from error
            if status in _DOUBTFUL or status >= 500:
                raise DoubtfulError(f"the server{self._or_proxy} fails at it ({status}): {_message(error)}") from error
            raise EnvironmentFailure(f"{self._refusal(self.url, error)}. {_GO_ON}") from error
        except openai.APIConnectionError as error:
            raise DoubtfulError(
                self._dead_proxy(error)
                or f"the server{self._or_proxy} hangs up, or takes more than --model.server.timeout_seconds "
                f"({_cause(error)})"
            ) from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DoubtfulError("the server's answer is no JSON") from error

    async def _post(self, request: dict[str, Any]) -> Any:
        """The server's answer to `request`, with the limit under the name that the server takes."""
        body = dict(request)
        limit = self._limit
        body[limit] = body.pop("max_tokens")
        try:
            return await self._send(body)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            if limit != "max_tokens" or not _OTHER_LIMIT.search(str(error.body)):
                raise
        body["max_completion_tokens"] = body.pop("max_tokens")
        answer = await self._send(body)
        self._limit = "max_completion_tokens"  # not before: it may have refused this request for another reason
        return answer

    async def _send(self, body: dict[str, Any]) -> Any:
        return await self._client.post("/chat/completions", cast_to=object, body=body)

    @property
    def _or_proxy(self) -> str:
        return f", or {self._proxy}," if self._proxy else ""

    def _refusal(self, url: str, error: openai.APIStatusError) -> str:
        status = error.status_code
        if status == _PROXY_REFUSES and self._proxy:
            return f"{self._proxy} refuses requests ({status}): {_message(error)}"
        if status in (401, 403):
            return (
                f"{url}{self._or_proxy} refuses the API key ({status}); --model.server.api_key_env names what holds it"
            )
        return f"{url}{self._or_proxy} answers {status}: {_message(error)}"

    def _dead_proxy(self, error: openai.APIConnectionError) -> str | None:
        """What to say if it was the proxy that gave no connection; None: it was not, or there is none."""
        if self._proxy is None or type(error.__cause__).__name__ not in _NO_CONNECTION:
            return None
        return f"{self._proxy} is dead, or refuses the connection to {self.url} ({_cause(error)})"

    async def close(self) -> None:
        """Close its connections."""
        await self._client.close()


@contextmanager
def _without_defaults(url: str) -> Iterator[None]:
    """In it, no client takes key, organization, project or headers of another server from the environment.

    Nor proxies that NO_PROXY excepts `url` from: a client prepares them all the same, and fails at unusable ones.
    """
    unneeded = PROXY_VARIABLES if is_excepted(url) else ()
    held = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name.startswith("OPENAI_") or name.lower() in unneeded
    }
    try:
        yield
    finally:
        os.environ.update(held)


def _completion(answer: Any) -> Completion:
    try:
        choice, usage = answer["choices"][0], answer.get("usage") or {}
        message, finish = choice["message"], choice.get("finish_reason")
        parts = _parts(message.get("content"))
        num_thoughts = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
        has_thought = num_thoughts > 0 or any(message.get(name) for name in _THOUGHTS)
        num_tokens = int(usage.get("completion_tokens") or 0)
        refusals = [message.get("refusal"), *(part.get("refusal") for part in parts)]
        text = "".join(part["text"] for part in parts if part["type"] in _TEXT_PARTS)
        kinds = [str(part["type"]) for part in parts]
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise DoubtfulError(f"the server's answer has no choices: {_short(answer)}") from error
    if finish in _BROKEN_OFF:
        raise DoubtfulError(f"the server broke it off: {finish}")
    if refusal := next(filter(None, refusals), None):
        raise ExtractError(f"the model refuses to answer: {_short(refusal)}")
    if str(finish).startswith("content_filter"):  # of Gemini, with a reason after it
        raise ExtractError(f"the server's content filter stopped the answer: {_short(text) or 'no text'}")
    if other := next((kind for kind in kinds if kind not in (*_TEXT_PARTS, *_THOUGHT_PARTS)), None):
        raise ExtractError(f"the model answers with a part of the type {other!r}, not with text alone")
    return Completion(text, has_thought or any(kind in _THOUGHT_PARTS for kind in kinds), finish in _CUT, num_tokens)


def _parts(content: Any) -> list[dict[str, Any]]:
    """The parts of a message's content, which most servers give as one text."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content or ())


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
