"""The tracking pipeline, whole, with a backend that knows the truth; `test_tracking_models.py` has real models."""

import errno
import io
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from datamodules.run.failures import failures
from datamodules.run.folder import Run
from datamodules.run.reader import CommittedSamples
from datamodules.samples.track_lines import TrackLine, mask_of, rle_of
from datamodules.samples.tracks import TrackSample, TrackSamples
from preprocess.cli import main
from preprocess.integrity import verify
from support.environment import process_environment
from support.moving_shapes import TrueSegmenter, box_of, masks_at, score_at
from support.moving_shapes_backend import shapes_of, write_gray_video, write_video
from support.runs import tars
from support.undeclared_fields import undeclared_fields

ROOT = Path(__file__).parents[3]
LABELS = ("car", "person", "ball")  # one stays, one leaves, one enters
NUM_FRAMES = 26


def command(root: Path, output: Path, *options: str) -> list[str]:
    config = ["--config", str(ROOT / "configs" / "tracking.yaml"), "--trainer.accelerator", "cpu"]
    where = ["--data.root", str(root), "--output.dir", str(output), "--data.num_workers", "0"]
    return ["run", *config, *where, "--model.backend", "support.moving_shapes_backend.TrueBackend", *options]


def run(root: Path, output: Path, *options: str, prompt: str | None = "car. person. ball.") -> int:
    return main(command(root, output, "--model.prompt", "null" if prompt is None else prompt, *options))


def samples(folder: Path) -> list[TrackSample]:
    return [TrackSamples().decode(*files) for files in CommittedSamples(Run(folder))]


def true_lines(labels: Sequence[str], frames: Sequence[int], rate: int = 25) -> list[list[tuple[Any, ...]]]:
    """(id, label, score, box) of what is in each of these frames, ids in order of appearance."""
    shapes = shapes_of(labels)
    ids: dict[int, int] = {}
    lines = []
    for number in frames:
        seen = {place: mask for place, mask in enumerate(masks_at(shapes, number)) if mask.any()}
        for place in sorted(seen, key=lambda place: -score_at(shapes[place], number)):
            ids.setdefault(place, len(ids) + 1)
        told = (
            (ids[at], shapes[at].label, round(score_at(shapes[at], number), 4), list(box_of(seen[at]))) for at in seen
        )
        lines.append(sorted(told))
    return lines


def told(line: TrackLine) -> list[tuple[Any, ...]]:
    return [(each["obj_id"], each["label"], each["score"], each["bbox"]) for each in line["objects"]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_video(tmp_path / "videos" / "a.mkv", NUM_FRAMES, LABELS)
    write_video(tmp_path / "videos" / "sub" / "b.mkv", 9, LABELS)
    return tmp_path / "videos"


def test_ids_frames_boxes_scores_and_masks_are_the_true_ones(root: Path, tmp_path: Path) -> None:
    assert run(root, tmp_path / "run") == 0
    first, second = samples(tmp_path / "run")
    lines = list(first.lines)
    assert [line["frame_idx"] for line in lines] == list(range(NUM_FRAMES))
    assert [line["timestamp"] for line in lines] == pytest.approx(
        [number / 25 for number in range(NUM_FRAMES)], abs=1e-3
    )
    assert [told(line) for line in lines] == true_lines(LABELS, range(NUM_FRAMES))
    for number in (0, 13, 25):
        masks = [mask for mask in masks_at(shapes_of(LABELS), number) if mask.any()]
        assert [mask_of(each["mask"]).tolist() for each in lines[number]["objects"]] == [
            mask.tolist() for mask in masks
        ]
    assert [told(line) for line in second.lines] == true_lines(LABELS, range(9))
    assert list(verify(Run(tmp_path / "run"))) == []


def test_a_line_of_the_log_tells_of_each_video(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, tmp_path / "run") == 0
    told = capsys.readouterr().err
    line = r"^\d\d:\d\d:\d\d cpu a\.mkv: 26 frames in [\d.]+ s \([\d.,]+ frames/s\), num_objects 3, mean_score 0\.\d+, "
    assert re.search(line, told, re.M), told
    assert re.search(r" sub/b\.mkv: 9 frames in ", told)


def test_the_arrays_hold_what_the_lines_do(root: Path, tmp_path: Path) -> None:
    assert run(root, tmp_path / "run") == 0
    for sample in samples(tmp_path / "run"):
        rows = [(line["frame_idx"], each["obj_id"], each["bbox"]) for line in sample.lines for each in line["objects"]]
        boxes, ids, frame_idx = (sample.array(f"{name}.npy") for name in ("boxes", "obj_ids", "frame_idx"))
        assert (boxes.dtype, ids.dtype, frame_idx.dtype) == (
            np.dtype(np.float32),
            np.dtype(np.int32),
            np.dtype(np.int32),
        )
        assert list(zip(frame_idx.tolist(), ids.tolist(), boxes.astype(int).tolist(), strict=True)) == rows


def test_the_json_tells_of_the_video_and_of_what_was_found(root: Path, tmp_path: Path) -> None:
    assert run(root, tmp_path / "run") == 0
    assert not undeclared_fields(tmp_path / "run")
    sample = samples(tmp_path / "run")[1]
    assert sample.key == "sub/b"
    assert sample.meta == {
        "path": "sub/b.mkv",
        "prompt": "car. person. ball.",
        "video_info": {
            "width": 60,
            "height": 40,
            "pixel_aspect_ratio": 1.0,
            "fps": 25.0,
            "num_frames": 9,
            "num_skipped_frames": 0,
            "duration": 0.36,
            "average_fps_from_header": 25.0,
            "num_frames_from_header": None,
            "duration_seconds_from_header": 0.36,
        },
        "num_frames": 9,
        "num_objects": 2,
        "backend": "TrueBackend",
    }


def test_neither_slices_nor_workers_nor_memory_running_out_change_a_byte(root: Path, tmp_path: Path) -> None:
    assert run(root, tmp_path / "whole") == 0
    assert run(root, tmp_path / "workers", "--data.num_workers", "2") == 0
    assert run(root, tmp_path / "again", "--model.backend.fails_at", "20") == 0
    assert tars(tmp_path / "workers") == tars(tmp_path / "whole") == tars(tmp_path / "again")
    assert Run(tmp_path / "again").table("train-000000", ["split_to"])["split_to"].to_pylist() == [8]
    assert run(root, tmp_path / "slices", "--model.batch_size", "3") == 0
    assert tars(tmp_path / "slices") == tars(tmp_path / "whole")


@pytest.mark.parametrize("delay", ["7", "30"])  # frames; the longer video has 26, the other one 9
def test_results_that_come_late_are_those_of_their_own_frames(root: Path, tmp_path: Path, delay: str) -> None:
    videos = ("--output.videos", "true")
    late = ("--model.backend.delay", delay, "--model.backend.fails_at", "20")
    assert run(root, tmp_path / "at_once", *videos) == 0
    assert run(root, tmp_path / "late", *late, *videos) == 0
    assert tars(tmp_path / "late") == tars(tmp_path / "at_once")
    for name in ("a.mp4", "sub/b.mp4"):
        films = [cv2.VideoCapture(str(tmp_path / folder / "videos" / name)) for folder in ("at_once", "late")]
        (is_read, first), (_, second) = [film.read() for film in films]
        while is_read:
            assert np.array_equal(first, second)
            (is_read, first), (_, second) = [film.read() for film in films]
        assert second is None


def test_memory_that_runs_out_after_tracking_doubles_no_frame(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def once(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 50:  # in the second slice
            raise MemoryError
        return rle_of(*arguments, **named)

    assert run(root, tmp_path / "plain") == 0
    monkeypatch.setattr("preprocess.tracking.recording.rle_of", once)
    assert run(root, tmp_path / "run", "--output.videos", "true") == 0
    assert len(calls) > 50
    assert tars(tmp_path / "run") == tars(tmp_path / "plain")
    assert Run(tmp_path / "run").table("train-000000", ["split_to"])["split_to"].to_pylist() != [None]
    film = cv2.VideoCapture(str(tmp_path / "run" / "videos" / "a.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == NUM_FRAMES
    film.release()


def test_memory_that_runs_out_while_drawing_costs_the_drawing_and_no_tracks(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise MemoryError

    assert run(root, tmp_path / "plain") == 0
    monkeypatch.setattr("preprocess.pipelines.tracking.DrawnObject", never)
    assert run(root, tmp_path / "run", "--output.videos", "true") == 0
    assert tars(tmp_path / "run") == tars(tmp_path / "plain")
    assert "a: its video cannot be drawn, but the tracks are kept" in capfd.readouterr().err
    assert list((tmp_path / "run" / "videos").rglob("*.mp4")) == []


@pytest.mark.parametrize("batch_size", ["1", "16"])
def test_a_video_for_which_memory_never_suffices_fails_alone(
    batch_size: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def always(segmenter: TrueSegmenter) -> None:
        if segmenter.number == 10:
            raise MemoryError

    monkeypatch.setattr(TrueSegmenter, "_count", always)
    options = ["--output.shards.min_shards", "1", "--model.batch_size", batch_size, "--max-failures", "100%"]
    assert run(root, tmp_path / "run", *options) == 0
    assert [sample.key for sample in samples(tmp_path / "run")] == ["sub/b"]
    (failure,) = failures(Run(tmp_path / "run"))
    assert (failure.item.key, failure.reason_class) == ("a", "memory")


class FullDisk(io.BytesIO):
    """A file that cannot be written to, nor closed without another try."""

    def write(self, content: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def close(self) -> None:
        super().close()
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_is_full_is_told_of_and_the_run_goes_on_later(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("datamodules.samples.npy_rows.TemporaryFile", lambda **_: FullDisk())
        assert run(root, tmp_path / "run") == 3
    assert "results cannot be written to disk: [Errno 28] No space left on device" in capsys.readouterr().err
    assert list((tmp_path / "run" / "work" / "ranks").iterdir()) == []
    assert run(root, tmp_path / "run") == 0


def test_frames_are_those_of_the_rate_and_the_part_and_keep_their_times(root: Path, tmp_path: Path) -> None:
    part = ["--data.fps", "12.5", "--data.start_seconds", "0.4", "--data.stop_seconds", "0.8", "--data.max_items", "1"]
    assert run(root, tmp_path / "run", *part, "--model.backend", "support.moving_shapes_backend.SteadyBackend") == 0
    (sample,) = samples(tmp_path / "run")
    assert [line["timestamp"] for line in sample.lines] == pytest.approx([0.4, 0.48, 0.56, 0.64, 0.72], abs=1e-3)
    assert [line["frame_idx"] for line in sample.lines] == [0, 1, 2, 3, 4]
    assert sample.meta["video_info"]["num_frames"] == NUM_FRAMES
    assert sample.meta["num_frames"] == 5


def test_each_video_of_a_list_may_have_a_prompt(root: Path, tmp_path: Path) -> None:
    rows = [
        {"video": "a.mkv", "prompt": "person"},
        {"video": "a.mkv", "key": "again", "prompt": None, "place": "yard"},
        {"video": "sub/b.mkv", "prompt": " . "},
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ["--data.video_list", str(tmp_path / "list.jsonl"), "--max-failures", "100%"]
    assert run(root, tmp_path / "run", *options, prompt="ball") == 0
    first, second = samples(tmp_path / "run")
    assert (first.key, first.meta["prompt"]) == ("a", "person")
    assert [told(line) for line in first.lines] == true_lines(["person"], range(NUM_FRAMES))
    assert (second.key, second.meta["prompt"], second.meta["place"]) == ("again", "ball", "yard")
    assert [len(line["objects"]) for line in second.lines] == [0] * 12 + [1] * 14
    (failure,) = failures(Run(tmp_path / "run"))
    assert failure.item.key == "sub/b"
    assert "names nothing to look for" in failure.reason


def test_a_column_that_is_called_as_a_fact_of_the_sample_costs_its_video(root: Path, tmp_path: Path) -> None:
    rows = [{"video": "a.mkv", "num_frames": "many"}, {"video": "sub/b.mkv"}]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ["--data.video_list", str(tmp_path / "list.jsonl"), "--max-failures", "100%"]
    assert run(root, tmp_path / "run", *options) == 0
    assert [sample.key for sample in samples(tmp_path / "run")] == ["sub/b"]
    (failure,) = failures(Run(tmp_path / "run"))
    assert (failure.item.key, failure.reason_class) == ("a", "extract")
    assert failure.reason == (
        "corpus field 'num_frames' collides with a field that this pipeline writes: rename or drop it"
    )


def test_a_prompt_that_finds_nothing_gives_lines_without_objects_and_a_retry_can_take_another(
    root: Path, tmp_path: Path
) -> None:
    assert run(root, tmp_path / "run", prompt="unicorn") == 0
    assert {row["status"] for row in Run(tmp_path / "run").rows("train-000000").to_pylist()} == {"empty"}
    assert Run(tmp_path / "run").outcome().statuses == {"empty": 2}
    for sample, num_frames in zip(samples(tmp_path / "run"), (NUM_FRAMES, 9), strict=True):
        assert [line["objects"] for line in sample.lines] == [[]] * num_frames
        assert sample.array("boxes.npy").shape == (0, 4)
        assert sample.meta["num_objects"] == 0
    trusted = ["--model.backend", "support.moving_shapes_backend.TrueBackend"]
    assert main(["retry", str(tmp_path / "run"), "--class", "empty", *trusted, "--model.prompt", "ball"]) == 0
    assert Run(tmp_path / "run").outcome().statuses == {"empty": 1, "ok": 1}  # sub/b ends before the ball comes
    assert {sample.key: sample.meta["num_objects"] for sample in samples(tmp_path / "run")} == {"a": 1, "sub/b": 0}


@pytest.mark.parametrize("prompt", ["", " . .", "car, person"])
def test_a_prompt_that_names_nothing_or_several_in_one_is_refused(
    prompt: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root, tmp_path / "run", prompt=prompt) == 2
    assert "--model.prompt: the prompt " in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_prompt_that_the_backend_cannot_look_for_is_refused_before_the_run(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root, tmp_path / "run", prompt="a very long class indeed") == 2
    assert "--model.prompt: 'a very long class indeed' is too long" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_video_without_any_prompt_fails(root: Path, tmp_path: Path) -> None:
    assert run(root, tmp_path / "run", "--max-failures", "100%", prompt=None) == 0
    assert {failure.reason for failure in failures(Run(tmp_path / "run"))} == {
        "the video has no prompt: set --model.prompt, or add a prompt for it to the video list"
    }


def test_what_is_broken_or_missing_fails_alone(root: Path, tmp_path: Path) -> None:
    (root / "text.mkv").write_text("no video")
    (root / "empty.mp4").write_bytes(b"")
    whole = (root / "a.mkv").read_bytes()
    (root / "cut.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    names = ["a.mkv", "# a comment", "", "text.mkv", "gone.mkv", "empty.mp4", "cut.mkv", "sub/b.mkv"]
    (tmp_path / "list.txt").write_text("\n".join(names))
    options = ["--data.video_list", str(tmp_path / "list.txt"), "--max-failures", "100%"]
    assert run(root, tmp_path / "run", *options) == 0
    assert [sample.key for sample in samples(tmp_path / "run")] == ["a", "sub/b"]
    assert {failure.item.key: failure.reason_class for failure in failures(Run(tmp_path / "run"))} == {
        "text": "decode",
        "gone": "missing",
        "empty": "decode",
        "cut": "decode",
    }
    assert list((tmp_path / "run" / "work").glob("scratch/*")) == []


def test_annotated_videos_appear_and_play(root: Path, tmp_path: Path) -> None:
    assert run(root, tmp_path / "run", "--output.videos", "true") == 0
    assert run(root, tmp_path / "plain") == 0
    assert tars(tmp_path / "run") == tars(tmp_path / "plain")
    drawn = sorted(path for path in (tmp_path / "run" / "videos").rglob("*") if path.is_file())
    assert [str(path.relative_to(tmp_path / "run" / "videos")) for path in drawn] == ["a.mp4", "sub/b.mp4"]
    for path, source, num_frames in zip(drawn, ("a.mkv", "sub/b.mkv"), (NUM_FRAMES, 9), strict=True):
        ours, theirs = cv2.VideoCapture(str(path)), cv2.VideoCapture(str(root / source))
        assert ours.get(cv2.CAP_PROP_FPS) == 25
        for _ in range(num_frames):
            (is_there, frame), (_, plain) = ours.read(), theirs.read()
            assert is_there
            changed = np.abs(frame.astype(int) - plain).max(axis=2) > 60
            assert changed.mean() > 0.05
        assert not ours.read()[0]
        ours.release()
        theirs.release()


def test_a_video_is_not_drawn_through_a_link_which_costs_no_attempt(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "run" / "videos" / "sub"
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "elsewhere")
    assert run(root, tmp_path / "run", "--output.videos", "true") == 2
    assert "videos/sub is a link to" in capsys.readouterr().err
    assert list((tmp_path / "elsewhere").iterdir()) == []
    link.unlink()
    assert run(root, tmp_path / "run", "--output.videos", "true") == 0
    done = Run(tmp_path / "run")
    attempts = [count for shard in done.plan.shards for count in done.table(shard.name)["attempts"].to_pylist()]
    assert attempts == [1, 1]


def test_a_check_draws_no_videos(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = command(root, tmp_path / "run", "--model.prompt", "car", "--output.videos", "true")
    assert main(["check", *arguments[1:]]) == 0
    assert capsys.readouterr().out == "2 items checked; nothing failed\n"
    assert not (tmp_path / "run").exists()


def test_two_frames_with_one_time_are_drawn_both(tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / "a.mkv", 9, LABELS, times=[0, 40, 80, 80, 120, 160, 200, 240, 280])
    assert run(tmp_path / "videos", tmp_path / "run", "--output.videos", "true") == 0
    (sample,) = samples(tmp_path / "run")
    assert [line["timestamp"] for line in sample.lines][2:4] == [0.08, 0.08]
    film = cv2.VideoCapture(str(tmp_path / "run" / "videos" / "a.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 9
    film.release()


def test_what_is_done_already_is_not_drawn_and_that_is_said(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root, tmp_path / "run") == 0
    assert run(root, tmp_path / "run", "--output.videos", "true") == 0
    assert "2 finished shards will not be drawn. To draw them, run `preprocess visualize " in capsys.readouterr().err


def test_other_pipelines_draw_no_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    config = ["--config", str(ROOT / "configs" / "keypoints_videos.yaml"), "--data.root", str(tmp_path / "images")]
    assert main(["run", *config, "--output.dir", str(tmp_path / "run"), "--output.videos", "true"]) == 2
    assert "Keypoints cannot draw videos. Leave --output.videos out" in capsys.readouterr().err


_PEAK = """
import re, sys
from preprocess.cli import main
assert main(sys.argv[1:]) == 0
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_video(tmp_path: Path) -> None:
    peaks = {}
    for num_frames in (40, 4_000):
        root = tmp_path / str(num_frames)
        write_gray_video(root / "long.mkv", num_frames)
        steady = ["--model.prompt", "car", "--model.backend", "support.moving_shapes_backend.SteadyBackend"]
        arguments = command(root, tmp_path / f"run{num_frames}", *steady)
        environment = process_environment()
        done = subprocess.run(
            [sys.executable, "-c", _PEAK, *arguments], env=environment, check=True, capture_output=True, text=True
        )
        peaks[num_frames] = int(done.stdout.split()[-1]) / 1000
    assert peaks[4_000] - peaks[40] < 10, peaks
