"""The dataset card of a run, `README.md` in its folder, for Hugging Face `datasets`.

`load_dataset(O)` reads from the card which tars belong to which split, and the type of each field. Without a card,
`datasets` infers types from the first five samples, and fails at a later sample if these have an empty list or null.

| part of the card        | source                                                                                |
|-------------------------|---------------------------------------------------------------------------------------|
| splits                  | those that have samples; with the tars of retries, without superseded ones            |
| fields of the json      | `fields` of the sample kind; for other fields of the corpus the types in the plan     |
| configuration name      | digest of the committed tars                                                          |
| other files of a sample | the first committed sample: dtype and shape of an array, whose first dimension varies |
| original images         | the endings of all images in the plan                                                 |
"""

import hashlib
import os
import re
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple, TypeAlias

import pyarrow as pa
import yaml

from datamodules.errors import ConfigError, EnvironmentFailure, RunError
from datamodules.media.suffixes import IMAGE_SUFFIXES, image_ending
from datamodules.printable import printable
from datamodules.run.folder import Run
from datamodules.run.kind import class_of
from datamodules.run.reader import open_sample
from datamodules.samples.arrays import read_header
from datamodules.samples.fields import Field, arrow_type, decode_json

if TYPE_CHECKING:
    from datasets import Features

CARD = "README.md"
_MARK = "<!-- Written by `preprocess`. Remove this line to keep your own changes. -->"
_TEXT = f"""
# Samples made by Framemill

    datasets.load_dataset("path/of/this/folder")  # streaming=True reads them where they are

A row is a sample: `__key__` names its item, `__url__` its tar; the other columns are its files.

{_MARK}

| field of `json` | type | unit | meaning |
|---|---|---|---|
"""
_MARKDOWN = re.compile(r"[\\`*\[\]<>|&~$@]|:(?=//)|(?<=www)\.")  # what has a meaning in Markdown
_DTYPES = {"double": "float64", "float": "float32"}  # name in Arrow: name in `datasets`


class Array(NamedTuple):
    """The type of an .npy file.

    Attributes:
        dtype: its name in NumPy and Arrow.
        shape: sizes; None where they vary from sample to sample.
    """

    dtype: str
    shape: tuple[int | None, ...]


FileType: TypeAlias = pa.DataType | Array | Literal["image", "video"]


def features_of(run: Run | str | os.PathLike[str]) -> "Features":
    """Return the columns of a run and their types, for `load_dataset("webdataset", data_files=…, features=…)`.

    It needs the package `datasets`.

    Args:
        run: a run or its folder, with at least one committed sample.

    Raises:
        RunError: the folder is not a run, it has no samples, or their kind declares no fields.
    """
    import datasets

    def feature(type: FileType) -> Any:
        if isinstance(type, Array):
            if len(type.shape) == 1:
                return datasets.List(datasets.Value(type.dtype))
            return getattr(datasets, f"Array{len(type.shape)}D")(type.shape, type.dtype)
        if isinstance(type, str):
            return {"image": datasets.Image, "video": datasets.Video}[type]()
        return datasets.Features.from_arrow_schema(pa.schema({"column": type}))["column"]

    run = run if isinstance(run, Run) else Run(run)
    if not declared_fields(run):
        raise RunError(
            f"the fields of the samples in {run.store} are unknown. If the class of the samples is your own, import "
            "it first"
        )
    return datasets.Features({name: feature(column) for name, column in _columns(run).items()})


def declared_fields(run: Run) -> tuple[Field, ...]:
    """Return the `fields` of the run's sample kind.

    They are empty if the kind declares none, if it is neither in `datamodules.samples` nor imported already, or if the
    plan has no `corpus_types`.
    """
    if run.plan.corpus_types is None:
        return ()
    try:
        return class_of(run).fields
    except (ConfigError, RunError):
        return ()


def write_card(run: Run) -> None:
    """Write the card of `run`, if the run has samples whose kind declares fields.

    A card without the line that says who wrote it belongs to the user, and is left unchanged.

    Ranks end at the same time, and each writes the card. A slow rank could replace the card of a later one with its
    own, which lists fewer shards. So each rank writes again until no shard was committed meanwhile.

    Raises:
        RunError: the first sample cannot be read.
        EnvironmentFailure: the card cannot be written.
    """
    described: list[set[str]] = []
    while (committed := [part.committed() for part in run.with_retries]) != described:
        if is_users(run) or not (text := _text(run)):
            return
        try:
            run.store.replace(CARD, text.encode())
        except OSError as error:
            raise EnvironmentFailure(f"the dataset card {run.store.locate(CARD)} cannot be written: {error}") from error
        described = committed


def is_stale(run: Run) -> bool:
    """Return whether `write_card` would change the existing card, for example after parts of the run were copied in.

    Raises:
        RunError: the first sample cannot be read.
    """
    if is_users(run):
        return False
    try:
        written = run.store.read(CARD).decode()
    except FileNotFoundError:
        return False
    return _text(run) not in ("", written)


def is_users(run: Run) -> bool:
    """Return whether the card belongs to the user: it lacks the mark of `write_card`, or is no small regular file."""
    try:
        return _MARK.encode() not in run.store.read(CARD)
    except FileNotFoundError:
        return False
    except RunError:
        return True


def _text(run: Run) -> str:
    """Return the card; empty if the run can have none."""
    fields = {field.name: field for field in declared_fields(run)}
    splits = dict.fromkeys(shard.split for shard in run.plan.shards)
    files = [_data_files(split) for split in splits if run.outcome(split).committed]  # `datasets` refuses empty ones
    if not (fields and files):
        return ""
    columns = _columns(run)
    features = [{"name": name, **_yaml(column)} for name, column in columns.items()]
    name = f"samples-{_digest(run)}"
    front = {
        "configs": [{"config_name": name, "data_files": files}],
        "dataset_info": {"config_name": name, "features": features},
    }
    json_type: pa.DataType = columns["json"]
    table = (fields.get(field.name) or _of_corpus(run, field) for field in json_type)
    rows = (f"| {_markdown(field.name)} | {field.type} | {field.unit} | {field.meaning} |\n" for field in table)
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n{_TEXT}{''.join(rows)}"


def _markdown(text: str) -> str:
    """Return `text` for a cell of a table, so that Markdown makes no column, link, code, formula or HTML of it."""
    return _MARKDOWN.sub(lambda match: f"&#{ord(match[0])};", printable(text))


def _digest(run: Run) -> str:
    """Return a digest of the committed tars, because the cache of `datasets` compares cards, not tars."""
    records = (record for part in run.with_retries for record in part.records())
    return hashlib.sha256("".join(record.tar.sha256 for record in records).encode()).hexdigest()[:12]


def _of_corpus(run: Run, column: pa.Field) -> Field:
    is_json = (run.plan.corpus_types or {}).get(column.name) == "json"
    return Field(column.name, column.type, f"of the corpus{', as JSON text' if is_json else ''}")


def _data_files(split: str) -> dict[str, str]:
    """Return the entry of a split; `datasets` does not accept `all` as a name."""
    return {"split": f"{split}_" if split.lower() == "all" else split, "path": f"{split}-*.tar"}


def _yaml(type: FileType) -> dict[str, Any]:
    """Return `type` as `Features._to_yaml_list` of `datasets` writes it."""
    if isinstance(type, Array):
        if len(type.shape) == 1:
            return {"list": type.dtype}
        return {"dtype": {f"array{len(type.shape)}_d": {"shape": list(type.shape), "dtype": type.dtype}}}
    if isinstance(type, str):
        return {"dtype": type}
    if pa.types.is_struct(type):
        return {"struct": [{"name": field.name, **_yaml(field.type)} for field in type]}
    if pa.types.is_list(type):
        element = _yaml(type.value_type)
        return {"list": element.get("struct") or element.get("dtype", element)}
    return {"dtype": _DTYPES.get(str(type), str(type))}


def _columns(run: Run) -> dict[str, FileType]:
    """Return the type of each column, by name."""
    key, files = _first_sample(run)
    columns: dict[str, FileType] = {"__key__": pa.string(), "__url__": pa.string()}
    for ending, file in files.items():
        try:
            columns[ending] = _file_type(run, ending, file)
        except ValueError as error:
            raise RunError(f"{run.store}: {key}.{ending} is damaged: {error}; run `preprocess verify`") from error
    if "json" not in columns:
        raise RunError(f"{run.store}: the sample {key} has no json; run `preprocess verify`")
    extractor = run.plan.fingerprint.get("extractor", {}).get("init_args", {})
    if extractor.get("store_images") in ("original", True):  # True: of earlier versions
        columns |= dict.fromkeys(_image_endings(run), "image")
    return columns


def _first_sample(run: Run) -> tuple[str, dict[str, BinaryIO]]:
    for record in run.records():
        rows = run.rows(record.shard, ["tar_offset", "tar_bytes"]).drop_null()
        for row in rows.slice(0, 1).to_pylist():
            return open_sample(run.tar_file(row["shard"]), row["tar_offset"], row["tar_bytes"], os.urandom(8))
    raise RunError(f"{run.store} has no committed samples: run it first")


def _file_type(run: Run, ending: str, file: BinaryIO) -> FileType:
    """Return the type of a file of a sample.

    Raises:
        ValueError: the file does not have the format of its ending.
    """
    kind = ending.rpartition(".")[2]
    if kind == "json":
        return _json_type(run, decode_json(file, ()))
    if kind == "npy":
        header = read_header(file)
        return Array(str(header.dtype), (None, *header.shape[1:]))
    if f".{kind}" in IMAGE_SUFFIXES:
        return "image"
    return "video" if kind == "mp4" else pa.string() if kind == "txt" else pa.binary()


def _json_type(run: Run, first: dict[str, Any]) -> pa.DataType:
    types = {name: arrow_type(kind) for name, kind in (run.plan.corpus_types or {}).items()}
    names = sorted({*first, *types})
    types |= {field.name: field.type for field in declared_fields(run)}
    return pa.struct([(name, types[name]) for name in names if name in types])


def _image_endings(run: Run) -> list[str]:
    names = (name for shard in run.plan.shards for name in run.plan.batch(shard.number)["frames"].flatten().to_pylist())
    return sorted({image_ending(name) for name in names})
