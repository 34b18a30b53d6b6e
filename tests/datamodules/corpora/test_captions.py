"""Small copies of the layouts of YouTube-ASL and CSL-Daily."""

import errno
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from datamodules.corpora.captions import read_captions
from datamodules.corpora.csl_daily import CslDaily
from datamodules.corpora.youtube_asl import YouTubeAsl
from datamodules.errors import ConfigError, CorpusError, EnvironmentFailure
from support.frame_corpora import write_image

VTT = """WEBVTT
Kind: captions
Language: en

00:00:01.500 --> 00:00:02.750 align:start position:0%
Hello, <i>world</i> &amp; all.

NOTE a comment

second
01:00:02.000 --> 01:00:04.000
two
lines
"""
SRT = """1
00:00:01,500 --> 00:00:02,750
Hello.

2
00:00:02,750 --> 00:00:03,000

"""
INFO = {
    "name": "S000007_P0003_T00", "length": 2, "label_gloss": ["他", "谁"], "label_char": ["他", "是", "谁", "？"],
    "label_word": ["他", "是", "谁", "？"], "signer": 3, "time": 0,
}  # fmt: skip


def test_captions_of_each_format_are_read(tmp_path: Path) -> None:
    vtt, srt, transcript = (tmp_path / f"a.{ending}" for ending in ("vtt", "srt", "json"))
    vtt.write_bytes(VTT.replace("\n", "\r\n").encode())
    srt.write_text(SRT)
    transcript.write_text(json.dumps([{"text": "Hello,\nworld", "start": 1.5, "duration": 1.25}]))
    assert list(read_captions(str(vtt))) == [
        ("00:00:01.500", "00:00:02.750", "Hello, world & all."), ("01:00:02.000", "01:00:04.000", "two lines"),
    ]  # fmt: skip
    assert list(read_captions(str(srt))) == [
        ("00:00:01,500", "00:00:02,750", "Hello."), ("00:00:02,750", "00:00:03,000", ""),
    ]  # fmt: skip
    assert list(read_captions(str(transcript))) == [(1.5, 2.75, "Hello, world")]
    with pytest.raises(ConfigError, match=r"has the ending '\.ass': give captions in \.vtt, \.srt or \.json"):
        read_captions("a.ass")


def test_a_caption_of_youtube_asl_is_a_part_of_its_video(tmp_path: Path) -> None:
    ids = tmp_path / "youtube_asl_video_ids.txt"
    ids.write_text("-1b2c3d4e5F\ngone\nodd\n")
    (tmp_path / "-1b2c3d4e5F.mp4").write_bytes(b"x")
    (tmp_path / "-1b2c3d4e5F.en.vtt").write_text(VTT)
    (tmp_path / "odd.en.vtt").write_text("00:00:03.000 --> 00:00:02.000\nX\n")
    first, second, gone, odd = YouTubeAsl(str(tmp_path), str(ids), f"{tmp_path}/{{id}}.en.vtt").items()
    assert (first.key, first.path) == ("train/-1b2c3d4e5F-0001", "-1b2c3d4e5F.mp4")
    assert (first.start_seconds, first.stop_seconds) == (1.5, 2.75)
    assert first.meta == {
        "sentence_id": "-1b2c3d4e5F-0001", "text": "Hello, world & all.", "language": "ase",
    }  # fmt: skip
    assert (second.start_seconds, second.stop_seconds) == (3602.0, 3604.0)
    assert gone.key == "train/%line-2"
    assert gone.problem == (
        f"{ids}, line 2: the captions of gone: {tmp_path}/gone.en.vtt cannot be read: No such file or directory"
    )
    assert (odd.key, (odd.problem or "").endswith("stop = 2 is not after start = 3")) == ("train/odd-0001", True)
    with pytest.raises(ConfigError, match=r"--data\.captions a\.vtt: write \{id\}"):
        YouTubeAsl(str(tmp_path), str(ids), "a.vtt")


def test_captions_that_are_not_utf_8_fail_alone_and_a_failing_file_system_stops_the_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.vtt"
    path.write_bytes(b"00:01.000 --> 00:02.000\n\xff\n")
    with pytest.raises(CorpusError, match=r"a\.vtt is not UTF-8: "):
        list(read_captions(str(path)))

    def fail(path: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("datamodules.corpora.captions.open_list", fail)
    with pytest.raises(EnvironmentFailure, match=r"a\.vtt cannot be listed: Input/output error\. Is its"):
        list(read_captions(str(path)))


def csl_daily(root: Path, content: Any, splits: str = "name|split\nS000005_P0004_T00|train\n") -> CslDaily:
    (root / "csl2020ct_v2.pkl").write_bytes(pickle.dumps(content))
    (root / "split_1.txt").write_text(splits)
    return CslDaily(str(root), str(root / "csl2020ct_v2.pkl"), str(root / "split_1.txt"))


def test_a_sentence_of_csl_daily_is_a_folder_of_frames(tmp_path: Path) -> None:
    for number in (0, 1):
        write_image(tmp_path / f"S000007_P0003_T00/{number:06d}.png", number)
    good, odd, unlisted = csl_daily(
        tmp_path, {"info": [INFO, "x", {**INFO, "name": "S1"}], "gloss_map": ["他"]}
    ).items()
    assert (good.key, good.path, good.frames) == (
        "train/S000007_P0003_T00", "S000007_P0003_T00", ("000000.png", "000001.png"),
    )  # fmt: skip
    assert good.meta == {
        "sentence_id": "S000007_P0003_T00", "text": "他是谁？", "glosses": "他 谁", "signer": "3", "language": "csl",
    }  # fmt: skip
    assert (odd.problem or "").endswith("row 2: it is not a dict: 'x'")
    assert (unlisted.key, (unlisted.problem or "").partition("row 3: ")[2]) == (
        "unknown/%row-3", "'split' is None: give text or a whole number",
    )  # fmt: skip


def test_a_pickle_that_names_a_function_is_refused_and_not_executed(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"csl2020ct_v2\.pkl cannot be read: it wants builtins\.print, which"):
        list(csl_daily(tmp_path, {"info": [print]}).items())
    with pytest.raises(CorpusError, match="has no list 'info'"):
        list(csl_daily(tmp_path, [INFO]).items())
