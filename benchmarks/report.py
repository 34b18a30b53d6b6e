"""Time, memory and size of `preprocess report`: runs of 10^4, 10^5 and 10^6 captions, and a gallery of 500 videos.

    python benchmarks/report.py

| run      | meaning                                                                                                |
|----------|--------------------------------------------------------------------------------------------------------|
| captions | captions without images in shards of 1,000; every hundredth item failed                                |
| videos   | 500 samples of random keypoints over the demo corpus: 24 frames of 210x260 px each, all in the gallery |

The runs are written by the real code. Each report is made by a fresh process with a gallery of 500 samples; its time
includes imports, its memory those of libraries. The gallery of captions has texts alone.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.corpora.phoenix import Phoenix2014T
from datamodules.corpus import Corpus, Item
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import ShardSize
from datamodules.run.rank import Rank
from datamodules.run.result import Result
from datamodules.samples import SampleKind
from datamodules.samples.captions import CaptionSample, CaptionSamples
from datamodules.samples.keypoints import KeypointSample, KeypointSamples
from measuring import Measured, in_fresh_process, print_machine, print_table, print_verdict
from preprocess.commands.sample import make_sample_corpus

_GALLERY = 500
_MOST_SECONDS, _MOST_MB = 60.0, 25.0  # of 10^6 rows: time, and size of the page
_FAILED_EVERY = 100
_META = {"status": "ok", "num_tokens": 12, "model": "made", "backend": "transformers", "width": 640, "height": 480}


class Listed(Corpus):
    """A corpus of items that a function yields."""

    def __init__(self, root: Path, items: Callable[[], Iterator[Item]]) -> None:
        self.root, self._items = str(root), items

    def items(self) -> Iterator[Item]:
        return self._items()


def write_run(folder: Path, corpus: Corpus, kind: SampleKind[Any], make: Callable[[Item], Any]) -> None:
    """Write a complete run in shards of 1,000; `make` returns the sample of an item, or None for a failure."""
    fingerprint = {
        "samples": {"class_path": f"{type(kind).__module__}.{type(kind).__name__}"},
        "corpus": {"init_args": {"root": corpus.root}},
    }
    run = open_or_plan(folder, corpus, fingerprint, ShardSize(max_items=1000, min_shards=1))
    with Rank(run) as rank:
        while opened := rank.lease():
            for row, item in enumerate(opened.items):
                sample = make(item)
                if sample is None:
                    reason = f"{item.path} is truncated: its index is missing"
                    rank.add(opened.shard.number, Result(row, reason=reason, reason_class="decode"), {})
                else:
                    result = Result(row, num_frames=1, seconds=0.1, metrics=kind.metrics_of(sample))
                    rank.add(opened.shard.number, result, kind.encode(sample))


def write_captions(folder: Path, num_items: int) -> None:
    """Write the run "captions"."""

    def items() -> Iterator[Item]:
        for number in range(num_items):
            name = f"{number:08d}"
            meta = {"image": f"{name}.jpg"}
            yield Item(f"train/{name}", "train", name[:5], (f"{name}.jpg",), cost=100_000, meta=meta)

    def caption(item: Item) -> CaptionSample | None:
        number = int(item.key[-8:])
        if number % _FAILED_EVERY == 0:
            return None
        return CaptionSample(item.key, "a person signs the weather report " * (1 + number % 7), {**item.meta, **_META})

    write_run(folder, Listed(folder, items), CaptionSamples(), caption)


def write_videos(folder: Path, root: Path) -> None:
    """Write the run "videos"."""
    sentences = list(Phoenix2014T(str(make_sample_corpus(root))).items())
    rng = np.random.default_rng(0)

    def items() -> Iterator[Item]:
        for number in range(_GALLERY):
            sentence = sentences[number % len(sentences)]
            yield replace(sentence, key=f"{sentence.split}/{number:08d}")

    def keypoints(item: Item) -> KeypointSample:
        num_frames = len(item.frames)
        points = rng.uniform(40, 200, (num_frames, 143, 3)).astype(np.float32)
        presence, visibility = np.ones((num_frames, 4), np.uint8), np.ones((num_frames, 33), np.float32)
        meta = {**item.meta, "layout": 143, "width": 210, "height": 260, "path": item.path, "frames": list(item.frames)}
        return KeypointSample(item.key, points, presence, visibility, meta)

    write_run(folder, Listed(root, items), KeypointSamples(), keypoints)


def make_report(folder: Path) -> float:
    """Make the report of a run, and return the size of its page in MB."""
    from datamodules.run.folder import Run
    from preprocess.commands.report import write_report

    dest = folder / "report"
    shutil.rmtree(dest, ignore_errors=True)
    return write_report(Run(folder), dest, _GALLERY).stat().st_size / 1e6


def main(sizes: Sequence[int]) -> None:
    print_machine("jinja2", "pyarrow", "av")
    rows: list[tuple[str, Measured[float]]] = []
    with tempfile.TemporaryDirectory(prefix="framemill-report-") as scratch:
        for num_items in sizes:
            folder = Path(scratch, str(num_items))
            write_captions(folder, num_items)
            rows.append((f"{num_items:,} captions", in_fresh_process(make_report, folder)))
            shutil.rmtree(folder)
        write_videos(Path(scratch, "videos"), Path(scratch, "corpus"))
        rows.append((f"{_GALLERY} videos", in_fresh_process(make_report, Path(scratch, "videos"))))
    print_table(
        ("run", "seconds", "memory", "page"),
        [(name, f"{made.seconds:.1f}", f"{made.peak_mb:,.0f} MB", f"{made.value:.2f} MB") for name, made in rows],
    )
    name, largest = rows[len(sizes) - 1]
    print_verdict(
        f"{name} in < {_MOST_SECONDS:.0f} s, page < {_MOST_MB:.0f} MB",
        f"{largest.seconds:.1f} s, {largest.value:.2f} MB",
        largest.seconds < _MOST_SECONDS and largest.value < _MOST_MB,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="sizes, ascending")
    main(parser.parse_args().items)
