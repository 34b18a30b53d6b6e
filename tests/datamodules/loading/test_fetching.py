"""Items whose files are objects of a store: they are fetched ahead, within limits, and checked by their ETags."""

import json
import os
import resource
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules import object_store
from datamodules.corpora.images import Images
from datamodules.corpora.pairs import Columns, Pairs
from datamodules.corpora.phoenix import Phoenix2014T
from datamodules.corpora.tar_images import TarImages
from datamodules.corpora.videos import Videos
from datamodules.corpus import Corpus, Item
from datamodules.daemon_threads import DaemonThreads
from datamodules.errors import EnvironmentFailure, MissingError
from datamodules.loading.fetching import Fetching
from datamodules.loading.image_fetcher import ImageFetcher
from datamodules.loading.pending_failures import PendingFailures
from datamodules.loading.video_fetcher import VideoFetcher, fetch_video, wait_for_video
from datamodules.media.decoding import Decoding
from datamodules.run.folder import Run
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import ShardSize
from datamodules.run.rank import Rank
from support.faulty_proxy import Fault, faulty_proxy
from support.frame_corpora import consume, write_image, write_video
from support.image_files import image_bytes, write_tar
from support.runs import FINGERPRINT, lease, tars, wait_for
from support.s3_server import S3Server

pytest.importorskip("obstore")


def write_images(root: Path) -> Corpus:
    for number in range(9):
        write_image(root / "i" / f"{number}.png", number)
    (root / "i" / "broken.png").write_text("no image")
    return Images(str(root))


def write_videos(root: Path) -> Corpus:
    for number in range(3):
        write_video(root / "videos" / f"{number}.mp4", 5 + number)
    (root / "videos" / "broken.mp4").write_text("no video")
    (root / "videos" / "empty.mp4").write_text("")
    return Videos(str(root))


def write_pairs(root: Path) -> Corpus:
    write_video(root / "a.mp4", 30)
    rows = [{"id": str(k), "video": "a.mp4", "text": "x", "from": k / 5, "to": (k + 1) / 5} for k in range(5)]
    rows += [{"id": "gone", "video": "gone.mp4", "text": "x", "from": None, "to": None}]
    (root / "pairs.json").write_text(json.dumps(rows))
    return Pairs(str(root), f"{root}/pairs.json", Columns(start="from", stop="to"))


def write_phoenix(root: Path) -> Corpus:
    manual = root / "annotations" / "manual"
    manual.mkdir(parents=True)
    rows = [f"{name}|x|-1|-1|Signer01|WEST|im westen" for name in ("a", "b", "c")]
    (manual / "PHOENIX-2014-T.train.corpus.csv").write_text(
        "\n".join(["name|video|start|end|speaker|orth|translation", *rows])
    )
    for name, count in (("a", 5), ("b", 1), ("c", 40)):
        for number in range(count):
            write_image(root / f"features/fullFrame-210x260px/train/{name}/images{number + 1:04d}.png", number)
    return Phoenix2014T(str(root), ["train"])


def write_tars(root: Path) -> Corpus:
    root.mkdir()
    for name, offset in (("a", 0), ("b", 10)):
        write_tar(root / f"{name}.tar", {f"{k + offset}.png": image_bytes(k + offset) for k in range(6)})
    return TarImages(str(root))


CORPORA: dict[str, Callable[[Path], Corpus]] = {
    "images": write_images,
    "videos": write_videos,
    "pairs": write_pairs,
    "phoenix": write_phoenix,
    "tars": write_tars,
}


def moved_to(root: str, corpus: Corpus) -> Corpus:
    """The corpus with another root."""
    moved = object.__new__(type(corpus))
    vars(moved).update(vars(corpus), root=root)
    return moved


def run_over(corpus: Corpus, folder: Path, num_workers: int = 0) -> Run:
    run = open_or_plan(folder, corpus, FINGERPRINT, ShardSize(max_items=4, min_shards=1))
    consume(run, corpus.root, num_workers)
    return run


def failures_of(run: Run) -> dict[str, tuple[str, str]]:
    """By key, the class and the reason of the failed items."""
    rows = [row for shard in run.plan.shards for row in run.table(shard.name).to_pylist()]
    return {row["key"]: (row["reason_class"], row["reason"]) for row in rows if row["reason"]}


@pytest.mark.parametrize("kind", CORPORA)
def test_a_run_over_a_bucket_gives_the_tars_of_one_over_a_folder(kind: str, tmp_path: Path, s3: S3Server) -> None:
    corpus = CORPORA[kind](tmp_path / "corpus")
    bucket = s3.make_bucket()
    s3.upload(tmp_path / "corpus", bucket, "in/")
    of_folder = run_over(corpus, tmp_path / "folder")
    of_bucket = run_over(moved_to(f"s3://{bucket}/in", corpus), tmp_path / "bucket")
    assert tars(tmp_path / "bucket") == tars(tmp_path / "folder")
    assert len(tars(tmp_path / "bucket")) == len(of_folder.plan.shards)
    assert failures_of(of_bucket) == failures_of(of_folder)


def test_a_video_that_proves_that_files_can_be_read_is_fetched_to_the_scratch_of_the_rank(
    tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_videos(tmp_path / "corpus")
    bucket = s3.make_bucket()
    s3.upload(tmp_path / "corpus", bucket)
    run = planned(moved_to(f"s3://{bucket}", corpus), tmp_path / "run")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "full"))
    with Rank(run) as rank:
        opened = lease(rank)
        pending = PendingFailures(rank, f"s3://{bucket}", Decoding())
        pending.confirm(opened.items[1])
        for _ in range(3):
            pending.add_attempt(opened.shard.number, 0, "0.mp4 cannot be read", "io")
        pending.decide()
        assert opened.failed == {0}
        assert list(rank.scratch.iterdir()) == []


def test_workers_fetch_objects(tmp_path: Path, s3: S3Server) -> None:
    corpus = write_videos(tmp_path / "corpus")
    for number in range(9):
        write_image(tmp_path / "corpus" / f"{number}.png", number)
    bucket = s3.make_bucket()
    s3.upload(tmp_path / "corpus", bucket)
    run_over(corpus, tmp_path / "folder")
    run_over(moved_to(f"s3://{bucket}", corpus), tmp_path / "bucket", num_workers=2)
    assert tars(tmp_path / "bucket") == tars(tmp_path / "folder")
    assert not (tmp_path / "bucket" / "work" / "scratch").exists() or not os.listdir(
        tmp_path / "bucket" / "work" / "scratch"
    )


def planned(corpus: Corpus, folder: Path, **size: int) -> Run:
    return open_or_plan(folder, corpus, FINGERPRINT, ShardSize(**{"max_items": 4, "min_shards": 1, **size}))


@pytest.mark.parametrize("kind", ["images", "videos", "phoenix", "tars"])
def test_objects_that_change_or_disappear_after_planning_fail_alone(kind: str, tmp_path: Path, s3: S3Server) -> None:
    corpus = CORPORA[kind](tmp_path / "corpus")
    bucket = s3.make_bucket()
    s3.upload(tmp_path / "corpus", bucket)
    run = planned(moved_to(f"s3://{bucket}", corpus), tmp_path / "run")
    frames = "features/fullFrame-210x260px/train"
    changed, removed, keys = {
        "images": ("i/1.png", "i/2.png", ("i/1", "i/2")),
        "videos": ("videos/1.mp4", "videos/2.mp4", ("videos/1", "videos/2")),
        "phoenix": (f"{frames}/c/images0033.png", f"{frames}/a/images0002.png", ("train/c", "train/a")),
        "tars": ("a.tar", "b.tar", ("1", "11")),
    }[kind]
    content = (tmp_path / "corpus" / changed).read_bytes()
    s3.client.put_object(Bucket=bucket, Key=changed, Body=content[:-1] + b"?")  # of the same size
    s3.client.delete_object(Bucket=bucket, Key=removed)
    consume(run, f"s3://{bucket}", 0)
    failures = failures_of(run)
    assert [failures[key][0] for key in keys] == ["changed", "missing"]
    assert "has changed since it was planned: it has another ETag" in failures[keys[0]][1]
    num_failed = {"images": 3, "videos": 4, "phoenix": 2, "tars": 12}[kind]  # some are broken, and a tar has six images
    assert len(failures) == num_failed


_EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
_DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


@pytest.mark.parametrize(("kind", "part"), [("images", "5.png"), ("videos", "1.mp4")])
@pytest.mark.parametrize(("status", "body"), [(400, _EXPIRED), (403, _EXPIRED)])
def test_expired_credentials_end_the_run_and_fail_no_item(
    kind: str, part: str, status: int, body: bytes, tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = CORPORA[kind](tmp_path / "corpus")
    bucket = s3.make_bucket()
    s3.upload(tmp_path / "corpus", bucket)
    with faulty_proxy(s3.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        run = planned(moved_to(f"s3://{bucket}", corpus), tmp_path / "run")
        proxy.faults += [Fault(method, part, status, body, times=10**9) for method in ("GET", "HEAD")]
        with pytest.raises(EnvironmentFailure, match=r"the credentials are missing, wrong or expired.* ExpiredToken"):
            consume(run, f"s3://{bucket}", 0)
        assert not any("ExpiredToken" in reason for _, reason in failures_of_committed(run))
        proxy.faults.clear()
        consume(run, f"s3://{bucket}", 0)
    assert {key for key, (reason_class, _) in failures_of(run).items() if reason_class != "decode"} == set()
    run_over(corpus, tmp_path / "folder")
    assert tars(tmp_path / "run") == tars(tmp_path / "folder")


def failures_of_committed(run: Run) -> list[tuple[str, str]]:
    committed = [shard for shard in run.plan.shards if shard.name in run.committed()]
    rows = [row for shard in committed for row in run.table(shard.name).to_pylist()]
    return [(row["key"], row["reason"]) for row in rows if row["reason"]]


def test_a_bucket_that_may_not_be_read_ends_the_run_and_fails_no_item(
    tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_images(tmp_path / "corpus")
    bucket = s3.make_bucket()
    s3.upload(tmp_path / "corpus", bucket)
    with faulty_proxy(s3.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        run = planned(moved_to(f"s3://{bucket}", corpus), tmp_path / "run")
        proxy.faults.append(Fault("GET", ".png", 403, _DENIED, times=10**9))
        with pytest.raises(EnvironmentFailure, match=r"items in a row failed.*HTTP 403 AccessDenied: Access Denied"):
            consume(run, f"s3://{bucket}", 0)
        assert failures_of_committed(run) == []
        proxy.faults[:] = [Fault("GET", "/1.png", 403, _DENIED, times=10**9)]  # one object alone
        consume(run, f"s3://{bucket}", 0)
    assert failures_of(run)["i/1"] == ("io", "i/1.png cannot be read: HTTP 403 AccessDenied: Access Denied")


@pytest.mark.parametrize("kind", ["images", "videos"])
def test_a_run_goes_on_after_the_store_did_not_answer(
    kind: str, tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "_MAX_RETRIES", 0)
    monkeypatch.setattr(object_store, "_PAUSE_SECONDS", 0.01)
    corpus = CORPORA[kind](tmp_path / "corpus")
    bucket = s3.make_bucket()
    s3.upload(tmp_path / "corpus", bucket)
    with faulty_proxy(s3.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        run = planned(moved_to(f"s3://{bucket}", corpus), tmp_path / "run")
        proxy.faults += [Fault("GET", "1.", 503, times=4), Fault("GET", "2."), Fault("HEAD", "2.")]
        consume(run, f"s3://{bucket}", 0)
    run_over(corpus, tmp_path / "folder")
    assert tars(tmp_path / "run") == tars(tmp_path / "folder")


@pytest.mark.parametrize(
    ("limits", "expected"), [(Fetching(images=3), 3), (Fetching(image_bytes=250), 2), (Fetching(image_bytes=1), 1)]
)
def test_images_are_fetched_ahead_within_the_limits(
    tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch, limits: Fetching, expected: int
) -> None:
    bucket = s3.make_bucket({f"{number}.png": bytes(100) for number in range(9)})
    items = [Item(f"{number}", "train", "", (f"{number}.png",), cost=100) for number in range(9)]
    with faulty_proxy(s3.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        fetcher = ImageFetcher(f"s3://{bucket}", limits)
        fetcher.expect(items)
        for first in (0, 4):  # those between are dropped
            num_before = len(proxy.requests)
            assert next(fetcher.contents(items[first], lambda: None)) == bytes(100)
            wait_for(lambda num_before=num_before: len(proxy.requests) == num_before + expected)
            names = {path.rpartition("/")[2] for _, path in proxy.requests[num_before:]}
            assert names == {f"{number}.png" for number in range(first, first + expected)}


def test_videos_are_fetched_ahead_within_the_limits_and_deleted(tmp_path: Path, s3: S3Server) -> None:
    bucket = s3.make_bucket({f"v/{number}.mp4": bytes(100) for number in range(9)})
    items = [Item(f"{number}", "train", f"v/{number}.mp4", cost=100) for number in range(9)]
    root, scratch = f"s3://{bucket}", tmp_path

    def files() -> list[str]:
        return sorted(path.name for path in scratch.rglob("*") if path.is_file())

    for limits, expected in ((Fetching(videos=2), 4), (Fetching(video_bytes=250), 2), (Fetching(video_bytes=1), 1)):
        fetcher, started = VideoFetcher(root, limits, 2, lambda: scratch), []
        for row, item in enumerate(items):
            if not fetcher.has_room(item):
                break
            folder = fetcher.start(0, row, item)
            started.append(wait_for_video(folder, item, lambda: None))
        assert [path.read_bytes() for path in started] == [bytes(100)] * expected
        assert files() == [f"{number}.mp4" for number in range(expected)]
        assert fetcher.has_room(items[0])  # another part of a video that is here
        fetcher.start(0, 100, items[0])
        fetcher.discard(0, 0)
        assert len(files()) == expected
        for row in (100, *range(1, expected)):
            fetcher.discard(0, row)
        assert files() == []


def test_a_video_that_is_dropped_while_it_is_fetched_can_be_fetched_anew(
    tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, item = s3.make_bucket({"a.mp4": bytes(100)}), Item("a", "train", "a.mp4", cost=100)
    with faulty_proxy(s3.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        proxy.faults.append(Fault("GET", "a.mp4", 503, seconds=0.3))
        fetcher = VideoFetcher(f"s3://{bucket}", Fetching(), 1, lambda: tmp_path)
        fetcher.start(0, 0, item)
        wait_for(lambda: len(proxy.requests) == 2)
        fetcher.discard(0, 0)
        assert wait_for_video(fetcher.start(0, 0, item), item, lambda: None).read_bytes() == bytes(100)
        proxy.wait()
        fetcher.discard(0, 0)
        assert list((tmp_path / "videos").iterdir()) == []


def test_a_video_is_needed_before_a_thread_may_ask(
    tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = DaemonThreads.submit

    def submitted_and_done(threads: DaemonThreads, task: Callable[[], object]) -> Any:
        future = submit(threads, task)
        future.exception(10)  # the rank's thread goes on after it
        return future

    monkeypatch.setattr(DaemonThreads, "submit", submitted_and_done)
    item = Item("a", "train", "a.mp4", cost=100)
    fetcher = VideoFetcher(f"s3://{s3.make_bucket({'a.mp4': bytes(100)})}", Fetching(), 1, lambda: tmp_path)
    assert (Path(fetcher.start(0, 0, item)) / "whole" / "a.mp4").read_bytes() == bytes(100)


def test_every_attempt_at_a_part_of_a_video_asks_the_store_again(tmp_path: Path, s3: S3Server) -> None:
    bucket, item = s3.make_bucket(), Item("a", "train", "a.mp4", cost=100)
    fetcher = VideoFetcher(f"s3://{bucket}", Fetching(), 1, lambda: tmp_path)
    for row in (0, 1):
        with pytest.raises(MissingError, match=r"a\.mp4 is missing"):
            wait_for_video(fetcher.start(0, row, item), item, lambda: None)
    fetcher.discard(0, 0)  # the other part keeps the folder
    s3.client.put_object(Bucket=bucket, Key="a.mp4", Body=bytes(100))
    assert wait_for_video(fetcher.start(0, 0, item), item, lambda: None).read_bytes() == bytes(100)


def test_threads_end_with_their_object_and_give_errors_to_who_asks() -> None:
    before = {*threading.enumerate()}  # some may be of fetchers of other tests, and about to end
    threads = DaemonThreads(8)
    assert threads.submit(lambda: 3).result() == 3
    own = [thread for thread in threading.enumerate() if thread not in before]
    assert len(own) == 8
    with pytest.raises(ZeroDivisionError):
        threads.submit(lambda: 1 // 0).result()
    del threads
    for thread in own:
        thread.join(30)
    assert not any(thread.is_alive() for thread in own)


def test_a_full_scratch_folder_is_the_environments_fault(tmp_path: Path, s3: S3Server) -> None:
    bucket = s3.make_bucket({"a.mp4": bytes(5000)})
    item = Item("a", "train", "a.mp4", cost=5000)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))  # as a disk with so much space
    try:
        with pytest.raises(EnvironmentFailure, match=r"the scratch folder .* cannot be written to: File too large"):
            fetch_video(str(tmp_path), f"s3://{bucket}", item, lambda: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["images", "videos"])
def test_no_worker_times_out_while_the_store_does_not_answer(
    kind: str, tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = CORPORA[kind](tmp_path / "corpus")
    bucket = s3.make_bucket()
    s3.upload(tmp_path / "corpus", bucket)
    with faulty_proxy(s3.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        run = planned(moved_to(f"s3://{bucket}", corpus), tmp_path / "run")
        # each request is tried four times by obstore, then again after 1, 2 and 4 s
        proxy.faults += [Fault(method, "1.", 503, times=12) for method in ("GET", "HEAD")]
        consume(run, f"s3://{bucket}", 1, timeout_seconds=2.0)
    assert {reason_class for reason_class, _ in failures_of(run).values()} == {"decode"}
