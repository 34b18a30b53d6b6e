"""Videos of drawn frames, decoded by another library than the one that writes them."""

from pathlib import Path

import decord
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from datamodules.errors import RunError
from datamodules.media.video import read_frames
from datamodules.run.bucket import open_store
from preprocess.draw.video import StoredVideoWriter, VideoWriter
from preprocess.draw.visualize import visualize
from support.track_runs import TrackItems, gray_of, made_sample, make_track_run, write_videos

GRAY = np.full((240, 320, 3), 128, np.uint8)


def decoded(path: Path) -> tuple[list[NDArray[np.uint8]], list[float]]:
    """(frames, when each is shown) of an MP4, as decord reads it."""
    reader = decord.VideoReader(str(path))
    return [reader[place].asnumpy() for place in range(len(reader))], reader.get_frame_timestamp(range(len(reader)))[
        :, 0
    ].tolist()


def test_a_video_has_the_frames_at_their_times(tmp_path: Path) -> None:
    times = [20.0, 20.04, 20.1, 20.5, 20.5333333]
    frames = [np.full((48, 64, 3), 40 * place, np.uint8) for place in range(5)]
    with VideoWriter(tmp_path / "sub" / "a.mp4", (48, 64)) as video:
        for frame, time in zip(frames, times, strict=True):
            video.add(frame, time)
        assert not video.path.exists()
    found, shown = decoded(tmp_path / "sub" / "a.mp4")
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["a.mp4"]
    np.testing.assert_allclose([each.mean() for each in found], [0, 40, 80, 120, 160], atol=3)
    np.testing.assert_allclose(shown, np.array(times) - 20, atol=1e-4)
    facts = read_frames(tmp_path / "sub" / "a.mp4").facts
    assert (facts["codec"], facts["begin_seconds"]) == ("h264", 0)
    assert facts["duration_seconds_from_header"] == pytest.approx(0.5667, abs=1e-3)  # the last as long as that before


def test_a_video_is_written_under_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with VideoWriter(Path("12:30 talk.mp4"), (48, 64)) as video:
        video.add(np.zeros((48, 64, 3), np.uint8), 0.0)
    assert [path.name for path in tmp_path.iterdir()] == ["12:30 talk.mp4"]


@pytest.mark.parametrize("size", [(47, 64), (48, 63), (47, 63)])
def test_odd_sizes_are_padded_by_their_last_row_and_column(tmp_path: Path, size: tuple[int, int]) -> None:
    x = np.linspace(0, 250, size[1]).astype(np.uint8)
    frame = np.repeat(np.repeat(x[None, :, None], size[0], 0), 3, 2)
    with VideoWriter(tmp_path / "a.mp4", size) as video:
        video.add(frame, 0.0)
    [found] = decoded(tmp_path / "a.mp4")[0]
    assert found.shape == (48, 64, 3)
    np.testing.assert_allclose(found[40:, -1], np.full_like(found[40:, -1], 250), atol=6)


def test_a_video_that_breaks_off_leaves_nothing_and_one_that_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"before")

    def write_half() -> None:
        with VideoWriter(tmp_path / "a.mp4", (240, 320)) as video:
            video.add(GRAY, 0.0)
            raise IndexError

    with pytest.raises(IndexError):
        write_half()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.mp4": b"before"}
    with VideoWriter(tmp_path / "b.mp4", (48, 64)):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_a_video_of_a_run_is_in_its_store_once_it_is_closed(tmp_path: Path, where: str) -> None:
    if where == "bucket":
        pytest.importorskip("obstore")
    store = open_store(tmp_path / "run" if where == "folder" else "memory://videos/run", str(tmp_path / "local"))
    with StoredVideoWriter(store, "videos/train/a.mp4", tmp_path / "scratch", (48, 64)) as video:
        video.add(np.zeros((48, 64, 3), np.uint8), 0.0)
        assert store.find("videos/train/a.mp4") is None
    (tmp_path / "copy.mp4").write_bytes(store.open("videos/train/a.mp4").readall())
    assert len(decoded(tmp_path / "copy.mp4")[0]) == 1
    assert list((tmp_path / "scratch").iterdir()) == []


def test_tracks_of_a_run_are_drawn_over_their_frames_at_their_times(tmp_path: Path) -> None:
    corpus = write_videos(
        tmp_path / "videos", "train/a", "train/b", size=(240, 320), times=lambda k: 40 * k + (k % 3) * 7, num_frames=8
    )
    run = make_track_run(tmp_path / "run", corpus)
    written = visualize(run, tmp_path / "out")
    names = ["train/a.png", "train/a.mp4", "train/b.png", "train/b.mp4"]
    assert [str(path.relative_to(tmp_path / "out")) for path in written] == names
    for place, item in enumerate(corpus.items()):
        found, shown = decoded(written[2 * place + 1])
        taken = corpus.frames(item)
        np.testing.assert_allclose(shown, [seconds for _, seconds in taken], atol=1e-4)
        for picture, (k, _) in zip(found, taken, strict=True):
            assert picture.shape == (240, 320, 3)
            assert abs(float(picture[-20:].mean()) - gray_of(k)) < 4
            for shape in corpus.videos[item.key].at(k):
                undrawn = corpus.videos[item.key].picture(k)
                x1, y1, x2, y2 = shape.bbox
                assert np.abs(picture[y1:y2, x1:x2].astype(int) - undrawn[y1:y2, x1:x2]).mean() > 20
        with Image.open(written[2 * place]) as sheet:
            assert sheet.width == 1800


def test_tracks_whose_video_is_gone_are_drawn_blank(tmp_path: Path) -> None:
    corpus = write_videos(tmp_path / "videos", "train/a", size=(240, 320), num_frames=5)
    run = make_track_run(tmp_path / "run", corpus)
    (tmp_path / "videos/train/a.mp4").unlink()
    _, video = visualize(run, tmp_path / "out")
    found, _ = decoded(video)
    assert (len(found), found[0].shape) == (5, (240, 320, 3))
    assert abs(float(found[0][150].mean()) - 246) < 4


def test_tracks_of_a_size_that_no_video_can_have_end_with_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_videos(tmp_path / "videos", "train/a", size=(240, 320), num_frames=2)
    info = {"width": 20_000, "height": 2, "fps": 25.0, "num_frames": 1, "duration": 0.04}
    meta = {"path": "train/a.mp4", "prompt": "car.", "video_info": info, "num_objects": 0, "backend": "made"}
    sample = made_sample("train/a", [{"frame_idx": n, "timestamp": 0.0, "objects": []} for n in range(2)], meta)
    monkeypatch.setattr(TrackItems, "sample", lambda *_: sample)
    run = make_track_run(tmp_path / "run", corpus)
    with pytest.raises(RunError, match=r"train/a: no video of 20000x2 px can be written .*16,384 px a side"):
        visualize(run, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.mp4"))
