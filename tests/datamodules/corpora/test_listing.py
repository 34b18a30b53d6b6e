import ast
import errno
import os
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from datamodules.corpora import text_lists, walk
from datamodules.corpora.frame_files import list_frames
from datamodules.corpora.images import Images
from datamodules.corpora.pairs import Pairs
from datamodules.corpora.paths import relative_to
from datamodules.corpora.rows import read_rows
from datamodules.corpora.skipped import Skipped
from datamodules.corpora.tar_images import TarImages
from datamodules.corpora.videos import Videos
from datamodules.errors import CorpusError, EnvironmentFailure
from datamodules.run.plan import ShardSize
from datamodules.run.planning import write_plan
from datamodules.run.store import Folder
from support.image_files import write_tree
from support.runs import FINGERPRINT


def listed(corpus: Any) -> tuple[Any, str]:
    """Return the problems of a corpus by key, and what it skipped."""
    result = {item.key: item.problem for item in corpus.items()}
    return result, str(corpus.skipped)


def test_skipped_files_are_counted_anew_for_each_listing(tmp_path: Path) -> None:
    write_tree(
        tmp_path, "a.mp4", "b.docx", "sub/c.TXT", "sub/d.txt", "sub/._a.mp4", ".cache/e.mp4", ".x", "noext",
        "f.1", "g.2", "h.3", "out/plan.arrow", "out/videos/a.mp4",
    )  # fmt: skip
    corpus = Videos(str(tmp_path))
    skipped = (
        "7 files with other extensions (.txt 2, .1 1, .2 1, .3 1, .docx 1, …), 2 hidden files, 1 hidden folder, "
        "1 folder that is a run (out)"
    )
    assert listed(corpus) == listed(corpus) == ({"a": None}, skipped)
    assert listed(Images(str(write_tree(tmp_path / "whole", "a.jpg")))) == ({"a": None}, "")


@pytest.mark.parametrize("root_is_run", [True, False])
def test_the_root_may_be_a_run(tmp_path: Path, root_is_run: bool) -> None:
    write_tree(tmp_path, *(["plan.arrow"] if root_is_run else []), "videos/a.mp4")
    assert listed(Videos(str(tmp_path)))[0] == {"videos/a": None}


def test_a_run_is_no_split_of_a_glob(tmp_path: Path) -> None:
    write_tree(tmp_path, "train/a.jpg", "out/plan.arrow", "out/b.jpg")
    assert listed(Images(str(tmp_path), split_glob="*")) == ({"train/a": None}, "1 folder that is a run (out)")


@pytest.mark.parametrize("extension", ["wmv", "flv", "ts", "mts", "m2ts", "3gp", "ogv", "dv", "gif", "WMV"])
def test_videos_have_these_extensions_too(tmp_path: Path, extension: str) -> None:
    write_tree(tmp_path, f"a.{extension}")
    assert listed(Videos(str(tmp_path))) == ({"a": None}, "")


@pytest.mark.parametrize("extension", ["jfif", "jp2"])
def test_images_have_these_extensions_too(tmp_path: Path, extension: str) -> None:
    write_tree(tmp_path, f"a.{extension}")
    assert listed(Images(str(tmp_path))) == ({"a": None}, "")


def test_links_to_folders_are_followed_unless_they_form_a_loop(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "root", "a/x.mp4", "b/y.mp4")
    write_tree(tmp_path / "elsewhere", "z.mp4")
    (root / "one").symlink_to(tmp_path / "elsewhere")
    (root / "two").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "up").symlink_to(root)
    (root / "b" / "self").symlink_to(".")
    (root / "b" / "to_a").symlink_to("../a")
    result = {"a/x": None, "b/to_a/x": None, "b/y": None, "one/z": None, "two/z": None}
    skipped = "3 links to folders that contain them (a/up, b/self, b/to_a/up)"
    assert listed(Videos(str(root))) == (result, skipped)


def test_a_file_or_folder_that_cannot_be_read_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path, "a.mp4", "locked/b.mp4", "locked.mp4")
    (tmp_path / "dangling.mp4").symlink_to("nowhere.mp4")
    (tmp_path / "itself.mp4").symlink_to("itself.mp4")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)
        server.bind("socket.mp4")
    real = os.scandir

    def scandir(path: Path) -> Any:
        if os.path.basename(os.path.normpath(path)) == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    result, skipped = listed(Videos(str(tmp_path)))
    assert {key: problem and problem.removeprefix(f"{tmp_path}/") for key, problem in result.items()} == {
        "a": None,
        "dangling": "dangling.mp4 is a link to nowhere.mp4, which cannot be read: No such file or directory",
        "itself": "itself.mp4 is a link to itself.mp4, which cannot be read: Too many levels of symbolic links",
        "locked": None,
        "locked/%folder": "locked cannot be read: Permission denied",
        "socket": "socket.mp4 cannot be used: it is a socket, not a regular file",
    }
    assert skipped == ""
    write_plan(Videos(str(tmp_path)).items(), Folder(tmp_path / "run"), FINGERPRINT, ShardSize())
    with pytest.raises(CorpusError, match=r"locked/? cannot be read: Permission denied"):
        listed(Videos(str(tmp_path / "locked")))


@pytest.mark.parametrize("folder", ["", "sub"])
def test_an_error_of_the_file_system_fails_no_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    write_tree(tmp_path, "a.mp4", "sub/b.mp4")
    real = os.scandir

    def scandir(path: Path) -> Any:
        if os.path.relpath(path, tmp_path) == (folder or "."):
            raise OSError(errno.EIO, "Input/output error", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(EnvironmentFailure, match="cannot be listed: Input/output error"):
        listed(Videos(str(tmp_path)))


def test_videos_of_one_stem_keep_their_extensions_in_folders_and_lists(tmp_path: Path) -> None:
    names = ["a.mp4", "a.webm", "sub/a.mp4", "b.mp4", "b.mp4.webm"]
    write_tree(tmp_path, *names)
    keys = {
        "a.mp4": "a%2Emp4", "a.webm": "a%2Ewebm", "sub/a.mp4": "sub/a", "b.mp4": "b", "b.mp4.webm": "b%2Emp4%2Ewebm"
    }  # fmt: skip
    assert {item.path: item.key for item in Videos(str(tmp_path)).items()} == keys
    (tmp_path / "list").write_text("\n".join(reversed(names)))
    (tmp_path / "list.jsonl").write_text("".join(f'{{"video": "./{name}"}}\n' for name in names))
    for video_list in ("list", "list.jsonl"):
        items = Videos(str(tmp_path), video_list=str(tmp_path / video_list)).items()
        assert {item.path: item.key for item in items} == keys


def test_names_that_are_too_long_for_a_key_get_distinct_keys(tmp_path: Path) -> None:
    names = [f"{'हिन्दी' * 12} {end}.mp4" for end in "ab"]
    write_tree(tmp_path, *names)
    result, _ = listed(Videos(str(tmp_path)))
    assert list(result.values()) == [None, None]


def test_skipped_files_among_frames_are_counted(tmp_path: Path) -> None:
    write_tree(tmp_path, "1.png", "._1.png", "Thumbs.db")
    skipped = Skipped()
    assert list_frames(tmp_path, skipped)[0] == ("1.png",)
    assert str(skipped) == "1 file with another extension (.db 1), 1 hidden file"


LOCALE_C = """
from pathlib import Path
from datamodules.corpora.pairs import Pairs
from datamodules.corpora.rows import read_rows
from datamodules.corpora.tar_images import TarImages
from datamodules.corpora.videos import Videos
from datamodules.run.plan import Plan, ShardSize
from datamodules.run.planning import write_plan
from datamodules.run.store import Folder
write_plan(Videos(".").items(), Folder("run"), {}, ShardSize(min_shards=1))
for item in Plan(Folder("run")).items(0):
    print(ascii((item.key, item.path, item.problem)))
"""


def test_a_name_that_the_locale_c_cannot_hold_is_reported_as_such(tmp_path: Path) -> None:
    for name in (b"a.mp4", "ü.mp4".encode(), b"caf\xe9.mp4"):
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_bytes(b"x")
    locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    path = str(Path(walk.__file__).parents[2])
    result = subprocess.run(
        [sys.executable, "-c", LOCALE_C], cwd=tmp_path, env={**os.environ, **locale, "PYTHONPATH": path},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    found = {key: (path, problem) for key, path, problem in map(ast.literal_eval, result.stdout.splitlines())}
    cafe = (r"caf\xe9.mp4", r"the file name caf\xe9.mp4 is not UTF-8: rename the file")
    problem = "cannot be used in this locale, whose encoding is ascii: set LC_ALL=C.UTF-8 or PYTHONUTF8=1"
    assert found == {"a": ("a.mp4", None), "caf%E9": cafe, "%C3%BC": ("ü.mp4", f"the file name ü.mp4 {problem}")}


SPECIAL = {"fifo": "a FIFO", "zero": "a character device"}


@pytest.fixture(params=SPECIAL)
def special(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file that `open` would wait for, or that has no end."""
    path: Path = tmp_path / request.param
    if request.param == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    return path


def test_links_to_special_files_fail_alone(tmp_path: Path, special: Path) -> None:
    (tmp_path / "files").mkdir()
    for name in ("a.png", "a.mp4"):
        (tmp_path / "files" / name).symlink_to(special)
    for corpus in (Images(str(tmp_path / "files")), Videos(str(tmp_path / "files"))):
        [problem] = listed(corpus)[0].values()
        assert problem.endswith(f" cannot be used: it is {SPECIAL[special.name]}, not a regular file")
    with pytest.raises(CorpusError, match=rf"a\.png cannot be used: it is {SPECIAL[special.name]}"):
        list_frames(tmp_path / "files")


def test_a_list_that_is_not_a_regular_file_is_refused(tmp_path: Path, special: Path) -> None:
    write_tree(tmp_path, "a.png", "a.mp4")
    match = f"cannot be read: it is {SPECIAL[special.name]}, not a regular file"
    with pytest.raises(CorpusError, match=match):
        Images(str(tmp_path), image_list=str(special))
    with pytest.raises(CorpusError, match=match):
        Videos(str(tmp_path), video_list=str(special))
    for ending in ("json", "jsonl", "csv", "tsv", "parquet"):
        (tmp_path / f"list.{ending}").symlink_to(special)
        with pytest.raises(CorpusError, match=match):
            Pairs(str(tmp_path), f"{tmp_path}/list.{ending}")
        with pytest.raises(CorpusError, match=match):
            list(read_rows(f"{tmp_path}/list.{ending}"))


def test_a_row_cannot_give_the_location_of_json_files(tmp_path: Path) -> None:
    """Prompts are filled from JSON files, so a list could name any file of the machine."""
    write_tree(tmp_path, "a.mp4")
    row = '{"video": "a.mp4", "text": "x", "id": "k", "key": "k", "json_files": [["/etc/secret.json", null, null]]}'
    (tmp_path / "list.jsonl").write_text(row)
    for corpus in (Videos(str(tmp_path), f"{tmp_path}/list.jsonl"), Pairs(str(tmp_path), f"{tmp_path}/list.jsonl")):
        assert listed(corpus)[0] == {
            "k": f"{tmp_path}/list.jsonl, line 1: it has the field 'json_files', a name that is reserved: rename it"
        }


def test_only_the_beginning_of_an_unusable_row_is_kept(tmp_path: Path) -> None:
    write_tree(tmp_path, "a.png")
    (tmp_path / "list").write_text(f"a.png\n{'x' * 100_000}.png\n")
    [_, bad] = Images(str(tmp_path), image_list=f"{tmp_path}/list").items()
    assert bad.path == ""
    assert len(bad.key) <= 200
    assert bad.problem is not None
    assert bad.problem.startswith(f"{tmp_path}/list, line 2: xxx")
    assert len(bad.problem) < 1500


def test_an_overlong_line_of_a_list_of_paths_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_lists, "MAX_ROW_CHARS", 1000)
    (tmp_path / "list").write_text("a.png\n" + "x" * 5000)
    with pytest.raises(CorpusError, match=r"list, line 2: it has more than 1,000 characters, the limit"):
        list(Images(str(tmp_path), image_list=f"{tmp_path}/list").items())


def test_folders_nested_too_deeply_fail_alone(tmp_path: Path) -> None:
    inner = "/".join("d" * 101)
    write_tree(tmp_path, "a.png", f"{inner}/b.png")
    assert listed(Images(str(tmp_path)))[0] == {
        "a": None, f"{inner}/%folder": f"{inner} lies in more than 100 folders, the limit"
    }  # fmt: skip


def test_a_pattern_of_tars_in_folders_nested_too_deeply_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def glob(folder: Path, pattern: str) -> None:
        raise RecursionError("maximum recursion depth exceeded")  # as Python does, at 1,000 folders

    monkeypatch.setattr(Path, "glob", glob)
    with pytest.raises(CorpusError, match=r"^--data\.tars '\*\*/\*\.tar': .*recursion.*; give a pattern below"):
        list(TarImages(str(tmp_path), "**/*.tar").items())


def test_the_paths_that_links_multiply_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 folders, each with two links to the next one, have 2^40 paths."""
    monkeypatch.setattr(walk, "_MAX_LINKS_TO_FOLDER", 4)
    folders = [tmp_path / f"{number}" for number in range(40)]
    for folder in folders:
        folder.mkdir()
    for folder, following in pairwise(folders):
        (folder / "a").symlink_to(following)
        (folder / "b").symlink_to(following)
    write_tree(tmp_path, "39/x.png")
    result, _ = listed(Images(str(tmp_path)))
    assert result["39/x"] is None
    problems = {problem for problem in result.values() if problem}
    assert "0/b/b/b/%folder" not in problems
    assert all(
        problem.endswith(" is a link to a folder that was listed by more than 4 links, the limit")
        for problem in problems
    )
    assert len(result) < 1000


def test_a_list_that_would_take_years_to_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list").touch()
    os.truncate(tmp_path / "list", 1 << 40)  # a hole
    with pytest.raises(
        CorpusError, match=r"^--data\.image_list .*list has 1,099,511,627,776 bytes; the limit is 137,438"
    ):
        Images(str(tmp_path), image_list=f"{tmp_path}/list")


@pytest.mark.parametrize("path", ["a\0b/c.png", "a\ud800b/c.png"])
def test_an_absolute_path_that_cannot_be_one_is_below_no_folder(path: str, tmp_path: Path) -> None:
    assert relative_to(str(tmp_path), f"/{path}") is None


def test_the_frames_of_a_folder_whose_name_has_a_zero_byte_are_a_problem_of_their_item(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"a\\x00b' cannot be used as a path: .*null (byte|character)"):
        list_frames(tmp_path / "a\0b")


def test_a_path_that_is_too_long_is_not_looked_up(tmp_path: Path) -> None:
    assert relative_to(str(tmp_path), f"{tmp_path}/a/b.png") == "a/b.png"
    assert relative_to(str(tmp_path), f"{tmp_path}/{'a/' * 2048}b.png") is None
