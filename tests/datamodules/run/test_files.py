import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.errors import RunError
from datamodules.run.cleanup import clean_up
from datamodules.run.files import make_folder, open_file, read_file, remove, write_whole
from datamodules.run.folder import Run
from support.run_paths import folder_of
from support.runs import make_run, work

OWN = [
    *("records", "tables", "superseded", "videos"),
    *("stray", "stray/records", "stray/superseded", "stray/tables"),
    *("work", "work/leases", "work/ranks", "work/scratch", "work/spool", "work/staging"),
]


def content(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "letter").write_text("dear")
    return folder


def plant(path: Path, target: Path) -> None:
    """Put a link to `target` in place of the folder or file `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.rename(path.with_name(f"{path.name}.real"))
    path.symlink_to(target)


@pytest.mark.parametrize("name", OWN)
def test_a_run_whose_folder_is_a_link_is_not_opened(tmp_path: Path, victim: Path, name: str) -> None:
    run = make_run(tmp_path / "run", 1)
    plant(folder_of(run) / name, victim)
    with pytest.raises(RunError, match=rf"{name} is a link to .*victim\. A run writes .*: remove it$"):
        Run(folder_of(run))
    assert content(victim).keys() == {victim.joinpath("letter").relative_to(victim)}


@pytest.mark.parametrize("target", ["victim", "victim/letter", "missing"])
@pytest.mark.parametrize("name", ["records", "work", "work/ranks"])
def test_a_new_run_is_not_planned_where_its_folders_are_links(
    tmp_path: Path, victim: Path, name: str, target: str
) -> None:
    folder = tmp_path / "run"
    plant(folder / name, tmp_path / target)
    with pytest.raises(RunError, match=f"{name} is a link to .*{target}"):
        make_run(folder, 1)
    assert os.listdir(victim) == ["letter"]
    assert not (tmp_path / "missing").exists()
    assert [path.name for path in folder.iterdir()] == [name.partition("/")[0]]


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 1)
    (folder_of(run) / "tables").write_text("")
    with pytest.raises(RunError, match="tables is not a folder"):
        Run(folder_of(run))


def test_cleaning_up_removes_what_killed_planners_left_and_follows_no_link(tmp_path: Path, victim: Path) -> None:
    run = make_run(tmp_path / "run", 1)
    work(folder_of(run))
    (run.work / "planning" / "plan.arrow.ab").mkdir()
    (run.work / "planning" / "plan.arrow.ab" / "train").write_text("cut")
    (run.work / "planning" / "plan.arrow.x").symlink_to(victim)
    plant(folder_of(run) / "work" / "scratch" / "x", victim)
    clean_up(run)
    assert os.listdir(victim) == ["letter"]
    assert os.listdir(run.work / "planning") == ["plan.arrow.x"]


def test_the_run_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert make_run(tmp_path / "link", 2).plan.num_items == 2


def test_folders_are_created_but_never_through_a_link(tmp_path: Path, victim: Path) -> None:
    root = tmp_path / "videos"
    root.mkdir()
    make_folder(root, root / "a" / "b")
    make_folder(root, root / "a" / "b")
    assert (root / "a" / "b").is_dir()
    (root / "c").symlink_to(victim)
    with pytest.raises(RunError, match=r"videos/c is a link to"):
        make_folder(root, root / "c" / "d")
    assert os.listdir(victim) == ["letter"]


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["folder", "fifo"])
def test_a_path_that_is_not_a_regular_file_is_refused_by_name(tmp_path: Path, make: Callable[..., Any]) -> None:
    make(tmp_path / "a.json")
    for read in (open_file, read_file):
        with pytest.raises(RunError, match=r"a\.json cannot be read: .*: remove it"):
            read(tmp_path / "a.json")


def test_a_file_above_the_size_limit_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "a.json", "wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(RunError, match=r"a\.json has 1,073,741,824 bytes; the limit for such a file is 16,777,216"):
        read_file(tmp_path / "a.json")


def test_a_file_is_written_whole_and_replaces_a_link_rather_than_its_target(tmp_path: Path, victim: Path) -> None:
    path = tmp_path / "config.yaml"
    path.symlink_to(victim / "letter")
    write_whole(path, b"a: 1\n")
    assert (path.read_text(), path.is_symlink(), (victim / "letter").read_text()) == ("a: 1\n", False, "dear")
    assert sorted(os.listdir(tmp_path)) == ["config.yaml", "victim"]


def test_a_link_is_removed_and_its_target_and_folders_stay(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "link").symlink_to(victim / "letter")
    for name in ("link", "victim", "missing"):
        remove(tmp_path / name)
    assert os.listdir(tmp_path) == ["victim"]
    assert os.listdir(victim) == ["letter"]
