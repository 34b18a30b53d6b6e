"""The ranks of a run as tasks in a Ray cluster, seen from the driver, the process that starts them.

Ray starts a task where its resources are free, and again elsewhere if the Ray worker or its node dies. A task that fits
no node waits for one, and asks an autoscaler for it. So the driver only submits as many tasks as there are to be ranks,
submits those again whose rank crashed, and ends all of them when the run is complete.

Tasks share nothing but the run folder, and Ray's object store holds only their exit statuses.
"""

import logging
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayError

from datamodules.errors import ConfigError, EnvironmentFailure, FramemillError, TooManyFailures
from datamodules.run.folder import Run
from preprocess.cluster.rank_task import RankExit, RankTask, is_complete, run_rank
from preprocess.job.placement import POSITION
from preprocess.report.display import Display
from preprocess.report.status import StatusReader
from preprocess.terminal import Terminal, note

_CONNECT_SECONDS = 10.0
_OBJECT_STORE_BYTES = 100_000_000  # of a Ray that is started here
_CHECK_SECONDS = 1.0  # between looks at the nodes and at signals
_LAST_SECONDS = 10.0  # that ranks get to end by themselves once the run is complete
_STOP_SECONDS = 20.0  # that tasks get after the grace time of their ranks

# Failures of each rank, while no item is finished, after which the run stops. An item that crashes ranks, or their GPU,
# causes up to `--output.max_attempts` failures, and several items that crash ranks may follow one another.
_MAX_FAILURES = {"environment": 4, "crash": 20}

_START = "Start Ray with `ray start --head`, name a cluster with --address, or start Ray here with --address local"


@contextmanager
def connection(address: str) -> Iterator[None]:
    """Connect this process to a Ray cluster while the block runs.

    Args:
        address: `HOST:PORT`; `auto`: the cluster of this machine, or that of RAY_ADDRESS; `local`: start Ray on this
            machine, for this process alone.

    Raises:
        ConfigError: there is no cluster at that address, or it runs another version of Ray or Python.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a Ray that is started here calls nobody
    os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    options: dict[str, Any] = {}
    if address == "local":
        options = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "auto")
    if address.startswith("ray://"):
        raise ConfigError(
            f"--address {address} is of Ray Client. Run the command on a node of the cluster, or by `ray job submit`"
        )
    _require_listener(address)
    try:
        ray.init(address=address, logging_level=logging.WARNING, **options)
    except ConnectionError as error:
        raise ConfigError(f"no Ray cluster is found for --address {address}. {_START}") from error
    except (ValueError, RuntimeError, RayError) as error:  # a malformed address; another version; a wrong token
        raise ConfigError(f"cannot connect to Ray with --address {address}: {' '.join(str(error).split())}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Raise ConfigError if nothing listens at `HOST:PORT`: Ray would try to connect for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:  # no such host; no such port; an impossible name
        raise ConfigError(f"no Ray cluster listens at --address {address}: {error}. {_START}") from error


@dataclass(frozen=True)
class Resources:
    """What Ray reserves for one rank: a number of CPUs, and a number or fraction of GPUs."""

    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{_count(self.cpus, 'CPU')} and {_count(self.gpus, 'GPU')}"

    def num_fitting(self, node: Mapping[str, float]) -> int:
        """Return how many ranks fit a node, whatever else runs on it.

        Args:
            node: resources of the node by their names in Ray.
        """
        needed = {"CPU": self.cpus, "GPU": self.gpus}
        return min(int(node.get(name, 0) / number + 1e-6) for name, number in needed.items() if number)


def has_gpus() -> bool:
    """Return whether a node of the cluster has a GPU."""
    return any(node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"])


class RayRanks:
    """Keeps the ranks of a run at work in the cluster that this process is connected to.

    Args:
        task: what each rank does.
        resources: what each rank needs.
        num_ranks: number of ranks; None: as many as fit the nodes, those that join later included.

    Attributes:
        stopping: number of the signal that asked to stop; None: none has.
    """

    def __init__(self, task: RankTask, resources: Resources, num_ranks: int | None = None) -> None:
        self._task, self._resources, self._num_ranks = task, resources, num_ranks
        self.stopping: int | None = None
        self._run_rank = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=-1)(run_rank)
        self._tasks: dict[Any, int] = {}  # by the reference to the task's result: the number of the rank
        self._room = -1  # ranks that fit the nodes
        self._is_complete = False
        self._display: Display | None = None
        self._reader: StatusReader | None = None
        self._failures: Counter[str] = Counter()  # by kind, since an item was finished
        self._has_worked = False  # whether a rank has finished an item
        self._num_done = 0  # items, when a rank failed last
        self._of_run = task.folder, task.retry
        if is_complete(*self._of_run):  # one rank suffices to check that the run has the same settings
            self._task, self._num_ranks = replace(task, may_be_late=False), 1

    def work(self) -> None:
        """Run ranks until the run is complete, or until `stopping` is set.

        Raises:
            ConfigError: no rank fits the cluster, or a rank ended with an error in the options or the installation.
            EnvironmentFailure, TooManyFailures: ranks ended with such an error.
        """
        try:
            self._show()
            self._has_advanced()  # items that were finished before do not count
            self._start_missing()
            while self.stopping is None and not self._is_complete:
                for reference in ray.wait(list(self._tasks), timeout=_CHECK_SECONDS)[0]:
                    self._end(self._tasks.pop(reference), reference)
                if not self._is_complete:
                    self._show()
                    self._start_missing()
            if self._is_complete:
                self._wait(_LAST_SECONDS)
        finally:
            for reference in self._tasks:  # tasks that wait for a node, and ranks at work
                ray.cancel(reference)
            self._wait(self._task.grace_seconds + _STOP_SECONDS)
            if self._display:
                self._display.close()

    def stop(self, number: int) -> None:
        """Let `work` stop the ranks because of the signal `number`; it is called in another thread."""
        self.stopping = number
        note(f"stopping the ranks. They finish their batches within {self._task.grace_seconds:g} s", "yellow")

    def _wait(self, seconds: float) -> None:
        """Wait until all tasks have ended, but no longer than `seconds`."""
        if self._tasks:
            for reference in ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=seconds)[0]:
                del self._tasks[reference]

    def _start_missing(self) -> None:
        """Submit a task for each rank that is missing."""
        nodes = [node for node in ray.nodes() if node["Alive"]]
        room = sum(self._resources.num_fitting(node["Resources"]) for node in nodes)
        if not room and self._num_ranks is None and not self._tasks:
            raise ConfigError(
                f"no node of the Ray cluster has the {self._resources} that a rank needs: {_shown(nodes)}. Set "
                "--cpus-per-rank or --gpus-per-rank lower; or set --ranks, to wait for nodes that have them"
            )
        num_ranks = room if self._num_ranks is None else self._num_ranks
        if room != self._room:
            self._room = room
            waiting = f"; {num_ranks - room} of {num_ranks} ranks wait for nodes" if num_ranks > room else ""
            note(f"Ray has {_shown(nodes)}: room for {_count(room, 'rank')} with {self._resources} each{waiting}")
        at_work = set(self._tasks.values())
        for number in range(num_ranks):
            if number not in at_work:
                task = replace(self._task, environment={**self._task.environment, POSITION: str(position(number))})
                self._tasks[self._run_rank.options(name=f"rank {number}").remote(task)] = number

    def _show(self) -> None:
        """Start the display as soon as a rank has planned the run."""
        if self._display is None:
            with suppress(FramemillError):  # it is not planned yet; or it is damaged, which the ranks report
                run = Run(*self._of_run)
                self._display, self._reader = Display(run, Terminal(stderr=True)), StatusReader(run)

    def _end(self, number: int, reference: Any) -> None:
        """Take the result of a task that has ended."""
        try:
            ended: RankExit = ray.get(reference)
        except RayError as error:  # it could not start the function; workers and nodes that die do not end a task
            reason = str(error).strip().splitlines()[-1]
            message = f"Ray cannot run it: {reason}. All nodes need the same environment"
            ended = RankExit(getattr(error, "ip", "an unknown node"), ConfigError.exit_status, message)
        where = f"rank {number} on {ended.node}"
        is_concluded = ended.status in (1, TooManyFailures.exit_status) and is_complete(*self._of_run)
        if ended.status == 0 or is_concluded:  # the driver concludes again, and says what the rank did not print
            self._is_complete = True
        elif ended.status == TooManyFailures.exit_status:
            raise TooManyFailures(f"{where}: {ended.message}")
        else:
            self._count_failure(where, ended)
            note(f"{where} {_described(ended)}. It is started again", "yellow")

    def _count_failure(self, where: str, ended: RankExit) -> None:
        """Count a rank that failed. Raise its error if the command is wrong, or ranks fail again and again.

        While items are finished, ranks may fail any number of times: neither one bad node among many nor an item that
        crashes ranks stops the run.
        """
        if self._has_advanced():
            self._has_worked = True
            self._failures.clear()
        error = {kind.exit_status: kind for kind in (ConfigError, EnvironmentFailure)}.get(ended.status)
        kind = "environment" if error else "crash"
        self._failures[kind] += 1
        is_command_wrong = error is ConfigError and not self._has_worked
        if self._failures[kind] < _MAX_FAILURES[kind] * (1 + len(self._tasks)) and not is_command_wrong:
            return
        if error:
            raise error(f"{where}: {ended.message}")
        raise EnvironmentFailure(
            f"ranks ended {self._failures[kind]} times and no item was finished. The last: {where} {_described(ended)}."
            " Is something wrong with the memory or the installation?"
        )

    def _has_advanced(self) -> bool:
        """Return whether items were finished since this was called last."""
        if self._reader is None:
            return False
        status, before = self._reader.read(), self._num_done
        self._num_done = max(before, status.items + status.failed + status.spooled)
        return self._num_done > before


def position(number: int) -> float:
    """Return where in the plan the rank `number` begins: 0, 1/2, 1/4, 3/4, 1/8, …

    However many ranks there will be, they begin far apart (the sequence of van der Corput).
    """
    digits = f"{number:b}"
    return int(digits[::-1], 2) / (1 << len(digits))


def _described(ended: RankExit) -> str:
    """Return how a rank has ended, as a predicate: `was ended by SIGKILL`."""
    number = -ended.status if ended.status < 0 else ended.status - 128
    with suppress(ValueError):
        return f"was ended by {signal.Signals(number).name}"
    return f"ended with exit status {ended.status}" + (f" ({ended.message})" if ended.message else "")


def _shown(nodes: Sequence[Mapping[str, Any]]) -> str:
    """Return what alive nodes have, for example `2 nodes with 8 CPUs and 1 GPU, 1 node with 2 CPUs and 0 GPUs`."""
    kinds = Counter((node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0)) for node in nodes)
    return ", ".join(
        f"{_count(count, 'node')} with {Resources(*kind)}" for kind, count in sorted(kinds.items(), reverse=True)
    )


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}" if number == 1 else f"{number:g} {noun}s"
