"""Exports: the committed samples of a run, in formats that other code reads. A module of `formats` is a format.

The module of the format `phoenix-npz` is `phoenix_npz`; it has `export(run, dest, …) -> list[Path]`, whose further
arguments, all with defaults, are the format's options, and its first lines tell the fields it writes. What all of them
have in common:

- they stream, whatever the number of frames: no more than one sample, or one row group, stands in memory;
- every split of the plan gets its file, and only what is committed is in it. A run that is not complete, or has failed
  items, can be exported: the statistics of each split say how many items were planned, committed, failed and not done,
  and why each failed one did (`statistics.py`);
- files appear together and whole, and none that exists is replaced.
"""

import importlib
import os
import pkgutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.errors import ConfigError, EnvironmentFailure, RunError
from datamodules.run.commit import sync
from datamodules.run.folder import Run
from datamodules.run.reader import CommittedSamples
from datamodules.samples import Sample, SampleKind
from preprocess.export import formats
from preprocess.scratch import scratch_beside

if TYPE_CHECKING:
    from datamodules.samples.captions import CaptionSample
    from datamodules.samples.clips import ClipSample
    from datamodules.samples.keypoints import KeypointSample
    from datamodules.samples.pose import PoseSample
    from datamodules.samples.tracks import TrackSample


def format_names() -> list[str]:
    """The names that `export` takes as `format`."""
    return [module.name.replace("_", "-") for module in pkgutil.iter_modules(formats.__path__)]


def options_of(format: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The options of a format, from the command line.

    Raises:
        ConfigError: there is no such format or option, or it cannot have this value.
    """
    from argparse import ArgumentError

    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog=f"preprocess export --format {format}", exit_on_error=False)
    parser.add_function_arguments(_module(format).export, skip={"run", "dest"}, as_group=False)
    try:
        return dict(parser.parse_args(list(arguments)).as_dict())
    except ArgumentError as error:
        raise ConfigError(f"--format {format}: {' '.join(str(error).split())}") from error


def export(folder: Path, format: str, dest: Path, **options: Any) -> list[Path]:
    """Write the committed samples of the run in `folder` to files in `dest`, which is made if it is not there.

    Args:
        folder: of the run.
        format: one of `format_names()`.
        dest: folder to write to.
        options: of the format.

    Returns:
        The files written. Shards that are committed while this goes on are not in them.

    Raises:
        ConfigError: there is no such format, it cannot hold the run's layout, or a file it would write exists.
        RunError: `folder` is no run, has nothing committed, or holds samples of another kind.
        EnvironmentFailure: the files cannot be written; none of them is there.
    """
    module = _module(format)
    run = _Snapshot(folder)
    committed = [each.committed() for each in run.with_retries]  # from here on, these
    if not any(committed):
        raise RunError(f"nothing is committed in {folder}: run it first")
    try:
        written: list[Path] = module.export(run, dest, **options)
    except OSError as error:
        raise EnvironmentFailure(f"the export to {dest} failed, and nothing was written: {error}") from error
    return written


def _module(format: str) -> Any:
    if format not in format_names():
        raise ConfigError(f"--format {format}: there is no such format; choose from {', '.join(format_names())}")
    return importlib.import_module(f"{formats.__name__}.{format.replace('-', '_')}")


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
    return _last_part(run.plan.fingerprint.get("samples", {}).get("class_path", ""))


def refuse_other_kinds(run: Run, wanted: str) -> None:
    """See what the run holds, as far as it tells.

    Raises:
        RunError: samples of another kind than `wanted`.
    """
    if kind_of(run) not in ("", wanted):
        raise RunError(f"{run.folder} holds {kind_of(run)}, and this format is of {wanted}: choose another --format")


@contextmanager
def all_or_none(paths: Sequence[Path], option: str = "--dest") -> Iterator[list[Path]]:
    """Names under which to write `paths`, whose folders are made; they get their own when the block has ended well.

    Args:
        paths: in one folder or several.
        option: of the command line, by which they were given.

    Raises:
        ConfigError: one of `paths` exists, or its folder is none; nothing has been done.
    """
    for path in paths:
        if os.path.lexists(path):
            raise ConfigError(f"{path} exists, and is not replaced: remove it, or write elsewhere")
        if path.parent.exists() and not path.parent.is_dir():
            raise ConfigError(f"{option} {path.parent} is no folder")
    partials = [path.with_name(f".{path.name}.{os.urandom(8).hex()}.partial") for path in paths]
    written: list[Path] = []
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield partials
        for partial in partials:
            sync(partial)
        for partial, path in zip(partials, paths, strict=True):
            os.rename(partial, path)
            written.append(path)
    except BaseException:
        for path in (*partials, *written):
            path.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(dest: Path) -> Iterator[Path]:
    """A hidden folder beside `dest` to write to, which becomes `dest` when the block has ended well.

    Raises:
        ConfigError: `dest` exists and is not an empty folder; or another process is writing it. Nothing has been done.
    """
    if os.path.lexists(dest) and not (dest.is_dir() and not any(dest.iterdir())):
        raise ConfigError(f"--dest {dest} exists, and is not replaced: name a folder that is new or empty")
    with scratch_beside(dest) as scratch:
        yield scratch
        os.sync()  # one call, where one for each of a million small files would take hours
        os.rename(scratch, dest)


class _Snapshot(Run):
    """A run as it is now: while it goes on, counts and samples are of the same shards."""

    @cached_property
    def _now(self) -> set[str]:
        return super().committed()

    def committed(self) -> set[str]:
        return self._now


def _last_part(module: str) -> str:
    return module.rpartition(".")[2]
