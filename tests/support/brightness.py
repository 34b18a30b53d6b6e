"""A whole pipeline in one small file, cheap enough for tests: the mean brightness of each frame.

It has what a pipeline needs, an extractor and a sample kind, and nothing that stands was edited for it.
"""

import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.corpora.frame_files import list_frames
from datamodules.corpus import Corpus, Item
from datamodules.errors import ExtractError
from datamodules.loading.batch import Batch, ItemSummary
from datamodules.loading.request import FrameRequest
from datamodules.samples import SampleKind
from preprocess.job.extractor import Extractor


@dataclass
class BrightnessSample:
    key: str
    brightness: Any  # float32 [T]
    meta: dict[str, Any]


class BrightnessSamples(SampleKind[BrightnessSample]):
    def encode(self, sample: BrightnessSample) -> dict[str, bytes]:
        buffer = io.BytesIO()
        np.save(buffer, sample.brightness, allow_pickle=False)
        return {"brightness.npy": buffer.getvalue(), "json": json.dumps(sample.meta, sort_keys=True).encode()}

    def decode(self, key: str, members: Mapping[str, bytes]) -> BrightnessSample:
        brightness = np.load(io.BytesIO(members["brightness.npy"]), allow_pickle=False)
        return BrightnessSample(key, brightness, json.loads(members["json"]))

    def collate(self, samples: Sequence[BrightnessSample]) -> dict[str, Any]:
        return {
            "key": [sample.key for sample in samples],
            "brightness": [torch.from_numpy(sample.brightness) for sample in samples],
        }


class Brightness(Extractor):
    """Mean of each frame, 0 to 255; a frame whose values are all `poison` cannot be processed.

    Args:
        in_workers: compute in the workers instead of in `extract`.
        batch_size: frames in a batch.
        poison: the value of frames that fail; None: none does.
        seconds_per_frame: how long a frame takes.

    Attributes:
        num_loaded: how often the weights, of which there are none, were loaded in this process.
    """

    samples = BrightnessSamples()
    num_loaded = 0

    def __init__(
        self,
        in_workers: bool = False,
        batch_size: int = 8,
        poison: int | None = None,
        seconds_per_frame: float = 0.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["seconds_per_frame"])
        self.poison, self.seconds_per_frame = poison, seconds_per_frame
        self.frames = FrameRequest(batch_size, MeanTransform if in_workers else None)

    def setup(self, stage: str) -> None:
        Brightness.num_loaded += 1

    def extract(self, batch: Batch) -> list[Any]:
        if "results" in batch:
            return batch["results"]
        time.sleep(self.seconds_per_frame * len(batch["rows"]))
        results = [frame.float().mean().item() for frame in batch["frames"]]
        for frame in batch["frames"]:
            if self.poison is not None and bool((frame == self.poison).all()):
                raise ExtractError(f"a frame is all {self.poison}")
        return results

    def assemble(self, item: Item, results: Sequence[Any], summary: ItemSummary) -> BrightnessSample:
        return BrightnessSample(item.key, np.asarray(results, np.float32), {**item.meta, "path": item.path})


class Held(Brightness):
    """Brightness, frame by frame, which waits as long as the file `hold` exists."""

    def __init__(self, hold: str) -> None:
        super().__init__(batch_size=1)
        self.hold = Path(hold)

    def extract(self, batch: Batch) -> list[Any]:
        while self.hold.exists():
            time.sleep(0.05)
        return super().extract(batch)


class MeanTransform:
    def start(self, item: Item) -> None:
        pass

    def __call__(self, frame: Tensor) -> float:
        return frame.float().mean().item()


class ImageFolders(Corpus):
    """Each folder below `root` is a sequence of its PNG files; each PNG directly in `root` is a single image."""

    def __init__(self, root: str, split: str = "train") -> None:
        self.root, self.split = root, split

    def items(self) -> Any:
        for path in sorted(Path(self.root).iterdir()):
            if path.is_dir():
                frames, size, modified = list_frames(path)
                yield Item(f"{self.split}/{path.name}", self.split, path.name, frames, cost=size, modified=modified)
            else:
                stat = path.stat()
                yield Item(
                    f"{self.split}/{path.stem}",
                    self.split,
                    ".",
                    (path.name,),
                    cost=stat.st_size,
                    modified=stat.st_mtime,
                )


class Pictures(ImageFolders):
    """The same corpus, but its root option is called `folder`."""

    root_option = "folder"

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
