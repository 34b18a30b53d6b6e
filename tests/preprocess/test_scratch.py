import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from datamodules.errors import ConfigError
from preprocess.scratch import scratch_beside


def left_behind(dest: Path) -> Path:
    """What a killed command leaves beside `dest`: a folder with a folder in it."""
    folder = dest.with_name(f".{dest.name}.0123456789abcdef.partial")
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "a.txt").write_text("cut")
    return folder


def test_the_folder_becomes_the_destination_with_the_usual_permissions(tmp_path: Path) -> None:
    dest = tmp_path / "new" / "out"
    with scratch_beside(dest) as scratch:
        (scratch / "a").write_text("content")
        os.rename(scratch, dest)
    (tmp_path / "plain").mkdir()
    assert (dest / "a").read_text() == "content"
    assert stat.S_IMODE(dest.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert os.listdir(dest.parent) == ["out"]


def test_nothing_is_left_of_a_block_that_fails(tmp_path: Path) -> None:
    with suppress(ZeroDivisionError), scratch_beside(tmp_path / "out") as scratch:
        (scratch / "a").write_text("content")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_only_what_a_killed_command_left_is_removed(tmp_path: Path) -> None:
    left_behind(tmp_path / "o[u]t")
    for name in (".o[u]t.partial", ".out.0123456789abcdef.partial", ".o[u]t.letters.partial"):
        (tmp_path / name).mkdir()
    with scratch_beside(tmp_path / "o[u]t"):
        pass
    expected = [".o[u]t.letters.partial", ".o[u]t.partial", ".out.0123456789abcdef.partial"]
    assert sorted(os.listdir(tmp_path)) == expected


def test_a_link_at_the_name_of_a_leftover_is_neither_followed_nor_removed(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "letter").write_text("dear")
    link = tmp_path / ".out.0123456789abcdef.partial"
    link.symlink_to("victim")
    with scratch_beside(tmp_path / "out") as scratch:
        os.rename(scratch, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == [link.name, "out", "victim"]
    assert os.listdir(tmp_path / "victim") == ["letter"]


def test_a_folder_of_another_owner_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = left_behind(tmp_path / "out")
    monkeypatch.setattr(os, "geteuid", lambda: left.stat().st_uid + 1)
    with scratch_beside(tmp_path / "out"):
        pass
    assert (left / "train" / "a.txt").exists()


def test_a_command_that_is_still_writing_is_not_disturbed(tmp_path: Path) -> None:
    with scratch_beside(tmp_path / "out") as scratch:
        with pytest.raises(ConfigError, match=r"another process is writing .*/out\. Wait for it"):
            scratch_beside(tmp_path / "out").__enter__()
        os.rename(scratch, tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]


def test_without_folder_locks_leftovers_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = left_behind(tmp_path / "out")

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(9, "Bad file descriptor")  # of NFS

    monkeypatch.setattr(fcntl, "flock", flock)
    with scratch_beside(tmp_path / "out") as scratch:
        os.rename(scratch, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == [left.name, "out"]
