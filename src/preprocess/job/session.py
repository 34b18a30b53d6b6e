"""A session: one process's work on a run, from the check of its options until after the last batch.

Entering a session makes the Trainer, which checks the options, and fixes the plan (made now if the run is new), the
fingerprint and this process's rank. `predict` then makes the loader, the extraction and the writer.
"""

import logging
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer

from datamodules import FramesDataModule
from datamodules.corpus import Corpus
from datamodules.errors import ConfigError, FramemillError, RunError
from datamodules.run.extension import extend
from datamodules.run.files import CONFIG
from datamodules.run.folder import Run
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import plan_name
from datamodules.run.rank import Rank
from datamodules.run.retries import RetryRequest, open_or_plan_retry
from datamodules.run.store import Store
from preprocess.job.assembly import OpenItems
from preprocess.job.early_workers import StartWorkers
from preprocess.job.extraction import Extraction
from preprocess.job.extractor import Extractor
from preprocess.job.figures import FigureLog, may_write_figures
from preprocess.job.fingerprint import fingerprint
from preprocess.job.interrupt import StopOnSignal
from preprocess.job.item_log import ItemLog
from preprocess.job.output import Output
from preprocess.job.placement import device_name, gpu_uuid, placement, rank_position
from preprocess.job.progress import Progress
from preprocess.job.relisting import Relisting
from preprocess.job.telemetry import machine_figures
from preprocess.job.writer import ShardWriter

_log = logging.getLogger(__name__)

# Switches off what a Trainer does not need, or must not do, when it preprocesses.
TRAINER_DEFAULTS: Mapping[str, Any] = {
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
}


@dataclass(frozen=True)
class Job:
    """The work of a command, as its configuration describes it. Nothing is opened yet.

    Attributes:
        extractor: the pipeline.
        corpus: the items to process.
        data: how the corpus is read: workers, decoding.
        output: the run's folder, and how this process works on the run.
        trainer: options of Lightning's Trainer; they override `TRAINER_DEFAULTS`.
        config: text of the configuration, stored in the run's folder for people and for `retry`; None: store nothing.
        retry: which items of the run in `output.dir` to try again; None: process the run itself.
        extended_since: plan the new items of the corpus, unless the run was extended after this time, in seconds since
            the epoch; None: plan none. See `extension.extend`.
    """

    extractor: Extractor
    corpus: Corpus
    data: FramesDataModule
    output: Output
    trainer: Mapping[str, Any] = field(default_factory=dict)
    config: str | None = None
    retry: RetryRequest | None = None
    extended_since: float | None = None


class Session:
    """Context manager that opens or plans the run of a job and joins it as a rank.

        with Session(job) as session:
            session.predict()

    Attributes:
        run: the run or the retry to work on.
        rank: leases shards of the run for this process and records their results.
        device: the device of this rank's models.

    Raises:
        RunError, CorpusError, EnvironmentFailure: on entering, see `open_or_plan` and `open_or_plan_retry`.
        RunError: on entering, if `same_device` is set and this rank has another device model.
        ConfigError: on construction or on entering, if an option is wrong. Nothing is written then.
    """

    run: Run
    rank: Rank

    def __init__(self, job: Job) -> None:
        self._job = job
        if (strategy := job.trainer.get("strategy", "auto")) != "auto":
            raise ConfigError(f"--trainer.strategy {strategy}: ranks form no process group. Leave it out")
        self._placement = placement(job.trainer.get("accelerator", "auto"), job.trainer.get("devices", 1))
        self.device = self._placement.device
        self._stack = ExitStack()
        self._relisting: Relisting | None = None
        self._launched: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Session":
        job, output, device = self._job, self._job.output, self.device
        self._trainer = self._make_trainer()  # before the plan: wrong options must not leave a run that keeps them
        job.extractor.place(device)
        self._frame_request = job.data.request(job.extractor.frames, device)
        name, store = device_name(device), output.store()
        if output.videos:
            job.extractor.draw_to(store)
        is_resumed = store.find(plan_name()) is not None
        self.run, self._corpus_types = self._open(store, name)
        self._keep_config()
        if output.videos and (done := len(self.run.committed())):
            _log.warning(
                "%s finished shards will not be drawn. To draw them, run `preprocess visualize %s --dest D`",
                f"{done:,}",
                output.dir,
            )
        measure = partial(machine_figures, gpu_uuid(device))
        rank = Rank(self.run, output.part(), output.stale_seconds, rank_position(), measure, output.tolerance(), name)
        self._figures = FigureLog(self._loggers, rank) if self._loggers and may_write_figures() else None
        with ExitStack() as stack:  # closes the rank if what follows fails
            if output.log:
                log = ItemLog(output.log, rank.name, str(device))
                rank.on_result = log.add
                stack.callback(log.flush)
            self.rank = stack.enter_context(rank)
            if is_resumed and not job.retry and job.extended_since is None and self._is_to_compare():
                self._relisting = Relisting(self.run.plan, job.corpus)
                self._relisting.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error and self._relisting:
            self._relisting.cancel()
        self._stack.close()
        if self._relisting:
            self._relisting.finish(lambda: self.rank.stopping is not None)
        if error is None or isinstance(error, FramemillError):
            for process in self._launched:  # ranks that Lightning's launcher started
                process.wait()

    def predict(self, callbacks: Sequence[Callback] = ()) -> None:
        """Run Lightning's predict loop until no rank has work left, or this rank is to stop.

        Args:
            callbacks: Lightning callbacks to add to the session's own.
        """
        job, rank = self._job, self.rank
        items = OpenItems(lambda item: job.extractor.open_assembly(item, lambda: rank.scratch))
        frames = job.data.frames(rank, job.corpus.root, self._frame_request, self.device)
        own = [
            ShardWriter(rank, job.extractor, items, self._corpus_types),
            Progress(self.run, self._figures),
            StopOnSignal(rank, job.output.grace_seconds),  # before the workers start
            StartWorkers(frames),
        ]
        trainer = self._trainer
        trainer.callbacks.extend([*callbacks, *own])  # type: ignore[attr-defined]
        try:
            trainer.predict(Extraction(job.extractor, rank, items), dataloaders=frames, return_predictions=False)
        finally:
            self._launched = getattr(trainer.strategy.launcher, "procs", [])

    def _is_to_compare(self) -> bool:
        """Return whether this rank, the first by name of those at work, compares the corpus with the plan.

        Tasks of a job that start when the run is complete are alone, one after another: then only the first one does.
        """
        first = min(self.rank.leases.at_work(), default=self.rank.name)
        return self.rank.name <= first and (rank_position() == 0 or not self.run.is_complete())

    def _make_trainer(self) -> Trainer:
        options = {**TRAINER_DEFAULTS, **self._job.trainer, **self._placement.options}
        given = options.get("callbacks") or []
        options["callbacks"] = [*given] if isinstance(given, list) else [given]  # a new list, which `predict` extends
        try:
            trainer = Trainer(**options)
        except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
            raise ConfigError(" ".join(str(error).split())) from error  # a wrong option or value
        if trainer.strategy.root_device != self.device:
            raise ConfigError(
                f"Lightning places this rank on {trainer.strategy.root_device}, not on {self.device}: set "
                "--trainer.accelerator and --trainer.devices otherwise"
            )
        # Lightning would open the user's loggers in every rank
        self._loggers, trainer.loggers = trainer.loggers, []
        return trainer

    def _open(self, store: Store, device: str) -> tuple[Run, Mapping[str, str]]:
        """Open or plan the run or the retry. Return it, and the types that the run gives to the corpus's fields."""
        job, output = self._job, self._job.output
        current = fingerprint(job.corpus, job.data.decoding, job.extractor, output.shards, self.device)
        run = Run(store) if job.retry else open_or_plan(store, job.corpus, current, output.shards, device)
        first_device = run.plan.device or "an unknown device"
        if output.same_device and device != first_device:
            raise RunError(
                f"{output.dir} was started on {first_device}, but this rank has {device}. Use the same device model, "
                "or set --output.same_device false"
            )
        if job.extended_since is not None:
            run = extend(run, job.corpus, current, output.shards, job.extended_since, device)
        types = run.plan.corpus_types or {}
        if job.retry:
            run = open_or_plan_retry(store, current, output.shards, job.retry, job.extractor.retry_invariants)
        return run, types

    def _keep_config(self) -> None:
        store = self.run.store
        if self._job.config is not None and not store.find(CONFIG):
            store.replace(CONFIG, self._job.config.encode())
