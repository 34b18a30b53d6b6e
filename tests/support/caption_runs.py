"""Caption samples, a small tokenizer, and small complete runs of captions, for tests of exports and training."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from datamodules.corpus import Item, key_from_path
from datamodules.run.folder import Run
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import ShardSize
from datamodules.run.rank import Rank
from datamodules.run.result import Result
from datamodules.samples.captions import CaptionSample, CaptionSamples
from support.image_files import image_bytes
from support.runs import Listed

REASON = "a.jpg is empty (0 bytes)"
WORDS = ("<pad>", "<unk>", "a", "red", "cow", "drinks", "milk")  # 0 to 6
MADE = {"samples": {"class_path": "datamodules.samples.captions.CaptionSamples"}}


def write_tokenizer(folder: Path) -> Path:
    """Save a tokenizer of `WORDS` with `save_pretrained`."""
    model = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=model, unk_token="<unk>", pad_token="<pad>").save_pretrained(folder)
    return folder


def caption_items(*images: str, split: str = "train") -> list[Item]:
    """Items of images at these paths, as the corpus `Images` lists them where no two of a folder have one stem."""
    stems = (image.rpartition(".")[0] for image in images)
    return [
        Item(key_from_path(stem), split, image.rpartition("/")[0], (image.rpartition("/")[2],), meta={"image": image})
        for image, stem in zip(images, stems, strict=True)
    ]


def made_caption(item: Item, number: int = 0, store_images: bool = True, **meta: Any) -> CaptionSample:
    """Return a caption of `item`, always the same; its image is gray, of the value `10 * number`."""
    ending = item.meta["image"].rpartition(".")[2].lower()
    about = {
        "image": item.meta["image"], "model": "made/cow-1B", "revision": "abc", "prompt": "Describe the <b>Kühe</b>.",
        "system_prompt": None, "status": "ok", "num_tokens": 3, "width": 8, "height": 6, "backend": "transformers",
    }  # fmt: skip
    stored = (image_bytes(10 * number, ending), ending) if store_images else (None, None)
    return CaptionSample(item.key, f"a cow, <i>{number}</i> & Kühe", {**about, **meta}, *stored)


def make_caption_run(
    folder: Path, items: Iterable[Item], failed: tuple[str, ...] = (), root: str = "/nowhere", **options: Any
) -> Run:
    """A complete run in shards of two `made_caption`s; items with a key in `failed` are failures."""
    made_by = {**MADE, "corpus": {"class_path": "Listed", "init_args": {"root": root}}}
    run = open_or_plan(folder, Listed(list(items), root), made_by, ShardSize(max_items=2, min_shards=1))
    number = 0
    with Rank(run) as rank:
        while opened := rank.lease():
            for row, item in enumerate(opened.items):
                if item.key in failed:
                    rank.add(opened.shard.number, Result(row, reason=REASON, reason_class="decode"), {})
                else:
                    sample = made_caption(item, number, **options)
                    kind, status = CaptionSamples(), sample.meta["status"]
                    result = Result(row, num_frames=1, status=status, metrics=kind.metrics_of(sample))
                    rank.add(opened.shard.number, result, kind.encode(sample))
                number += 1
    return run
