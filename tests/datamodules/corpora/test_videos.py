import os

import pytest

from datamodules.corpora.videos import Videos
from datamodules.errors import ConfigError, CorpusError


@pytest.fixture
def root(tmp_path):
    for name in ("b.mp4", "a.MKV", "sub.v1/c d.webm", "sub.v1/notes.txt", ".hidden/e.mp4", "._a.mp4", "ü.mov"):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * len(name))
    return tmp_path / "videos"


def keys(corpus):
    return [item.key for item in corpus.items()]


def test_videos_below_the_folder_come_by_name_with_their_size(root):
    items = list(Videos(str(root), split="dev", fps=5.0).items())
    assert [item.key for item in items] == ["a", "b", "sub%2Ev1/c%20d", "ü"]
    assert [item.path for item in items] == ["a.MKV", "b.mp4", "sub.v1/c d.webm", "ü.mov"]
    assert [item.cost for item in items] == [5, 5, 15, 5]
    assert {(item.split, item.fps, item.frames) for item in items} == {("dev", 5.0, ())}
    assert items == list(Videos(str(root), split="dev", fps=5.0).items())


def test_max_items_limits(root):
    assert keys(Videos(str(root), max_items=2)) == ["a", "b"]


def test_links_to_videos_are_followed(root, tmp_path):
    (tmp_path / "elsewhere.mp4").write_bytes(b"xyz")
    os.symlink(tmp_path / "elsewhere.mp4", root / "z.mp4")
    os.symlink(tmp_path / "nowhere.mp4", root / "broken.mp4")
    assert keys(Videos(str(root)))[-2:] == ["z", "ü"]


def test_a_list_gives_the_order(root, tmp_path):
    (tmp_path / "list").write_text(f"ü.mov\n\n# b.mp4\n  ./b.mp4 \n{root}/a.MKV\n", encoding="utf-8")
    items = list(Videos(str(root), video_list=str(tmp_path / "list")).items())
    assert [item.path for item in items] == ["ü.mov", "b.mp4", f"{root}/a.MKV"]
    assert [item.key for item in items][:2] == ["ü", "b"]
    assert items[2].key == f"{str(root).lstrip('/')}/a"


def test_a_list_with_a_byte_order_mark_is_read(root, tmp_path):
    (tmp_path / "list").write_text("b.mp4\n", encoding="utf-8-sig")
    assert keys(Videos(str(root), video_list=str(tmp_path / "list"))) == ["b"]


def test_a_missing_root_fails(tmp_path):
    with pytest.raises(CorpusError, match="is no folder"):
        keys(Videos(str(tmp_path / "nowhere")))


def test_an_empty_root_has_no_videos(tmp_path):
    assert keys(Videos(str(tmp_path))) == []


def test_a_missing_list_fails(root, tmp_path):
    with pytest.raises(CorpusError, match=r"--data\.video_list .*nowhere cannot be read"):
        keys(Videos(str(root), video_list=str(tmp_path / "nowhere")))


def test_a_list_that_is_not_utf8_fails(root, tmp_path):
    (tmp_path / "list").write_bytes("ü.mov".encode("latin-1"))
    with pytest.raises(CorpusError, match="cannot be read"):
        keys(Videos(str(root), video_list=str(tmp_path / "list")))


def test_a_listed_video_that_is_missing_fails_with_its_line(root, tmp_path):
    (tmp_path / "list").write_text("b.mp4\nnot-there.mp4\n")
    with pytest.raises(CorpusError, match=r"list, line 2: not-there\.mp4: No such file"):
        keys(Videos(str(root), video_list=str(tmp_path / "list")))


def test_a_listed_video_above_the_root_fails(root, tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"x")
    (tmp_path / "list").write_text("../x.mp4\n")
    with pytest.raises(CorpusError, match="no key can be made"):
        keys(Videos(str(root), video_list=str(tmp_path / "list")))


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_fails(root, fps):
    with pytest.raises(ConfigError, match=r"--data\.fps .*: give a rate above 0"):
        Videos(str(root), fps=fps)


def test_a_split_that_is_no_name_fails(root):
    with pytest.raises(CorpusError, match="cannot name a split"):
        keys(Videos(str(root), split="a-b"))
