import os
import socket
from pathlib import Path

import pytest

from datamodules.regular import NotRegularError, open_regular


def test_a_regular_file_is_read_through_links(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "b").symlink_to("a")
    for name in ("a", "b"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"content"


@pytest.mark.parametrize("links", [False, True])
def test_what_is_not_a_regular_file_is_not_opened_and_named(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "fifo")
    server = socket.socket(socket.AF_UNIX)
    monkeypatch.chdir(tmp_path)  # a socket's path has at most 108 bytes
    server.bind("socket")
    kinds = {
        "fifo": "a FIFO",
        "socket": "a socket",
        "/dev/zero": "a character device",
        "/dev/null": "a character device",
    }
    monkeypatch.setattr(os, "open", None)
    for number, (path, kind) in enumerate(kinds.items()):
        if links:
            os.symlink(path, f"{number}")
            path = f"{number}"
        with pytest.raises(NotRegularError, match=f"it is {kind}, not a regular file") as caught:
            open_regular(path)
        assert caught.value.filename == path
    server.close()


def test_a_fifo_that_has_replaced_a_file_is_refused_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"content")
    os.mkfifo(tmp_path / "fifo")
    regular = os.stat(tmp_path / "a")
    monkeypatch.setattr(os, "stat", lambda path: regular)
    num_open = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NotRegularError, match="a FIFO"):
        open_regular(tmp_path / "fifo")
    assert len(os.listdir("/proc/self/fd")) == num_open


def test_folders_and_missing_files_raise_as_open_does(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="Is a directory"):
        open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "missing")


def test_a_path_with_a_null_character_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="null character"):
        open_regular(f"{tmp_path}/a\0b")
