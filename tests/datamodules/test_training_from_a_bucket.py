"""Training batches of a run in a bucket, behind a proxy that records, refuses and loses requests."""

import logging
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules import FramesDataModule, object_store
from datamodules.errors import ConfigError, EnvironmentFailure, RunError
from datamodules.run.bucket import Bucket
from datamodules.run.folder import Run
from datamodules.samples.keypoints import KeypointSamples
from datamodules.training import read_ahead
from support.bucket_samples import BucketSamples
from support.faulty_proxy import Fault, FaultyProxy, faulty_proxy
from support.keypoint_runs import MadeItems, make_run, retry_made
from support.run_paths import folder_of
from support.s3_server import S3Server

pytest.importorskip("obstore")

_SPLITS = {"train": 23, "dev": 5}
_EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in a folder, with a failure of which one was tried again."""
    folder = tmp_path_factory.mktemp("shards")
    make_run(folder, MadeItems(_SPLITS), failed=("train/v3", "train/v8"), per_shard=4)
    retry_made(folder, failed=("train/v8",))
    return folder


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy through which this test reaches the S3 server. Nobody waits long."""
    monkeypatch.setattr(object_store, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(object_store, "_MAX_RETRIES", 0)
    with faulty_proxy(s3.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.fixture
def bucket(proxy: FaultyProxy, s3: S3Server, shards: Path) -> str:
    """The URL of a copy of the run in a bucket behind the proxy."""
    name = s3.make_bucket()
    s3.upload(shards, name, "run/")
    return f"s3://{name}/run"


def data_of(run: Path | str, **options: Any) -> FramesDataModule:
    options = {"num_workers": 0, "batch_size": 4, **options}
    samples = BucketSamples() if options["num_workers"] else KeypointSamples()
    return FramesDataModule(shards=run, samples=samples, **options)


def assert_equal(batches: Any, expected: Any) -> None:
    batches, expected = list(batches), list(expected)
    assert [batch["key"] for batch in batches] == [batch["key"] for batch in expected]
    for batch, other in zip(batches, expected, strict=True):
        assert batch.keys() == other.keys()
        for name, value in batch.items():
            assert is_equal(value, other[name])


def is_equal(value: Any, other: Any) -> bool:
    if isinstance(value, dict):
        return value.keys() == other.keys() and all(is_equal(value[name], other[name]) for name in value)
    return torch.equal(value, other) if isinstance(value, torch.Tensor) else bool(value == other)


def tar_requests(proxy: FaultyProxy) -> list[str]:
    return [path for method, path in proxy.requests if method in ("GET", "HEAD") and path.endswith(".tar")]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_those_of_the_same_run_in_a_folder(bucket: str, shards: Path, num_workers: int) -> None:
    loader, expected = data_of(bucket, num_workers=num_workers).train_dataloader(), data_of(shards).train_dataloader()
    for epoch in range(2):
        for one in (loader, expected):
            one.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        assert_equal(loader, expected)
    assert_equal(data_of(bucket).val_dataloader(), data_of(shards).val_dataloader())


@pytest.mark.parametrize("cached", [False, True])
def test_sequential_reading_takes_a_request_for_each_part_of_a_shard(
    bucket: str, shards: Path, proxy: FaultyProxy, tmp_path: Path, cached: bool
) -> None:
    cache = {"cache_dir": tmp_path / "cache"} if cached else {}
    loader = data_of(bucket, reading="sequential", shuffle_buffer=8, **cache).train_dataloader()
    assert_equal(loader, data_of(shards, reading="sequential", shuffle_buffer=8).train_dataloader())
    assert len(tar_requests(proxy)) <= 7 + 3 + 2  # tars, buffers, and samples of a retry among those of a shard


@pytest.mark.parametrize("join", ["inner", "outer"])
def test_runs_in_a_bucket_and_a_folder_are_joined_as_runs_in_folders(
    bucket: str, shards: Path, tmp_path: Path, join: Any
) -> None:
    make_run(tmp_path, MadeItems({"train": 9}), layout=75)
    kinds = {"body": BucketSamples(), "face": BucketSamples()}

    def batches(body: Any, **cache: Any) -> list[Any]:
        runs = {"body": body, "face": tmp_path}
        data = FramesDataModule(shards=runs, samples=kinds, num_workers=0, batch_size=4, join=join, **cache)
        return list(data.train_dataloader())

    expected = batches(shards)
    assert sum(len(batch["key"]) for batch in expected) == {"inner": 8, "outer": 23}[join]
    assert_equal(batches(bucket), expected)
    assert_equal(batches(bucket, cache_dir=tmp_path / "cache"), expected)
    assert len(list((tmp_path / "cache").glob("*"))) > 0


@pytest.mark.parametrize("reading", ["random", "sequential"])
def test_runs_in_a_bucket_and_a_folder_are_mixed_as_runs_in_folders(
    bucket: str, shards: Path, tmp_path: Path, proxy: FaultyProxy, reading: Any
) -> None:
    make_run(tmp_path / "other", MadeItems({"train": 9}, prefix="other"))

    def batches(first: Any, **cache: Any) -> list[Any]:
        runs, options = [first, tmp_path / "other"], {"weights": [1, 2], "reading": reading, **cache}
        return list(FramesDataModule(shards=runs, samples=BucketSamples(), num_workers=0, **options).train_dataloader())

    expected = batches(shards)
    assert_equal(batches(bucket), expected)
    num_requests = len(tar_requests(proxy))
    assert_equal(batches(bucket, cache_dir=tmp_path / "cache"), expected)
    names = [path.rpartition("/")[2] for path in tar_requests(proxy)[num_requests:]]
    assert len(names) == len(set(names))  # whole tars, and those of the bucket alone are in the cache
    assert len([path for path in (tmp_path / "cache").iterdir() if path.suffix == ".tar"]) == len(names)


def test_excluded_samples_are_not_requested(bucket: str, shards: Path, proxy: FaultyProxy, tmp_path: Path) -> None:
    flagged = tmp_path / "flagged.txt"
    flagged.write_text("dev/v4\ntrain/v0\n")  # v4 is alone in its shard
    loader = data_of(bucket, exclude=flagged).val_dataloader()
    assert_equal(loader, data_of(shards, exclude=flagged).val_dataloader())
    assert sum(len(batch["key"]) for batch in loader) == 4
    assert {path.rpartition("/")[2] for path in tar_requests(proxy)} == {"dev-000000.tar"}


def test_an_epoch_takes_at_most_one_request_per_sample(bucket: str, proxy: FaultyProxy) -> None:
    loader = data_of(bucket).train_dataloader()
    assert tar_requests(proxy) == []
    num_samples = sum(len(batch["key"]) for batch in loader)
    assert num_samples / 2 < len(tar_requests(proxy)) <= num_samples == 22


def test_samples_that_follow_one_another_take_one_request(bucket: str, proxy: FaultyProxy) -> None:
    loader = data_of(bucket, batch_size=4).val_dataloader()
    assert sum(len(batch["key"]) for batch in loader) == 5
    assert len(tar_requests(proxy)) == 3  # batches of 2 and 3, shards of 4 and 1


def test_opening_reads_the_plan_the_listing_and_the_tables_of_the_split(bucket: str, proxy: FaultyProxy) -> None:
    data_of(bucket).val_dataloader()
    tables = [path for _, path in proxy.requests if "/tables/dev" in path]
    assert len(set(tables)) == 2
    others = ("/tables/train-0", "/records/train-0", "/records/dev-0")
    assert not [path for _, path in proxy.requests if any(other in path for other in others)]
    assert (
        len([path for _, path in proxy.requests if path.endswith("/records/")]) == 3
    )  # of the run, of the retry, and whether all are done


def test_setting_up_and_loading_open_a_split_once(bucket: str, proxy: FaultyProxy) -> None:
    data = data_of(bucket)
    data.setup("fit")
    num_reads = sum("/tables/" in path for _, path in proxy.requests)
    data.train_dataloader()
    assert sum("/tables/" in path for _, path in proxy.requests) == num_reads
    data.setup("fit")
    assert sum("/tables/" in path for _, path in proxy.requests) > num_reads  # shards may have been committed


def test_the_samples_of_a_batch_and_of_the_next_are_in_flight_together(
    bucket: str, shards: Path, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With as many requests in sequence, 20 x 50 ms would pass."""
    peaks: list[int] = []
    request = proxy.request

    def counting(method: str, path: str) -> Any:
        peaks.append(proxy._num_open + 1)
        return request(method, path)

    loader = data_of(bucket, batch_size=6).train_dataloader()
    proxy.latency_seconds = 0.05
    monkeypatch.setattr(proxy, "request", counting)
    assert_equal(loader, data_of(shards, batch_size=6).train_dataloader())
    assert 6 < max(peaks) <= Bucket.num_reads_at_once


def test_read_ahead_is_bounded_in_bytes(
    bucket: str, shards: Path, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "_GROUP_BYTES", 1)
    asked: list[list[int]] = []
    ask = read_ahead.ReadAhead._ask

    def spied(self: Any, indices: list[int]) -> Any:
        asked.append(indices)
        return ask(self, indices)

    monkeypatch.setattr(read_ahead.ReadAhead, "_ask", spied)
    assert_equal(data_of(bucket).train_dataloader(), data_of(shards).train_dataloader())
    assert [len(indices) for indices in asked] == [1] * 22  # each sample once


def test_a_batch_that_was_not_announced_is_read_all_the_same(bucket: str, shards: Path) -> None:
    """As when an epoch is left early, and another one begins."""
    batches, expected = (data_of(run).train_dataloader().dataset for run in (bucket, shards))
    for indices in ([3, 1], [2, 0]):
        assert_equal([batches[indices, [7, 5]]], [expected[indices]])


def test_kinds_that_open_their_files_get_files(bucket: str, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KeypointSamples, "opens_files", True)
    decode = KeypointSamples.decode
    read = lambda self, key, files: decode(self, key, {name: file.read() for name, file in files.items()})  # noqa: E731
    monkeypatch.setattr(KeypointSamples, "decode", read)
    for opened_bytes in (1, 8 << 20):
        monkeypatch.setattr(read_ahead, "_OPENED_BYTES", opened_bytes)
        assert_equal(data_of(bucket).train_dataloader(), data_of(shards).train_dataloader())


def test_an_outage_of_the_store_is_survived(bucket: str, shards: Path, proxy: FaultyProxy) -> None:
    loader = data_of(bucket).train_dataloader()
    proxy.faults.append(Fault("GET", ".tar", status=503, times=30))
    proxy.faults.append(Fault("GET", ".tar", times=5))  # and replies that are lost
    assert_equal(loader, data_of(shards).train_dataloader())


def test_training_waits_longer_than_opening(bucket: str) -> None:
    data = data_of(bucket)
    data.setup("fit")
    for loader in (data.train_dataloader(), data.val_dataloader()):
        store = pickle.loads(pickle.dumps(loader.dataset))._committed.tars[0].store  # type: ignore[union-attr]
        assert store._patience_seconds == Bucket.patience_seconds
    assert Run(bucket).store._patience_seconds < 60  # type: ignore[attr-defined]


def test_what_workers_are_sent_holds_no_credentials(bucket: str, s3: S3Server) -> None:
    loader = data_of(bucket).train_dataloader()
    next(iter(loader))
    assert s3.environment["AWS_SECRET_ACCESS_KEY"].encode() not in pickle.dumps(loader.dataset)


def test_expired_credentials_end_the_training_with_the_url(bucket: str, proxy: FaultyProxy) -> None:
    loader = data_of(bucket).train_dataloader()
    proxy.faults.append(Fault("GET", ".tar", status=400, body=_EXPIRED, times=100))
    message = (
        rf"{bucket}/train-.*\.tar cannot be read: the credentials are missing, wrong or expired\. HTTP 400 Expired"
    )
    with pytest.raises(EnvironmentFailure, match=message):
        list(loader)


def test_expired_credentials_end_the_opening_with_the_url(bucket: str, proxy: FaultyProxy) -> None:
    proxy.faults += [Fault(m, "tables", status=400, body=_EXPIRED, times=100) for m in ("GET", "HEAD")]
    with pytest.raises(EnvironmentFailure, match=rf"{bucket}/tables/train-.* cannot be read: the credentials are"):
        data_of(bucket).train_dataloader()


def test_a_tar_that_was_replaced_ends_the_training_with_the_url(bucket: str, s3: S3Server, shards: Path) -> None:
    loader = data_of(bucket).train_dataloader()
    content = (shards / "train-000001.tar").read_bytes()
    s3.client.put_object(Bucket=bucket.split("/")[2], Key="run/train-000001.tar", Body=content[::-1])
    with pytest.raises(RunError, match=rf"^{bucket}/train-000001\.tar was replaced after this run was opened"):
        list(loader)


def test_a_tar_that_is_gone_ends_the_training_with_the_url(bucket: str, s3: S3Server) -> None:
    loader = data_of(bucket).train_dataloader()
    s3.client.delete_object(Bucket=bucket.split("/")[2], Key="run/train-000001.tar")
    with pytest.raises(RunError, match=rf"^{bucket}/train-000001\.tar cannot be read at byte .*preprocess verify"):
        list(loader)


@pytest.mark.parametrize("is_staged", [False, True])
def test_a_tar_that_moves_while_training_is_still_read(
    bucket: str, shards: Path, s3: S3Server, is_staged: bool
) -> None:
    """Published by a successor of its rank, or moved to `superseded/` by a retry."""
    name, client = bucket.split("/")[2], s3.client
    final = {"Bucket": name, "Key": "run/train-000001.tar"}
    rank = Run(bucket).record("train-000001").rank
    folder, end = ("work/staging", f".{rank}") if is_staged else ("superseded", "")
    other = {"Bucket": name, "Key": f"run/{folder}/train-000001{end}.tar"}
    source, target = (other, final) if is_staged else (final, other)
    if is_staged:
        client.copy_object(CopySource=final, **other)
        client.delete_object(**final)
    loader = data_of(bucket).train_dataloader()
    if is_staged:
        assert sum(len(batch["key"]) for batch in loader) == 22
    client.copy_object(CopySource=source, **target)
    client.delete_object(**source)
    assert_equal(loader, data_of(shards).train_dataloader())


def test_a_missing_bucket_or_run_is_named(bucket: str, proxy: FaultyProxy) -> None:
    with pytest.raises(RunError, match=rf"{bucket}/none is no run: it has no plan\.arrow"):
        data_of(f"{bucket}/none").setup("fit")


def test_a_cache_is_refused_where_it_has_no_effect(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^cache_dir has no effect without a run in a bucket\. Leave it out$"):
        data_of(shards, cache_dir=tmp_path).setup("fit")
    with pytest.raises(ConfigError, match=r"^cache_bytes = 5 must be 1 or more, and needs cache_dir="):
        data_of(shards, cache_bytes=5).setup("fit")


def test_cached_tars_are_requested_once_by_all_workers(
    bucket: str, shards: Path, proxy: FaultyProxy, tmp_path: Path
) -> None:
    loader = data_of(bucket, cache_dir=tmp_path / "cache", num_workers=2).train_dataloader()
    for _ in range(2):
        assert_equal(loader, data_of(shards).train_dataloader())
    requests = tar_requests(proxy)
    assert len(requests) == len(set(requests)) == 7
    assert_equal(data_of(bucket, cache_dir=tmp_path / "cache").train_dataloader(), data_of(shards).train_dataloader())
    assert tar_requests(proxy) == requests


def test_nothing_is_written_without_a_cache(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    list(data_of(bucket).train_dataloader())
    assert os.listdir(tmp_path) == []


def test_a_cache_smaller_than_the_split_gives_a_warning_and_the_same_batches(
    bucket: str, shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    num_bytes = 2 * max(path.stat().st_size for path in shards.glob("*.tar"))
    with caplog.at_level(logging.WARNING):
        loader = data_of(bucket, cache_dir=tmp_path, cache_bytes=num_bytes).train_dataloader()
    assert f"more than cache_bytes = {num_bytes:,}" in caplog.text
    assert_equal(loader, data_of(shards).train_dataloader())
    assert 0 < sum(path.stat().st_size for path in tmp_path.iterdir()) <= num_bytes
    assert folder_of(Run(shards)).exists()
