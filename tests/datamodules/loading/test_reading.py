import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.corpora.tar_images import TarImages
from datamodules.corpus import Item
from datamodules.errors import ChangedError, ConfigError, MissingError
from datamodules.loading.reading import frames_of, is_readable
from datamodules.media.decoding import Decoding
from datamodules.media.facts import seconds_beyond
from datamodules.media.sampling import Every, Uniform
from datamodules.run.folder import Run
from support.frame_corpora import slices, summaries_of
from support.image_files import image_bytes, write_tar
from support.runs import make_run
from support.video_files import KINDS, Kind, numbers, write


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """One video of 60 frames, 25 a second, as a whole and in parts."""
    folder = tmp_path_factory.mktemp("parts")
    path = write(folder / "video", KINDS["b-frames"])
    items = [
        Item("whole", "train", path.name, cost=1),
        Item("middle", "train", path.name, start_seconds=0.4, stop_seconds=1.2, cost=1),
        Item("end", "train", path.name, start_seconds=2.0, cost=1),
        Item("slow", "train", path.name, fps=5.0, stop_seconds=1.2, cost=1),
        Item("beyond", "train", path.name, start_seconds=60.0, cost=1),
    ]
    return make_run(folder / "run", items, per_shard=5), folder


def shown(batches: Sequence[Any]) -> list[int]:
    return [number for batch in batches for number in numbers(batch["frames"].permute(0, 2, 3, 1).numpy())]


@pytest.mark.parametrize(
    ("row", "selection", "expected"),
    [
        (0, Every(20), [0, 20, 40]),
        (0, Uniform(4), [0, 19, 39, 59]),
        (1, Every(), list(range(10, 30))),
        (1, Uniform(4), [10, 16, 22, 29]),
        (2, Every(), list(range(50, 60))),
        (3, Every(), [0, 5, 10, 15, 20, 25]),
        (3, Uniform(3), [0, 10, 25]),
    ],
)
def test_the_selection_chooses_among_the_frames_of_the_item(
    parts: tuple[Run, Path], row: int, selection: Every | Uniform, expected: list[int]
) -> None:
    batches = slices(parts, (row,), selection=selection, slice_frames=8)
    assert shown(batches) == expected
    summary = summaries_of(batches)[row]
    assert summary.reason is None
    assert summary.pts_seconds == pytest.approx([number / 25 for number in expected])
    assert [seconds for batch in batches for seconds in batch["pts_seconds"]] == summary.pts_seconds
    assert (summary.video["num_frames"], summary.video["codec"], summary.video["backends"]) == (
        60,
        "h264",
        ["pyav"],
    )
    assert summary.fps == (5.0 if row == 3 else 25.0)


def test_the_frame_rate_is_that_of_the_frames_and_not_of_the_header(tmp_path: Path) -> None:
    write(tmp_path / "video", Kind("mkv", times=lambda k: 40 * k if k < 10 else 400 * k), 20)  # its header: 25 a second
    name = "video.mkv"
    items = [
        Item("whole", "train", name, cost=1),
        Item("begin", "train", name, stop_seconds=0.4, cost=1),
        Item("end", "train", name, start_seconds=4.0, cost=1),
        Item("end-10", "train", name, start_seconds=4.0, fps=10.0, cost=1),
        Item("end-1", "train", name, start_seconds=4.0, fps=1.0, cost=1),
        Item("begin-10", "train", name, stop_seconds=0.4, fps=10.0, cost=1),
    ]
    run = make_run(tmp_path / "run", items, per_shard=6)
    rates = [summaries_of(slices((run, tmp_path), (row,)))[row].fps for row in range(6)]
    assert rates == [2.5, 25.0, 2.5, 2.5, 1.0, 10.0]


def test_frames_are_resized_and_keep_their_memory_layout(parts: tuple[Run, Path]) -> None:
    [batch] = slices(parts, (0,), selection=Uniform(16), size=(48, 64), slice_frames=16)
    assert batch["frames"].shape == (16, 3, 48, 64)
    assert batch["frames"].permute(0, 2, 3, 1).is_contiguous()
    assert shown([batch]) == Uniform(16).indices(torch.arange(60).numpy() / 25).tolist()


@pytest.mark.parametrize(
    ("row", "selection", "reason"),
    [
        (1, Uniform(21), "video.mp4: it has 20 frames, and 21 are requested"),
        (4, Every(), r"video.mp4: it has no frame from 60 s to its end; the last is at 2.360 s"),
    ],
)
def test_an_item_with_too_few_frames_fails_with_the_reason(
    parts: tuple[Run, Path], row: int, selection: Uniform | Every, reason: str
) -> None:
    [batch] = slices(parts, (row,), selection=selection)
    assert (summaries_of([batch])[row].reason, summaries_of([batch])[row].reason_class) == (reason, "decode")


def test_a_part_beyond_the_end_of_its_video_is_shortened_or_fails(tmp_path: Path) -> None:
    name = write(tmp_path / "video", KINDS["b-frames"]).name  # 2.4 s
    ends = (2.4, 2.43, 3.0)
    items = [
        Item(f"end-{row}", "train", name, start_seconds=2.0, stop_seconds=stop, cost=1) for row, stop in enumerate(ends)
    ]
    run = make_run(tmp_path / "run", items, per_shard=3), tmp_path
    summaries = [summaries_of(slices(run, (row,)))[row] for row in range(3)]
    assert [summary.num_frames for summary in summaries] == [10, 10, 10]
    assert [seconds_beyond(summaries[row].video, stop) for row, stop in enumerate(ends)] == [0.0, 0.0, 0.6]
    strict = Decoding(beyond_end="fail")
    *others, reason = (summaries_of(slices(run, (row,), decoding=strict))[row].reason for row in range(3))
    assert others == [None, None]
    assert reason == (
        "video.mp4: it should end at 3 s, which is 0.6 s beyond the end of the video. To take the frames that exist, "
        "set --data.decoding.beyond_end shorten"
    )
    with pytest.raises(ConfigError, match="beyond_end = 'cut': choose from shorten, fail"):
        Decoding(beyond_end="cut")  # type: ignore[arg-type]


def test_videos_are_decoded_by_the_requested_backend(parts: tuple[Run, Path]) -> None:
    batches = slices(parts, (0,), selection=Every(20), decoding=Decoding("decord"))
    assert shown(batches) == [0, 20, 40]
    assert summaries_of(batches)[0].video["backends"] == ["decord"]


def test_jpegs_for_the_gpu_stay_encoded_and_other_images_fail(tmp_path: Path) -> None:
    for name, size in (("a.jpg", (8, 6)), ("b.jpg", (5, 9)), ("c.png", (8, 6))):
        (tmp_path / name).write_bytes(image_bytes(20, name[2:], size))
    items = [Item(name[0], "train", "", (name,)) for name in ("a.jpg", "b.jpg", "c.png")]
    corpus = make_run(tmp_path / "run", items), tmp_path
    [batch] = slices(corpus, (0, 1, 2), decoding=Decoding(images="nvjpeg"))
    assert [(jpeg.name, jpeg.content, jpeg.size) for jpeg in batch["encoded"]] == [
        ("a.jpg", (tmp_path / "a.jpg").read_bytes(), (6, 8)),
        ("b.jpg", (tmp_path / "b.jpg").read_bytes(), (9, 5)),
    ]
    assert "frames" not in batch
    summaries = summaries_of([batch])
    assert [summaries[row].size for row in range(3)] == [(6, 8), (9, 5), None]
    assert summaries[2].reason.startswith("c.png is not a JPEG, but PNG")


GRAYS = (0, 50, 200)


NAMES = ("a b.v1.png", "sub/ü.jpg", "n" * 150 + ".webp")


@pytest.fixture
def tar(tmp_path: Path) -> tuple[Run, Path]:
    """A run over a tar of three images, one that is none, and an empty one."""
    folder = tmp_path / "tars"
    members = {name: image_bytes(gray, name.rpartition(".")[2]) for name, gray in zip(NAMES, GRAYS, strict=True)}
    write_tar(folder / "t.tar", {**members, "bad.png": b"no image", "empty.png": b""})
    return make_run(tmp_path / "run", list(TarImages(str(folder)).items()), per_shard=5), folder


def test_images_are_read_from_a_tar(tar: tuple[Run, Path]) -> None:
    [batch] = slices(tar, (0, 1, 2, 3, 4), slice_frames=5, store="original")
    assert batch["frames"].float().mean((1, 2, 3)).tolist() == list(GRAYS)
    assert [summary.reason for summary in batch["summaries"][:3]] == [None] * 3
    assert summaries_of([batch])[3].reason.startswith("bad.png cannot be decoded (8 bytes)")
    assert summaries_of([batch])[4].reason == "empty.png is empty (0 bytes)"
    contents = [image_bytes(gray, name.rpartition(".")[2]) for name, gray in zip(NAMES, GRAYS, strict=True)]
    assert [summary.content for summary in batch["summaries"]] == [*contents, None, None]
    item = tar[0].plan.item(0, 0)
    assert is_readable(item, str(tar[1]))
    assert [frame.shape for frame in frames_of(item, str(tar[1]))] == [(3, 6, 8)]


def test_whether_a_video_is_readable_depends_on_the_requested_stream(tmp_path: Path) -> None:
    write(tmp_path / "a", KINDS["two streams"], 3)
    item = Item("a", "train", "a.mp4")
    assert [is_readable(item, str(tmp_path), Decoding(stream=stream)) for stream in (0, 1, 2)] == [True, True, False]
    for stream in (0, 1):
        frames = [frame.permute(1, 2, 0).numpy() for frame in frames_of(item, str(tmp_path), Decoding(stream=stream))]
        assert numbers(frames) == [100 * stream + number for number in range(3)]


def test_an_image_of_a_tar_that_was_written_after_it_was_planned_fails_as_changed(tar: tuple[Run, Path]) -> None:
    _, folder = tar
    os.utime(folder / "t.tar", (1e9, 1e9))
    [batch] = slices(tar, (0, 1))
    assert {summary.reason_class for summary in batch["summaries"]} == {"changed"}
    assert "t.tar/a b.v1.png was written 2001-09-09" in batch["summaries"][0].reason


@pytest.mark.parametrize(
    "members",
    [
        {"more.png": image_bytes(9), NAMES[0]: image_bytes(0)},
        {NAMES[0]: image_bytes(7, size=(90, 60))},
        {"another.png": image_bytes(0)},
        {},
    ],
)
def test_a_member_that_has_moved_in_its_tar_is_never_taken_for_the_planned_one(
    tar: tuple[Run, Path], members: dict[str, bytes]
) -> None:
    """Of a retry, which takes files as they are now, and so looks at no time."""
    run, folder = tar
    item = replace(run.plan.item(0, 0), modified=None)
    write_tar(folder / "t.tar", members)
    with pytest.raises(ChangedError, match=r"t\.tar has no a b\.v1\.png of \d+ bytes at 512 any more"):
        list(frames_of(item, str(folder)))
    assert not is_readable(item, str(folder))


def test_an_image_of_a_missing_tar_fails_as_missing(tar: tuple[Run, Path]) -> None:
    run, folder = tar
    (folder / "t.tar").rename(folder / "u.tar")
    [batch] = slices(tar, (0,))
    assert (batch["summaries"][0].reason, batch["summaries"][0].reason_class) == (
        "t.tar is missing, or its folder is", "missing"
    )  # fmt: skip
    with pytest.raises(MissingError, match=r"t\.tar is missing"):
        list(frames_of(replace(run.plan.item(0, 0), modified=None), str(folder)))
