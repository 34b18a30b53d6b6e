"""`preprocess report` writes a page, its media, and the data that the page shows."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import av
import numpy as np
import pytest
from PIL import Image

from datamodules.corpus import Item
from datamodules.run.bucket import open_store
from datamodules.run.folder import Run
from datamodules.run.record import Timing
from preprocess.cli import main
from support.caption_runs import caption_items, make_caption_run
from support.clip_runs import ClipItems, make_clip_run
from support.keypoint_runs import MadeItems, made_samples, make_run, retry_made
from support.pose_runs import make_pose_run
from support.run_paths import folder_of, record_path
from support.track_runs import make_track_run, write_videos

KIND = {"samples": {"class_path": "datamodules.samples.keypoints.KeypointSamples"}}


def report(run: Run | Path | str, *arguments: str) -> dict[str, Any]:
    """Make the report of a run in a folder, and return its document."""
    folder = str(folder_of(run)) if isinstance(run, Run) else str(run)
    assert main(["report", folder, *arguments]) == 0
    dest = arguments[arguments.index("--dest") + 1] if "--dest" in arguments else f"{folder}/report"
    return document(Path(dest, "index.html").read_text("utf-8"))


def document(html: str) -> dict[str, Any]:
    found = re.search(r'<script id="document" type="application/json">(.*?)</script>', html, re.DOTALL)
    assert found
    made: dict[str, Any] = json.loads(found[1])
    return made


def distribution(made: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [plot for plot in made["run"]["distributions"] if plot["name"] == name]
    return dict(found)


def test_the_page_counts_the_run_and_its_retries(tmp_path: Path) -> None:
    corpus = MadeItems({"train": 5, "dev": 1})
    make_run(tmp_path, corpus, failed=("train/v1", "train/v3"), fingerprint=KIND)
    retry_made(tmp_path, failed=("train/v3",))
    made = report(tmp_path, "--samples", "0")

    run = made["run"]
    assert {name: run[name] for name in ("planned", "committed", "failed", "missing", "frames")} == {
        "planned": 6, "committed": 5, "failed": 1, "missing": 0, "frames": 1 + 2 + 3 + 1 + 1,
    }  # fmt: skip
    assert [split["name"] for split in run["splits"]] == ["train", "dev"]
    counts = [(split["planned"], split["committed"], split["failed"]) for split in run["splits"]]
    assert counts == [(5, 4, 1), (1, 1, 0)]
    assert (run["failure_classes"], run["statuses"], run["devices"]) == ({"decode": 1}, {"ok": 5}, {"cpu": 5})
    assert run["ranks"] == 1  # of the run, without the retry
    assert len(made["timeline"]["bars"]) == 3 + 1 + 1
    assert [row["key"] for row in made["failures"]["rows"]] == ["train/v3"]
    assert made["gallery"] == []
    assert made["compared"] is None
    assert made["commands"][:2] == [f"preprocess failures {tmp_path}", f"preprocess retry {tmp_path}"]


def test_rates_and_bytes_do_not_count_samples_twice_that_a_retry_copied(tmp_path: Path) -> None:
    run = make_run(tmp_path, MadeItems({"train": 4}), fingerprint=KIND, per_shard=2)
    before = report(tmp_path, "--samples", "0")["run"]
    retry_made(tmp_path, keys=frozenset({"train/v0"}))  # replaces the first shard, with a copy of train/v1
    after = report(tmp_path, "--samples", "0")["run"]

    same = ("committed", "frames", "ranks", "seconds", "items_per_second", "frames_per_second", "phases", "bytes")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert after["bytes"] == sum(path.stat().st_size for path in folder_of(run).glob("*.tar"))


def test_distributions_are_those_of_all_samples(tmp_path: Path) -> None:
    corpus = MadeItems({"train": 9})
    make_run(tmp_path, corpus, failed=("train/v2",), fingerprint=KIND, per_shard=4)
    made = report(tmp_path, "--samples", "0")

    samples = made_samples(corpus, "train", failed=("train/v2",))
    rates = [float(sample.presence[:, 1].mean()) for sample in samples]
    face = distribution(made, "face_rate")
    assert (face["num_values"], face["num_unknown"]) == (8, 0)
    assert face["mean"] == pytest.approx(np.mean(rates))
    assert (face["least"], face["greatest"]) == (min(rates), max(rates))
    bins = (np.floor(np.array(rates) / face["width"]) - face["start"] / face["width"]).astype(int)
    assert np.bincount(bins, minlength=len(face["counts"])).tolist() == face["counts"]
    frames = distribution(made, "num_frames")
    assert (frames["width"], frames["start"], frames["counts"]) == (1.0, 1.0, [3, 2, 1, 2])
    assert distribution(made, "attempts")["num_values"] == 9  # of failures too


def test_the_gallery_has_a_playable_video_and_a_poster_of_each_sample(tmp_path: Path) -> None:
    corpus = write_videos(tmp_path / "corpus", "train/a", "train/b", "train/c")
    run = make_track_run(tmp_path / "run", corpus, failed=("train/b",))
    made = report(run)

    by_key = {entry["key"]: entry for entry in made["gallery"]}
    assert by_key.keys() == {"train/a", "train/b", "train/c"}
    failed = by_key["train/b"]
    assert (failed["reason_class"], failed["reason"], failed["why"]) == ("extract", "its prompt is empty", "failure")
    assert "image" not in failed
    media = tmp_path / "run" / "report" / "media"
    for key in ("train/a", "train/c"):
        entry = by_key[key]
        with av.open(str(media / entry["video"])) as video:
            assert sum(1 for _ in video.decode(video=0)) == entry["numbers"]["num_frames"]
        with Image.open(media / entry["image"]) as poster:
            assert poster.size == (96, 64)
        assert entry["numbers"]["num_objects"] == 2
        assert entry.get("problem") is None
        assert entry["source"] == f"{key}.mp4"
    assert sorted(path.suffix for path in media.iterdir()) == [".jpg", ".jpg", ".mp4", ".mp4"]


def test_captions_are_shown_with_their_image_escaped(tmp_path: Path) -> None:
    run = make_caption_run(tmp_path / "run", caption_items("train/a.jpg", "train/b.png"))
    html_folder = tmp_path / "run" / "report"
    made = report(run)
    assert [entry["text"] for entry in made["gallery"]] == ["a cow, <i>0</i> & Kühe", "a cow, <i>1</i> & Kühe"]
    assert all((html_folder / "media" / entry["image"]).exists() for entry in made["gallery"])
    html = (html_folder / "index.html").read_text("utf-8")
    assert "<i>0</i>" not in html  # no text of a run is in the page as HTML
    assert distribution(made, "num_characters")["mean"] == 22.0


def test_every_kind_has_a_gallery(tmp_path: Path) -> None:
    clips = make_clip_run(tmp_path / "clips", ClipItems({"train": 2}))
    pose = make_pose_run(tmp_path / "pose", caption_items("train/a.png", "train/b.png"), [1, 0])
    for run, ending in ((clips, ".mp4"), (pose, None)):
        for entry in report(run)["gallery"]:
            assert entry["image"].endswith(".jpg")
            assert Path(entry.get("video") or "x").suffix == (ending or "")


def test_frames_that_have_disappeared_are_named_and_not_drawn_black(tmp_path: Path) -> None:
    make_run(tmp_path / "run", MadeItems({"train": 2}), fingerprint=KIND)
    made = report(tmp_path / "run")
    for entry in made["gallery"]:
        assert "the source is gone" in entry["problem"]
        assert entry["problem"].endswith("(after 0 frames)")
        with Image.open(tmp_path / "run" / "report" / "media" / entry["image"]) as poster:
            assert np.median(np.array(poster)) > 200  # a light page with a text


def test_a_damaged_tar_costs_only_its_samples(tmp_path: Path) -> None:
    run = make_run(tmp_path, MadeItems({"train": 4}), fingerprint=KIND)
    (tmp_path / "train-000000.tar").write_bytes(b"\xff" * 100)
    made = report(run)
    problems = {entry["key"]: entry.get("problem") or "" for entry in made["gallery"]}
    assert all("run `preprocess verify`" in problems[key] for key in ("train/v0", "train/v1"))
    assert all("the source is gone" in problems[key] for key in ("train/v2", "train/v3"))


def test_a_damaged_table_is_an_error_that_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, MadeItems({"train": 4}), fingerprint=KIND)
    (tmp_path / "tables" / "train-000000.parquet").write_bytes(b"no")
    assert main(["report", str(tmp_path)]) == 2
    assert "train-000000.parquet cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_a_run_without_committed_shards_has_a_page(tmp_path: Path) -> None:
    make_run(tmp_path, MadeItems({"train": 4}), fingerprint=KIND, max_shards=0)
    made = report(tmp_path)
    assert (made["run"]["committed"], made["run"]["missing"], made["gallery"]) == (0, 4, [])
    assert made["timeline"]["bars"] == []
    assert {plot["num_values"] for plot in made["run"]["distributions"]} == {0}


def test_a_run_of_an_older_version_has_no_timeline_and_unknown_metrics(tmp_path: Path) -> None:
    run = make_run(tmp_path, MadeItems({"train": 2}), fingerprint=KIND)
    record = run.record("train-000000")
    record_path(run, "train-000000").write_text(replace(record, timing=Timing()).to_json())
    made = report(tmp_path, "--samples", "0")
    assert made["timeline"]["bars"] == []
    assert (made["run"]["seconds"], made["run"]["items_per_second"]) == (0.0, None)


def test_a_second_report_replaces_the_first_and_another_folder_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "run", MadeItems({"train": 2}), fingerprint=KIND)
    report(tmp_path / "run")
    (tmp_path / "run" / "report" / "media" / "old.jpg").write_bytes(b"old")
    report(tmp_path / "run", "--samples", "1")
    assert capsys.readouterr().err == ""  # the bar of progress is for terminals
    assert {path.name for path in (tmp_path / "run" / "report" / "media").iterdir()} <= {"00000.jpg", "00000.mp4"}

    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    assert main(["report", str(tmp_path / "run"), "--dest", str(other)]) == 2
    assert f"--dest {other} exists, and is not replaced" in capsys.readouterr().err
    assert [path.name for path in other.iterdir()] == ["mine.txt"]


def test_a_report_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    make_run(tmp_path, MadeItems({"train": 2}), fingerprint=KIND)
    before = report(tmp_path)["made"]
    (tmp_path / "tables" / "train-000000.parquet").write_bytes(b"no")
    assert main(["report", str(tmp_path)]) == 2
    assert document((tmp_path / "report" / "index.html").read_text("utf-8"))["made"] == before
    assert not list(tmp_path.glob(".report*"))


def test_two_runs_are_compared(tmp_path: Path) -> None:
    make_run(tmp_path / "one", MadeItems({"train": 4}), fingerprint=KIND)
    make_run(tmp_path / "two", MadeItems({"train": 6}), failed=("train/v0",), fingerprint=KIND)
    made = report(tmp_path / "one", "--compare", str(tmp_path / "two"), "--samples", "0")
    assert (made["compared"]["planned"], made["compared"]["failed"]) == (6, 1)
    assert made["compared"]["failure_classes"] == {"decode": 1}
    [frames] = [plot for plot in made["compared"]["distributions"] if plot["name"] == "num_frames"]
    assert frames["num_values"] == 5


def test_the_report_of_a_run_in_a_bucket_is_in_the_bucket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("obstore")
    folder = folder_of(make_run(tmp_path / "run", MadeItems({"train": 2}), fingerprint=KIND))
    url = f"memory://test-{uuid4().hex[:8]}/run"
    store = open_store(url)
    for path in folder.rglob("*"):
        if path.is_file():
            store.replace(path.relative_to(folder).as_posix(), path.read_bytes())
    for _ in range(2):  # the second replaces the first
        assert main(["report", url]) == 0
        assert capsys.readouterr().out.strip() == f"{url}/report/index.html"
        made_in = open_store(f"{url}/report")
        made = document(made_in.open("index.html").readall().decode())
        names = {name for entry in made["gallery"] for name in (entry["image"], entry.get("video")) if name}
        assert set(made_in.names("media")) == names
        assert set(made_in.names()) - {"work"} == {"index.html", "media"}


def test_hostile_names_are_data_only(tmp_path: Path) -> None:
    hostile = "</script><script>document.title='x'</script>"
    item = Item("train/a", "train", "a", ("x.png",), meta={"image": "a.jpg", hostile: hostile})
    run = make_caption_run(tmp_path / "run", [item], prompt=hostile)
    made = report(run)
    assert made["gallery"][0]["note"] == hostile
    assert made["gallery"][0]["corpus"][hostile] == hostile
    html = (tmp_path / "run" / "report" / "index.html").read_text("utf-8")
    assert html.count("</script>") == 2
    assert hostile not in html


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples", "-1"], "--samples -1: give 0 or more"),
        (["--compare", "nowhere"], "is no run"),
        (["--dest", "ftp://host/x"], "ftp"),
    ],
)
def test_wrong_options_are_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path, MadeItems({"train": 2}), fingerprint=KIND)
    assert main(["report", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_a_file_in_the_way_of_the_report_is_not_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "run", MadeItems({"train": 2}), fingerprint=KIND)
    (tmp_path / "run" / "report").write_text("mine")
    assert main(["report", str(tmp_path / "run")]) == 2
    assert "report is not a folder. Remove it, or give --dest" in capsys.readouterr().err
    assert (tmp_path / "run" / "report").read_text() == "mine"
    assert report(tmp_path / "run", "--dest", str(tmp_path / "out"))["run"]["planned"] == 2
