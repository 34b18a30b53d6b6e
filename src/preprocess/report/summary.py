"""The summary of a finished run or retry: what it took, where the time went, what failed, and how to go on."""

import shlex
from collections.abc import Mapping

from datamodules.run.effort import Effort
from datamodules.run.folder import Run
from preprocess.report.status import bottleneck, counts, duration

_WORKER_PHASES = ("read", "transform")
_RANK_PHASES = ("wait", "compute", "write")


def summary(run: Run, failure_classes: Mapping[str, int], effort: Effort) -> list[str]:
    """Return the lines of the summary.

    Args:
        run: the run or the retry.
        failure_classes: number of items that failed by class, after all retries.
        effort: what it took.
    """
    texts = [
        ("took", _took(effort, is_retry=bool(run.retry))),
        ("time", _where_time_went(effort.phases)),
        ("failed", counts(failure_classes)),
        *zip(["next", *[""] * 9], _next_steps(run, bool(failure_classes)), strict=False),
    ]
    return [f"  {name:<7} {text}" for name, text in texts if text]


def _took(effort: Effort, is_retry: bool) -> str:
    if not effort.seconds:  # older records do not say when they began
        return ""
    ranks = f"{effort.ranks:,} rank" + ("s" if effort.ranks > 1 else "")
    text = f"{duration(effort.seconds)} with {ranks}"
    if is_retry:  # its shards may hold samples that it kept
        return text
    items, frames = effort.items / effort.seconds, effort.frames / effort.seconds
    return f"{text}: {items:,.1f} items/s, {frames:,.1f} frames/s"


def _where_time_went(phases: Mapping[str, float]) -> str:
    """Return the shares of the ranks' time, and the seconds of the workers, which work at the same time."""
    total = sum(phases.get(phase, 0.0) for phase in _RANK_PHASES)
    if not total:
        return ""
    shares = ", ".join(f"{phase} {100 * phases.get(phase, 0.0) / total:.0f} %" for phase in _RANK_PHASES)
    spent = ", ".join(f"{phase} {duration(phases[phase])}" for phase in _WORKER_PHASES if phases.get(phase))
    return f"{shares}" + (f"; in workers {spent}" if spent else "") + f"; bottleneck: {bottleneck([phases])}"


def _next_steps(run: Run, has_failed: bool) -> list[str]:
    samples = run.plan.fingerprint.get("samples", {}).get("class_path", "").rpartition(".")[2]
    return [
        f"preprocess report {shlex.quote(str(run.store))} --open",
        *next_commands(run, has_failed),
        f"training: FramesDataModule(shards={str(run.store)!r}, samples={samples or '…'}()), see docs/training.md",
    ]


def next_commands(run: Run, has_failed: bool) -> list[str]:
    """Return the commands with which users go on from a run that they have looked at.

    Args:
        run: the run or the retry.
        has_failed: whether items failed, after all retries.
    """
    folder = shlex.quote(str(run.store))
    return [
        *([f"preprocess failures {folder}", f"preprocess retry {folder}"] if has_failed else []),
        f"preprocess export {folder} --format parquet --dest D",
    ]
