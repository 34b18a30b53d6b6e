"""Captions by a server that speaks OpenAI's chat completions: vLLM, SGLang, TGI, llama.cpp; see docs/serving.md.

Images are turned upright, resized and encoded in the workers; the rank sends a batch at a time, many requests at once.
"""

import asyncio
import base64
import io
import math
import os
import re
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from PIL import Image
from torch import Tensor

from datamodules.corpus import Item
from datamodules.errors import ConfigError, EnvironmentFailure, ExtractError
from datamodules.network import without_credentials
from preprocess.captioning.answers import read_caption
from preprocess.captioning.caption import Caption
from preprocess.captioning.completion import GO_ON, DoubtfulError
from preprocess.captioning.prepared import Prepared

_T = TypeVar("_T")
_JPEG_QUALITY = 95
_LONGEST_JPEG_PX = 65_500  # of libjpeg
_MAX_CONNECTIONS = 1000  # the client's own limit
_left_open: list[tuple[asyncio.AbstractEventLoop, Callable[[], Coroutine[Any, Any, None]]]] = []  # see `_close`
_MAX_NAMED = 20  # models of the server, in a message
_MAX_NAME = 1000  # characters of the checkpoint's name, in the fingerprint
_GRAY = Image.new("RGB", (64, 64), (128, 128, 128))


@dataclass(frozen=True)
class Server:
    """Where a server is, and how it is asked. Nothing but `image_format` changes captions.

    Attributes:
        url: of its API, by http or https; `/v1` is added to one without a path.
        api_key_env: the name of the environment variable that holds its key; None: it wants none.
        max_concurrency: requests of one rank in flight.
        max_retries: of a request that is put off, or gets no answer.
        request_timeout_seconds: for each try, until the last byte of its answer. All of them, one more, and the waiting
            between must fit into --output.extract_timeout_seconds.
        image_format: how images are sent: as `jpeg` of quality 95, or as `png`, which loses nothing and is larger.

    Raises:
        ConfigError: one of these cannot be.
    """

    url: str = "http://localhost:8000/v1"
    api_key_env: str | None = None
    max_concurrency: int = 64
    max_retries: int = 4
    request_timeout_seconds: float = 90.0
    image_format: Literal["jpeg", "png"] = "jpeg"

    def __post_init__(self) -> None:
        _require_url(self.url)
        if self.api_key_env is not None and not re.fullmatch(r"[A-Za-z_]\w*", self.api_key_env, re.ASCII):
            raise ConfigError(  # without the value, which may be a key
                "--model.server.api_key_env is not the name of an environment variable: set one to the key, and give "
                "its name"
            )
        if not 1 <= self.max_concurrency <= _MAX_CONNECTIONS:
            raise ConfigError(f"max_concurrency = {self.max_concurrency}: it must be 1 to {_MAX_CONNECTIONS}")
        if self.max_retries < 0 or not 0 < self.request_timeout_seconds < math.inf:
            raise ConfigError(
                f"max_retries = {self.max_retries} must be 0 or more, "
                f"request_timeout_seconds = {self.request_timeout_seconds} above 0"
            )

    @property
    def base_url(self) -> str:
        """The URL that paths such as `/models` are added to."""
        return self.url.rstrip("/") + ("" if urlsplit(self.url).path.strip("/") else "/v1")

    def api_key(self) -> str | None:
        """The key; None if the server wants none.

        Raises:
            ConfigError: its environment variable is not set, or holds what HTTP cannot send.
        """
        if self.api_key_env is None:
            return None
        if not (key := os.environ.get(self.api_key_env)):
            raise ConfigError(f"--model.server.api_key_env: the environment variable {self.api_key_env} is not set")
        if not (key.isascii() and key.isprintable() and key == key.strip()):
            raise ConfigError(
                f"the environment variable {self.api_key_env} has a space or line break around the key, or a character "
                "in it that is not printable ASCII: HTTP cannot send such a key"
            )
        return key


@dataclass(frozen=True)
class Generation:
    """What a server is asked to do with each image.

    Attributes:
        system_prompt: None: none is sent.
        chat_template_kwargs: variables of the chat template, for example {"enable_thinking": False}; {}: none is sent.
        max_new_tokens: of a caption, thoughts included.
        temperature: 0: always the likeliest token.
        seed: of the sampling, where there is any.
    """

    system_prompt: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    max_new_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class SizeLimit:
    """How large images are sent, at most, in px; None: as large as they are."""

    max_pixels: int | None = None
    longest_edge: int | None = None

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) within the limits, of the same shape as far as whole px allow, and never larger."""
        scale = 1.0
        if self.max_pixels:
            scale = min(scale, math.sqrt(self.max_pixels / (width * height)))
        if self.longest_edge:
            scale = min(scale, self.longest_edge / max(width, height))
        if scale == 1.0:
            return width, height
        return max(1, math.floor(width * scale + 1e-9)), max(1, math.floor(height * scale + 1e-9))


class ServedTransform:
    """An image as the server gets it, in one worker.

    Args:
        fill: the prompt for an item; may raise ExtractError.
        limit: of the size.
        image_format: see `Server`.
    """

    def __init__(self, fill: Callable[[Item], str], limit: SizeLimit, image_format: str) -> None:
        self._fill, self._limit, self._format = fill, limit, image_format

    def start(self, item: Item) -> None:
        """Fill the prompt for `item`."""
        self._prompt = self._fill(item)

    def __call__(self, frame: Tensor) -> Prepared:
        """The image, uint8 [3, H, W], as a data URL.

        Raises:
            ExtractError: it is too long for a JPEG.
        """
        image = Image.fromarray(frame.permute(1, 2, 0).numpy())
        size = self._limit.fit(*image.size)
        if size != image.size:
            image = image.resize(size, Image.Resampling.BICUBIC)
        if self._format == "jpeg" and max(size) > _LONGEST_JPEG_PX:
            raise ExtractError(
                f"{size[0]}x{size[1]} px cannot be sent as JPEG, whose sides have {_LONGEST_JPEG_PX:,} at most: set "
                "--model.longest_edge, or --model.server.image_format png"
            )
        return Prepared(self._prompt, _data_url(image, self._format), 0, size[0] * size[1])


def _data_url(image: Image.Image, image_format: str) -> str:
    encoded = io.BytesIO()
    image.save(encoded, image_format, **({"quality": _JPEG_QUALITY} if image_format == "jpeg" else {}))
    return f"data:image/{image_format};base64,{base64.b64encode(encoded.getvalue()).decode()}"


class ServedEngine:
    """A model on a server.

    Args:
        model: its name, as the server says it.
        server: see `Server`.
        fill: the prompt for an item, which the workers ask for; it goes to other processes.
        generation: see `Generation`.
        limit: of the images' size.

    Attributes:
        transform: makes a `ServedTransform`.
        close: ends the connections; so does the end of the process.

    Raises:
        ConfigError: the key is not there, or the openai package.
    """

    def __init__(
        self, model: str, server: Server, fill: Callable[[Item], str], generation: Generation, limit: SizeLimit
    ) -> None:
        try:
            from preprocess.captioning.chat import Chat
        except ImportError as error:
            raise ConfigError(
                f"a server is asked by the openai package: pip install 'framemill[openai]' ({error})"
            ) from error
        self.transform = partial(ServedTransform, fill, limit, server.image_format)
        self._model, self._server, self._generation = model, server, generation
        self._chat = Chat(server.base_url, server.api_key(), server.max_retries, server.request_timeout_seconds)
        self._loop = asyncio.new_event_loop()  # one for all batches, as connections belong to a loop
        self._slots = asyncio.Semaphore(server.max_concurrency)
        # one that the server has answered well; at first, one that it should
        self._good = Prepared(
            "Describe this image.", _data_url(_GRAY, server.image_format), 0, _GRAY.width * _GRAY.height
        )
        self.close = weakref.finalize(self, _close, self._loop, self._chat.close)

    def provenance(self) -> dict[str, str]:
        """What the server says that the model is, and how images are sent.

        Raises:
            ConfigError: there is no server, or it does not serve the model.
        """
        models = self._run(self._chat.models())
        if self._model not in models:
            served = ", ".join(map(self._chat.quote, islice(models, _MAX_NAMED))) or "nothing"
            raise ConfigError(f"--model.model {self._model}: {self._server.base_url} serves {served}")
        return {
            "served_model": self._chat.quote(models[self._model], _MAX_NAME),
            "image_format": self._server.image_format,
        }

    def captions(self, inputs: Sequence[Prepared]) -> list[Caption | ExtractError]:
        """Of one batch, in order: what the server says, or why it does not take an image.

        Raises:
            EnvironmentFailure: the server is gone, or something is wrong with it.
        """
        return self._run(self._captions(inputs))

    async def _captions(self, inputs: Sequence[Prepared]) -> list[Caption | ExtractError]:
        tasks = [self._loop.create_task(self._caption(prepared)) for prepared in inputs]
        try:
            return await asyncio.gather(*tasks)
        finally:  # if the server is gone, or it was Ctrl-C
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _caption(self, prepared: Prepared) -> Caption | ExtractError:
        async with self._slots:
            try:
                caption = await self._ask(prepared)
            except ExtractError as error:
                if isinstance(error, DoubtfulError):
                    await self._require(error)
                return ExtractError(str(error))  # a new one: the traceback of `error` holds the server's answer
        self._good = prepared
        return caption

    async def _ask(self, prepared: Prepared) -> Caption:
        completion = await self._chat.answer(self._request(prepared))
        return read_caption(completion.text, completion.num_tokens, completion.is_cut, completion.has_thought)

    async def _require(self, doubtful: ExtractError) -> None:
        """Raise EnvironmentFailure unless the server still works: then the item is to blame.

        It works if it answers the request that it has answered before, or a gray image, with anything but a
        DoubtfulError. All tries together may take as long as one: what hangs must not hang twice as long.
        """
        try:
            await asyncio.wait_for(self._ask(self._good), self._server.request_timeout_seconds)
        except (DoubtfulError, asyncio.TimeoutError) as error:
            raise EnvironmentFailure(f"something is wrong with {self._server.base_url}: {doubtful}. {GO_ON}") from error
        except ExtractError:  # such as a refusal of the gray image: the server answers
            pass

    def _request(self, prepared: Prepared) -> dict[str, Any]:
        wanted = self._generation
        image = {"type": "image_url", "image_url": {"url": prepared.inputs}}
        content = [image, {"type": "text", "text": prepared.prompt}]
        system = [{"role": "system", "content": wanted.system_prompt}] if wanted.system_prompt else []
        template = {"chat_template_kwargs": dict(wanted.chat_template_kwargs)} if wanted.chat_template_kwargs else {}
        return {
            "model": self._model,
            "messages": [*system, {"role": "user", "content": content}],
            "max_tokens": wanted.max_new_tokens,
            "temperature": wanted.temperature,
            "seed": wanted.seed,
            **template,
        }

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        while _left_open:
            _close(*_left_open.pop())
        task = self._loop.create_task(work)
        try:
            return self._loop.run_until_complete(task)
        finally:
            if not task.done():  # Ctrl-C
                task.cancel()
                with suppress(asyncio.CancelledError):
                    self._loop.run_until_complete(task)


def _require_url(url: str) -> None:
    from httpx import URL, InvalidURL

    option = "--model.server.url"
    if "@" in url:  # anywhere, since a password may hold a / or a #
        raise ConfigError(f"{option} holds a password: give the key by --model.server.api_key_env")
    shown = repr(without_credentials(url))
    try:
        parts, _ = urlsplit(url), URL(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (ValueError, InvalidURL) as error:
        raise ConfigError(f"{option} {shown} is no URL: {error}") from error
    if not is_usable or parts.query or parts.fragment:
        raise ConfigError(f"{option} {shown}: give one such as http://localhost:8000/v1")


def _close(loop: asyncio.AbstractEventLoop, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Close `loop` and what it has open: now, or if the engine was collected while another's loop runs, after that."""
    if asyncio._get_running_loop():
        _left_open.append((loop, close))
        return
    loop.run_until_complete(close())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
