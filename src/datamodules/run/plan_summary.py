"""The summary of a plan: one row per shard, and what the plan was made of.

It is an Arrow IPC stream of one record batch, and after it the sha256 of that stream (32 bytes), which readers of such
streams ignore:

| column     | type       | content                                                                                  |
|------------|------------|------------------------------------------------------------------------------------------|
| split      | string     | of all items of the shard                                                                |
| num_items  | int64      | number of items                                                                          |
| num_frames | int64      | frames that the listing counted: those of image sequences                                |
| cost       | int64      | bytes of input                                                                           |
| replaces   | string     | name of the shard that this shard of a retry replaces; null: it replaces none            |
| bytes      | int64      | size of the shard's segment; the segments follow one another from the start of the file  |
| raw_bytes  | int64      | size of the segment before compression                                                   |
| sha256     | binary[32] | of the segment                                                                           |

The metadata of its schema are in the same file, so that a plan and its fingerprint appear together or not at all:

| metadata     | content                                                                                             |
|--------------|-----------------------------------------------------------------------------------------------------|
| columns      | names and types of the columns of the items                                                         |
| fingerprint  | JSON: everything that changes results                                                               |
| listing      | sha256 of what the corpus listed                                                                    |
| retry        | number of the retry; 0 for the run's own plan                                                       |
| device       | device model of the rank that wrote the plan; empty: not recorded                                   |
| corpus_types | JSON: type of every field of `meta` in the samples of the run; see `samples/fields.py`              |
| roots        | JSON: absolute folders of the corpus at planning. Not part of the fingerprint: a corpus may move    |
| tried        | base64 of one bit per item, if the retry replaces shards: whether it is tried again; else empty     |
| digest       | first 16 hexadecimal digits of the sha256 of the file with the items                                |
"""

import hashlib
import json
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from datamodules.corpus import check_split
from datamodules.errors import CorpusError
from datamodules.run.plan_rows import MAX_SEGMENT_BYTES, SCHEMA
from datamodules.run.typed_json import load
from datamodules.samples.fields import CorpusTypes, check_type

SHARDS = pa.schema(
    [
        ("split", pa.string()),
        ("num_items", pa.int64()),
        ("num_frames", pa.int64()),
        ("cost", pa.int64()),
        ("replaces", pa.string()),
        ("bytes", pa.int64()),
        ("raw_bytes", pa.int64()),
        ("sha256", pa.binary(32)),
    ]
)
_COLUMNS = ", ".join(f"{field.name} {field.type}" for field in SCHEMA)
_LEAST = {"num_items": 1, "num_frames": 0, "cost": 0, "bytes": 1, "raw_bytes": 1}
_DIGEST = re.compile(r"[0-9a-f]{16}")
_SHARD_NAME = re.compile(r"[A-Za-z0-9_]+(-retry\d{3,})?-\d{6,}", re.ASCII)


@dataclass(frozen=True)
class Summary:
    """The summary of a plan. This module's tables describe the fields.

    Attributes:
        shards: pyarrow RecordBatch with the columns of `SHARDS`.
    """

    shards: Any
    digest: str
    fingerprint: Mapping[str, Any]
    listing: str
    retry: int
    device: str
    corpus_types: CorpusTypes | None
    roots: Sequence[str]
    tried: NDArray[np.bool_] | None = None

    def encode(self) -> bytes:
        """Return the content of the file."""
        metadata = {
            "columns": _COLUMNS,
            "fingerprint": json.dumps(self.fingerprint, sort_keys=True),
            "listing": self.listing,
            "retry": str(self.retry),
            "device": self.device,
            "corpus_types": json.dumps(self.corpus_types),
            "roots": json.dumps(list(self.roots)),
            "tried": "" if self.tried is None else b64encode(np.packbits(self.tried).tobytes()).decode(),
            "digest": self.digest,
        }
        sink = pa.BufferOutputStream()
        schema = SHARDS.with_metadata(metadata)
        with pa.ipc.new_stream(sink, schema) as writer:
            writer.write_batch(self.shards.cast(schema))
        stream: bytes = sink.getvalue().to_pybytes()
        return stream + hashlib.sha256(stream).digest()

    @classmethod
    def decode(cls, content: bytes) -> "Summary":
        """Return the summary in a file with this content, which may come from someone else.

        Raises:
            ValueError: it is damaged, or another version of this package wrote it.
        """
        stream, digest = content[:-32], content[-32:]
        if hashlib.sha256(stream).digest() != digest:  # first, as Arrow may abort the process on a damaged file
            raise ValueError("its content has changed (sha256 differs), or another version of Framemill wrote it")
        try:
            shards = pa.ipc.open_stream(stream).read_next_batch()
            metadata = {name.decode(): value.decode() for name, value in (shards.schema.metadata or {}).items()}
            if not shards.schema.equals(SHARDS) or metadata["columns"] != _COLUMNS:
                raise ValueError("it has other columns than the plans of this version of Framemill")
            _check_shards(shards, len(stream))
            return cls(
                shards,
                digest=_matching(_DIGEST, metadata["digest"], "digest of a file"),
                fingerprint=_fingerprint(load(metadata["fingerprint"])),
                listing=metadata["listing"],
                retry=int(metadata["retry"]),
                device=metadata["device"],
                corpus_types=_corpus_types(load(metadata["corpus_types"])),
                roots=_texts(load(metadata["roots"])),
                tried=_tried(metadata.get("tried", ""), sum(shards["num_items"].to_pylist())),
            )
        except KeyError as error:
            raise ValueError(f"it has no {error} in its metadata") from error
        except (pa.ArrowException, CorpusError, OSError, StopIteration) as error:
            raise ValueError(str(error) or "it has no record batch") from error

    def __post_init__(self) -> None:
        if self.retry and "classes" not in self.fingerprint.get("retry", {}):
            raise ValueError("its fingerprint does not say what it tries again (retry.classes)")


def check_shard_name(name: str) -> str:
    """Return `name` if it is the name of a shard. Such a name is safe as a part of paths.

    Raises:
        ValueError: `name` is not the name of a shard.
    """
    return _matching(_SHARD_NAME, name, "name of a shard")


def _matching(pattern: re.Pattern[str], text: str, what: str) -> str:
    if not pattern.fullmatch(text):
        raise ValueError(f"{text!r:.100} is not the {what}")
    return text


def _check_shards(shards: Any, num_bytes: int) -> None:
    """Raise ValueError, CorpusError or an exception of Arrow unless a plan may have these shards.

    Args:
        shards: pyarrow RecordBatch with the columns of `SHARDS`.
        num_bytes: size of the file.
    """
    if shards.nbytes > num_bytes:  # a small file must not unfold into more than memory holds
        raise ValueError("it is compressed")
    shards.validate(full=True)
    if not shards.num_rows:
        raise ValueError("it has no shards")
    for name in (name for name in SHARDS.names if name != "replaces"):
        if shards[name].null_count:
            raise ValueError(f"{name} is null")
    for name, least in _LEAST.items():
        low, high = (bound.as_py() for bound in pc.min_max(shards[name]).values())
        if low < least or (name.endswith("bytes") and high > MAX_SEGMENT_BYTES):
            raise ValueError(f"{name} of a shard is {low if low < least else high:,}")
    replaced = shards["replaces"].drop_null().to_pylist()
    if len(set(replaced)) not in (0, shards.num_rows):
        raise ValueError(f"it has {shards.num_rows:,} shards, which replace {len(set(replaced)):,}")
    for name in replaced:
        check_shard_name(name)
    seen: set[str] = set()
    for split, _ in groupby(shards["split"].to_pylist()):
        if check_split(split) in seen:
            raise ValueError(f"the shards of the split {split} do not follow one another")
        seen.add(split)


def _fingerprint(value: Any) -> dict[str, Any]:
    """Return a fingerprint after a check of the types of all fields that this package reads.

    Raises:
        ValueError: a field has another type.
    """
    document = _object(value, "its fingerprint")
    for name in ("corpus", "samples", "extractor", "decoding", "retry"):
        _object(document.get(name, {}), f"{name} of its fingerprint")
    corpus = document.get("corpus", {})
    merged = corpus.get("merged", [])
    if not isinstance(merged, list):
        raise ValueError("corpus.merged of its fingerprint is not a list")
    recorded = (part for part in merged if part is not None)  # None: a run whose plan names no corpus
    for entry in (corpus, *recorded, document.get("samples", {}), document.get("extractor", {})):
        part = _object(entry, "a part of its fingerprint")
        _object(part.get("init_args", {}), "init_args of its fingerprint")
        _texts([part.get("class_path", "")])
    _texts(document.get("retry", {}).get("classes") or [])
    return document


def _tried(text: str, num_items: int) -> NDArray[np.bool_] | None:
    if not text:
        return None
    bits = np.frombuffer(b64decode(text, validate=True), np.uint8)
    if len(bits) != -(-num_items // 8):
        raise ValueError(f"it says of {8 * len(bits):,} items whether they are tried again, and has {num_items:,}")
    return np.unpackbits(bits, count=num_items).astype(bool)


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not an object")
    return value


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError("its metadata has another value where texts are required")
    return value


def _corpus_types(value: Any) -> CorpusTypes | None:
    if value is not None:
        for name in _texts(list(_object(value, "corpus_types").values())):
            check_type(name)
    return value  # type: ignore[no-any-return]
