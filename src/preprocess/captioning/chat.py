"""Requests to a server that speaks OpenAI's chat completions, and what follows from each kind of answer.

| what the server does                                     | what follows                                           |
|----------------------------------------------------------|--------------------------------------------------------|
| 429, 408, 409, 5xx; drops the connection; takes too long | the request is repeated up to `max_retries` times,     |
|                                                          | after the time in Retry-After, or with back-off        |
| 400, 413, 422                                            | ExtractError: it does not accept this request          |
| 400, 422: it does not accept `max_tokens`                | the request is repeated, and later ones are made, with |
|                                                          | `max_completion_tokens`                                |
| refuses to answer; filters the answer; a part of the     | ExtractError                                           |
| answer is not text                                       |                                                        |
| 429 at every attempt; any other 4xx (401, 403: the key;  | EnvironmentFailure                                     |
| 404: the model; 407: a proxy); a redirect, which is not  |                                                        |
| followed                                                 |                                                        |
| 408, 409, 5xx or no answer at every attempt; an answer   | DoubtfulError: the cause is the request or the server; |
| that is not JSON, has no choices, is larger than 16 MB,  | the answer to another request shows which              |
| has more than 1,000,000 lists and objects, or was broken |                                                        |
| off                                                      |                                                        |

The `openai` package repeats requests. Messages quote the server without the API key, and do not quote a server that
refuses the key. Where requests go through a proxy, messages name it, because its answers look like the server's.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai

from datamodules.errors import ConfigError, EnvironmentFailure, ExtractError
from datamodules.network import (
    PROXY_VARIABLES,
    is_excepted,
    proxy_for,
    redirect_target,
    require_usable,
)
from preprocess.captioning.completion import HOW_TO_RESUME, Completion, DoubtfulError, read_completion
from preprocess.captioning.http_client import AnswerTooLarge, BoundedClient
from preprocess.captioning.quoting import Quote

_QUICK_SECONDS = 5.0  # to connect, and for answers that need no model
_REFUSED = (400, 413, 422)
_DOUBTFUL = (408, 409)  # and 5xx
_PROXY_REFUSES = 407
_NO_CONNECTION = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError)
_MAX_REFUSAL = 2000  # characters of a refusal that are searched for the name of the limit
_REFUSES_MAX_TOKENS = re.compile(  # in the words of OpenAI, or of pydantic
    r"(?=.*max_(?:completion_)?tokens).*"
    r"\b(?:unsupported|unrecognized|unknown|unexpected|deprecated|extra|use\W+max_completion_tokens"
    r"|not\W+(?:supported|permitted|allowed))\b",
    re.DOTALL | re.IGNORECASE,
)


class Chat:
    """A client of one server.

    Args:
        url: of the server's API, for example `http://localhost:8000/v1`.
        api_key: sent with each request, and masked in messages; None: the server needs no key.
        max_retries: how often each request is repeated.
        request_timeout_seconds: for each attempt of a request, until the last byte of the answer.

    Raises:
        ConfigError: a proxy or certificates that the environment names cannot be used.
    """

    def __init__(self, url: str, api_key: str | None, max_retries: int, request_timeout_seconds: float) -> None:
        timeout = openai.Timeout(request_timeout_seconds, connect=min(request_timeout_seconds, _QUICK_SECONDS))
        self.url, self.quote = url, Quote(api_key)
        self._proxy = proxy_for(url)
        self._limit = "max_tokens"
        with _without_defaults(url):
            require_usable()
            self._client = openai.AsyncOpenAI(
                base_url=url,
                api_key=api_key or "none",
                max_retries=max_retries,
                timeout=timeout,
                http_client=BoundedClient(),
            )

    async def models(self) -> dict[str, str]:
        """Return the checkpoint behind each model that the server lists. The request is not repeated.

        vLLM and SGLang name the checkpoint as `root`. Other servers do not, and then it is the model's name.

        Raises:
            ConfigError: no server answers, or it does not answer as such a server does.
        """
        try:
            options: Any = {"max_retries": 0, "timeout": _QUICK_SECONDS}
            answer: Any = await self._client.get("/models", cast_to=object, options=options)
            models = answer["data"]
            if not all(isinstance(model["id"], str) for model in models):
                raise TypeError("the name of a model is not text")
            roots = [model.get("root") for model in models]
        except openai.APIStatusError as error:
            raise ConfigError(self._refusal(f"{self.url}/models", error)) from error
        except openai.APIConnectionError as error:
            raise ConfigError(
                self._dead_proxy(error)
                or f"no server answers at {self.url} ({self._cause(error)}). Start it, or give its URL by "
                "--model.backend.server.url"
            ) from error
        except (AnswerTooLarge, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            path = urlsplit(self.url).path
            raise ConfigError(
                f"{self.url}/models does not answer as an OpenAI-compatible server does. Is the path {path!r} right?"
            ) from error
        return {
            model["id"]: root if isinstance(root, str) and root else model["id"]
            for model, root in zip(models, roots, strict=True)
        }

    async def answer(self, request: dict[str, Any]) -> Completion:
        """Return the server's answer to `request`, whose limit on generated tokens is the field `max_tokens`.

        Raises:
            ExtractError, DoubtfulError, EnvironmentFailure: see the module's table.
        """
        try:
            answer = await self._post(request)
        except openai.APIStatusError as error:
            status, message = error.status_code, self._message(error)
            if status in _REFUSED:
                raise ExtractError(f"the server{self._or_proxy} refuses the request ({status}): {message}") from error
            if status in _DOUBTFUL or status >= 500:
                raise DoubtfulError(f"the server{self._or_proxy} fails to answer ({status}): {message}") from error
            raise EnvironmentFailure(f"{self._refusal(self.url, error)}. {HOW_TO_RESUME}") from error
        except openai.APIConnectionError as error:
            raise DoubtfulError(
                self._dead_proxy(error)
                or f"the server{self._or_proxy} hangs up, or takes more than "
                f"--model.backend.server.request_timeout_seconds ({self._cause(error)})"
            ) from error
        except AnswerTooLarge as error:
            raise DoubtfulError(str(error)) from error
        except (ValueError, RecursionError) as error:  # nested too deeply, or an integer of 5,000 digits
            raise DoubtfulError("the server's answer is not JSON") from error
        return read_completion(answer, self.quote)

    async def _post(self, request: dict[str, Any]) -> Any:
        """Return the parsed answer to `request`, with the limit under the name that the server accepts."""
        body = dict(request)
        limit = self._limit
        body[limit] = body.pop("max_tokens")
        try:
            return await self._send(body)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            refusal = self.quote(error.body, _MAX_REFUSAL)
            if limit != "max_tokens" or not _REFUSES_MAX_TOKENS.match(refusal):
                raise
        body["max_completion_tokens"] = body.pop("max_tokens")
        answer = await self._send(body)
        self._limit = "max_completion_tokens"  # only now: the refusal may have had another reason
        return answer

    async def _send(self, body: dict[str, Any]) -> Any:
        return await self._client.post("/chat/completions", cast_to=object, body=body)

    @property
    def _or_proxy(self) -> str:
        return f", or {self._proxy}," if self._proxy else ""

    def _refusal(self, url: str, error: openai.APIStatusError) -> str:
        status = error.status_code
        if status == _PROXY_REFUSES and self._proxy:
            return f"{self._proxy} refuses requests ({status}): {self._message(error)}"
        location = error.response.headers.get("location")
        if location and error.response.is_redirect:
            target = self.quote(redirect_target(str(error.request.url), location))
            return (
                f"{url}{self._or_proxy} redirects to {target} ({status}), where nothing is sent. If you trust that "
                "server, give its URL as --model.backend.server.url"
            )
        if status in (401, 403):
            return (
                f"{url}{self._or_proxy} refuses the API key ({status}), which is in the variable that "
                "--model.backend.server.api_key_env names"
            )
        return f"{url}{self._or_proxy} answers {status}: {self._message(error)}"

    def _dead_proxy(self, error: openai.APIConnectionError) -> str | None:
        """Return the message for a proxy that gave no connection; None if there is no proxy, or it gave one."""
        if self._proxy is None or not isinstance(error.__cause__, _NO_CONNECTION):
            return None
        return f"{self._proxy} does not answer, or refuses the connection to {self.url} ({self._cause(error)})"

    def _message(self, error: openai.APIStatusError) -> str:
        """Return the server's own message, which each kind of server puts into another field."""
        body = error.body
        if isinstance(body, dict):
            body = body.get("message", body.get("error", body.get("detail", body)))
        return self.quote(body)

    def _cause(self, error: openai.APIConnectionError) -> str:
        return self.quote(str(error.__cause__)) or type(error.__cause__).__name__

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


@contextmanager
def _without_defaults(url: str) -> Iterator[None]:
    """Hide environment variables that a client for `url` must not use.

    These are the key, organization, project and headers of OpenAI's own server; and proxies, if NO_PROXY excepts `url`
    from them: a client prepares them all the same, and fails if one cannot be used.
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
