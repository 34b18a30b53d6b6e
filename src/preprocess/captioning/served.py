"""Captions by a server that speaks OpenAI's chat completions: vLLM, SGLang, TGI, llama.cpp; see docs/serving.md.

Images are turned upright, resized and encoded in the workers. The rank sends the images of a batch as one request each,
many of them at once.
"""

import asyncio
import base64
import io
import weakref
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any, Literal, TypeVar, get_args

import torch
from PIL import Image
from torch import Tensor

from datamodules.corpus import Item
from datamodules.errors import ConfigError, EnvironmentFailure, ExtractError
from preprocess.captioning.answers import read_caption
from preprocess.captioning.backend import CaptionBackend
from preprocess.captioning.caption import Caption
from preprocess.captioning.completion import HOW_TO_RESUME, DoubtfulError
from preprocess.captioning.prepared import Prepared
from preprocess.captioning.server import Server
from preprocess.captioning.size_limit import SizeLimit

_T = TypeVar("_T")
ImageFormat = Literal["jpeg", "png"]

_SERVER = Server()
_SEED = 0  # of the server's sampling, where the temperature is above 0
_JPEG_QUALITY = 95
_LONGEST_JPEG_PX = 65_500  # libjpeg's limit
_MAX_NAMED = 20  # models of the server, in a message
_MAX_NAME = 1000  # characters of the checkpoint's name, in the fingerprint
_GRAY = Image.new("RGB", (64, 64), (128, 128, 128))

_unclosed: list[tuple[asyncio.AbstractEventLoop, Callable[[], Coroutine[Any, Any, None]]]] = []  # see `_close`


class ServedTransform:
    """Encodes an image for the server, in one worker.

    Args:
        fill: returns the prompt for an item; may raise ExtractError.
        limit: of the image's size.
        image_format: see `ServedModel`.
    """

    def __init__(self, fill: Callable[[Item], str], limit: SizeLimit, image_format: ImageFormat) -> None:
        self._fill, self._limit, self._format = fill, limit, image_format

    def start(self, item: Item) -> None:
        """Fill in the prompt for `item`."""
        self._prompt = self._fill(item)

    def __call__(self, frame: Tensor) -> Prepared:
        """Return the image, uint8 [3, H, W], as a data URL.

        Raises:
            ExtractError: a side is too long for a JPEG.
        """
        image = Image.fromarray(frame.permute(1, 2, 0).numpy())
        size = self._limit.fit(*image.size)
        if size != image.size:
            image = image.resize(size, Image.Resampling.BICUBIC)
        if self._format == "jpeg" and max(size) > _LONGEST_JPEG_PX:
            raise ExtractError(
                f"{size[0]}x{size[1]} px cannot be sent as JPEG, whose sides have at most {_LONGEST_JPEG_PX:,} px. Set "
                "--model.backend.longest_edge, or --model.backend.image_format png"
            )
        return Prepared(self._prompt, _data_url(image, self._format), 0, size[0] * size[1])


def _data_url(image: Image.Image, image_format: ImageFormat) -> str:
    encoded = io.BytesIO()
    image.save(encoded, image_format, **({"quality": _JPEG_QUALITY} if image_format == "jpeg" else {}))
    return f"data:image/{image_format};base64,{base64.b64encode(encoded.getvalue()).decode()}"


class ServedModel(CaptionBackend):
    """A model on a server.

    Args:
        model: its name, as the server calls it.
        server: where the server is, and how it is asked; see `Server`.
        system_prompt: text of a system message before the prompt; None: no such message.
        chat_template_kwargs: variables of the chat template, for example {"enable_thinking": false}; None: none.
        max_new_tokens: limit on the tokens of a caption, the thoughts of a reasoning model included. A longer caption
            is cut off and gets the status `truncated`; an image whose thoughts take all of them fails.
        temperature: of sampling; 0: always the likeliest token.
        max_pixels: limit on an image's pixels; larger images are resized before they are sent. None: no limit.
        longest_edge: limit on an image's longer side in px; likewise.
        image_format: how images are sent: as `jpeg` of quality 95; or as `png`, which is lossless and larger.

    Raises:
        ConfigError: an option is out of its range; or the API key, or the openai package, is missing.
    """

    name = "openai"
    uses_batches = False
    not_from_folder = ("server.url", "server.api_key_env")

    def __init__(
        self,
        model: str,
        server: Server = _SERVER,
        system_prompt: str | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        max_pixels: int | None = None,
        longest_edge: int | None = None,
        image_format: ImageFormat = "jpeg",
    ) -> None:
        super().__init__(
            model, system_prompt, chat_template_kwargs, max_new_tokens, temperature, max_pixels, longest_edge
        )
        if image_format not in get_args(ImageFormat):
            raise ConfigError(f"{image_format = } is not one of {', '.join(get_args(ImageFormat))}")
        try:
            from preprocess.captioning.chat import Chat
        except ImportError as error:
            raise ConfigError(
                f"the openai package, which asks caption servers, is missing ({error}). pip install 'framemill[openai]'"
            ) from error
        self.image_format = image_format
        self._server = server
        self._chat = Chat(server.base_url, server.api_key(), server.max_retries, server.request_timeout_seconds)
        self._loop = asyncio.new_event_loop()  # one for all batches, because connections belong to a loop
        self._slots = asyncio.Semaphore(server.max_concurrency)
        # the last request that the server has answered well; before the first, one that it should
        self._good = Prepared("Describe this image.", _data_url(_GRAY, image_format), 0, _GRAY.width * _GRAY.height)
        self._finalizer = weakref.finalize(self, _close, self._loop, self._chat.close)

    def transform(self, fill: Callable[[Item], str]) -> Callable[[], ServedTransform]:
        """See `CaptionBackend`."""
        return partial(ServedTransform, fill, SizeLimit(self.max_pixels, self.longest_edge), self.image_format)

    def load(self, device: torch.device) -> None:
        """Do nothing: the server has the weights."""

    def captions(self, inputs: Sequence[Prepared]) -> list[Caption | ExtractError]:
        """See `CaptionBackend`.

        Raises:
            EnvironmentFailure: the server is gone, or no longer gives usable answers.
        """
        return self._run(self._captions(inputs))

    def provenance(self) -> dict[str, str]:
        """Return which checkpoint the server says that it serves.

        Raises:
            ConfigError: the server does not answer, or does not serve the model.
        """
        models = self._run(self._chat.models())
        if self.model not in models:
            served = ", ".join(map(self._chat.quote, islice(models, _MAX_NAMED))) or "nothing"
            raise ConfigError(f"--model.backend.model {self.model}: {self._server.base_url} serves {served}")
        return {"served_model": self._chat.quote(models[self.model], _MAX_NAME)}

    def close(self) -> None:
        """Close the connections. So do the end of the process and garbage collection."""
        self._finalizer()

    async def _captions(self, inputs: Sequence[Prepared]) -> list[Caption | ExtractError]:
        tasks = [self._loop.create_task(self._caption(prepared)) for prepared in inputs]
        try:
            return await asyncio.gather(*tasks)
        finally:  # also if the server is gone, or at Ctrl-C
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _caption(self, prepared: Prepared) -> Caption | ExtractError:
        async with self._slots:
            try:
                caption = await self._ask(prepared)
            except ExtractError as error:
                if isinstance(error, DoubtfulError):
                    await self._require_working(error)
                return ExtractError(str(error))  # a new one: the traceback of `error` holds the server's answer
        self._good = prepared
        return caption

    async def _ask(self, prepared: Prepared) -> Caption:
        completion = await self._chat.answer(self._request(prepared))
        return read_caption(completion.text, completion.num_tokens, completion.is_cut_off, completion.has_thought)

    async def _require_working(self, doubtful: ExtractError) -> None:
        """Return if the server still works, so that the cause of `doubtful` is the item.

        It works if it answers a request that it has answered before, or one for a gray image, with anything but a
        DoubtfulError. All attempts together may take as long as one: what hangs must not hang twice as long.

        Raises:
            EnvironmentFailure: it does not.
        """
        try:
            await asyncio.wait_for(self._ask(self._good), self._server.request_timeout_seconds)
        except (DoubtfulError, asyncio.TimeoutError) as error:
            raise EnvironmentFailure(
                f"something is wrong with {self._server.base_url}: {doubtful}. {HOW_TO_RESUME}"
            ) from error
        except ExtractError:  # such as a refusal of the gray image: the server answers
            pass

    def _request(self, prepared: Prepared) -> dict[str, Any]:
        image = {"type": "image_url", "image_url": {"url": prepared.inputs}}
        content = [image, {"type": "text", "text": prepared.prompt}]
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        template = {"chat_template_kwargs": self.chat_template_kwargs} if self.chat_template_kwargs else {}
        return {
            "model": self.model,
            "messages": [*system, {"role": "user", "content": content}],
            "max_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "seed": _SEED,
            **template,
        }

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run `work` in this backend's loop, and return its result."""
        while _unclosed:
            _close(*_unclosed.pop())
        task = self._loop.create_task(work)
        try:
            return self._loop.run_until_complete(task)
        finally:
            if not task.done():  # Ctrl-C
                task.cancel()
                with suppress(asyncio.CancelledError):
                    self._loop.run_until_complete(task)


def _close(loop: asyncio.AbstractEventLoop, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Close `loop` and its connections.

    A backend may be garbage collected while the loop of another one runs, in which nothing can be awaited: then it is
    closed before the next batch.
    """
    if asyncio._get_running_loop():
        _unclosed.append((loop, close))
        return
    loop.run_until_complete(close())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
