"""The loaders that `readback.py` compares: each delivers the same tensors of the same samples.

Each has the batch size and the workers of the others, which outlive the epochs, and prefetches two batches a worker. It
decodes as its own documentation recommends, and stacks images as torch does, straight into shared memory.
"""

import json
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import litdata
import numpy as np
import torch
import webdataset
from torch.utils.data import DataLoader, default_collate

from datamodules import FramesDataModule
from datamodules.run.folder import Run
from datamodules.run.reader import CommittedSamples
from datamodules.samples.keypoints import KeypointSample, KeypointSamples
from datamodules.training.splits import Reading
from readback_corpus import JPEG_NAMES, KINDS, epoch

os.environ["HF_HUB_OFFLINE"] = "1"  # read by datasets when it is imported
import datasets

warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # batches are copies
Batch = dict[str, Any]
Decoded = Mapping[str, Any]  # a sample as another tool decodes it: values by ending, as in our tars, and `__key__`
_SHUFFLE_BUFFER = 1000  # samples, as in our `shuffle_buffer`


class Source(NamedTuple):
    """What a loader reads, and how.

    Attributes:
        run: folder of the run.
        chunks: folder of the same samples in litData's chunks.
        kind: of the samples, one of `KINDS`.
        batch_size: samples in a batch.
        workers: processes that read.
    """

    run: Path
    chunks: Path
    kind: str
    batch_size: int
    workers: int

    @property
    def shards(self) -> list[str]:
        """Paths of the tars, in order."""
        return sorted(str(path) for path in self.run.glob("*.tar"))


def framemill(reading: Reading, source: Source) -> Iterable[Batch]:
    """Return the training batches of `FramesDataModule`."""
    data = FramesDataModule(
        shards=source.run,
        samples=KINDS[source.kind].samples,
        num_workers=source.workers,
        batch_size=source.batch_size,
        reading=reading,
    )
    return data.train_dataloader()


def stock_webdataset(shuffles: bool, source: Source) -> Iterable[Batch]:
    """Return the batches of webdataset: shards in their order, or shards and a buffer of samples shuffled."""
    samples = webdataset.WebDataset(source.shards, shardshuffle=len(source.shards) if shuffles else False)
    if shuffles:
        samples = samples.shuffle(_SHUFFLE_BUFFER)
    batches = samples.decode("rgb8").batched(source.batch_size, collation_fn=partial(collate, source.kind))
    return DataLoader(batches, batch_size=None, num_workers=source.workers, persistent_workers=True)


def litdata_chunks(shuffles: bool, source: Source) -> Iterable[Batch]:
    """Return the batches of litData's `StreamingDataset` over its own chunks."""
    loader: Iterable[Batch] = litdata.StreamingDataLoader(
        litdata.StreamingDataset(str(source.chunks), shuffle=shuffles),
        batch_size=source.batch_size,
        num_workers=source.workers,
        collate_fn=partial(collate, source.kind),
        persistent_workers=True,
    )
    return loader


def hugging_face(source: Source) -> Iterable[Batch]:
    """Return the batches of `datasets`, which streams our tars in their order."""
    samples = datasets.load_dataset(
        "webdataset", data_files=source.shards, split="train", streaming=True, cache_dir=str(source.run / "cache")
    )
    return DataLoader(
        samples.with_format("numpy"),  # others make arrays lists, or take longer
        batch_size=source.batch_size,
        num_workers=source.workers,
        collate_fn=partial(collate, source.kind),
        persistent_workers=True,
    )


CONTENDERS: dict[str, Callable[[Source], Iterable[Batch]]] = {
    "random": partial(framemill, "random"),
    "sequential": partial(framemill, "sequential"),
    "webdataset": partial(stock_webdataset, False),
    "webdataset, shuffled": partial(stock_webdataset, True),
    "litdata": partial(litdata_chunks, False),
    "litdata, shuffled": partial(litdata_chunks, True),
    "datasets": hugging_face,
}


def first_epoch(contender: str, num_samples: int, source: Source) -> float:
    """Return the samples per second from the making of a loader to its last batch, without the end of its workers."""
    started = time.perf_counter()
    loader = CONTENDERS[contender](source)
    epoch(loader, num_samples)
    return num_samples / (time.perf_counter() - started)


def require_same(contender: str, batch: Batch, source: Source) -> None:
    """Raise AssertionError unless the tensors of a batch are those of our samples with the same keys."""
    committed, kind = CommittedSamples(Run(source.run), keeps_keys=True), KINDS[source.kind].samples
    assert committed.item_keys is not None
    index_of = {key: index for index, key in enumerate(committed.item_keys.to_pylist())}
    expected = kind.collate([committed.decode(index_of[key], kind) for key in batch["key"]])
    tensors = [name for name, value in batch.items() if isinstance(value, torch.Tensor)]
    different = [name for name in tensors if not torch.equal(batch[name], expected[name])]
    assert not different, f"{contender} delivers other {different}"
    assert batch.get("text") == expected.get("text"), f"{contender} delivers other texts"


def collate(kind: str, samples: Sequence[Decoded]) -> Batch:
    """Return the batch that our DataModule would return, of samples that another tool has decoded."""
    keys, metas = [sample["__key__"] for sample in samples], [_json(sample) for sample in samples]
    if kind == "keypoints":
        return KeypointSamples().collate(list(map(_keypoint_sample, keys, samples, metas)))
    batch: Batch = {"key": keys, "meta": metas}
    if kind == "images":
        return {**batch, "images": _stacked([sample["jpg"] for sample in samples]), "text": [s["txt"] for s in samples]}
    if "frames.npy" in samples[0]:
        batch["frames"] = _stacked([np.asarray(sample["frames.npy"], np.uint8) for sample in samples])
    else:
        frames = _stacked([sample[name] for sample in samples for name in JPEG_NAMES])
        batch["frames"] = frames.reshape(len(samples), -1, *frames.shape[1:])
    batch["tokens"] = default_collate([np.asarray(sample["tokens.npy"], np.int64) for sample in samples])
    return {**batch, "text": [meta["text"] for meta in metas]}


def _keypoint_sample(key: str, sample: Decoded, meta: dict[str, Any]) -> KeypointSample:
    presence = np.asarray(sample["presence.npy"], np.uint8)  # datasets makes all integers int64
    return KeypointSample(key, sample["keypoints.npy"], presence, sample["visibility.npy"], meta)


def _json(sample: Decoded) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads(sample["json"]) if isinstance(sample["json"], str) else sample["json"]
    return meta


def _stacked(images: Sequence[Any]) -> torch.Tensor:
    """Return uint8 [N, …, 3, H, W] of arrays with the colours last, or of litData's tensors with the colours first."""
    stacked: torch.Tensor = default_collate(list(images))
    return stacked if isinstance(images[0], torch.Tensor) else stacked.movedim(-1, -3)
