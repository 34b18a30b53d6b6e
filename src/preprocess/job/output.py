"""The section `output` of a configuration: where the run is, and how many failures and how much time ranks allow."""

from dataclasses import dataclass

from datamodules.errors import ConfigError
from datamodules.run.bucket import open_store
from datamodules.run.failure_limit import FailureLimit, Tolerance
from datamodules.run.plan import ShardSize
from datamodules.run.store import Folder, Store
from preprocess.job.item_log import Form

_DEFAULT_SIZE = ShardSize()


@dataclass(frozen=True)
class Output:
    """The folder of a run, and how this process works on the run.

    Args:
        dir: the run's folder: a new folder, or that of a run to resume or join. Or a prefix in a bucket, as a URL:
            `s3://bucket/run`, `gs://…` or `az://…`.
        shards: how many items go into a shard.
        scratch: folder on a local disk for what a run in a bucket keeps there: unfinished shards, and files that are
            uploaded. Each run has a folder of its own in it, private to the user. None: the system's temporary folder.
        only: `i/n`: work only on every n-th shard, starting at shard i (from 0). For machines that share no folder; the
            plan stays the same. None: all shards.
        stale_seconds: a rank whose heartbeat stands still for this long counts as dead, and its shards are taken over.
        max_attempts: number of attempts at an item that crashes or hangs its process, exhausts memory, or cannot be
            read for now.
        max_failures: stop when more items than this have failed: a number, or a share of the finished items such as
            `50%` (checked once 1 % of the planned items, and at least 100, are finished).
        extract_timeout_seconds: a call of `extract` that takes longer ends its process, and costs its items one of
            their attempts.
        grace_seconds: time that the batches in progress may take to finish after the first signal to stop; torchrun and
            SLURM kill the process 30 s after their signal.
        same_device: refuse to work on this rank if its device model differs from that of the rank that wrote the plan.
            Results are the same bytes only on the same device model.
        log: `items`: a line on standard error for each item that this process finishes; `jsonl`: a JSON object on
            standard output, with the fields that `preprocess.job.item_log` lists. None: neither.
        videos: during the run, write each video with its results drawn over it to `{dir}/videos`, for viewing only.
            Videos that an earlier command has finished are not drawn; `preprocess visualize` draws them.

    Raises:
        ConfigError: a value is out of its range, or `dir` is a URL that is not supported.
    """

    dir: str
    shards: ShardSize = _DEFAULT_SIZE
    scratch: str | None = None
    only: str | None = None
    stale_seconds: float = 60.0
    max_attempts: int = 3
    max_failures: str = "50%"
    extract_timeout_seconds: float = 600.0
    grace_seconds: float = 25.0
    same_device: bool = False
    log: Form | None = None
    videos: bool = False

    def __post_init__(self) -> None:
        if self.grace_seconds < 0:
            raise ConfigError(f"grace_seconds = {self.grace_seconds} must be 0 or more")
        if self.scratch is not None and isinstance(self.store(), Folder):
            raise ConfigError(
                f"--output.scratch {self.scratch} is for runs in a bucket. The run in {self.dir} keeps its scratch "
                "files in its folder work/: leave the option out"
            )
        self.part(), self.tolerance(), self.store()  # raise for values out of range

    def store(self) -> Store:
        """Return the store of the run.

        Raises:
            ConfigError: `dir` is a URL that does not name a bucket, or has a scheme that is not supported.
        """
        return open_store(self.dir, self.scratch)

    def tolerance(self) -> Tolerance:
        """Return how many attempts and failures, and how much time, a rank of this run allows."""
        return Tolerance(self.max_attempts, FailureLimit.parse(str(self.max_failures)), self.extract_timeout_seconds)

    def part(self) -> tuple[int, int] | None:
        """Return `only` as (i, n); None: all shards.

        Raises:
            ConfigError: `only` is not `i/n` with 0 <= i < n.
        """
        if self.only is None:
            return None
        index, _, count = self.only.partition("/")
        if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise ConfigError(f"--output.only {self.only!r} is not i/n with 0 <= i < n. Give for example 0/4")
        return int(index), int(count)
