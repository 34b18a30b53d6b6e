"""The contenders of the clips benchmark store the same frames as the pipeline, and its videos are as described."""

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from datamodules.media.container import open_container, video_stream
from datamodules.media.packets import read_packets
from datamodules.media.sampling import Uniform
from datamodules.media.video import read_frames
from support.torchcodec_available import needs_torchcodec

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NUM_FRAMES, GOP = 70, 30


@pytest.fixture(scope="module", autouse=True)
def _path() -> Iterator[None]:
    """Benchmarks import one another as scripts do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same with and without B-frames."""
    from clip_media import Scene, made

    scenes = [Scene(1, (320, 192), GOP, num_b_frames, NUM_FRAMES) for num_b_frames in (3, 0)]
    return made(scenes, tmp_path_factory.mktemp("media"), workers=1)


def test_made_videos_have_the_gop_and_the_b_frames_that_they_are_named_after(videos: list[Path]) -> None:
    for video, has_b_frames in zip(videos, (True, False), strict=True):
        with open_container(video) as container:
            packets = read_packets(container, video_stream(container, None))
        assert packets.keyframes.tolist() == [0, 30, 60]
        assert len(packets.frame_packets) == NUM_FRAMES
        assert (packets.frame_packets.tolist() != sorted(packets.frame_packets.tolist())) == has_b_frames


def test_videos_that_are_there_are_not_made_again(videos: list[Path]) -> None:
    from clip_media import Scene, made

    scene = Scene(1, (320, 192), GOP, 3, NUM_FRAMES)
    before = videos[0].stat()
    assert made([scene], videos[0].parent, workers=1) == videos[:1]
    assert videos[0].stat() == before


def test_each_two_that_follow_one_another_cost_the_same() -> None:
    from clip_media import _scenes

    scenes = list(_scenes(3))
    assert len(scenes) == 30
    assert [scene._replace(seed=0) for scene in scenes[::2]] == [scene._replace(seed=0) for scene in scenes[1::2]]
    assert {(scene.size, scene.gop) for scene in scenes} == {
        (size, gop) for size in ((640, 360), (1280, 720)) for gop in (30, 250)
    }


@pytest.mark.parametrize(
    "name", ["by_pyav", "by_decord", "by_opencv", pytest.param("by_torchcodec", marks=needs_torchcodec)]
)
def test_all_take_the_same_frames_as_framemill(name: str, videos: list[Path]) -> None:
    import clip_peers

    for video in videos:
        ours = read_frames(video, Uniform(clip_peers.NUM_FRAMES), (clip_peers.HEIGHT, clip_peers.WIDTH)).frames
        frames = getattr(clip_peers, name)(str(video))
        assert frames.shape == (16, 160, 256, 3)
        assert frames.dtype == np.uint8
        differences = np.abs(frames.astype(int)[:, None] - ours.permute(0, 2, 3, 1).numpy().astype(int)[None])
        means = differences.mean(axis=(2, 3, 4))
        assert means.argmin(axis=1).tolist() == list(range(16))
        assert means.diagonal().max() < (0.01 if name == "by_pyav" else 4)  # others resize in other ways


def test_of_short_videos_frames_are_repeated(tmp_path: Path) -> None:
    import clip_peers
    from clip_media import Scene, made

    [video] = made([Scene(2, (320, 192), GOP, 3, 5)], tmp_path, workers=1)
    ours = read_frames(video, Uniform(16, "repeat"), (160, 256)).frames.permute(0, 2, 3, 1).numpy()
    assert np.array_equal(clip_peers.by_pyav(str(video)), ours)


@pytest.mark.parametrize("name", ["script", "bare"])
def test_a_contender_stores_every_pair_and_notes_when(name: str, videos: list[Path], tmp_path: Path) -> None:
    from clip_peers import finished_times
    from clips import make_job

    job = make_job(tmp_path / "job", videos, workers=2)
    out = tmp_path / "out"
    command = [sys.executable, str(BENCHMARKS / "clip_peers.py"), name, str(job.peer_pairs), str(out), "2"]
    subprocess.run(command, check=True)
    assert len(finished_times(str(out))) == 2
    stored = [pickle.loads(path.read_bytes()) for path in sorted(out.iterdir())]
    assert [sample["text"] for sample in stored] == [text for _, text in json.loads(job.peer_pairs.read_text())]
    assert {sample["frames"].shape for sample in stored} == {(16, 160, 256, 3)}


def test_a_missing_module_leaves_a_contender_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import clip_peers
    from clips import _python_of

    monkeypatch.setitem(clip_peers.MODULES, "ray", ["nowhere_to_be_found"])
    assert _python_of("ray", None) is None
    assert _python_of("ray", Path(sys.executable)) is None
    assert _python_of("script", None) == sys.executable
