"""Clips pipeline: frames spread over a video, and CLIP's tokens of its text. Samples: `datamodules.samples.clips`."""

import hashlib
import html
import re
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from datamodules.corpus import Item
from datamodules.errors import ConfigError, ExtractError
from datamodules.loading.batch import Batch, ItemSummary
from datamodules.loading.request import FrameRequest
from datamodules.media.decoding import Decoding
from datamodules.media.sampling import Short, Uniform
from datamodules.samples.clips import ClipSample, ClipSamples, jpeg_frames, mp4_frames, raw_frames
from preprocess.clip_vocabulary import END, INSTALLED, read_vocabulary
from preprocess.frame_transforms import JpegTransform
from preprocess.job.extractor import Extractor

TextCleaning = Literal["none", "openai"]

NUM_TOKENS = 77  # the context length of CLIP's text model (Radford et al., 2021)
_STORES: dict[str, Callable[[Sequence[Any]], dict[str, bytes]]] = {
    "raw": raw_frames,
    "jpeg": jpeg_frames,
    "mp4": mp4_frames,
}
_FACTS = ("codec", "width", "height", "pixel_aspect_ratio", "num_frames", "num_skipped_frames", "backends")


class Clips(Extractor):
    """Decodes and resizes videos, in the DataLoader workers or with the GPU's NVDEC. There is no model.

    Args:
        num_frames: of a clip, spread from the first to the last frame of the video, or of its segment.
        height: of the frames, in px.
        width: of the frames, in px.
        short: what to do with videos of fewer frames: `fail`, `repeat` or `pad`; see `media.sampling.Uniform`.
        store: frames as one array (`raw`), as `jpeg`s of quality 95, or as one `mp4`.
        tokenizer: `clip`: CLIP's own, which is installed; or a folder with the files of one, or its name on the Hugging
            Face hub; null: no tokens.
        text_cleaning: how a text is cleaned before it is tokenized. `none`: not at all; `openai`: as by the tokenizers
            of OpenAI's CLIP and open_clip, see `cleaned`. The json keeps the original text.
        decode: `cpu`; or `cuda`: with NVDEC of the rank's GPU.

    Raises:
        ConfigError: an argument is out of range, or the tokenizer cannot be found or is not CLIP's.
    """

    samples = ClipSamples()
    retry_invariants = (
        *(f"extractor.init_args.{name}" for name in ("num_frames", "height", "width", "store")),
        "versions.tokenizer",
    )
    reserved_fields = frozenset({"path", "fps", "pts_seconds", "num_tokens", "truncated", *_FACTS})

    def __init__(
        self,
        num_frames: int = 16,
        height: int = 160,
        width: int = 256,
        short: Short = "fail",
        store: Literal["raw", "jpeg", "mp4"] = "raw",
        tokenizer: str | None = INSTALLED,
        text_cleaning: TextCleaning = "none",
        decode: Literal["cpu", "cuda"] = "cpu",
    ) -> None:
        super().__init__()
        if text_cleaning not in get_args(TextCleaning):
            raise ConfigError(f"{text_cleaning = }: choose from {', '.join(get_args(TextCleaning))}")
        if min(num_frames, height, width) < 1:
            raise ConfigError(f"{num_frames = }, {height = } and {width = } must be 1 or more")
        if store == "mp4" and (height % 2 or width % 2):
            raise ConfigError(f"{height = } and {width = } must be even for store = 'mp4': H.264 halves its colours")
        self.save_hyperparameters(ignore=["tokenizer"])  # its content belongs to the fingerprint, not its path
        self.tokenizer = ClipTokenizer(tokenizer, text_cleaning) if tokenizer else None
        self.frames = FrameRequest(
            slice_frames=num_frames,
            transform=JpegTransform if store == "jpeg" else None,
            selection=Uniform(num_frames, short),
            size=(height, width),
            decoding=Decoding("torchcodec", device="cuda") if decode == "cuda" else Decoding(),
        )

    def provenance(self) -> dict[str, str]:
        """See `Extractor`: the tokenizer and its packages, and the decoder if it is not the DataModule's."""
        tokenizers = ("transformers", "tokenizers") if self.tokenizer else ()
        cleaners = ("ftfy",) if self.tokenizer and self.hparams["text_cleaning"] == "openai" else ()
        decoders = ("torchcodec",) if self.frames.decoding.device != "cpu" else ()
        tokenizer = self.tokenizer.sha256 if self.tokenizer else "none"
        return {"tokenizer": tokenizer, **{name: version(name) for name in (*tokenizers, *cleaners, *decoders)}}

    def extract(self, batch: Batch) -> list[Any]:
        """Return the frames, uint8 [H, W, 3] (views into the batch), or the JPEGs that the workers made of them."""
        if "results" in batch:
            return batch["results"]
        return [frame.permute(1, 2, 0).cpu().numpy() for frame in batch["frames"]]

    def validate(self, item: Item) -> None:
        """Check that `item` is a video, and has a text if there is a tokenizer; see `Extractor`.

        Raises:
            ExtractError: it is not a video, has no text, or the corpus has a field that the pipeline writes.
        """
        if item.frames:
            raise ExtractError(f"{item.path} is not a video, which clips need")
        if self.tokenizer or "text" in item.meta:
            _require_text(item)
        if self.tokenizer and not self.tokenizer.clean(item.meta["text"]).strip():
            raise ExtractError("its text is empty after cleaning. Set --model.text_cleaning none to keep it")
        super().validate(item)

    def assemble(self, item: Item, results: Sequence[Any], summary: ItemSummary) -> ClipSample:
        """Return the sample of a video: its frames, in the form that `store` names, and its tokens."""
        store = _STORES[self.hparams["store"]]
        meta = {**item.meta, "path": item.path, **_video_fields(summary)}
        tokens = None
        if self.tokenizer:
            tokens, meta["num_tokens"] = self.tokenizer(item.meta["text"])
            meta["truncated"] = meta["num_tokens"] > NUM_TOKENS
        return ClipSample(item.key, store(results), tokens, meta)


def _video_fields(summary: ItemSummary) -> dict[str, Any]:
    """Return the fields of the json that describe the video."""
    facts = summary.video
    assert facts is not None
    return {
        **{name: value for name, value in facts.items() if name in _FACTS},
        "fps": summary.fps,
        "pts_seconds": [round(seconds, 6) for seconds in summary.pts_seconds or ()],
    }


def _require_text(item: Item) -> None:
    """Raise ExtractError unless `item` has a text that can be tokenized and stored as UTF-8."""
    if "text" not in item.meta:
        raise ExtractError("its corpus gives no text. Set --model.tokenizer null for clips without text")
    text = item.meta["text"]
    if not isinstance(text, str) or not text.strip():
        raise ExtractError("its text is empty")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ExtractError("its text has a lone surrogate, which UTF-8 cannot store")


class ClipTokenizer:
    """Tokenizes texts as CLIP does.

    transformers makes up a tokenizer of two tokens, without a warning, where it finds no files. Therefore the files are
    read and checked here: CLIP's vocabulary has all 256 bytes, within and at the end of words, and the result of each
    merge. `<|startoftext|>` and `<|endoftext|>` within a text are tokenized as text, because the end token marks the
    end of the text; OpenAI's tokenizer makes them the special tokens.

    Args:
        name: see `read_vocabulary`.
        text_cleaning: see `Clips`.

    Attributes:
        clean: cleans a text, as `text_cleaning` says.
        sha256: identifies the tokenizer, for the fingerprint.

    Raises:
        ConfigError: the files are missing, damaged, or not those of CLIP's tokenizer.
    """

    def __init__(self, name: str = INSTALLED, text_cleaning: TextCleaning = "none") -> None:
        from transformers import CLIPTokenizer

        vocabulary, merges = read_vocabulary(name)
        self._tokenizer = CLIPTokenizer(vocabulary, merges).backend_tokenizer  # type: ignore[arg-type] # it accepts pairs
        self._tokenizer.encode_special_tokens = True  # in a text, as text
        self.clean: Callable[[str], str] = str
        if text_cleaning == "openai":
            self.clean, self._tokenizer.normalizer = cleaned, None  # which would compose letters again after lower()
        self._end = vocabulary[END]
        self.sha256 = hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()

    def __call__(self, text: str) -> tuple[NDArray[np.int64], int]:
        """Tokenize `text`.

        Returns:
            The tokens, int64 [77], padded with 0; and their number, including start and end. If there are more than 77,
            the first 76 and the end are returned.
        """
        ids = self._tokenizer.encode(self.clean(text)).ids
        tokens = np.zeros(NUM_TOKENS, np.int64)
        tokens[: len(ids)] = ids[:NUM_TOKENS]
        if len(ids) > NUM_TOKENS:
            tokens[-1] = self._end
        return tokens, len(ids)


def cleaned(text: str) -> str:
    """Return `text` as OpenAI's `simple_tokenizer.py` and open_clip's `tokenizer.py` clean it.

    ftfy repairs wrongly decoded characters and curly quotes, HTML entities are replaced twice (lists of videos have
    `&amp;#39;`), white space becomes single spaces, and letters become lower case.
    """
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text).strip().lower()
