"""Merging makes one run that `verify` passes, and refuses runs that do not fit together."""

import os
from pathlib import Path

import pytest

from datamodules.errors import ConfigError, EnvironmentFailure, RunError
from datamodules.run.folder import Run
from datamodules.run.reader import CommittedSamples
from datamodules.samples.keypoints import KeypointSamples
from preprocess.commands.merge import merge
from preprocess.export.format import export
from preprocess.integrity import coverage, verify
from support.keypoint_runs import MadeItems, made_samples, make_run
from support.retry_runs import KEYS, do, make_failing_run, open_retry
from support.run_paths import folder_of, path_of
from support.runs import listing

HERE = MadeItems({"train": 5, "dev": 1}, prefix="a")
THERE = MadeItems({"test": 2, "train": 3}, prefix="b")


def two_runs(folder: Path) -> list[Path]:
    """Runs of `HERE` and `THERE`; both have a shard `train-000000`."""
    make_run(folder / "here", HERE, failed=("train/a1",))
    make_run(folder / "there", THERE, failed=("test/b1",))
    return [folder / "here", folder / "there"]


def test_the_merged_run_holds_the_samples_of_all_in_order_and_verifies(tmp_path: Path) -> None:
    run = merge(two_runs(tmp_path), tmp_path / "merged")

    assert folder_of(run) == tmp_path / "merged"
    assert list(verify(run)) == []
    covered = coverage(run)
    assert (covered.planned, covered.committed, covered.failed, covered.missing) == (11, 9, 2, 0)
    expected = [
        *made_samples(HERE, "train", failed=("train/a1",)),
        *made_samples(THERE, "train"),
        *made_samples(HERE, "dev"),
        *made_samples(THERE, "test", failed=("test/b1",)),
    ]
    kind = KeypointSamples()
    result = [kind.decode(key, members) for key, members in CommittedSamples(run)]
    assert [sample.key for sample in result] == [sample.key for sample in expected]
    assert [kind.encode(sample) for sample in result] == [kind.encode(sample) for sample in expected]


def test_shards_keep_their_items_and_are_renumbered_within_each_split(tmp_path: Path) -> None:
    folders = two_runs(tmp_path)

    run = merge(folders, tmp_path / "merged")

    assert [(shard.name, run.plan.keys(shard.number)) for shard in run.plan.shards] == [
        ("train-000000", ["train/a0", "train/a1"]),
        ("train-000001", ["train/a2", "train/a3"]),
        ("train-000002", ["train/a4"]),
        ("train-000003", ["train/b0", "train/b1"]),
        ("train-000004", ["train/b2"]),
        ("dev-000000", ["dev/a0"]),
        ("test-000000", ["test/b0", "test/b1"]),
    ]
    assert run.plan.items(3) == [item for item in THERE.items() if item.key in ("train/b0", "train/b1")]
    assert (tmp_path / "merged" / "train-000003.tar").samefile(folders[1] / "train-000000.tar")
    assert all(list(verify(Run(folder))) == [] for folder in folders)


def test_tars_are_copied_where_links_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = two_runs(tmp_path)

    def refuse(source: Path, target: Path, follow_symlinks: bool = True) -> None:
        if ".merged." in str(target):
            raise OSError(18, "Invalid cross-device link")
        link(source, target, follow_symlinks=follow_symlinks)

    link = os.link
    monkeypatch.setattr("os.link", refuse)
    run = merge(folders, tmp_path / "merged")

    assert list(verify(run)) == []
    assert not (tmp_path / "merged" / "train-000000.tar").samefile(folders[0] / "train-000000.tar")


def test_the_fingerprint_keeps_what_is_common_and_lists_the_corpora(tmp_path: Path) -> None:
    folders = two_runs(tmp_path)

    fingerprint = merge(folders, tmp_path / "merged").plan.fingerprint

    first, second = (Run(folder).plan.fingerprint for folder in folders)
    assert fingerprint["corpus"] == {"merged": [first["corpus"], second["corpus"]]}
    assert fingerprint["extractor"] == first["extractor"]


def test_a_merged_run_merges_and_exports(tmp_path: Path) -> None:
    make_run(tmp_path / "third", MadeItems({"dev": 2}, prefix="c"))
    once = merge(two_runs(tmp_path), tmp_path / "once")

    twice = merge([folder_of(once), tmp_path / "third"], tmp_path / "twice")

    assert list(verify(twice)) == []
    names = [path.name for path in export(folder_of(twice), "parquet", tmp_path / "out")]
    assert names == ["train.parquet", "dev.parquet", "test.parquet"]


def test_an_empty_destination_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "merged").mkdir()

    assert list(verify(merge(two_runs(tmp_path), tmp_path / "merged"))) == []


def test_a_destination_with_content_fails(tmp_path: Path) -> None:
    folders = two_runs(tmp_path)

    with pytest.raises(ConfigError, match=r"--dest .*here exists, and is not replaced"):
        merge(folders, folders[0])


def test_one_folder_alone_fails(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="1 folder to merge: give two or more"):
        merge([tmp_path], tmp_path / "merged")


def test_a_key_in_both_runs_fails_and_both_are_named(tmp_path: Path) -> None:
    make_run(tmp_path / "here", HERE)
    make_run(tmp_path / "there", MadeItems({"dev": 3}, prefix="a"))

    with pytest.raises(RunError, match=r"the key 'dev/a0' is in .*/here and in .*/there"):
        merge([tmp_path / "here", tmp_path / "there"], tmp_path / "merged")


def test_an_incomplete_run_fails_and_says_what_to_run(tmp_path: Path) -> None:
    make_run(tmp_path / "here", HERE, max_shards=1)
    make_run(tmp_path / "there", THERE)

    with pytest.raises(RunError, match=r"here is not complete: 3 of 4 shards are missing\. Rerun the command"):
        merge([tmp_path / "here", tmp_path / "there"], tmp_path / "merged")


def test_runs_with_different_settings_fail_and_the_difference_is_named(tmp_path: Path) -> None:
    make_run(tmp_path / "here", HERE)
    make_run(tmp_path / "there", THERE, fingerprint={"versions": {"framemill": "0.2.0"}})

    with pytest.raises(RunError, match=r"They differ in: versions\.framemill: '0\.1\.0' there, '0\.2\.0' here$"):
        merge([tmp_path / "here", tmp_path / "there"], tmp_path / "merged")


def test_a_folder_that_is_not_a_run_fails(tmp_path: Path) -> None:
    make_run(tmp_path / "here", HERE)

    with pytest.raises(RunError, match="is no run"):
        merge([tmp_path / "here", tmp_path / "nowhere"], tmp_path / "merged")


def test_a_truncated_tar_fails_and_nothing_is_left(tmp_path: Path) -> None:
    folders = two_runs(tmp_path)
    os.truncate(folders[1] / "train-000001.tar", 512)

    with pytest.raises(RunError, match=r"train-000001\.tar has 512 bytes instead of .*; run `preprocess verify`"):
        merge(folders, tmp_path / "merged")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "there"]


def test_a_missing_tar_fails(tmp_path: Path) -> None:
    folders = two_runs(tmp_path)
    (folders[0] / "dev-000000.tar").unlink()

    with pytest.raises(RunError, match=r"dev-000000\.tar is missing"):
        merge(folders, tmp_path / "merged")


def test_a_table_of_other_keys_fails(tmp_path: Path) -> None:
    folders = two_runs(tmp_path)
    os.replace(folders[0] / "tables" / "dev-000000.parquet", folders[0] / "tables" / "train-000002.parquet")
    os.link(folders[0] / "tables" / "train-000002.parquet", folders[0] / "tables" / "dev-000000.parquet")

    with pytest.raises(RunError, match=r"train-000002\.parquet cannot be read: its keys are not those of the plan"):
        merge(folders, tmp_path / "merged")


def test_runs_whose_files_are_not_at_their_final_names_are_merged_and_not_changed(tmp_path: Path) -> None:
    folders = two_runs(tmp_path)
    here = Run(folders[0])
    for record in here.records():
        for file in (here.tar_file(record.shard), here.table_file(record.shard)):
            os.rename(path_of(file), here.store.locate(file.staged(record.rank)))
    before = listing(folders[0])

    merged = merge(folders, tmp_path / "merged")

    assert listing(folders[0]) == before
    assert list(verify(merged)) == []
    assert len(CommittedSamples(merged)) == 9


@pytest.mark.parametrize("kind", ["symlink", "fifo"])
def test_a_tar_that_is_a_link_or_no_file_fails_and_nothing_is_left(tmp_path: Path, kind: str) -> None:
    folders = two_runs(tmp_path)
    tar = folders[1] / "train-000001.tar"
    os.rename(tar, tmp_path / "private")
    tar.symlink_to(tmp_path / "private") if kind == "symlink" else os.mkfifo(tar)

    with pytest.raises(RunError, match=r"train-000001\.tar is a link or not a file"):
        merge(folders, tmp_path / "merged")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "private", "there"]
    assert (tmp_path / "private").stat().st_nlink == 1


def test_a_disk_that_refuses_fails_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = two_runs(tmp_path)

    def refuse(source: Path, target: Path, follow_symlinks: bool = True) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.link", refuse)
    monkeypatch.setattr("shutil.copyfileobj", refuse)

    with pytest.raises(EnvironmentFailure, match=r"cannot merge into .*merged.*No space left on device"):
        merge(folders, tmp_path / "merged")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "there"]


def two_retried_runs(folder: Path) -> list[Path]:
    """Runs whose failures were retried, once and twice, under keys of their own."""
    here = make_failing_run(folder / "here")
    there = make_failing_run(folder / "there", [key.replace("/", "/other-") for key in KEYS], per_shard=2)
    for run in (here, here, there):
        do(open_retry(run))
    return [here, there]


def test_retries_are_merged_and_renumbered_and_their_samples_keep_their_position(tmp_path: Path) -> None:
    folders = two_retried_runs(tmp_path)
    before = [CommittedSamples(Run(folder), split) for split in ("train", "dev") for folder in folders]

    run = merge(folders, tmp_path / "merged")

    assert list(verify(run)) == []
    assert [[shard.name for shard in retry.plan.shards] for retry in run.retries] == [
        ["train-retry001-000000", "train-retry001-000001", "dev-retry001-000000"],
        ["train-retry002-000000", "train-retry002-000001"],
        ["train-retry003-000000", "train-retry003-000001", "dev-retry003-000000"],
    ]
    assert list(CommittedSamples(run)) == [sample for samples in before for sample in samples]
    assert run.retries[2].table("train-retry003-000000", ["supersedes"])["supersedes"].to_pylist() == [
        "train-000003",  # there train-000000
        "train-000004",
    ]
    covered = coverage(run)
    assert (covered.planned, covered.committed, covered.failed, covered.missing) == (18, 14, 4, 0)
    of = {retry.plan.fingerprint["retry"]["of"] for retry in run.retries}
    assert of == {run.fingerprint_digest}
    assert all(list(verify(Run(folder))) == [] for folder in folders)


def test_a_merged_run_with_retries_merges_again(tmp_path: Path) -> None:
    once = merge(two_retried_runs(tmp_path), tmp_path / "once")
    third = make_failing_run(tmp_path / "third", ["test/a", "test/b-bad-once"])

    twice = merge([third, folder_of(once)], tmp_path / "twice")

    assert list(verify(twice)) == []
    assert [retry.retry for retry in twice.retries] == [1, 2, 3]
    assert len(CommittedSamples(twice)) == 15


def test_a_run_with_an_unfinished_retry_fails(tmp_path: Path) -> None:
    folders = two_retried_runs(tmp_path)
    do(open_retry(folders[1]), num_shards=1)

    with pytest.raises(RunError, match=r"there: retry 2 is not complete\. Finish the `retry`, then merge"):
        merge(folders, tmp_path / "merged")
