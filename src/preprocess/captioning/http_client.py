"""An HTTP client for servers that are not trusted: no redirects, and limits on the time and the size of an answer."""

from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import anyio
import httpx2
import openai

MAX_ANSWER_BYTES = 16 << 20  # decompressed; 100,000 tokens of text have less than 1 MB
_MAX_CONTAINERS = 1_000_000  # lists and objects, by their brackets: parsed, an empty one takes 30 times its bytes
_NEEDED_HEADERS = (b"location", b"retry-after", b"retry-after-ms", b"x-should-retry")


class AnswerTooLarge(openai.OpenAIError):
    """An answer is too large to be read. The openai package passes its own errors on and does not retry."""


class BoundedClient(openai.DefaultAsyncHttpxClient):
    """An HTTP client for the openai package that reads each answer whole, within limits.

    The read timeout of a request is its limit for everything after connecting: httpx applies it to each read, so a
    server that sends a byte now and then would never reach it. A redirect is returned and not followed, because it
    would send images to a host that the user has not named. No cookies are kept: their number and age have no limit.
    """

    def __init__(self) -> None:
        super().__init__(cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())))

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Return the whole answer to `request`.

        Raises:
            httpx2.RequestError: there was no whole answer within the time, or it is not valid HTTP.
            AnswerTooLarge: it has more than `MAX_ANSWER_BYTES`, or too many lists and objects to parse.
        """
        timeout = request.extensions["timeout"]
        request.extensions["timeout"] = {"connect": timeout["connect"]}
        try:
            # not asyncio.wait_for: Ctrl-C in its own task would be raised twice
            with anyio.fail_after(timeout["read"]):
                return await self._receive(request, **options)
        except TimeoutError as error:
            raise httpx2.ReadTimeout(f"no whole answer in {timeout['read']:g} s", request=request) from error

    async def _receive(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        received = await super().send(request, **{**options, "stream": True, "follow_redirects": False})
        try:
            content = b"" if received.is_redirect else await _content(received)
        finally:
            await received.aclose()
        headers = [(name, value) for name, value in received.headers.raw if name.lower() in _NEEDED_HEADERS]
        is_json = received.headers.get("content-type", "").partition(";")[0].strip().lower().endswith("json")
        media_type = b"application/json" if is_json else b"text/plain"  # no charset, which may be any codec of Python
        return httpx2.Response(
            received.status_code, headers=[*headers, (b"content-type", media_type)], content=content, request=request
        )


async def _content(response: httpx2.Response) -> bytes:
    """Return the decompressed body of `response`."""
    if "," in response.headers.get("content-encoding", ""):  # nested, 16 kB can take hours to decompress
        raise httpx2.DecodingError("the answer is compressed more than once")
    content = bytearray()
    async for chunk in response.aiter_bytes():  # of at most 1 MB
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            raise AnswerTooLarge(f"the server's answer is larger than {MAX_ANSWER_BYTES >> 20} MB")
    if content.count(b"[") + content.count(b"{") > _MAX_CONTAINERS:
        raise AnswerTooLarge(f"the server's answer has more than {_MAX_CONTAINERS:,} lists and objects")
    return bytes(content)
