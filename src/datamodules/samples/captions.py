"""Captions: a text for each image; and the image itself, if the run stores images.

| file in the shard | type   | meaning                                                                              |
|-------------------|--------|--------------------------------------------------------------------------------------|
| txt               | UTF-8  | the caption; empty if its status is `empty`                                          |
| json              | object | see below                                                                            |
| jpg, png, webp, … | bytes  | the image, in a run with `store_images`                                              |

The json holds the `FIELDS` below, and any other fields that the corpus has for the item.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from datamodules.errors import ConfigError, DecodeError, RunError
from datamodules.hub import find_files
from datamodules.model_errors import raising_config_error
from datamodules.samples import SampleKind
from datamodules.samples.batching import stack
from datamodules.samples.columns import Column, span
from datamodules.samples.drawing import Image, SourceFrames, TextDrawing
from datamodules.samples.fields import Field, decode_json, encode_json, struct_of
from datamodules.samples.metrics import Metric
from datamodules.samples.stored_image import decode_stored, find_image, require_image

if TYPE_CHECKING:
    from torch import Tensor

FIELDS = (
    Field("image", pa.string(), "path relative to the corpus root; of a tar `{tar without .tar}/{member}`"),
    Field("caption", pa.string(), "the text; empty if that is its status"),
    Field("status", pa.string(), "`ok`, `truncated` or `empty`"),
    Field("model", pa.string(), "name or folder of the model"),
    Field("revision", pa.string(), "commit of the model on the hub; null of a folder or a server"),
    Field("backend", pa.string(), "`transformers` or `openai`"),
    Field("prompt", pa.string(), "as it was filled in for the image"),
    Field("system_prompt", pa.string(), "null without one"),
    Field("num_tokens", pa.int32(), "number of generated tokens, thoughts included"),
    Field("width", pa.int32(), "of the image, upright", "px"),
    Field("height", pa.int32(), "of the image, upright", "px"),
    Field(
        "entities",
        pa.list_(struct_of(text=pa.string(), begin=pa.int32(), end=pa.int32(), boxes=pa.list_(pa.list_(pa.float64())))),
        "of models that ground them (Kosmos-2): phrases, their places in the caption (half-open, in characters), and "
        "boxes [x1, y1, x2, y2] as shares of width and height, 0 to 1",
    ),
)
COLUMNS = (
    Column("caption", "the text; empty if that is its status", lambda sample: sample.caption, pa.string()),
    Column(
        "entities", "as JSON text; null of models that do not ground them", lambda sample: sample.entities, pa.string()
    ),
    Column("characters", "of a caption", lambda sample: len(sample.caption), summary=span),
    Column("tokens", "that were generated", lambda sample: sample.meta.get("num_tokens"), summary=span),
)
METRICS = (
    Metric("num_characters", "of the caption", lambda sample: len(sample.caption), worst="low"),
    Metric("num_tokens", "that were generated", lambda sample: sample.meta.get("num_tokens")),
)
_TOKENIZER_FILES = (
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("tokenizer.model",),
    ("spiece.model",),
    ("sentencepiece.bpe.model",),
    ("tekken.json",),
)
_TOKENIZER_BESIDES = ("config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


@dataclass
class CaptionSample:
    """One caption.

    Attributes:
        key: of the item; in the names of the files, not in their content.
        caption: the text.
        meta: the json of the table above, without `caption`.
        image: content of the image's file; None if it is not stored.
        image_ending: one of `datamodules.media.suffixes.IMAGE_SUFFIXES`, without its dot.
    """

    key: str
    caption: str
    meta: dict[str, Any]
    image: bytes | None = None
    image_ending: str | None = None

    @property
    def entities(self) -> str | None:
        """The `entities` of the json as JSON text; None if the model does not ground phrases."""
        entities = self.meta.get("entities")
        return None if entities is None else json.dumps(entities, ensure_ascii=False)


class CaptionSamples(SampleKind[CaptionSample]):
    """The sample kind of the captions pipeline.

    Args:
        tokenizer: for training batches: folder, or name on the Hugging Face hub, of any tokenizer that transformers
            reads; None: batches have texts only.
        max_tokens: maximum number of tokens of a caption; longer captions are truncated at their ends.
        size: (height, width) in px to which the images of a batch are resized; None: they keep their sizes.

    Raises:
        ConfigError: the tokenizer is missing or is not one, or a number is below 1.
    """

    fields = FIELDS
    columns = COLUMNS
    metrics = METRICS

    def __init__(
        self, tokenizer: str | None = None, max_tokens: int = 128, size: tuple[int, int] | None = None
    ) -> None:
        if max_tokens < 1 or min(size or (1,)) < 1:
            raise ConfigError(f"{max_tokens = } and {size = } must be 1 or more")
        self.max_tokens, self.size = max_tokens, size
        self.tokenizer = _tokenizer(tokenizer) if tokenizer else None

    def encode(self, sample: CaptionSample) -> dict[str, bytes]:
        """Return the files of the table above. A lone surrogate, which UTF-8 cannot hold, becomes a question mark."""
        meta = encode_json({**sample.meta, "caption": sample.caption}, FIELDS)
        files = {"txt": sample.caption.encode(errors="replace"), "json": meta}
        if sample.image is None:
            return files
        return {require_image(sample.key, sample.image_ending): sample.image, **files}

    def decode(self, key: str, members: Mapping[str, bytes]) -> CaptionSample:
        """Return the sample that has these files.

        Raises:
            RunError: a file is missing, or is not what `encode` writes.
        """
        ending = find_image(members)
        try:
            meta = decode_json(members["json"], FIELDS)
            meta.pop("caption", None)
            caption = members["txt"].decode()
        except (KeyError, ValueError) as error:
            raise RunError(f"{key} is no caption sample: {error}; run `preprocess verify`") from error
        return CaptionSample(key, caption, meta, members[ending] if ending else None, ending)

    def draw(self, sample: CaptionSample, source: SourceFrames) -> TextDrawing:
        """Return the caption beside the image, which is the stored one or that of the corpus."""
        meta, image, missing = sample.meta, None, ""
        try:
            image = source.first() if sample.image is None else _decoded(sample.image, sample.key)
        except (DecodeError, OSError) as error:
            missing = f"the image is gone: {error}"
        size = f"{meta['width']}x{meta['height']} px" if "width" in meta and "height" in meta else None
        tokens = f"{meta['num_tokens']} tokens" if meta.get("num_tokens") is not None else None
        facts = [meta.get("status"), tokens, size, meta.get("image"), meta.get("model")]
        note = str(meta.get("prompt") or "")
        return TextDrawing(image, sample.caption, [str(fact) for fact in facts if fact], note, missing)

    def collate(self, samples: Sequence[CaptionSample]) -> dict[str, Any]:
        """Return a batch of captions, and of images if all samples have one.

        Returns:
            `images` uint8 [B, 3, H, W], RGB, or a list of B times [3, H, W] if sizes differ; missing if a sample has no
            image. `tokens` int64 [B, L], padded at their ends, and `tokens_mask` bool [B, L] (True: a token, not
            padding), if there is a tokenizer. `text`, `key` and `meta`, lists of B.

        Raises:
            ConfigError: `size` is given, and a sample has no image.
            RunError: an image is damaged.
        """
        batch: dict[str, Any] = {
            "text": [sample.caption for sample in samples],
            "key": [sample.key for sample in samples],
            "meta": [sample.meta for sample in samples],
        }
        without = next((sample.key for sample in samples if sample.image is None), None)
        if without is None:
            batch["images"] = stack([self._image(sample) for sample in samples])
        elif self.size is not None:
            raise ConfigError(
                f"size = {self.size} is the size of images, but {without} has no image: run the pipeline with "
                "--model.store_images jpg, or leave out the size and train on text alone"
            )
        if self.tokenizer is not None:
            batch["tokens"], batch["tokens_mask"] = self._tokens(batch["text"])
        return batch

    def _image(self, sample: CaptionSample) -> "Tensor":
        from datamodules.media.resize import resize

        assert sample.image is not None
        return resize(decode_stored(sample.key, sample.image, sample.image_ending), self.size)

    def _tokens(self, texts: list[str]) -> "tuple[Tensor, Tensor]":
        import torch  # exports and `view` decode samples without it

        assert self.tokenizer is not None
        ids_of_texts = self.tokenizer(texts, truncation=True, max_length=self.max_tokens)["input_ids"]
        lengths = torch.tensor([len(ids) for ids in ids_of_texts])
        tokens = torch.full((len(texts), int(lengths.max())), self.tokenizer.pad_token_id or 0)
        for row, ids in zip(tokens, ids_of_texts, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        return tokens, torch.arange(tokens.shape[1]) < lengths[:, None]


def _decoded(content: bytes, name: str) -> Image:
    from datamodules.media.image import decode_image

    return decode_image(content, name).permute(1, 2, 0).numpy()


def _tokenizer(name: str) -> Any:
    """Return the tokenizer of transformers with this name or folder.

    Its files must exist: without them transformers would silently make up a tokenizer without words.
    """
    from transformers import AutoTokenizer

    advice = "Give a folder that has the files of a tokenizer"
    folder = find_files(name, "tokenizer", _TOKENIZER_FILES, advice=advice, optional=_TOKENIZER_BESIDES)
    with raising_config_error(f"the tokenizer in {folder} cannot be read"):
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ConfigError(f"the tokenizer in {folder} has no words. Check that its files are complete")
    tokenizer.truncation_side = "right"
    return tokenizer
