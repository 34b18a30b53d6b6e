"""Lists of keys: read from files, checked against the plan, and used to retry these items alone."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from datamodules.corpus import check_key
from datamodules.errors import ConfigError, CorpusError, RunError
from datamodules.run.failures import failures
from datamodules.run.folder import Run
from datamodules.run.keys import nearest_keys, planned_keys, read_keys, shards_with
from datamodules.run.reader import CommittedSamples
from preprocess.integrity import verify
from support.plans import files_of, reseal
from support.retry_runs import do, make_failing_run, open_retry
from support.runs import tars

KEYS = [
    "train/a", "train/b-cut-once", "train/c-bad-twice", "train/d", "train/e-cut-always", "train/f-bad-once",
    "train/g-ok-then-bad", "train/h", "dev/x", "dev/y-bad-once",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four shards: `train-000000` to `-000002` with 3, 3 and 2 items, `dev-000000` with 2."""
    return make_failing_run(tmp_path / "run", KEYS)


def listed(folder: Path, keys: Iterable[str]) -> Path:
    path = folder.parent / "flagged.txt"
    path.write_text("".join(f"{key}\n" for key in keys))
    return path


def statuses(folder: Path) -> dict[str, tuple[str, str]]:
    """Return (status, shard of the valid row) of each item."""
    run = Run(folder)
    rows = (row for shard in run.plan.shards for row in run.rows(shard.name, ["key", "status"]).to_pylist())
    return {row["key"]: (row["status"], row["shard"]) for row in rows}


def texts(folder: Path) -> dict[str, str]:
    """Return the texts of the samples of `-cut-` items, which name the retry that made them."""
    return {key: files["txt"].decode() for key, files in CommittedSamples(Run(folder)) if "txt" in files}


def test_blank_lines_spaces_line_ends_and_repetitions_mean_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    path.write_bytes("\ufefftrain/b\r\n\r\n  train/ä \n\ntrain/b\ndev/c%20d".encode())
    assert read_keys(path) == ["train/b", "train/ä", "dev/c%20d"]


@pytest.mark.parametrize("end", ["\n", "\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", " "])
def test_a_key_has_neither_spaces_nor_line_ends(end: str) -> None:
    for key in (f"a{end}b", f"a{end}", f"{end}a"):
        with pytest.raises(CorpusError, match="cannot be a key"):
            check_key(key)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"the list of keys .*keys\.txt cannot be read: No such file or directory"),
        (b"", r"the list of keys .*keys\.txt is empty\. Give a text file with one key per line"),
        (b"\xef\xbb\xbf\n \n", r"keys\.txt is empty"),
        (b"train/a\n\xff\xfe\n", r"keys\.txt is not UTF-8\. Give a text file with one key per line"),
    ],
)
def test_a_file_without_keys_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "keys.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_keys(path)


def test_a_url_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"s3://bucket/keys\.txt is a URL\. Give a path on this machine"):
        read_keys("s3://bucket/keys.txt")


def test_keys_that_are_not_planned_are_refused_with_the_nearest_key(folder: Path) -> None:
    run = Run(folder)
    assert planned_keys(listed(folder, KEYS[:2]), run) == set(KEYS[:2])
    assert planned_keys([], run) == set()
    one, many = r"names a key that is not in .*run: ", r"names 4 keys that are not in .*run: "
    with pytest.raises(ConfigError, match=rf"flagged\.txt {one}'train/hh'\. The nearest key is 'train/h'$"):
        planned_keys(listed(folder, ["train/a", "train/hh"]), run)
    with pytest.raises(ConfigError, match=rf"^the list of keys {many}'y-bad', '1', '2', …\. .* is 'dev/y-bad-once'$"):
        planned_keys(["y-bad", "1", "2", "3"], run)


def test_the_nearest_keys_contain_the_given_one_or_share_its_begin_and_end(folder: Path) -> None:
    assert nearest_keys(Run(folder), "bad-once") == ["train/f-bad-once", "dev/y-bad-once"]
    assert nearest_keys(Run(folder), "train/b-cup-once") == ["train/b-cut-once"]
    assert nearest_keys(Run(folder), "dev/x.mp4") == ["dev/x"]


def test_the_plan_is_read_until_all_keys_are_found(folder: Path) -> None:
    plan = Run(folder).plan
    rows = files_of(plan)[1]
    rows.write_bytes(rows.read_bytes()[:-1] + b"?")  # damages the last shard
    assert shards_with(plan, {"train/h", "train/a", "train/b-cut-once"}) == {0: KEYS[:2], 2: ["train/h"]}
    assert shards_with(plan, frozenset()) == {}
    with pytest.raises(RunError, match="is damaged: the content of shard 3 has changed"):
        shards_with(plan, {"dev/x"})


def test_failed_items_are_retried_by_key_in_new_shards(folder: Path) -> None:
    before = tars(folder)
    retry = open_retry(folder, keys=["dev/y-bad-once", "train/c-bad-twice"])
    assert [(shard.replaces, retry.plan.keys(shard.number)) for shard in retry.plan.shards] == [
        (None, ["train/c-bad-twice"]),
        (None, ["dev/y-bad-once"]),
    ]
    assert retry.plan.tried(0).tolist() == [True]
    do(retry)
    assert before.items() <= tars(folder).items()
    assert [failure.item.key for failure in failures(Run(folder))] == ["train/c-bad-twice", "train/f-bad-once"]
    assert list(verify(Run(folder))) == []


def test_samples_are_retried_by_key_and_nothing_else_is(folder: Path) -> None:
    retry = open_retry(folder, keys=["train/a", "train/b-cut-once", "train/f-bad-once"])
    assert [(shard.replaces, retry.plan.keys(shard.number)) for shard in retry.plan.shards] == [
        ("train-000000", KEYS[:3]),
        ("train-000001", KEYS[3:6]),
    ]
    assert [retry.plan.tried(number).tolist() for number in (0, 1)] == [[True, True, False], [False, False, True]]
    do(retry)
    assert statuses(folder) == {
        "train/a": ("ok", "train-retry001-000000"),
        "train/b-cut-once": ("ok", "train-retry001-000000"),
        "train/c-bad-twice": ("failed", "train-retry001-000000"),
        "train/d": ("ok", "train-retry001-000001"),
        "train/e-cut-always": ("truncated", "train-retry001-000001"),
        "train/f-bad-once": ("ok", "train-retry001-000001"),
        "train/g-ok-then-bad": ("ok", "train-000002"),
        "train/h": ("ok", "train-000002"),
        "dev/x": ("ok", "dev-000000"),
        "dev/y-bad-once": ("failed", "dev-000000"),
    }
    assert texts(folder) == {"train/b-cut-once": "ok in 1", "train/e-cut-always": "truncated in 0"}
    assert list(verify(Run(folder))) == []


def test_a_good_sample_whose_retry_fails_is_kept(folder: Path) -> None:
    before = dict(CommittedSamples(Run(folder)))
    do(open_retry(folder, keys=["train/g-ok-then-bad"]))
    assert dict(CommittedSamples(Run(folder))) == before
    assert statuses(folder)["train/g-ok-then-bad"] == ("ok", "train-retry001-000000")
    assert list(verify(Run(folder))) == []


def test_classes_narrow_a_list_of_keys(folder: Path) -> None:
    retry = open_retry(folder, "decode", "truncated", keys=KEYS[:5])
    assert {key for shard in retry.plan.shards for key in retry.plan.keys(shard.number)} == set(KEYS[:6])
    assert [retry.plan.tried(number).tolist() for number in (0, 1)] == [[False, True, True], [False, True, False]]
    do(retry)
    with pytest.raises(RunError, match="has nothing to retry"):
        open_retry(folder, "truncated", keys=["train/a", "train/b-cut-once"])


def test_samples_that_a_retry_made_are_retried_by_key(folder: Path) -> None:
    do(open_retry(folder, keys=["train/b-cut-once"]))
    retry = open_retry(folder, keys=["train/a", "train/e-cut-always"])
    assert retry.plan.replaces == ["train-000001", "train-retry001-000000"]
    do(retry)
    assert texts(folder) == {"train/b-cut-once": "ok in 1", "train/e-cut-always": "truncated in 2"}
    assert list(verify(Run(folder))) == []


def test_ranks_join_a_retry_with_the_same_keys_in_any_order_and_no_others(folder: Path) -> None:
    do(open_retry(folder, keys=KEYS[:4]), num_shards=1)
    with pytest.raises(
        RunError, match=r"unfinished retry.*retry\.keys\.number: 4 there, 1 here; retry\.keys\.sha256: "
    ):
        open_retry(folder, keys=["train/a"])
    with pytest.raises(RunError, match=r"retry\.keys: \{'number': 4, 'sha256': '\w{16}'\} there, None here"):
        open_retry(folder)
    retry = open_retry(folder, keys=KEYS[3::-1])
    assert retry.retry == 1
    do(retry)
    assert Run(folder, 1).is_complete()
    assert texts(folder) == {"train/b-cut-once": "ok in 1", "train/e-cut-always": "truncated in 0"}


def test_a_retry_that_does_not_say_what_it_tries_is_not_worked_on(folder: Path) -> None:
    retry = open_retry(folder, keys=["train/a"])
    reseal(retry.plan, tried=None)
    with pytest.raises(RunError, match=r"plan-001\.arrow does not say which items it tries again\. Finish this retry"):
        do(Run(folder, 1))
