import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import decord
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from datamodules.corpus import Corpus, Item
from datamodules.errors import ConfigError, RunError
from datamodules.run.folder import Run
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import ShardSize
from datamodules.run.rank import Rank
from datamodules.run.result import Result
from datamodules.run.retries import RetryRequest, open_or_plan_retry
from datamodules.samples import SampleKind
from datamodules.samples.drawing.keypoints import PART_COLOURS
from datamodules.samples.keypoints import KeypointSample, KeypointSamples
from preprocess.draw.source import blank
from preprocess.draw.visualize import visualize
from support.clip_runs import ClipItems, made_clip, make_clip_run
from support.keypoint_runs import PART_SLICES, MadeItems, make_run
from support.run_paths import folder_of

# One point of each part, far from all others, in px of a frame of 104x130 px; drawn four times as large.
PLACES = {"pose": (30, 90), "face": (20, 20), "left_hand": (80, 30), "right_hand": (80, 100)}
PARTS = tuple(PLACES)
KEYPOINTS = {"class_path": "datamodules.samples.keypoints.KeypointSamples"}
GREY, BLANK = (128, 128, 128), (244, 246, 248)
Frame = NDArray[np.uint8]


class UndrawnSamples(KeypointSamples):
    draw = SampleKind.draw  # type: ignore[assignment] # as if it drew nothing


UNDRAWN = f"{__name__}.{UndrawnSamples.__qualname__}"


class Items(Corpus):
    def __init__(self, root: Path, items: list[Item]) -> None:
        self.root, self._items = str(root), items

    def items(self) -> Iterator[Item]:
        yield from self._items


def sequence(root: Path, key: str, num_frames: int = 3) -> Item:
    """An item of grey images of 104x130 px."""
    names = tuple(f"{n}.png" for n in range(num_frames))
    (root / key).mkdir(parents=True)
    for name in names:
        Image.new("RGB", (104, 130), GREY).save(root / key / name)
    return Item(key, key.partition("/")[0], key, names)


def sample_of(item: Item, presence: tuple[int, ...] = (1, 1, 1, 1), layout: int = 143, **meta: Any) -> KeypointSample:
    """All points of each part at its place, or absent in every frame."""
    num_frames = meta.pop("num_frames", len(item.frames))
    keypoints = np.zeros((num_frames, layout, 3), np.float32)
    for found, part in zip(presence, PARTS, strict=True):
        if found and part in PART_SLICES[layout]:
            keypoints[:, PART_SLICES[layout][part], :2] = PLACES[part]
    visibility = np.ones((num_frames, 33), np.float32)
    about = {"layout": layout, "width": 104, "height": 130, "fps": None, **meta}
    return KeypointSample(item.key, keypoints, np.array([presence] * num_frames, np.uint8), visibility, about)


def run_of(folder: Path, root: Path, samples: list[tuple[Item, KeypointSample]], **made: Any) -> Run:
    fingerprint = {"corpus": {"class_path": "Items", "init_args": {"root": str(root)}}, "samples": KEYPOINTS, **made}
    run = open_or_plan(folder, Items(root, [item for item, _ in samples]), fingerprint, ShardSize())
    by_key = {sample.key: sample for _, sample in samples}
    with Rank(run) as rank:
        while opened := rank.lease():
            for row, item in enumerate(opened.items):
                members = KeypointSamples().encode(by_key[item.key])
                rank.add(opened.shard.number, Result(row, num_frames=1), members)
    return run


def decoded(path: Path) -> tuple[list[Frame], float]:
    """(frames, frames per second) of an MP4, as decord reads it."""
    reader = decord.VideoReader(str(path))
    return [reader[i].asnumpy() for i in range(len(reader))], reader.get_avg_fps()


def colour_at(frame: Frame, part: str) -> str:
    """What the middle of the place of `part` looks like most: a part's name, `grey` or `blank`."""
    x, y = (4 * value for value in PLACES[part])
    seen = frame[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3).mean(0)
    known = {**PART_COLOURS, "grey": GREY, "blank": BLANK}
    return min(known, key=lambda name: float(np.abs(np.subtract(known[name], seen)).sum()))


def test_each_sample_becomes_a_sheet_and_a_video_named_by_its_key(tmp_path: Path) -> None:
    items = [sequence(tmp_path / "root", key) for key in ("train/a", "train/b", "dev/c")]
    run = run_of(tmp_path / "run", tmp_path / "root", [(item, sample_of(item)) for item in items])
    written = visualize(run, tmp_path / "out", num_samples=9)
    names = [f"{stem}.{ending}" for stem in ("train/a", "train/b", "dev/c") for ending in ("png", "mp4")]
    assert [str(path.relative_to(tmp_path / "out")) for path in written] == names


def test_samples_are_taken_evenly_and_of_the_split_asked_for(tmp_path: Path) -> None:
    items = [sequence(tmp_path / "root", f"{key}", 1) for key in ("dev/x", *(f"train/{i}" for i in range(5)))]
    run = run_of(tmp_path / "run", tmp_path / "root", [(item, sample_of(item)) for item in items])
    written = visualize(run, tmp_path / "out", num_samples=3, split="train")
    assert [path.name for path in written] == ["0.png", "2.png", "4.png"]


@pytest.mark.parametrize("layout", [143, 75])
def test_parts_found_are_drawn_in_their_colours_over_the_frames(layout: int, tmp_path: Path) -> None:
    item = sequence(tmp_path / "root", "train/a")
    sample = sample_of(item, presence=(1, 1, 0, 1), layout=layout)
    visualize(run_of(tmp_path / "run", tmp_path / "root", [(item, sample)]), tmp_path / "out")
    frames, fps = decoded(tmp_path / "out" / "train/a.mp4")
    assert ([frame.shape for frame in frames], fps) == ([(520, 416, 3)] * 3, 25.0)
    face = "face" if layout == 143 else "grey"
    for frame in frames:
        assert [colour_at(frame, part) for part in PARTS] == ["pose", face, "grey", "right_hand"]


def test_pose_points_that_are_not_visible_are_not_drawn(tmp_path: Path) -> None:
    item = sequence(tmp_path / "root", "train/a")
    sample = sample_of(item)
    sample.visibility[1] = 0.4
    visualize(run_of(tmp_path / "run", tmp_path / "root", [(item, sample)]), tmp_path / "out")
    frames, _ = decoded(tmp_path / "out" / "train/a.mp4")
    assert [colour_at(frame, "pose") for frame in frames] == ["pose", "grey", "pose"]


def test_sheet_shows_six_frames_evenly_spaced(tmp_path: Path) -> None:
    item = sequence(tmp_path / "root", "train/a", 11)
    sample = sample_of(item, presence=(1, 0, 0, 0))
    for frame_idx in range(11):
        sample.presence[frame_idx, 0] = frame_idx in (0, 4, 10)
    png, _ = visualize(run_of(tmp_path / "run", tmp_path / "root", [(item, sample)]), tmp_path / "out")
    with Image.open(png) as image:
        sheet = np.asarray(image)
    assert sheet.shape[1] == 1800
    below = sheet[84:]  # the header has the colours too
    columns = np.flatnonzero((below == PART_COLOURS["pose"]).all(2).any(0))
    panel_px = (1800 - 2 * 32 - 5 * 12) // 6
    where = (columns - 32) / (panel_px + 12)
    assert sorted(set(where.astype(int).tolist())) == [0, 2, 5]  # frames 0, 2, 4, 6, 8, 10
    np.testing.assert_allclose(where % 1, PLACES["pose"][0] / 104, atol=0.04)


def test_frames_of_a_video_are_those_that_were_planned(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    with av.open(str(tmp_path / "root" / "a.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=20, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for level in range(10):
            frame = np.full((480, 640, 3), 20 * level, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    item = Item("train/a", "train", "a.mp4", fps=10)
    sample = sample_of(item, (0, 0, 0, 0), num_frames=5, fps=10.0, width=640, height=480)
    visualize(run_of(tmp_path / "run", tmp_path / "root", [(item, sample)]), tmp_path / "out")
    frames, fps = decoded(tmp_path / "out" / "train/a.mp4")
    assert (fps, frames[0].shape) == (10.0, (480, 640, 3))
    np.testing.assert_allclose([frame.mean() for frame in frames], [0, 40, 80, 120, 160], atol=4)


@pytest.mark.parametrize("stream", [0, 1])
def test_frames_are_those_of_the_stream_that_was_asked_for(stream: int, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    with av.open(str(tmp_path / "root" / "a.mkv"), "w") as file:
        streams = [file.add_stream("libx264", rate=25, options={"crf": "1"}) for _ in range(2)]
        for each in streams:
            each.width, each.height, each.pix_fmt = 640, 480, "yuv420p"
        for each, level in zip(streams, (60, 180), strict=True):
            frame = av.VideoFrame.from_ndarray(np.full((480, 640, 3), level, np.uint8), format="rgb24")
            file.mux([*each.encode(frame), *each.encode()])
    item = Item("train/a", "train", "a.mkv")
    sample = sample_of(item, (0, 0, 0, 0), num_frames=1, width=640, height=480)
    made = {"decoding": {"backend": "pyav", "fallback": False, "stream": stream, "device": "cpu", "images": "pillow"}}
    run = run_of(tmp_path / "run", tmp_path / "root", [(item, sample)], **made)
    (png,) = visualize(run, tmp_path / "out")
    with Image.open(png) as sheet:
        assert np.asarray(sheet)[300, 300].tolist() == pytest.approx([(60, 180)[stream]] * 3, abs=2)


def test_a_file_that_was_repaired_before_a_retry_is_drawn(tmp_path: Path) -> None:
    item = replace(sequence(tmp_path / "root", "train/a"), modified=1e9, cost=1)  # as it was, planned
    corpus = {"class_path": "Items", "init_args": {"root": str(tmp_path / "root")}}
    fingerprint = {"corpus": corpus, "samples": KEYPOINTS}
    run = open_or_plan(tmp_path / "run", Items(tmp_path / "root", [item]), fingerprint, ShardSize())
    retry = None
    for members in (None, KeypointSamples().encode(sample_of(item, (1, 0, 1, 1)))):
        with Rank(retry or run) as rank:
            opened = rank.lease()
            assert opened is not None
            failed = {"reason": "it is cut off", "reason_class": "decode"} if members is None else {"num_frames": 3}
            rank.add(opened.shard.number, Result(0, **failed), members or {})
        retry = retry or open_or_plan_retry(folder_of(run), fingerprint, ShardSize(), RetryRequest((), time.time()))
    visualize(Run(folder_of(run)), tmp_path / "out")
    frames, _ = decoded(tmp_path / "out" / "train/a.mp4")
    assert [[colour_at(frame, part) for part in PARTS] for frame in frames] == [
        ["pose", "grey", "left_hand", "right_hand"]
    ] * 3


@pytest.mark.parametrize(("size", "drawn"), [((639, 479), (640, 480)), ((2000, 1001), (1280, 640))])
def test_videos_have_even_sizes_up_to_1280_px(size: tuple[int, int], drawn: tuple[int, int], tmp_path: Path) -> None:
    item = Item("train/a", "train", "gone", ("0.png", "1.png"))
    sample = sample_of(item, width=size[0], height=size[1])
    visualize(run_of(tmp_path / "run", tmp_path, [(item, sample)]), tmp_path / "out")
    frames, _ = decoded(tmp_path / "out" / "train/a.mp4")
    assert frames[0].shape == (drawn[1], drawn[0], 3)


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (0, 130), (-104, 130), (None, 130)])
def test_a_sample_of_a_size_that_no_image_has_ends_with_one_error(width: Any, height: int, tmp_path: Path) -> None:
    item = sequence(tmp_path / "root", "train/a", 1)
    sample = sample_of(item, width=width, height=height)
    run = run_of(tmp_path / "run", tmp_path / "root", [(item, sample)])
    with pytest.raises(RunError, match=rf"train/a cannot be drawn: its json has the .*{width}"):
        visualize(run, tmp_path / "out")


@pytest.mark.parametrize(("fps", "shown"), [(1e300, 1000), (1e-300, 0.01), (-25.0, 0.01)])
def test_a_rate_that_no_video_has_becomes_the_nearest_possible(fps: float, shown: float, tmp_path: Path) -> None:
    item = sequence(tmp_path / "root", "train/a", 2)
    run = run_of(tmp_path / "run", tmp_path / "root", [(item, sample_of(item, fps=fps))])
    assert decoded(visualize(run, tmp_path / "out")[1])[1] == pytest.approx(shown, rel=0.01)


def test_frames_below_a_path_that_is_too_long_are_drawn_blank(tmp_path: Path) -> None:
    item = sequence(tmp_path / "root", "train/a")
    planned = replace(item, path="a" * 300)
    visualize(run_of(tmp_path / "run", tmp_path / "root", [(planned, sample_of(item, (1, 0, 1, 1)))]), tmp_path / "out")
    frames, _ = decoded(tmp_path / "out" / "train/a.mp4")
    assert [colour_at(frame, "face") for frame in frames] == ["blank"] * 3


def test_frames_that_are_gone_are_drawn_blank(tmp_path: Path) -> None:
    item = sequence(tmp_path / "root", "train/a")
    (tmp_path / "root" / "train/a/1.png").unlink()
    sample = sample_of(item, (1, 0, 1, 1))
    visualize(run_of(tmp_path / "run", tmp_path / "root", [(item, sample)]), tmp_path / "out")
    frames, _ = decoded(tmp_path / "out" / "train/a.mp4")
    assert [colour_at(frame, "face") for frame in frames] == ["grey", "blank", "blank"]
    assert [colour_at(frame, "pose") for frame in frames] == ["pose"] * 3


def test_sample_of_one_frame_has_no_video(tmp_path: Path) -> None:
    item = sequence(tmp_path / "root", "train/a", 1)
    written = visualize(run_of(tmp_path / "run", tmp_path / "root", [(item, sample_of(item))]), tmp_path / "out")
    assert [path.name for path in written] == ["a.png"]


def test_long_samples_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.samples.drawing.keypoints.MAX_FRAMES", 4)
    item = sequence(tmp_path / "root", "train/a", 7)
    visualize(run_of(tmp_path / "run", tmp_path / "root", [(item, sample_of(item))]), tmp_path / "out")
    assert len(decoded(tmp_path / "out" / "train/a.mp4")[0]) == 4


def test_visualize_into_a_folder_with_something_in_it_fails(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", MadeItems({"train": 1}))
    with pytest.raises(ConfigError, match=r"run is not empty: name a folder that is new or empty"):
        visualize(run, tmp_path / "run")
    (tmp_path / "out").symlink_to("nowhere")
    with pytest.raises(ConfigError, match=r"out is not empty"):
        visualize(run, tmp_path / "out")


def test_visualize_of_no_samples_fails(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", MadeItems({"train": 1}))
    with pytest.raises(ConfigError, match="--samples 0: give 1 or more"):
        visualize(run, tmp_path / "out", num_samples=0)
    assert not (tmp_path / "out").exists()


def test_visualize_of_an_unknown_split_fails(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", MadeItems({"train": 1}))
    with pytest.raises(RunError, match=r"has no split 'dev'; it has train"):
        visualize(run, tmp_path / "out", split="dev")


def test_a_kind_that_draws_nothing_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", MadeItems({"train": 1}), fingerprint={"samples": {"class_path": UNDRAWN}})
    with pytest.raises(ConfigError, match=r"^UndrawnSamples cannot be drawn: the class defines no method `draw`"):
        visualize(run, tmp_path / "out")


def test_a_run_that_names_no_kind_cannot_be_drawn(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", MadeItems({"train": 1}), fingerprint={"samples": {}})
    with pytest.raises(RunError, match="does not name the class of its samples"):
        visualize(run, tmp_path / "out")


def test_clips_are_drawn_as_they_are_stored(tmp_path: Path) -> None:
    run = make_clip_run(tmp_path / "run", ClipItems({"train": 2}))
    written = visualize(run, tmp_path / "out", num_samples=1)
    assert [str(path.relative_to(tmp_path / "out")) for path in written] == ["train/v0.png", "train/v0.mp4"]
    frames, fps = decoded(written[1])
    stored = made_clip(run.plan.item(0, 0)).frames
    assert ([frame.shape for frame in frames], fps) == ([(346, 520, 3)] * 16, 8.0)
    for frame, expected in zip(frames, stored, strict=True):
        np.testing.assert_allclose(frame.mean((0, 1)), expected.mean((0, 1)), atol=6)
    with Image.open(written[0]) as sheet:
        assert sheet.width == 1800


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u202eb\x1b[31m\ud800", r"a\u202eb\x1b[31m\ud800"),
        ("ü\u2066\x9b", r"ü\u2066\x9b"),
        ("a" * 2_000_000, "a" * 400),
    ],
)
def test_text_that_could_mislead_is_drawn_escaped_and_a_long_one_cut(text: str, shown: str) -> None:
    assert np.array_equal(blank((60, 900), text), blank((60, 900), shown))
    assert not np.array_equal(blank((60, 900), text), blank((60, 900), ""))


@pytest.mark.parametrize("width", [0, -1, 10**9, None])
def test_samples_of_a_size_that_no_frame_has_are_refused(width: int | None, tmp_path: Path) -> None:
    item = sequence(tmp_path / "root", "train/a", 1)
    run = run_of(tmp_path / "run", tmp_path / "root", [(item, sample_of(item, width=width))])
    with pytest.raises(RunError, match=r"train/a cannot be drawn: its json has the (width|size)"):
        visualize(run, tmp_path / "out")


def test_samples_of_an_unknown_layout_are_refused_and_points_far_off_are_not_drawn(tmp_path: Path) -> None:
    items = [sequence(tmp_path / "root", key, 2) for key in ("train/a", "dev/b")]
    far, other = sample_of(items[0], fps=1e308), sample_of(items[1])
    far.keypoints[0], far.keypoints[1] = np.nan, 1e30
    other.keypoints = other.keypoints[:, :7]
    run = run_of(tmp_path / "run", tmp_path / "root", [(items[0], far), (items[1], other)])
    assert [path.name for path in visualize(run, tmp_path / "out", split="train")] == ["a.png", "a.mp4"]
    with pytest.raises(RunError, match=r"^dev/b cannot be drawn: its keypoints \[2, 7, 3\] have no frames, or no"):
        visualize(run, tmp_path / "other", split="dev")


def test_a_run_that_does_not_say_where_its_corpus_lay_asks_for_it(tmp_path: Path) -> None:
    item = sequence(tmp_path / "root", "train/a", 1)
    run = run_of(tmp_path / "run", tmp_path / "root", [(item, sample_of(item))])
    run.plan.roots.clear()
    with pytest.raises(RunError, match="does not say where its corpus lay: give --root"):
        visualize(run, tmp_path / "out")
