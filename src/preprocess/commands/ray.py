"""`preprocess ray`: start `run` or `retry` on the nodes of a Ray cluster."""

import argparse
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from importlib.util import find_spec

from datamodules.errors import ConfigError, RunError
from datamodules.object_store import is_url
from datamodules.run.failure_limit import FailureLimit
from datamodules.run.folder import Run
from datamodules.run.retries import completed_at
from preprocess.cluster.rank_task import RankTask
from preprocess.commands.retry import parse_retry
from preprocess.commands.run import conclude, parse_run
from preprocess.job.interrupt import SignalListener
from preprocess.job.progress import quiet
from preprocess.job.session import Job
from preprocess.terminal import Parser, note

_DESCRIPTION = (
    "Run ranks of `preprocess run` or `retry` as tasks of a Ray cluster. Every node needs the same environment, the "
    "corpus, and the run's folder. Ranks that crash, and those of lost nodes, are started again. Rerun the same "
    "command to resume."
)
_MARGIN_SECONDS = 30.0  # after the grace time, which tasks need to end and nodes to answer


def main(argv: Sequence[str], began: float) -> int:
    """Run `preprocess ray` and return its exit status: that which `run` or `retry` would have.

    Args:
        argv: options of Ray, the command, its options.
        began: when the command started; see `RetryRequest`.
    """
    options = parser().parse_args(argv)
    if find_spec("ray") is None:
        raise ConfigError("Ray is not installed. Install framemill[ray]")
    quiet()
    if options.command == "run":
        job: Job | None = parse_run(options.arguments, began)
    else:
        job = parse_retry(options.arguments, began)
    return _work(job, options) if job else 0


def _work(job: Job, options: argparse.Namespace) -> int:
    """Keep ranks at work on a job, check the coverage of its run, and print how it ended. Returns the exit status."""
    from preprocess.cluster.ray_ranks import RayRanks, Resources, connection, has_gpus

    if (devices := job.trainer.get("devices", 1)) not in (1, "1", "auto"):
        raise ConfigError(f"--trainer.devices {devices}: a rank in Ray has one device. Set --ranks instead")
    accelerator, gpus = job.trainer.get("accelerator", "auto"), options.gpus_per_rank
    if accelerator in ("gpu", "cuda") and gpus == 0:
        raise ConfigError(f"--gpus-per-rank 0: --trainer.accelerator {accelerator} needs a GPU. Leave one of them out")
    task = _task(job, options.command, options.arguments)
    with connection(options.address):
        if gpus is None:
            gpus = float(accelerator in ("gpu", "cuda") or (accelerator != "cpu" and has_gpus()))
        ranks = RayRanks(task, Resources(options.cpus_per_rank, gpus), options.ranks)
        listener = SignalListener(ranks.stop, _stop_now, task.grace_seconds + _MARGIN_SECONDS)
        try:
            ranks.work()
        finally:
            listener.close()
    return _conclude(job, task, ranks.stopping)


def _task(job: Job, command: str, arguments: Sequence[str]) -> RankTask:
    """Return what each rank of the job does."""
    own, began = [], job.retry.began if job.retry else job.extended_since
    if began is not None:  # ranks that start late are to work on the same retry, or extension
        own = [f"--since={datetime.fromtimestamp(began, timezone.utc).isoformat()}"]
    return RankTask(
        [command, *own, *arguments, "--trainer.devices", "1"],
        os.getcwd(),
        {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ},
        job.output.grace_seconds,
        job.output.dir if is_url(job.output.dir) else os.path.abspath(job.output.dir),
        _retry_number(job),
        may_be_late=job.extended_since is None,  # what is complete may be about to be extended
    )


def _conclude(job: Job, task: RankTask, stopping: int | None) -> int:
    """Print how the run has ended. Returns the exit status."""
    if stopping:
        name = signal.Signals(stopping).name
        note(f"stopped by {name}. Finished work is safe. Rerun the same command to resume", "yellow")
    try:
        run = Run(task.folder, task.retry)
    except RunError:
        if stopping:  # before the run was planned
            return 128 + stopping
        raise
    limit = FailureLimit() if job.retry else job.output.tolerance().limit
    status = conclude(run, job.output.only is not None, limit)
    return 128 + stopping if stopping and status else status


def _stop_now(number: int, why: str) -> None:
    """End this process at once. Ray then ends its workers, and with them the ranks."""
    note(f"{why}. Stopped at once; spooled and committed results are safe")
    os._exit(128 + number)


def _retry_number(job: Job) -> int:
    """Return the number of the retry that ranks started now will work on; 0 for a run."""
    if job.retry is None:
        return 0
    retries = Run(job.output.dir).retries
    for retry in retries:
        if not retry.is_complete():
            return retry.retry
    if retries and completed_at(retries[-1]) > job.retry.began:  # ranks that began before take part in it
        return retries[-1].retry
    return len(retries) + 1


def parser() -> Parser:
    """Return the parser of the command's own options."""
    parser = Parser(
        "preprocess ray",
        description=_DESCRIPTION,
        usage="preprocess ray [--address A] [--ranks N] [--gpus-per-rank G] [--cpus-per-rank C] {run,retry} ...",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--address",
        default="auto",
        metavar="A",
        help="HOST:PORT of the cluster; auto: that of this machine, or of RAY_ADDRESS; local: start Ray on this "
        "machine, for this command alone (default: auto)",
    )
    parser.add_argument(
        "--ranks",
        type=_num_ranks,
        metavar="N",
        help="number of ranks; those that do not fit wait for nodes, and ask an autoscaler for them. auto: as many as "
        "fit the nodes, those that join later included (default: auto)",
    )
    parser.add_argument(
        "--gpus-per-rank",
        type=_num_gpus,
        metavar="G",
        help="GPUs of each rank, 0 to 1; two ranks share a GPU with 0.5 (default: 1, but 0 with --trainer.accelerator "
        "cpu, or if the cluster has no GPU)",
    )
    parser.add_argument(
        "--cpus-per-rank",
        type=_num_cpus,
        default=8,
        metavar="C",
        help="CPUs of each rank, for its workers and itself (default: 8)",
    )
    parser.add_argument("command", choices=("run", "retry"), help="the command that each rank runs")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="its options")
    return parser


def _num_ranks(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither auto nor a number of ranks, 1 or more")
    return int(text)


def _num_gpus(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (number := float(text)) <= 1:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is not from 0 to 1: a rank has one device, or a part of one")


def _num_cpus(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of CPUs, 1 or more")
    return int(text)
