"""Clip samples, a small CLIP tokenizer, and small complete runs of clips, for tests of exports and training."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from datamodules.corpus import Corpus, Item
from datamodules.run.folder import Run
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import ShardSize
from datamodules.run.rank import Rank
from datamodules.run.result import Result
from datamodules.samples.clips import ClipSample, ClipSamples, raw_frames
from support.video_files import Kind, write

REASON = "its text is empty"
MERGES = ["c o", "co w</w>", "m i", "mi l", "mil k</w>"]
CLIPS = {"samples": {"class_path": "datamodules.samples.clips.ClipSamples"}}


def write_tokenizer(folder: Path) -> Path:
    """A CLIP tokenizer that knows the words `cow` (513) and `milk` (516); 517 is start, 518 is end."""
    folder.mkdir(parents=True)
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge.split()) for merge in MERGES)]
    vocabulary = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]) + "\n")
    return folder


def saved_tokenizer(folder: Path) -> Path:
    """Save the same tokenizer with `save_pretrained`."""
    CLIPTokenizer.from_pretrained(write_tokenizer(folder.with_name(f"{folder.name}-files"))).save_pretrained(folder)
    return folder


def picture(number: int, height: int = 16, width: int = 24) -> NDArray[np.uint8]:
    """Return a uint8 [H, W, 3] image that differs by `number`, by pixel and by channel."""
    y, x = np.mgrid[:height, :width]
    channels = [(x * 3 + 10 * number) % 256, y * 5, np.full_like(x, 20 * number % 256)]
    pixels: NDArray[np.uint8] = np.stack(channels, axis=-1).astype(np.uint8)
    return pixels


def made_clip(item: Item, num_frames: int = 16, with_tokens: bool = True) -> ClipSample:
    """Return a clip of `item`, always the same."""
    seed = sum(item.key.encode())
    tokens = np.zeros(77, np.int64)
    tokens[:3] = 517, seed % 512, 518
    about = {
        "path": item.path, "width": 640, "height": 360, "fps": 25.0, "num_frames": 100, "codec": "h264",
        "backends": ["pyav"], "pts_seconds": [0.25 * number for number in range(num_frames)],
    }  # fmt: skip
    token_fields = {"num_tokens": 3, "truncated": False} if with_tokens else {}
    stored = raw_frames([picture(seed + number) for number in range(num_frames)])
    return ClipSample(item.key, stored, tokens if with_tokens else None, {**item.meta, **about, **token_fields})


class ClipItems(Corpus):
    """`items_per_split` videos, whose `vid` is no safe name; every second has sizes, and its text is long."""

    def __init__(self, items_per_split: dict[str, int], root: str = "/clips", **meta: Any) -> None:
        self.root, self.items_per_split, self._meta = root, items_per_split, meta

    def items(self) -> Iterator[Item]:
        for split, num_items in self.items_per_split.items():
            for number in range(num_items):
                meta = {
                    "vid": f"../{split}.é/{number}", "text": f"milk the cow, {number}", "begin_time": 1.5,
                    "end_time": 4.0 + number, "duration": 2.5 + number, "size": [0.25, 0.5] if number % 2 else None,
                }  # fmt: skip
                yield Item(f"{split}/v{number}", split, f"{split} {number}.mp4", cost=10, meta={**meta, **self._meta})


def make_clip_run(folder: Path, corpus: Corpus, failed: tuple[str, ...] = (), **options: Any) -> Run:
    """A complete run in shards of two `made_clip`s; items with a key in `failed` are failures."""
    run = open_or_plan(folder, corpus, CLIPS, ShardSize(max_items=2, min_shards=1))
    with Rank(run) as rank:
        while opened := rank.lease():
            for row, item in enumerate(opened.items):
                if item.key in failed:
                    rank.add(opened.shard.number, Result(row, reason=REASON, reason_class="extract"), {})
                else:
                    sample, kind = made_clip(item, **options), ClipSamples()
                    result = Result(row, num_frames=16, metrics=kind.metrics_of(sample))
                    rank.add(opened.shard.number, result, kind.encode(sample))
    return run


def write_corpus(root: Path, texts: Mapping[str, str | None], num_frames: int = 40) -> Path:
    """Make a corpus in CLIP4MC's layout: `clips/` and `train_pairs.json`. Video frames show their numbers."""
    (root / "clips").mkdir(parents=True)
    rows = []
    for number, (name, text) in enumerate(texts.items()):
        write(root / "clips" / name, Kind(), num_frames)
        about = {"begin_time": 1.0, "end_time": 2.6, "duration": 1.6, "size": [0.5] * number}
        rows.append({"vid": name, "clip_path": f"elsewhere/{name}.mp4", "transcript": text, **about})
    (root / "train_pairs.json").write_text(json.dumps(rows))
    return root
