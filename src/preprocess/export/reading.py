"""The committed samples of a run, read for an export."""

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from datamodules.errors import RunError
from datamodules.run.folder import Run
from datamodules.run.reader import CommittedSamples
from datamodules.samples import Sample, SampleKind

if TYPE_CHECKING:
    from datamodules.samples.captions import CaptionSample
    from datamodules.samples.clips import ClipSample
    from datamodules.samples.keypoints import KeypointSample
    from datamodules.samples.pose import PoseSample
    from datamodules.samples.tracks import TrackSample


class Snapshot(Run):
    """A run as it is now: while it goes on, counts and samples are of the same shards."""

    @cached_property
    def _now(self) -> set[str]:
        return super().committed()

    def committed(self) -> set[str]:
        return self._now


def planned_splits(run: Run) -> list[str]:
    """The splits of the plan, in its order."""
    return list(dict.fromkeys(shard.split for shard in run.plan.shards))


def keypoint_samples(run: Run, split: str) -> "Iterator[KeypointSample]":
    """`samples_of` a run of keypoints."""
    from datamodules.samples.keypoints import KeypointSamples

    return samples_of(run, split, KeypointSamples())


def clip_samples(run: Run, split: str) -> "Iterator[ClipSample]":
    """`samples_of` a run of clips."""
    from datamodules.samples.clips import ClipSamples

    return samples_of(run, split, ClipSamples())


def caption_samples(run: Run, split: str) -> "Iterator[CaptionSample]":
    """`samples_of` a run of captions."""
    from datamodules.samples.captions import CaptionSamples

    return samples_of(run, split, CaptionSamples())


def pose_samples(run: Run, split: str) -> "Iterator[PoseSample]":
    """`samples_of` a run of poses."""
    from datamodules.samples.pose import PoseSamples

    return samples_of(run, split, PoseSamples())


def track_samples(run: Run, split: str) -> "Iterator[TrackSample]":
    """`samples_of` a run of tracks, whose files are open, and read where they lie."""
    from datamodules.samples.tracks import TrackSamples

    refuse_other_kinds(run, TrackSamples.__name__)
    if run.outcome(split).committed:
        for key, files in CommittedSamples(run, split).opened():
            yield TrackSamples().decode(key, files)


def samples_of(run: Run, split: str, kind: SampleKind[Sample]) -> Iterator[Sample]:
    """The committed samples of `split`, in planned order.

    Raises:
        RunError: they are of another kind, or a shard is damaged.
    """
    refuse_other_kinds(run, type(kind).__name__)
    if run.outcome(split).committed:
        for key, members in CommittedSamples(run, split):
            yield kind.decode(key, members)


def kind_of(run: Run) -> str:
    """The class of the run's samples, such as `ClipSamples`, without its module; empty where the run does not tell."""
    class_path: str = run.plan.fingerprint.get("samples", {}).get("class_path", "")
    return class_path.rpartition(".")[2]


def refuse_other_kinds(run: Run, wanted: str) -> None:
    """See what the run holds, as far as it tells.

    Raises:
        RunError: samples of another kind than `wanted`.
    """
    if kind_of(run) not in ("", wanted):
        raise RunError(f"{run.folder} holds {kind_of(run)}, and this format is of {wanted}: choose another --format")
