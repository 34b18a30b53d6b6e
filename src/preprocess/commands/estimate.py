"""`preprocess estimate`: estimate time and disk space for a corpus from a run over a sample of its items."""

import math
import tempfile
import time
from argparse import ArgumentTypeError
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from textwrap import indent
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.filesize import decimal

from datamodules.corpus import Corpus, Item
from datamodules.errors import ConfigError
from datamodules.run.failures import failures
from datamodules.run.store import Folder
from preprocess.job.pipeline_cli import parse_pipeline
from preprocess.job.pipeline_help import PipelineParser
from preprocess.job.progress import quiet
from preprocess.job.session import Job, Session
from preprocess.report.status import bottleneck, disk_free_bytes, duration
from preprocess.terminal import say

_NUM_SAMPLED = 16


@dataclass(frozen=True)
class Estimate:
    """The estimated time and disk space of a corpus on this machine, with these settings and one rank.

    Attributes:
        num_items: number of items of the corpus.
        num_frames: number of frames of the corpus. For videos it is estimated from the frames per byte of the sample.
        num_sampled: number of items in the sample.
        failed: number of items of the sample that failed.
        frames_per_second: speed of the sample after the workers had started.
        seconds: time for the whole corpus.
        gpu_hours: the same time in hours if the rank has a GPU; else 0.
        shard_bytes: size of all tars and tables.
        disk_free_bytes: free space of the file system of the output folder; None: the output is in a bucket.
        bottleneck: the slowest part of a run: `read`, `transform`, `compute` or `write`; None: unknown.
        proposed: options that the pipeline suggests; None: none.
        price_per_hour: price of an hour of what one rank uses, in any currency; None: not given.
    """

    num_items: int
    num_frames: int
    num_sampled: int
    failed: int
    frames_per_second: float
    seconds: float
    gpu_hours: float
    shard_bytes: int
    disk_free_bytes: int | None
    bottleneck: str | None
    proposed: str | None
    price_per_hour: float | None = None

    def __str__(self) -> str:
        free = ""
        if self.disk_free_bytes is not None:
            fits = "enough" if self.shard_bytes < self.disk_free_bytes else "NOT ENOUGH"
            free = f"; {decimal(self.disk_free_bytes)} free: {fits}"
        lines = [
            f"items        {self.num_items:,} ({self.num_sampled} of them run, {self.failed} of these failed)",
            f"frames       {self.num_frames:,}",
            f"speed        {self.frames_per_second:,.1f} frames/s of one rank with these workers",
            f"time         {duration(self.seconds)} with one rank; with more, divided by their number",
            f"disk         {decimal(self.shard_bytes)}{free}",
            f"bottleneck   {self.bottleneck}",
        ]
        if self.gpu_hours:
            lines.insert(4, f"GPU-hours    {self.gpu_hours:,.1f}")
        if self.price_per_hour is not None:
            cost = self.price_per_hour * self.seconds / 3600
            price = f"{self.price_per_hour:,g} an hour for each rank"
            lines.append(f"cost         {cost:,.2f} at {price}; about the same with more ranks")
        if self.proposed:
            lines.append(f"proposed     {indent(self.proposed, ' ' * 13).lstrip()}")
        return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Print the estimate; `argv` are options of `run`, and `--price-per-hour`. Returns the exit status."""
    command = parser()
    options, argv = command.parse_known_args(argv)
    quiet()
    estimated = estimate(parse_pipeline([*argv, "--trainer.devices", "1"], command=command).job())
    for line in str(replace(estimated, price_per_hour=options.price_per_hour)).splitlines():
        say(line)
    return 0


def parser() -> PipelineParser:
    """Return the parser of the command's own options."""
    description = "Run a few items of a corpus, and estimate hours, disk space and cost for all of it."
    parser = PipelineParser("estimate", description)
    parser.add_argument(
        "--price-per-hour",
        metavar="PRICE",
        type=_price,
        help="what one rank uses costs so much an hour, for example one GPU with its share of the machine",
    )
    return parser


def _price(text: str) -> float:
    """Return a price as a number."""
    with suppress(ValueError):
        if 0 <= float(text) < math.inf:
            return float(text)
    raise ArgumentTypeError(f"{text!r} is not a price. Give the price of an hour of what one rank uses, such as 1.53")


def estimate(job: Job) -> Estimate:
    """Process an evenly spread sample of the job's corpus in a temporary folder, and scale its figures up.

    Raises:
        ConfigError: all items of the sample failed.
    """
    num_items, listed_frames, cost = _totals(job.corpus)
    sample = _Sample(job.corpus, max(1, num_items // _NUM_SAMPLED))
    stopwatch = _Stopwatch()
    with tempfile.TemporaryDirectory(prefix="preprocess-estimate-") as folder:
        output = replace(job.output, dir=folder, scratch=None, only=None, log=None)
        trainer = {**job.trainer, "logger": False}
        sampled = replace(job, corpus=sample, output=output, trainer=trainer, config=None)
        with Session(sampled) as session:
            session.predict([stopwatch])
        records = list(session.run.records())
        if not any(record.committed for record in records) and (first := next(failures(session.run), None)):
            num_failed = sum(record.failed for record in records)
            raise ConfigError(
                f"all {num_failed} sampled items failed. The first: {first.reason}. Run `preprocess check` to list them"
            )
    sampled_frames = max(1, sum(record.num_frames for record in records))
    sampled_cost = max(1, sum(item.cost for item in sample.items()))
    num_frames = listed_frames or round(sampled_frames * cost / sampled_cost)
    store = job.output.store()
    seconds = num_frames / stopwatch.frames_per_second
    return Estimate(
        num_items=num_items,
        num_frames=num_frames,
        num_sampled=sum(record.planned for record in records),
        failed=sum(record.failed for record in records),
        frames_per_second=stopwatch.frames_per_second,
        seconds=seconds,
        gpu_hours=seconds / 3600 if session.device.type == "cuda" else 0.0,
        shard_bytes=round(sum(r.tar.bytes + r.table.bytes for r in records) * num_frames / sampled_frames),
        disk_free_bytes=disk_free_bytes(store.path) if isinstance(store, Folder) else None,
        bottleneck=bottleneck([session.rank.activity.seconds]),
        proposed=job.extractor.suggest_options(),
    )


def _totals(corpus: Corpus) -> tuple[int, int, int]:
    """Return (items, frames, bytes) of `corpus`; 0 frames if the listing does not count the frames of every item."""
    num_items = num_frames = cost = 0
    complete = True
    for item in corpus.items():
        num_items, num_frames, cost = num_items + 1, num_frames + len(item.frames), cost + item.cost
        complete &= bool(item.frames) or item.problem is not None
    return num_items, num_frames if complete else 0, cost


class _Sample(Corpus):
    """Every n-th item of another corpus."""

    def __init__(self, corpus: Corpus, every: int) -> None:
        self.root = corpus.root
        self._items = [item for index, item in enumerate(corpus.items()) if index % every == every // 2]

    def items(self) -> Iterator[Item]:
        return iter(self._items)


class _Stopwatch(Callback):
    """Measures the speed from the end of the first batch, because the first one waits for the workers to start."""

    def __init__(self) -> None:
        self._begun = self._first_end = self._last_end = 0.0
        self._first_frames = self._frames = 0

    @property
    def frames_per_second(self) -> float:
        if not self._frames:  # there was one batch: its time includes the start of the workers, a lower bound
            return self._first_frames / (self._first_end - self._begun)
        return self._frames / (self._last_end - self._first_end)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begun = time.monotonic()

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not batch["rows"]:
            return
        self._last_end = time.monotonic()
        if self._first_end:
            self._frames += len(batch["rows"])
        else:
            self._first_end, self._first_frames = self._last_end, len(batch["rows"])
