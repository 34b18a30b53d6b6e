"""`preprocess check`: list the items that would fail in a run, without running the pipeline.

The check opens every file, counts its frames, and decodes the first and the last of those that the pipeline would take;
with `--full` it decodes all of them. It also fills in prompts. The check is a run into a temporary folder, with an
extractor that discards the frames. So files that hang or crash their decoder are reported as in a run.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from signal import Signals
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.corpus import Corpus, Item
from datamodules.errors import ConfigError
from datamodules.loading.batch import Batch, ItemSummary
from datamodules.loading.request import FrameRequest
from datamodules.media.decoding import Decoding
from datamodules.media.sampling import Selection
from datamodules.run.failures import count_failures, failures
from datamodules.samples import SampleKind
from preprocess.commands.failures import print_json, show, summary
from preprocess.frame_transforms import Drop
from preprocess.job.extractor import Extractor
from preprocess.job.pipeline_cli import parse_pipeline
from preprocess.job.pipeline_help import PipelineParser
from preprocess.job.progress import quiet
from preprocess.job.session import Job, Session
from preprocess.terminal import Terminal, note, say


def main(argv: Sequence[str]) -> int:
    """Run the check; `argv` are options of `run`, `--full` and `--json`. Returns the exit status."""
    command = parser()
    options, argv = command.parse_known_args(argv)
    quiet()
    job = parse_pipeline([*argv, "--trainer.devices", "1"], command=command).job()
    return check(job, options.full, options.json)


def parser() -> PipelineParser:
    """Return the parser of the command's own options."""
    parser = PipelineParser("check", "List the items that would fail in a run, without running the pipeline.")
    parser.add_argument("--full", action="store_true", help="decode every frame, not only the first and the last")
    parser.add_argument("--json", action="store_true", help="print the failures as JSON Lines")
    return parser


def check(job: Job, full: bool, json: bool) -> int:
    """Check the corpus of `job` for its extractor, and print the items that would fail.

    Args:
        job: the job of a run.
        full: decode every frame that the pipeline would take, not only the first and the last.
        json: print failures as JSON Lines.

    Returns:
        The exit status.

    Raises:
        ConfigError: several processes were started. They would all check the same.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("check runs as one process. Start it once; it is faster with more --data.num_workers")
    checked = _Check(job.extractor, full, job.data.decoding)
    corpus = job.corpus if full else _Ends(job.corpus)
    with tempfile.TemporaryDirectory(prefix="preprocess-check-") as folder:
        output = replace(job.output, dir=folder, scratch=None, only=None, log=None, videos=False, max_failures="100%")
        with Session(replace(job, extractor=checked, corpus=corpus, output=output, config=None)) as session:
            session.predict()
        run = session.run
        counts = count_failures(run)
        num_checked = sum(record.planned for record in run.records())
        stopped = session.rank.stopping
        if json:
            print_json(failures(run))
        elif counts:
            show(failures(run), Terminal())
    if stopped:
        of = f" of {run.plan.num_items:,}, then stopped by {Signals(stopped).name}"
        note(f"{num_checked:,} items checked{of}", "yellow")
    elif not json:
        say(f"{num_checked:,} items checked; {summary(counts)}")
        if checked.num_non_square:
            say(f"{checked.num_non_square:,} with non-square pixels, {_as_shown(job.data.decoding)}")
        if checked.num_skipping:
            say(f"{checked.num_skipping:,} with frames that no decoder can show, which are skipped")
    return 128 + stopped if stopped else 1 if counts else 0


def _as_shown(decoding: Decoding) -> str:
    if decoding.square_pixels:
        return "which are resized to the shape that players show"
    return "which stay as stored (--data.decoding.square_pixels false)"


@dataclass(frozen=True)
class FirstAndLast:
    """The first and the last frame of another selection."""

    of: Selection

    def indices(self, pts_seconds: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """Return the indices of the first and the last frame of the selection: one or two."""
        ends: NDArray[np.int64] = np.unique(self.of.indices(pts_seconds)[[0, -1]])
        return ends


class _Check(Extractor):
    """An extractor that takes the frames that `checked` would take, and discards them.

    Args:
        checked: extractor of the job.
        full: take every frame that `checked` would take, not only the first and the last.
        decoding: decoding of the job.

    Attributes:
        num_non_square: number of items so far whose video stores pixels that are not square.
        num_skipping: number of items so far whose video has frames that no decoder can show.
    """

    def __init__(self, checked: Extractor, full: bool, decoding: Decoding) -> None:
        super().__init__()
        self.samples = _NoSamples()
        self._checked, self._full, self._decoding = checked, full, decoding
        self.num_non_square = self.num_skipping = 0

    def place(self, device: torch.device) -> None:
        """Place the checked extractor, whose backend may depend on the device, and take the frames that it requests."""
        super().place(device)
        self._checked.place(device)
        request, images = self._checked.frames, self._decoding.images
        self.frames = FrameRequest(
            transform=Drop if images == "pillow" else None,  # with nvjpeg, frames are decoded for `extract`
            selection=request.selection if self._full else FirstAndLast(request.selection),
            size=request.size,
            decoding=request.decoding,
        )

    def extract(self, batch: Batch) -> list[Any]:
        """Return None for each frame."""
        return [None] * len(batch["rows"])

    def validate(self, item: Item) -> None:
        """Check the item with the `check` of the checked extractor."""
        self._checked.check(item)

    def assemble(self, item: Item, results: Sequence[Any], summary: ItemSummary) -> None:
        """Count the item if its pixels are not square, or if some of its frames are skipped."""
        if facts := summary.video:
            self.num_non_square += facts["pixel_aspect_ratio"] != 1
            self.num_skipping += facts["num_skipped_frames"] > 0


class _NoSamples(SampleKind[None]):
    """A sample kind without samples."""

    def encode(self, sample: None) -> dict[str, bytes]:
        """Return one empty file: a sample needs at least one."""
        return {"checked": b""}

    def decode(self, key: str, members: Mapping[str, bytes]) -> None:
        """Return None."""

    def collate(self, samples: Sequence[None]) -> dict[str, Any]:
        """Return an empty batch."""
        return {}


class _Ends(Corpus):
    """Another corpus, with only the first and the last frame of each frame sequence."""

    def __init__(self, corpus: Corpus) -> None:
        self.root, self._corpus = corpus.root, corpus

    def notes(self) -> list[str]:
        """Return the notes of the corpus."""
        return self._corpus.notes()

    def items(self) -> Iterator[Item]:
        """Yield the items of the corpus, without the frames between the first and the last."""
        for item in self._corpus.items():
            if len(item.frames) > 2:
                item = replace(item, frames=(item.frames[0], item.frames[-1]), modified=None, version=None)
            yield item
