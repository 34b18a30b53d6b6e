"""A corpus that has moved or changed since it was planned."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.corpora.images import Images
from datamodules.corpora.videos import Videos
from datamodules.corpus import Corpus, Item, located
from datamodules.errors import ChangedError, RunError
from datamodules.run.drift import Drift, drift, require_unchanged
from datamodules.run.folder import Run
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import ShardSize

FINGERPRINT = {"corpus": {"class_path": "videos"}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with 80 files that are listed as videos."""
    folder = tmp_path / "here"
    folder.mkdir()
    for number in range(80):
        (folder / f"v{number:02d}.mp4").write_bytes(b"x" * number)
    return folder


def opened(folder: Path, corpus: Corpus) -> Run:
    return open_or_plan(folder, corpus, FINGERPRINT, ShardSize(max_items=7))


def moved(root: Path, change: Callable[[Path], None] = lambda path: None) -> Videos:
    """Return a copy of the corpus in another folder, after a call of `change` for every file."""
    copy = root.parent / "moved"
    shutil.copytree(root, copy)
    for path in copy.iterdir():
        change(path)
    return Videos(str(copy))


def test_the_same_corpus_elsewhere_resumes_its_run(root: Path, tmp_path: Path) -> None:
    planned = opened(tmp_path / "run", Videos(str(root))).plan
    corpus = moved(root)
    shutil.rmtree(root)
    plan = opened(tmp_path / "run", corpus).plan
    assert plan.roots == planned.roots == [str(root)]
    assert plan.listing == planned.listing


def test_a_link_to_the_planned_root_is_that_root(root: Path, tmp_path: Path) -> None:
    opened(tmp_path / "run", Videos(str(root)))
    (tmp_path / "link").symlink_to(root)
    for path in root.iterdir():
        path.unlink()  # the same root is not compared with the plan
    opened(tmp_path / "run", Videos(str(tmp_path / "link")))


def rewrite_with_the_old_time(path: Path) -> None:
    path.write_bytes(b"another video")
    os.utime(path, (1e9, 1e9))


CHANGES: list[Callable[[Path], None]] = [
    Path.unlink,
    rewrite_with_the_old_time,
    lambda path: os.utime(path, (1e9, 1e9)),
]


@pytest.mark.parametrize("change", CHANGES)
def test_another_corpus_is_refused(root: Path, tmp_path: Path, change: Callable[[Path], None]) -> None:
    opened(tmp_path / "run", Videos(str(root)))
    before = (tmp_path / "run" / "plan.arrow").read_bytes()
    corpus = moved(root, change)
    with pytest.raises(RunError) as refused:
        opened(tmp_path / "run", corpus)
    where = f"--data.root {corpus.root} is not the corpus that was planned, then in {root}"
    assert f"{where}: of 40 items that were compared, " in str(refused.value)
    assert "v00.mp4" in str(refused.value)
    assert (tmp_path / "run" / "plan.arrow").read_bytes() == before


def test_items_that_are_missing_after_a_move_fail_alone(root: Path, tmp_path: Path) -> None:
    opened(tmp_path / "run", Videos(str(root)))
    opened(tmp_path / "run", moved(root, lambda path: path.unlink() if path.stem < "v30" else None))


def test_items_that_were_missing_at_planning_may_stay_missing(root: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list"
    listed.write_text("".join(f"v{number}.mp4\n" for number in range(79, 200)))
    opened(tmp_path / "run", Videos(str(root), str(listed)))
    corpus = moved(root)
    opened(tmp_path / "run", Videos(corpus.root, str(listed)))


def test_a_corpus_is_compared_with_its_plan(root: Path, tmp_path: Path) -> None:
    videos = Videos(str(root))
    plan = opened(tmp_path / "run", videos).plan
    assert drift(plan, videos.items()) == (0, 0)
    for number in range(3):
        (root / f"v{number:02d}.mp4").unlink()
    (root / "a.mp4").touch()
    (root / "v80.mp4").touch()
    (root / "v79.mp4").write_bytes(b"changed")  # a changed file fails as an item, and is not counted
    assert drift(plan, videos.items()) == (2, 3)
    os.utime(plan.location, (1e9, 1e9))
    assert drift(plan, videos.items()).line(plan) == (
        "2 items of the corpus are not in this run's plan of 2001-09-09; 3 planned items are gone. The run keeps to "
        "its plan. Add --extend to plan the new items too"
    )
    assert Drift(1, 0).line(plan).startswith("1 item of the corpus is not in this run's plan of 2001-09-09. The run")
    assert Drift(0, 1).line(plan).startswith("1 planned item is gone. The run")


def test_a_listed_item_whose_file_has_gone_is_gone_and_one_that_never_existed_is_not(
    root: Path, tmp_path: Path
) -> None:
    listed = tmp_path / "list"
    listed.write_text("v01.mp4\nv02.mp4\nnever.mp4\n")
    videos = Videos(str(root), str(listed))
    plan = opened(tmp_path / "run", videos).plan
    (root / "v02.mp4").unlink()
    assert drift(plan, videos.items()) == (0, 1)


def test_json_files_move_with_the_images(tmp_path: Path) -> None:
    for folder in ("images/jsons/sub", "images/sub", "details/sub"):
        (tmp_path / "here" / folder).mkdir(parents=True)
    (tmp_path / "here/images/sub/a.jpg").touch()
    corpus = Images(str(tmp_path / "here" / "images"), json_dirs=["jsons", str(tmp_path / "here" / "details")])
    [item] = corpus.items()
    target = tmp_path / "moved"
    (tmp_path / "here").rename(target)
    assert located(item, str(target / "images")).meta["json_files"] == [
        [f"{target}/images/jsons/sub/a.json", None, None],
        [f"{target}/details/sub/a.json", None, None],
    ]
    moved = Images(str(target / "images"), json_dirs=["jsons", str(target / "details")])
    assert moved.json_dirs == corpus.json_dirs


def test_a_file_with_a_time_that_no_calendar_has_is_named_as_changed(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    item = Item("a", "train", "a.mp4", cost=1, modified=1e300)
    with pytest.raises(
        ChangedError, match=r"a\.mp4 was written 2.*, after it was planned with the time 1e\+300 s after 19"
    ):
        require_unchanged(item, str(tmp_path))
