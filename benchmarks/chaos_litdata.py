"""The run of litData's `optimize` that `chaos.py` disturbs: the same items and the same work."""

import json
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.media.image import read_image
from poison import MeanTransform, Poisoned

_CHUNK_BYTES = 2048  # some 20 items, so that a worker that dies loses little


def optimize(corpus: dict[str, Any], dest: str, num_workers: int, seconds_per_frame: float, resume: bool) -> None:
    """Run litData's `optimize` over the corpus. Called in the subprocess of litData."""
    import litdata

    # lists, because litData refuses to resume with tuples
    inputs = [[item.key, list(item.frames)] for item in Poisoned(**corpus).items()]
    litdata.optimize(
        partial(mean_sample, corpus["root"], seconds_per_frame),
        inputs,
        dest,
        chunk_bytes=_CHUNK_BYTES,
        num_workers=num_workers,
        use_checkpoint=resume,
    )


def mean_sample(root: str, seconds_per_frame: float, item: list[Any]) -> dict[str, Any]:
    """Return the sample of one item in litData's form."""
    key, frames = item
    mean = MeanTransform(False, seconds_per_frame)
    return {"key": key, "means": [mean(read_image(Path(root, name))) for name in frames]}


def keys_in_chunks(dest: Path) -> list[str]:
    """Return the key of every sample in `dest` that litData reads."""
    import litdata

    index = dest / "index.json"
    if not index.exists() or not json.loads(index.read_text())["chunks"]:  # StreamingDataset refuses an empty index
        return []
    return [sample["key"] for sample in litdata.StreamingDataset(str(dest))]
