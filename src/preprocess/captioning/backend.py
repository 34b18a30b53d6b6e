"""What captions images: the contract that `local` and `served` keep."""

import json
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from datamodules.corpus import Item
from datamodules.errors import ConfigError, ExtractError
from datamodules.loading.request import FrameTransform
from datamodules.printable import printable
from preprocess.backend import Backend
from preprocess.captioning.caption import Caption
from preprocess.captioning.prepared import Prepared

_MAX_SHOWN = 200  # characters of a value, in a message


class CaptionBackend(Backend):
    """A vision-language model, wherever it runs.

    Arguments that do not change captions, such as a server's URL, are kept in private attributes.

    Args:
        model: name of the model.
        system_prompt: text before the prompt; None: none.
        chat_template_kwargs: variables of the model's chat template; None: none.
        max_new_tokens: limit on the tokens of one caption, thoughts included; at least 1.
        temperature: of sampling; 0: always the likeliest token.
        max_pixels: limit on the pixels of an image; larger images are resized. None: no limit.
        longest_edge: limit on the longer side of an image in px; larger images are resized. None: no limit.

    Attributes:
        name: value of the field `backend` in the samples' json.
        uses_batches: whether the model runs on the batches that the pipeline makes. If not, limits on the
            tokens and pixels of a batch have no effect, and the pipeline refuses them.

    Raises:
        ConfigError: an argument is out of its range, or cannot be written as JSON.
    """

    name: ClassVar[str]
    uses_batches: ClassVar[bool] = True

    def __init__(
        self,
        model: str,
        system_prompt: str | None,
        chat_template_kwargs: dict[str, Any] | None,
        max_new_tokens: int,
        temperature: float,
        max_pixels: int | None,
        longest_edge: int | None,
    ) -> None:
        if min(limit for limit in (max_new_tokens, max_pixels, longest_edge) if limit is not None) < 1:
            raise ConfigError(f"{max_new_tokens = }, {max_pixels = } and {longest_edge = } must be 1 or more")
        if not 0 <= temperature < math.inf:
            raise ConfigError(f"{temperature = } must be 0 or more, and finite")
        require_json("--model.backend.system_prompt", system_prompt)
        require_json("--model.backend.chat_template_kwargs", chat_template_kwargs)
        self.model, self.system_prompt, self.chat_template_kwargs = model, system_prompt, chat_template_kwargs
        self.max_new_tokens, self.temperature = max_new_tokens, temperature
        self.max_pixels, self.longest_edge = max_pixels, longest_edge

    @property
    def commit(self) -> str | None:
        """The commit of the model on the Hugging Face hub; None if it is not known."""
        return None

    @abstractmethod
    def transform(self, fill: Callable[[Item], str]) -> Callable[[], FrameTransform]:
        """Return what makes, in each worker, the transform of an image and its item into `Prepared`.

        Args:
            fill: returns the prompt for an item; may raise ExtractError. It is pickled for the workers.
        """

    @abstractmethod
    def captions(self, inputs: Sequence[Prepared]) -> list[Caption | ExtractError]:
        """Return the caption of each image of one batch, in order; an ExtractError for an image without one.

        Raises:
            EnvironmentFailure: no image can be captioned now, for example because a server is gone.
        """


def require_json(option: str, value: Any) -> None:
    """Raise ConfigError if `value` cannot be written as JSON in UTF-8: NaN, a date, a lone surrogate."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, TypeError, RecursionError) as error:
        shown = printable(repr(value))[:_MAX_SHOWN]
        raise ConfigError(f"{option} {shown} cannot be sent as JSON: {error}") from error
