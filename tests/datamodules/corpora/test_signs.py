"""Small copies of the layouts of PHOENIX-2014, WLASL and MS-ASL."""

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.corpora.msasl import MsAsl
from datamodules.corpora.phoenix_2014 import Phoenix2014
from datamodules.corpora.wlasl import Wlasl
from datamodules.corpora.youtube import youtube_id
from datamodules.errors import ConfigError
from support.frame_corpora import write_image

INSTANCE = {
    "bbox": [10, 20, 110, 220], "fps": 25, "frame_start": 1, "frame_end": -1, "signer_id": 7, "split": "train",
    "url": "http://aslbricks.org/book.mp4", "video_id": "69241",
}  # fmt: skip
SIGN = {
    "url": "www.youtube.com/watch?v=a1b2c3d4e5F", "start_time": 1.5, "end_time": 2.25, "text": "book", "label": 3,
    "signer_id": 7, "box": [0.1, 0.2, 1.0, 0.8], "start": 45, "end": 68, "file": "Signing a book", "fps": 30.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("release", "folder", "ending"),
    [("multisigner", "phoenix-2014-multisigner", ""), ("SI5", "phoenix-2014-signerindependent-SI5", ".SI5")],
)
def test_a_sentence_of_phoenix_2014_is_a_folder_of_frames(
    tmp_path: Path, release: Any, folder: str, ending: str
) -> None:
    table = tmp_path / f"{folder}/annotations/manual/dev{ending}.corpus.csv"
    table.parent.mkdir(parents=True)
    rows = [
        f"{name}|{name}/1/*.png|Signer04|__ON__ MORGEN SUED" for name in ("01April_2010_default-1", "missing_default-2")
    ]
    table.write_text("\n".join(["id|folder|signer|annotation", *rows, ""]))
    frames = f"{folder}/features/fullFrame-210x260px/dev/01April_2010_default-1/1"
    for number in (0, 1):
        write_image(tmp_path / f"{frames}/01April_2010.avi_pid0_fn{number:06d}-0.png", number)
    good, bad = Phoenix2014(str(tmp_path), release, splits=["dev"]).items()
    assert (good.key, good.split, good.path, len(good.frames)) == ("dev/01April_2010_default-1", "dev", frames, 2)
    assert good.meta == {
        "sentence_id": "01April_2010_default-1", "glosses": "__ON__ MORGEN SUED", "signer": "Signer04",
        "language": "gsg",
    }  # fmt: skip
    assert bad.key == "dev/missing_default-2"
    assert "missing_default-2/1" in (bad.problem or "")


def test_phoenix_2014_has_two_releases(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--data\.release SI4: choose from multisigner, SI5"):
        Phoenix2014(str(tmp_path), "SI4")  # type: ignore[arg-type]


def wlasl(root: Path, *glosses: Any, **options: Any) -> Wlasl:
    (root / "WLASL_v0.3.json").write_text(json.dumps(glosses))
    return Wlasl(str(root), str(root / "WLASL_v0.3.json"), **options)


def test_a_sign_of_wlasl_is_a_video(tmp_path: Path) -> None:
    (tmp_path / "69241.mp4").write_bytes(b"x")
    [item] = wlasl(tmp_path, {"gloss": "thank you", "instances": [INSTANCE]}).items()
    assert (item.key, item.path, item.start_seconds, item.stop_seconds) == ("train/69241", "69241.mp4", None, None)
    assert item.meta == {
        "sentence_id": "69241", "glosses": "thank you", "signer": "7", "language": "ase", "box_px": [10, 20, 110, 220],
    }  # fmt: skip


def test_a_sign_of_wlasl_is_a_part_of_a_raw_video(tmp_path: Path) -> None:
    (tmp_path / "a1b2c3d4e5F.mp4").write_bytes(b"x")
    sign = {**INSTANCE, "url": "https://youtu.be/a1b2c3d4e5F", "frame_start": 26, "frame_end": 50, "video_id": "2"}
    bad = {**sign, "frame_start": 0, "video_id": "3"}
    whole, part, faulty = wlasl(tmp_path, {"gloss": "book", "instances": [INSTANCE, sign, bad]}, raw=True).items()
    assert (whole.path, whole.start_seconds, whole.stop_seconds) == ("69241.mp4", 0.0, None)
    assert (part.path, part.start_seconds, part.stop_seconds) == ("a1b2c3d4e5F.mp4", 0.98, 1.98)  # 1.0 to 1.96
    assert (faulty.key, faulty.problem) == (
        "train/3",
        f"{tmp_path}/WLASL_v0.3.json, row 1-3: its frames are 0 to 50: give whole numbers from 1 on, or -1 last",
    )


def test_the_first_glosses_of_wlasl_are_a_subset(tmp_path: Path) -> None:
    (tmp_path / "69241.mp4").write_bytes(b"x")
    glosses = [{"gloss": f"g{n}", "instances": [{**INSTANCE, "video_id": f"{69241 + n}"}]} for n in range(3)]
    assert [item.meta["glosses"] for item in wlasl(tmp_path, *glosses, num_glosses=2).items()] == ["g0", "g1"]


def test_a_gloss_of_wlasl_without_instances_fails_alone(tmp_path: Path) -> None:
    (tmp_path / "69241.mp4").write_bytes(b"x")
    _, bad = wlasl(tmp_path, {"gloss": "book", "instances": [INSTANCE]}, {"gloss": "eat"}).items()
    assert (bad.key, (bad.problem or "").endswith("row 2: it has no list of instances")) == ("unknown/%row-2", True)


def test_a_sign_of_msasl_is_a_part_of_a_video_of_youtube(tmp_path: Path) -> None:
    (tmp_path / "a1b2c3d4e5F.mp4").write_bytes(b"x")
    (tmp_path / "MSASL_val.json").write_text(json.dumps([SIGN, {**SIGN, "url": "https://example.com/a.mp4"}]))
    item, bad = MsAsl(str(tmp_path), f"{tmp_path}/MSASL_{{split}}.json", ["val"]).items()
    assert (item.key, item.path, item.start_seconds, item.stop_seconds) == (
        "val/00000001", "a1b2c3d4e5F.mp4", 1.5, 2.25,
    )  # fmt: skip
    assert item.meta == {
        "sentence_id": "00000001", "glosses": "book", "signer": "7", "language": "ase", "label": 3,
        "box": [0.2, 0.1, 0.8, 1.0],
    }  # fmt: skip
    assert (bad.problem or "").endswith("'url' is 'https://example.com/a.mp4': it names no video of YouTube")


@pytest.mark.parametrize(
    ("url", "video"),
    [
        ("https://www.youtube.com/watch?v=-1b2c3d4e5_&t=3", "-1b2c3d4e5_"),
        ("https://youtu.be/a1b2c3d4e5F", "a1b2c3d4e5F"),
        ("https://www.youtube.com/embed/a1b2c3d4e5F?rel=0", "a1b2c3d4e5F"),
        ("https://example.com/v=short", None),
        (None, None),
    ],
)
def test_the_id_of_a_video_is_in_its_url(url: Any, video: str | None) -> None:
    assert youtube_id(url) == video
