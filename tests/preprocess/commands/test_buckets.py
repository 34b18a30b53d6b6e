"""Commands on runs in buckets do what they do on the same runs in folders, and those that only read change nothing."""

import json
import os
import signal
import time
from pathlib import Path
from uuid import uuid4

import pytest

from datamodules.card import write_card
from datamodules.errors import ConfigError, RunError
from datamodules.object_store import open_object_store
from datamodules.run.bucket import open_store
from datamodules.run.folder import Run
from datamodules.run.keys import planned_keys
from datamodules.run.reader import CommittedSamples
from preprocess.cli import main
from preprocess.commands.merge import merge
from preprocess.integrity import verify
from support.fork_server import ForkServer
from support.image_files import image_bytes
from support.keypoint_runs import MadeItems, make_run
from support.retry_runs import do, make_failing_run, open_retry
from support.run_paths import folder_of
from support.runs import tars
from support.s3_server import S3Server

pytest.importorskip("obstore")

KIND = {"samples": {"class_path": "datamodules.samples.keypoints.KeypointSamples"}}
CORPUS = MadeItems({"train": 3, "dev": 1})
FAILED = "train/v1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of four items, one of which failed."""
    run = make_run(tmp_path / "run", CORPUS, failed=(FAILED,), fingerprint=KIND)
    write_card(run)
    return folder_of(run)


def new_url() -> str:
    """Return the URL of a prefix without objects, in the memory of this process."""
    return f"memory://test-{uuid4().hex[:8]}/run"


def copied(folder: Path) -> str:
    """Copy a run into a bucket, and return its URL."""
    store = open_store(url := new_url())
    for path in folder.rglob("*"):
        if path.is_file():
            store.replace(path.relative_to(folder).as_posix(), path.read_bytes())
    return url


def contents(url: str) -> dict[str, bytes]:
    """Return the content of all objects below a URL, by name."""
    store = open_store(url)
    return {name: store.open(name).readall() for name in versions(url)}


def versions(url: str) -> dict[str, str]:
    """Return ETag and time of all objects below a URL, by name."""
    import obstore

    pages = obstore.list(open_object_store(url))
    return {found["path"]: f"{found['e_tag']} {found['last_modified']}" for page in pages for found in page}


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of all files below a folder, by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shown(arguments: list[str], location: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Run a command on the run at `location`; return its exit status and what it prints, with `O` for the location."""
    status = main([argument.format(location) for argument in arguments])
    return status, [line.rstrip() for line in capsys.readouterr().out.replace(location, "O").splitlines()]


@pytest.mark.parametrize(
    "arguments",
    [["view", "{}"], ["view", "{}", "train/v0"], ["failures", "{}"], ["failures", "{}", "--json"], ["verify", "{}"]],
    ids=" ".join,
)
def test_a_command_that_reads_says_the_same_of_a_bucket_and_changes_nothing(
    folder: Path, arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    url = copied(folder)
    before = versions(url)
    expected = shown(arguments, str(folder), capsys)
    assert shown(arguments, url, capsys) == expected
    assert versions(url) == before


def test_the_status_of_a_bucket_is_that_of_the_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = copied(folder)
    here, there = (json.loads(shown(["status", "{}", "--json"], place, capsys)[1][0]) for place in (str(folder), url))
    for status in (here, there):
        assert status.pop("disk_free_bytes") > 0
    assert (here.pop("silent_seconds"), there.pop("silent_seconds")) == (15, 60)  # heartbeats every 2 and every 20 s
    assert there == here
    assert (there["items"], there["failed"]) == (3, 1)


@pytest.mark.parametrize("dest", ["folder", "bucket"])
def test_an_export_of_a_bucket_has_the_files_of_one_of_the_folder(
    folder: Path, tmp_path: Path, dest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["export", str(folder), "--format", "jsonl", "--dest", str(tmp_path / "expected")])
    capsys.readouterr()
    target = str(tmp_path / "out") if dest == "folder" else new_url()
    export = ["export", copied(folder), "--format", "jsonl", "--dest", target]
    assert main(export) == 0
    names = ["train.jsonl", "train_statistics.json", "dev.jsonl", "dev_statistics.json"]
    assert capsys.readouterr().out.splitlines() == [f"{target}/{name}" for name in names]
    assert (files(Path(target)) if dest == "folder" else contents(target)) == files(tmp_path / "expected")
    assert main(export) == 2
    assert ("exists" if dest == "folder" else f"--dest {target} is not empty") in capsys.readouterr().err


def test_an_export_that_fails_leaves_nothing_in_the_bucket(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dest = new_url()
    assert main(["export", str(folder), "--format", "mot", "--dest", dest]) == 2
    assert "choose another --format" in capsys.readouterr().err
    assert contents(dest) == {}


def test_samples_are_drawn_from_a_bucket_to_a_bucket(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dest = new_url()
    assert main(["visualize", copied(folder), "--samples", "1", "--dest", dest]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{dest}/train/v0.png"]
    assert contents(dest)["train/v0.png"].startswith(b"\x89PNG")


def test_a_folder_and_a_bucket_merge_into_either(folder: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", MadeItems({"train": 3}, prefix="w"), failed=("train/w0",), fingerprint=KIND)
    expected = merge([folder, folder_of(other)], tmp_path / "expected")
    url, dest = copied(folder_of(other)), new_url()
    before = versions(url)

    merge([folder, url], tmp_path / "merged")
    merge([folder, url], dest)

    assert files(tmp_path / "merged") == files(folder_of(expected))
    assert contents(dest) == files(folder_of(expected))
    assert list(verify(Run(dest))) == []
    assert versions(url) == before
    with pytest.raises(ConfigError, match=f"--dest {dest} is not empty"):
        merge([folder, url], dest)


def test_runs_of_one_bucket_merge_with_their_retries(tmp_path: Path, s3: S3Server) -> None:
    names = ["a", "b"]
    for name in names:
        keys = [f"train/{name}{key}" for key in ("-cut-once", "1", "2-bad-once")]
        make_failing_run(tmp_path / name, keys)
        do(open_retry(tmp_path / name, "truncated", "decode"))
    expected = merge([tmp_path / name for name in names], tmp_path / "expected")
    bucket = s3.make_bucket()
    for name in names:
        s3.upload(tmp_path / name, bucket, f"{name}/")
    base = f"s3://{bucket}"

    merge([f"{base}/{name}" for name in names], f"{base}/merged")

    assert contents(f"{base}/merged") == files(folder_of(expected))
    assert "superseded/train-000000.tar" in contents(f"{base}/merged")


def test_a_list_of_keys_is_retried_and_excluded_in_a_bucket_as_in_a_folder(tmp_path: Path) -> None:
    folder = make_failing_run(tmp_path / "run", ["train/a", "train/b-cut-once", "train/c-bad-once", "dev/d"])
    url = copied(folder)
    flagged = tmp_path / "flagged.txt"
    flagged.write_text("train/b-cut-once\ntrain/c-bad-once\n")
    for place in (folder, url):
        do(open_retry(place, keys=planned_keys(flagged, Run(place))))
        assert list(verify(Run(place))) == []
    retried = {name: content for name, content in contents(url).items() if name.endswith(".tar")}
    assert retried == {name: content for name, content in files(folder).items() if name.endswith(".tar")}
    assert "superseded/train-000000.tar" in retried
    samples = CommittedSamples(Run(url), exclude=planned_keys(flagged, Run(url)))
    assert [key for key, _ in samples] == ["train/a", "dev/d"]


def test_a_merge_that_fails_leaves_nothing_in_the_bucket(folder: Path, tmp_path: Path) -> None:
    other = folder_of(make_run(tmp_path / "other", MadeItems({"train": 1}, prefix="w"), fingerprint=KIND))
    (other / "train-000000.tar").write_bytes(b"cut")
    dest = new_url()
    with pytest.raises(RunError, match="has 3 bytes instead of"):
        merge([folder, other], dest)
    assert contents(dest) == {}


def test_a_damaged_shard_in_a_bucket_is_deleted_and_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = copied(make_failing_run(tmp_path / "run"))
    before, store = contents(url), open_store(url)
    store.replace("train-000000.tar", b"damaged")
    store.replace("dev-000007.tar", b"of no shard")
    assert main(["verify", url]) == 1
    assert "train-000000.tar: 7 bytes instead of" in capsys.readouterr().out
    assert main(["verify", url, "--repair"]) == 0
    assert "dev-000007.tar: moved to stray/dev-000007.tar" in capsys.readouterr().out
    do(Run(url))
    assert list(verify(Run(url))) == []
    assert contents(url)["train-000000.tar"] == before["train-000000.tar"]


def _config(folder: Path, num_items: int, **extractor: object) -> list[str]:
    """Write a corpus of images and a configuration, and return options of `run` that name them."""
    (folder / "corpus").mkdir()
    for number in range(num_items):
        (folder / "corpus" / f"i{number:02d}.png").write_bytes(image_bytes(100 + number))
    config = {
        "model": {"class_path": "support.brightness.Brightness", "init_args": {"batch_size": 1, **extractor}},
        "data": {
            "num_workers": 0,
            "corpus": {
                "class_path": "support.brightness.ImageFolders",
                "init_args": {"root": str(folder / "corpus")},
            },
        },
        "trainer": {"accelerator": "cpu"},
        "output": {"shards": {"max_items": 3, "min_shards": 1}},
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    return ["--config", str(folder / "config.yaml")]


def test_failed_items_of_a_run_in_a_bucket_are_tried_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options, url = _config(tmp_path, 4), new_url()
    (tmp_path / "corpus" / "i03.png").write_bytes(b"")
    run = ["run", *options, "--output.scratch", str(tmp_path / "scratch"), "--output.dir", url]
    assert main(run) == 0
    assert f"{url}: 4 planned = 3 committed + 1 failed + 0 missing" in capfd.readouterr().err
    (tmp_path / "corpus" / "i03.png").write_bytes(image_bytes(103))
    own = ["--model", "support.brightness.Brightness", "--data.corpus", "support.brightness.ImageFolders"]
    assert main(["retry", url, *own]) == 0
    assert f"{url}: 4 planned = 4 committed + 0 failed + 0 missing" in capfd.readouterr().err
    assert list(verify(Run(url))) == []


@pytest.mark.timeout(300)
def test_two_ranks_one_of_which_is_killed_make_the_tars_of_a_folder(
    fork_server: ForkServer, s3: S3Server, tmp_path: Path
) -> None:
    options, url = _config(tmp_path, 24, seconds_per_frame=0.15), f"s3://{s3.make_bucket()}/run"
    quick = ["--model.seconds_per_frame", "0"]
    assert fork_server.run(["run", *options, *quick, "--output.dir", str(tmp_path / "run")], tmp_path / "log") == 0
    command = ["run", *options, "--output.scratch", str(tmp_path / "scratch"), "--output.dir", url]
    logs = [tmp_path / f"rank{number}.log" for number in range(2)]
    killed, other = (fork_server.start(command, log, s3.environment) for log in logs)
    store, deadline = open_store(url), time.monotonic() + 100
    while not any(name.endswith(".tar") for name in store.names()):
        assert time.monotonic() < deadline, logs[0].read_text()
        time.sleep(0.05)
    os.killpg(killed, signal.SIGKILL)
    assert fork_server.wait(killed) == -signal.SIGKILL
    assert fork_server.wait(other, 150) == 0, logs[1].read_text()
    assert "24 planned = 24 committed + 0 failed + 0 missing" in logs[1].read_text()
    assert {name: store.open(name).readall() for name in store.names() if name.endswith(".tar")} == tars(
        tmp_path / "run"
    )
    assert list(verify(Run(url))) == []
    assert store.names("work") == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["status", "s3://no-such-bucket/run"], "error: s3://no-such-bucket/run/: there is no such bucket"),
        (["view", "memory://empty/run"], "error: memory://empty/run is no run: it has no plan.arrow"),
        (["verify", "ftp://host/run"], "ftp:// is not supported"),
        (["export", "memory://a/run", "--format", "jsonl", "--dest", "s3:/bucket/x"], "s3:/bucket/x lacks a slash"),
        (["merge", "memory://a", "memory://b", "--dest", "http://x/y"], "error: memory://a is no run"),
    ],
)
def test_a_wrong_location_is_one_line(
    arguments: list[str], message: str, s3: S3Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize("arguments", [["sample", "s3://b/demo"], ["failures", "O", "--parquet", "gs://b/f.parquet"]])
def test_a_url_where_a_local_path_belongs_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert f"{arguments[-1]} is a URL. Give a path on this machine" in capsys.readouterr().err
