import errno
import io
import os
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset

from datamodules.corpus import Item, key_from_path
from datamodules.errors import EnvironmentFailure, RunError
from datamodules.object_store import StoreUnavailableError
from datamodules.run.folder import Run
from datamodules.run.reader import CommittedSamples, open_sample, read_sample
from datamodules.run.record import ShardFile
from datamodules.run.store import Folder
from datamodules.tar_members import split_name
from support.run_paths import folder_of
from support.runs import make_run, members_of, some_items, work
from support.spies import spied

NAMES = ["plain", "a.v1/clip.mp4_3", "ü/日本 語", "A/Upper", "x" * 150, "bad", "last"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    items = [Item(key_from_path(name), "train", name, ("f.png",)) for name in NAMES]
    run = make_run(tmp_path, [*items, *some_items(3, "dev")], per_shard=3)
    work(tmp_path)
    return run


def expected(run: Run, split: str = "train") -> list[tuple[str, dict[str, bytes]]]:
    items = [item for shard in run.plan.shards if shard.split == split for item in run.plan.items(shard.number)]
    return [(item.key, members_of(item)) for item in items if item.key != "bad"]


def test_every_committed_sample_is_read_once_in_planned_order(run: Run) -> None:
    committed = CommittedSamples(run, "train")
    assert list(committed) == expected(run)
    assert len(committed) == len(NAMES) - 1
    assert committed[4] == expected(run)[4]
    assert list(CommittedSamples(run)) == expected(run) + expected(run, "dev")


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_stock_webdataset_reads_the_same_keys_and_bytes(run: Run) -> None:  # it leaves its files open
    dataset = webdataset.WebDataset(
        [str(path) for path in sorted(folder_of(run).glob("train-*.tar"))],
        shardshuffle=False,
        nodesplitter=webdataset.split_by_node,
    )
    samples = [
        (sample["__key__"], {end: data for end, data in sample.items() if not end.startswith("__")})
        for sample in dataset
    ]
    assert samples == expected(run)


@pytest.mark.filterwarnings("ignore")  # its own
def test_hugging_face_datasets_streams_the_same_keys(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    files = [str(path) for path in sorted(folder_of(run).glob("train-*.tar"))]
    stream = datasets.load_dataset("webdataset", data_files={"train": files}, split="train", streaming=True)
    assert [(sample["__key__"], sample["json"]["key"]) for sample in stream] == [(k, k) for k, _ in expected(run)]


def test_files_that_are_opened_hold_the_same_bytes_and_are_read_where_they_are_sought(run: Run) -> None:
    committed = CommittedSamples(run)
    for index, (key, members) in enumerate(committed):
        key_read, files = committed.open(index)
        assert (key_read, {ending: file.read() for ending, file in files.items()}) == (key, members)
    [noise, *_] = files.values()
    whole = members["values.bin"]
    assert (noise.seek(-700, os.SEEK_END), noise.read(100), noise.tell()) == (len(whole) - 700, whole[-700:-600], 680)
    assert (noise.seek(3), noise.readline()) == (3, whole[3:].splitlines(keepends=True)[0])
    assert (noise.seek(len(whole) + 5), noise.read()) == (len(whole) + 5, b"")


def test_a_file_that_is_opened_is_not_read_whole(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    committed = CommittedSamples(run)
    sizes: list[int] = []
    noise = committed[0][1]["values.bin"]
    monkeypatch.setattr(os, "pread", spied(os.pread, lambda _, num_bytes, *__: sizes.append(num_bytes)))
    files = committed.open(0)[1]
    assert 0 < sum(sizes) < len(noise)
    assert files["values.bin"].read(5) == noise[:5]


def test_a_reader_can_be_sent_to_another_process(run: Run) -> None:
    committed = CommittedSamples(run, "train")
    assert list(pickle.loads(pickle.dumps(committed))) == list(committed)


def test_more_tars_than_the_open_file_limit_can_be_read(tmp_path: Path) -> None:
    run = make_run(tmp_path, 80, per_shard=1)
    work(tmp_path)
    committed = CommittedSamples(run)
    order = np.random.default_rng(0).permutation(80)
    assert [committed[i][0] for i in order] == [some_items(80)[i].key for i in order]


def test_a_new_run_in_the_same_folder_is_not_read_through_old_open_files(tmp_path: Path) -> None:
    make_run(tmp_path / "run", 3)
    work(tmp_path / "run")
    assert CommittedSamples(Run(tmp_path / "run"))[0][0] == "train/item000"
    shutil.rmtree(tmp_path / "run")
    make_run(tmp_path / "run", some_items(6)[3:])
    work(tmp_path / "run")
    assert CommittedSamples(Run(tmp_path / "run"))[0][0] == "train/item003"


@pytest.mark.parametrize(
    ("name", "parts"),
    [("a/b.c/d.keypoints.npy", ("a/b.c/d", "keypoints.npy")), ("d.json", ("d", "json")), ("d", ("d", ""))],
)
def test_a_name_is_split_as_webdataset_splits_it(name: str, parts: tuple[str, str]) -> None:
    assert split_name(name) == parts


def test_a_split_that_was_not_planned_fails(run: Run) -> None:
    with pytest.raises(RunError, match=r"has no split 'test'; it has dev, train"):
        CommittedSamples(run, "test")


def test_a_run_with_nothing_committed_fails(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no shard is committed in .* of split 'train' yet: run it first"):
        CommittedSamples(make_run(tmp_path, 3), "train")


def test_excluded_samples_are_left_out_of_shards_with_all_some_or_no_failed_items(tmp_path: Path) -> None:
    keys = ["bad-a", "bad-b", "c", "bad-d", "e", "f", "g", "h"]
    run = make_run(tmp_path, [Item(key, "train", key, ("f.png",)) for key in keys], per_shard=2)
    work(tmp_path)
    samples = CommittedSamples(run, "train", {"bad-a", "c", "e", "h"})
    assert [key for key, _ in samples] == ["f", "g"]
    assert len(samples) == 2
    assert [tar.shard for tar in samples.tars] == ["train-000002", "train-000003"]
    assert len(CommittedSamples(run, exclude=set(keys))) == 0


def test_a_split_of_which_everything_failed_fails(tmp_path: Path) -> None:
    run = make_run(tmp_path, [Item("bad", "train", "bad", ("f.png",))])
    work(tmp_path)
    with pytest.raises(RunError, match="has no samples: all items of its committed shards failed"):
        CommittedSamples(run)


@pytest.mark.parametrize("damage", ["missing", "cut", "within", "zeros"])
def test_a_damaged_tar_fails(run: Run, damage: str) -> None:
    tar, committed = folder_of(run) / "train-000000.tar", CommittedSamples(run, "train")
    size = tar.stat().st_size
    [first, *_] = pq.read_table(folder_of(run) / "tables" / "train-000000.parquet")["tar_bytes"].to_pylist()
    if damage == "missing":
        tar.unlink()
    elif damage == "zeros":
        tar.write_bytes(bytes(size))
    else:
        tar.write_bytes(tar.read_bytes()[: {"cut": 700, "within": first - 1024}[damage]])
    with pytest.raises(RunError, match="preprocess verify"):
        committed[0]
    with pytest.raises(RunError, match="preprocess verify"):
        [file.read() for file in committed.open(0)[1].values()]


@pytest.mark.parametrize("damage", ["missing", "text"])
def test_a_damaged_table_fails(run: Run, damage: str) -> None:
    table = folder_of(run) / "tables" / "train-000000.parquet"
    if damage == "missing":
        table.unlink()
    else:
        table.write_text("no parquet")
    with pytest.raises(RunError, match=r"train-000000\.parquet cannot be read.*preprocess verify"):
        CommittedSamples(run)


def tar_of(folder: Path, *members: Any) -> tuple[ShardFile, int]:
    """Write a tar with four bytes per (name, fields of its TarInfo); return the shard's file and its size."""
    path = folder / "train-000000.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, fields in members:
            info = tarfile.TarInfo(name)
            info.size = 4
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(b"1234") if info.isreg() else None)
        size = tar.offset
    return ShardFile(Folder(folder), "train-000000", "tar"), size


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("../x.json", {})], r"'\.\./x' cannot be a key"),
        ([("/home/x/photo.json", {})], "'/home/x/photo' cannot be a key"),
        ([("a.jpg/../../x", {})], "cannot be a key"),
        ([("a.jpg/../../x.json", {})], "cannot be a key"),
        ([("a\n.json", {})], "cannot be a key"),
        ([("a.json", {}), ("b.json", {})], "the sample a has a file 'b.json'"),
        ([("a.json", {}), ("a.json", {})], "the sample a has a file 'a.json'"),
        ([("a", {})], "the sample a has a file 'a'"),
        ([("a.json", {"type": tarfile.SYMTYPE, "size": 0, "linkname": "/etc/passwd"})], "is a link"),
        ([("a.json", {"type": tarfile.LNKTYPE, "size": 0, "linkname": "/etc/passwd"})], "is a link"),
        ([("a.json", {"type": tarfile.FIFOTYPE, "size": 0})], "is a link, a device"),
        ([("a.json", {"pax_headers": {"size": "1000000000000"}})], "is cut off"),
        ([("a.json", {"pax_headers": {"size": "-1024"}})], "gives the size '-1024'"),
        ([("a.json", {"pax_headers": {"path": "../x.json"}})], "cannot be a key"),
        ([("a.json", {"pax_headers": {"GNU.sparse.realsize": "1000000000000"}})], "a sparse file"),
        ([], "it has no sample at this offset"),
    ],
)
def test_invalid_samples_are_refused_whether_read_or_opened(
    tmp_path: Path,
    members: list[tuple[str, dict[Any, Any]] | tuple[str, dict[str, Any]] | tuple[str, dict[str, dict[str, str]]]],
    message: str,
) -> None:
    file, size = tar_of(tmp_path, *members)
    for read in (read_sample, open_sample):
        with pytest.raises(RunError, match=rf"train-000000\.tar cannot be read at byte 0: .*{message}"):
            read(file, 0, size)


def test_a_sample_larger_than_its_tar_or_of_another_key_is_refused_before_allocation(tmp_path: Path) -> None:
    file, size = tar_of(tmp_path, ("a.json", {}))
    assert read_sample(file, 0, size, key="a") == ("a", {"json": b"1234"})
    for read in (read_sample, open_sample):
        with pytest.raises(RunError, match=r"the sample b has a file 'a\.json'"):
            read(file, 0, size, key="b")
        for offset, wrong in ((0, 10**15), (10**15, size), (-1, size)):
            with pytest.raises(RunError, match="cannot be read at byte"):
                read(file, offset, wrong)


@pytest.mark.parametrize("read", [CommittedSamples.__getitem__, CommittedSamples.open])
def test_a_store_that_does_not_answer_is_no_damaged_tar(run: Run, monkeypatch: pytest.MonkeyPatch, read: Any) -> None:
    def silent(*_: Any) -> Any:
        raise StoreUnavailableError(errno.EHOSTUNREACH, "the store does not answer", "s3://bucket/run")

    committed = CommittedSamples(run)
    monkeypatch.setattr(Folder, "open", silent)
    with pytest.raises(EnvironmentFailure, match=r"train-000000\.tar cannot be read: the store does not answer"):
        read(committed, 0)
