"""The section `output` of a configuration: where a run goes, and what its ranks put up with."""

from dataclasses import dataclass

from datamodules.errors import ConfigError
from datamodules.run.failure_limit import FailureLimit, Tolerance
from datamodules.run.plan import ShardSize

_DEFAULT_SIZE = ShardSize()


@dataclass(frozen=True)
class Output:
    """The folder of a run, and how this process works on it.

    Args:
        dir: the run's folder: a new one, or one to resume or join.
        shards: how many items go into a shard.
        only: `i/n`: work only on every n-th shard, from the i-th (from 0). For splitting by hand between machines that
            share no folder; the plan stays the same. None: on all.
        stale_seconds: a rank whose heartbeat stands still this long is taken for dead, and its shards are taken over.
        max_attempts: at an item that crashes or hangs its process, exhausts memory or cannot be read for now.
        max_failures: stop when more items than this have failed: a number, or as in `50%` a share of those done (judged
            once 1 % of the planned ones are, and no less than 100).
        extract_timeout_seconds: a call of `extract` that takes longer ends its process, and its items have used up
            one of their attempts.
        grace_seconds: after the first signal to stop, the batches in progress may take so long to finish; torchrun and
            SLURM kill 30 s after theirs.
        same_device: refuse to work on this rank if its device is of another model than that of the run's first rank,
            which wrote the plan: the same bytes are promised for one model only.
        videos: draw each video's results over it, to `{dir}/videos`, during the run; these are for looking at only.
            Finished videos of an earlier command are not drawn: `preprocess visualize` draws them.

    Raises:
        ConfigError: a value is out of its range.
    """

    dir: str
    shards: ShardSize = _DEFAULT_SIZE
    only: str | None = None
    stale_seconds: float = 60.0
    max_attempts: int = 3
    max_failures: str = "50%"
    extract_timeout_seconds: float = 600.0
    grace_seconds: float = 25.0
    same_device: bool = False
    videos: bool = False

    def __post_init__(self) -> None:
        if self.grace_seconds < 0:
            raise ConfigError(f"grace_seconds = {self.grace_seconds}: it must be 0 or more")
        self.part(), self.tolerance()  # raise for values out of range

    def tolerance(self) -> Tolerance:
        """Return how many attempts and failures, and how much time, a rank of this run allows."""
        return Tolerance(self.max_attempts, FailureLimit.parse(str(self.max_failures)), self.extract_timeout_seconds)

    def part(self) -> tuple[int, int] | None:
        """Return `only` as (i, n); None: all shards.

        Raises:
            ConfigError: it is not `i/n` with 0 <= i < n.
        """
        if self.only is None:
            return None
        index, _, count = self.only.partition("/")
        if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise ConfigError(f"--output.only {self.only!r}: give i/n with 0 <= i < n, for example 0/4")
        return int(index), int(count)
