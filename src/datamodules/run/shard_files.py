"""The files of a shard: its tar, whose bytes depend on the samples alone, and its table."""

import hashlib
import io
import tarfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.run.record import StagedFile
from datamodules.run.spool import Spool
from datamodules.run.table import TABLE_SCHEMA

_COPY_BYTES = 1 << 20  # read, hashed and written at once: it stays in the core's cache


def count_rows(rows: Iterable[Mapping[str, Any]]) -> tuple[dict[str, int], dict[str, int]]:
    """Return (number of samples by status, number of failures by class) of rows of a table."""
    rows = list(rows)
    statuses = Counter(row["status"] for row in rows if row["reason_class"] is None)
    classes = Counter(row["reason_class"] for row in rows if row["reason_class"] is not None)
    return dict(sorted(statuses.items())), dict(sorted(classes.items()))


def count_devices(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return the number of samples by device model of rows of a table. Rows without a device are not counted."""
    devices = Counter(row["device"] for row in rows if row["reason_class"] is None and row["device"])
    return dict(sorted(devices.items()))


def write_tar(path: Path, name: str, keys: Sequence[str], spool: Spool) -> tuple[list[dict[str, Any]], StagedFile]:
    """Write the tar of a shard.

    Args:
        path: of the new file.
        name: final name in the store, for its record.
        keys: of the items, by row.
        spool: holds a result for every row.

    Returns:
        (rows of the table as dictionaries without `supersedes`, what the record says of the tar).
    """
    rows = []
    with open(path, "xb") as raw:
        hashed = _HashingFile(raw)
        with tarfile.TarFile(fileobj=hashed, mode="w", format=tarfile.PAX_FORMAT, copybufsize=_COPY_BYTES) as tar:
            for row, key in enumerate(keys):
                result = spool.results[row]
                start = tar.offset
                for ending, size, content in spool.members(row):
                    tar.addfile(_tar_header(f"{key}.{ending}", size), content)
                ok = result.reason is None
                rows.append(
                    {
                        "key": key,
                        "status": result.status if ok else "failed",
                        "reason": result.reason,
                        "reason_class": result.reason_class,
                        "attempts": result.attempts,
                        "num_frames": result.num_frames,
                        "seconds": result.seconds,
                        "split_to": result.split_to,
                        "decoder": result.decoder,
                        "device": result.device,
                        "metrics": list(result.metrics.items()),
                        "tar_offset": start if ok else None,
                        "tar_bytes": tar.offset - start if ok else None,
                    }
                )
    return rows, StagedFile(name, hashed.sha256.hexdigest(), path.stat().st_size)


def _tar_header(name: str, size: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)  # mtime, uid, gid are 0 and owner names empty, so that bytes are the same everywhere
    header.size, header.mode = size, 0o644
    return header


def write_table(path: Path, name: str, rows: list[dict[str, Any]]) -> StagedFile:
    """Write the table of a shard.

    Args:
        path: of the new file.
        name: final name in the store, for its record.
        rows: with the columns of `TABLE_SCHEMA`.

    Returns:
        What the record says of the table.
    """
    content = _encode_table(rows)
    with open(path, "xb") as file:
        file.write(content)
    return StagedFile(name, hashlib.sha256(content).hexdigest(), len(content))


def _encode_table(rows: list[dict[str, Any]]) -> bytes:
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, TABLE_SCHEMA), content)
    return content.getvalue()


class _HashingFile(io.RawIOBase):
    """A file that hashes what is written to it, so that a tar is not read again for its sha256."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self.sha256 = hashlib.sha256()

    def tell(self) -> int:
        return self._raw.tell()

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return self._raw.write(data)
