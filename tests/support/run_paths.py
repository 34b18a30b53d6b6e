"""Paths of the files of a run in a folder, which tests damage, move and compare."""

from pathlib import Path

from datamodules.run.folder import Run
from datamodules.run.record import ShardFile, record_name


def folder_of(run: Run) -> Path:
    """Return the folder of `run`."""
    return Path(str(run.store))


def path_of(file: ShardFile) -> Path:
    """Return the final path of the tar or table of a shard."""
    return Path(file.location)


def record_path(run: Run, shard: str) -> Path:
    """Return the path of the record of the shard named `shard`."""
    return Path(run.store.locate(record_name(shard)))
