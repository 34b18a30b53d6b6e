import os
import queue
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from datamodules.corpora.tar_images import TarImages
from datamodules.corpus import Item
from datamodules.errors import ChangedError, ExtractError, MissingError
from datamodules.loading.reading import frames_of, is_readable
from datamodules.loading.request import Batching, FrameRequest
from datamodules.loading.stream import FrameStream
from datamodules.loading.tickets import Ticket
from datamodules.media.decoding import Decoding
from datamodules.media.sampling import Every, Uniform
from datamodules.run.folder import Run
from support.frame_corpora import corpus_run, gray_of, write_image
from support.image_files import image_bytes, write_tar
from support.runs import make_run
from support.video_files import KINDS, Kind, numbers, write


class Untouched:
    """Is told what is active, and does not mind."""

    def mark_active(self, shard: int, rows: Sequence[int]) -> None:
        pass

    def mark_idle(self) -> None:
        pass


class Mean:
    """Each frame's mean; refuses frames of mean 102."""

    def start(self, item: Item) -> None:
        self.key, self.count = item.key, 0

    def __call__(self, frame: Any) -> Any:
        self.count += 1
        value = int(frame.float().mean().round())
        if value == 102:
            raise ExtractError("102 is too bright")
        return self.key, self.count, value


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    folder = tmp_path_factory.mktemp("frames")
    return corpus_run(folder / "media", folder / "run"), folder / "media"


def slices(
    corpus: tuple[Run, Path], *tickets: Any, slice_frames: int = 4, transform: Any = None, **request: Any
) -> list[Any]:
    run, root = corpus
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for rows in (*tickets, None):
        waiting.put(rows and Ticket(0, rows))
    wanted = FrameRequest(slice_frames, transform, **request)
    return list(FrameStream(run.plan.path, str(root), waiting, wanted, Untouched()))


def summaries_of(batches: Sequence[Any]) -> dict[int, Any]:
    return {summary.row: summary for batch in batches for summary in batch["summaries"]}


def test_single_images_are_one_batch(corpus: tuple[Run, Path]) -> None:
    [batch] = slices(corpus, (0, 1, 3))
    assert batch["frames"].shape == (3, 3, 6, 8)
    assert batch["frames"].dtype == torch.uint8
    assert batch["frames"].float().mean((1, 2, 3)).tolist() == [0, 10, 30]
    assert (batch["shard"], batch["rows"], batch["frame_idx"]) == (0, [0, 1, 3], [0, 0, 0])
    assert [(summary.row, summary.num_frames, summary.size, summary.reason) for summary in batch["summaries"]] == [
        (0, 1, (6, 8), None),
        (1, 1, (6, 8), None),
        (3, 1, (6, 8), None),
    ]


def test_the_items_of_a_batch_travel_with_it_also_the_failed_ones(corpus: tuple[Run, Path]) -> None:
    plan = corpus[0].plan
    [batch] = slices(corpus, (3, 4, 5))
    assert batch["rows"] == [3]
    assert batch["items"] == {row: plan.item(0, row) for row in (3, 4, 5)}
    assert [batch["items"] for batch in slices(corpus, (9,), slice_frames=10)] == [{9: plan.item(0, 9)}] * 3


def test_frames_of_different_sizes_are_a_list(corpus: tuple[Run, Path]) -> None:
    [batch] = slices(corpus, (1, 2))
    assert isinstance(batch["frames"], list)
    assert [tuple(frame.shape) for frame in batch["frames"]] == [(3, 6, 8), (3, 9, 5)]


def test_images_that_cannot_be_read_are_ends_with_reasons_and_spare_their_neighbours(corpus: tuple[Run, Path]) -> None:
    [batch] = slices(corpus, (3, 4, 5, 6))
    assert batch["rows"] == [3, 6]
    assert {row: summary.reason for row, summary in summaries_of([batch]).items()} == {
        3: None, 4: "4.png is empty (0 bytes)", 5: "5.png is missing", 6: None
    }  # fmt: skip
    assert summaries_of([batch])[4].reason_class == "decode"


class Unprompted:
    """A transform that fails items without a prompt before their first frame."""

    def start(self, item: Item) -> None:
        if "prompt" not in item.meta:
            raise ExtractError("no prompt")

    def __call__(self, frame: Any) -> Any:
        return frame


@pytest.mark.parametrize("transform", [None, Unprompted])
def test_an_item_with_a_problem_of_the_listing_fails_with_it_and_none_of_its_files_is_opened(
    tmp_path: Path, transform: type[Unprompted] | None
) -> None:
    write_image(tmp_path / "a.png", 10)
    items = [
        Item("a", "train", "", ("a.png",), meta={"prompt": ""}),
        Item("b", "train", "", ("a.png",), problem="list, line 2: reversed"),
    ]
    [batch] = slices((make_run(tmp_path / "run", items), tmp_path), (0, 1), transform=transform)
    assert batch["rows"] == [0]
    assert [(summary.reason, summary.reason_class) for summary in batch["summaries"]] == [
        (None, None), ("list, line 2: reversed", "listing")
    ]  # fmt: skip


def test_a_ticket_of_bad_images_only_is_a_batch_without_frames(corpus: tuple[Run, Path]) -> None:
    [batch] = slices(corpus, (4, 5))
    assert len(batch["frames"]) == 0
    assert len(batch["summaries"]) == 2


@pytest.mark.parametrize(("slice_frames", "sizes"), [(4, [4, 4, 4, 4, 4, 3]), (23, [23]), (100, [23]), (1, [1] * 23)])
def test_a_video_comes_in_order_in_slices_and_ends_with_its_last(
    corpus: tuple[Run, Path], slice_frames: int, sizes: list[int]
) -> None:
    batches = slices(corpus, (9,), slice_frames=slice_frames)
    assert [len(batch["frames"]) for batch in batches] == sizes
    assert [index for batch in batches for index in batch["frame_idx"]] == list(range(23))
    assert [len(batch["summaries"]) for batch in batches] == [0] * (len(sizes) - 1) + [1]
    summary = summaries_of(batches)[9]
    assert (summary.num_frames, summary.fps, summary.size, summary.reason) == (23, 25.0, (48, 64), None)
    means = torch.cat([batch["frames"] for batch in batches]).float().mean((1, 2, 3))
    assert (means - torch.tensor([gray_of(k) for k in range(23)])).abs().max() < 4


def test_a_sequence_that_breaks_is_an_end_after_the_frames_before(corpus: tuple[Run, Path]) -> None:
    batches = slices(corpus, (8,), slice_frames=2)
    assert [index for batch in batches for index in batch["frame_idx"]] == [0, 1, 2]
    summary = summaries_of(batches)[8]
    assert summary.reason.startswith("3.png cannot be decoded (8 bytes)")
    assert (summary.reason_class, summary.num_frames) == ("decode", 3)


def test_what_is_no_video_is_an_end(corpus: tuple[Run, Path]) -> None:
    [batch] = slices(corpus, (10,))
    assert "text.mp4 does not open as a video" in summaries_of([batch])[10].reason


def test_a_transform_gives_results_in_place_of_frames(corpus: tuple[Run, Path]) -> None:
    batches = slices(corpus, (1, 3), (9,), transform=Mean)
    assert all("frames" not in batch for batch in batches)
    assert batches[0]["results"] == [("0/images/1", 1, 10), ("0/images/3", 1, 30)]
    assert [count for batch in batches[1:] for _, count, _ in batch["results"]] == list(range(1, 24))


def test_a_transform_that_refuses_a_frame_fails_its_item_only(corpus: tuple[Run, Path]) -> None:
    batches = slices(corpus, (7,), (6,), transform=Mean)
    assert (summaries_of(batches)[7].reason, summaries_of(batches)[7].reason_class) == (
        "102 is too bright",
        "extract",
    )
    assert summaries_of(batches)[6].reason is None


class Size(NamedTuple):
    num_pixels: int
    num_tokens: int


class Sizes:
    """Sizes of a gray image's value: as many pixels, and the tokens that `tokens` tells of it; refuses 102."""

    tokens = staticmethod(lambda value: 1)

    def start(self, item: Item) -> None:
        pass

    def __call__(self, frame: Any) -> Any:
        value = int(frame.float().mean().round())
        if value == 102:
            raise ExtractError("102 is too bright")
        return Size(value, self.tokens(value))


class ManyTokens(Sizes):
    tokens = staticmethod(lambda value: 10 if value == 20 else 1)


@pytest.mark.parametrize(
    ("limits", "transform", "expected"),
    [
        ({}, Sizes, [[0, 1, 2, 3], [6]]),
        ({"max_pixels": 60}, Sizes, [[0, 1, 2], [3], [6]]),  # 3 x 20 fit, 4 x 30 do not, nor 2 x 60
        ({"max_pixels": 59}, Sizes, [[0, 1], [2], [3], [6]]),  # 60 by itself
        ({"max_tokens": 3}, Sizes, [[0, 1, 2], [3, 6]]),
        ({"max_tokens": 20}, ManyTokens, [[0, 1], [2, 3], [6]]),  # of the largest of the batch, not of the last
    ],
)
def test_images_of_a_window_are_batches_of_similar_size_within_the_limits(
    corpus: tuple[Run, Path],
    limits: dict[str, int],
    transform: type[Sizes] | type[ManyTokens],
    expected: list[list[int]],
) -> None:
    batches = slices(corpus, (6, 1, 3, 0, 2), transform=transform, batching=Batching(10, **limits))
    assert [batch["rows"] for batch in batches] == expected
    assert [[size.num_pixels for size in batch["results"]] for batch in batches] == [
        [10 * row for row in rows] for rows in expected
    ]


def test_the_ends_of_a_window_come_with_its_last_batch_in_the_order_of_the_ticket(corpus: tuple[Run, Path]) -> None:
    batches = slices(corpus, (6, 4, 0, 5, 1), slice_frames=1, transform=Sizes, batching=Batching(10))
    assert [batch["rows"] for batch in batches] == [[0], [1], [6]]
    assert [[summary.row for summary in batch["summaries"]] for batch in batches] == [[], [], [6, 4, 0, 5, 1]]
    assert summaries_of(batches)[4].reason == "4.png is empty (0 bytes)"
    assert [set(batch["items"]) for batch in batches] == [{0}, {1}, {6, 4, 0, 5, 1}]


def test_a_window_of_bad_images_only_is_a_batch_without_results(corpus: tuple[Run, Path]) -> None:
    [batch] = slices(corpus, (4, 5), transform=Sizes, batching=Batching(10))
    assert (batch["rows"], batch["results"], len(batch["summaries"])) == ([], [], 2)


def test_frames_of_videos_and_sequences_come_in_order_whatever_their_sizes(corpus: tuple[Run, Path]) -> None:
    for row, sizes in ((9, [4, 4, 4, 4, 4, 3]), (8, [2])):
        batches = slices(corpus, (row,), transform=Sizes, batching=Batching(10, max_pixels=1))
        assert [len(batch["rows"]) for batch in batches] == sizes
        assert [index for batch in batches for index in batch["frame_idx"]] == list(range(sum(sizes)))


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
    ("row", "selection", "wanted"),
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
def test_the_selection_is_made_of_the_frames_that_the_item_has(
    parts: tuple[Run, Path], row: int, selection: Every | Uniform, wanted: list[int]
) -> None:
    batches = slices(parts, (row,), selection=selection, slice_frames=8)
    assert shown(batches) == wanted
    summary = summaries_of(batches)[row]
    assert summary.reason is None
    assert summary.pts_seconds == pytest.approx([number / 25 for number in wanted])
    assert [seconds for batch in batches for seconds in batch["pts_seconds"]] == summary.pts_seconds
    assert (summary.video["num_frames"], summary.video["codec"], summary.video["backends"]) == (
        60,
        "h264",
        ["pyav"],
    )
    assert summary.fps == (5.0 if row == 3 else 25.0)


def test_the_rate_is_that_of_the_frames_taken_and_not_the_headers(tmp_path: Path) -> None:
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


def test_frames_are_resized_and_lie_in_memory_as_they_came(parts: tuple[Run, Path]) -> None:
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
def test_an_item_with_too_few_frames_is_an_end_with_its_reason(
    parts: tuple[Run, Path], row: int, selection: Uniform | Every, reason: str
) -> None:
    [batch] = slices(parts, (row,), selection=selection)
    assert (summaries_of([batch])[row].reason, summaries_of([batch])[row].reason_class) == (reason, "decode")


def test_videos_are_decoded_as_asked_for(parts: tuple[Run, Path]) -> None:
    batches = slices(parts, (0,), selection=Every(20), decoding=Decoding("decord"))
    assert shown(batches) == [0, 20, 40]
    assert summaries_of(batches)[0].video["backends"] == ["decord"]


def test_jpegs_for_the_gpu_come_as_they_are_and_other_images_fail(tmp_path: Path) -> None:
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
    found = summaries_of([batch])
    assert [found[row].size for row in range(3)] == [(6, 8), (9, 5), None]
    assert found[2].reason.startswith("c.png is not a JPEG, but PNG")


def test_the_files_of_single_images_come_along_if_they_are_asked_for(corpus: tuple[Run, Path]) -> None:
    for store in ("png", None):
        found = summaries_of(slices(corpus, (0, 2, 3, 4), (7,), store=store))
        for row in (0, 2, 3):
            content = (corpus[1] / "images" / f"{row}.png").read_bytes()
            assert found[row].content == (content if store else None)
        assert (found[4].content, found[7].content) == (None, None)  # the one is empty, the other a sequence


GRAYS = (0, 50, 200)
NAMES = ("a b.v1.png", "sub/ü.jpg", "n" * 150 + ".webp")


@pytest.fixture
def tar(tmp_path: Path) -> tuple[Run, Path]:
    """A run over a tar of three images, one that is none, and an empty one."""
    folder = tmp_path / "tars"
    members = {name: image_bytes(gray, name.rpartition(".")[2]) for name, gray in zip(NAMES, GRAYS, strict=True)}
    write_tar(folder / "t.tar", {**members, "bad.png": b"no image", "empty.png": b""})
    return make_run(tmp_path / "run", list(TarImages(str(folder)).items()), per_shard=5), folder


def test_images_are_read_from_their_places_in_a_tar(tar: tuple[Run, Path]) -> None:
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


def test_a_video_is_readable_by_the_stream_that_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "a", KINDS["two streams"], 3)
    item = Item("a", "train", "a.mp4")
    assert [is_readable(item, str(tmp_path), Decoding(stream=stream)) for stream in (0, 1, 2)] == [True, True, False]
    for stream in (0, 1):
        found = [frame.permute(1, 2, 0).numpy() for frame in frames_of(item, str(tmp_path), Decoding(stream=stream))]
        assert numbers(found) == [100 * stream + number for number in range(3)]


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
def test_what_has_another_place_in_a_tar_now_is_never_taken_for_what_was_planned(
    tar: tuple[Run, Path], members: dict[str, bytes]
) -> None:
    """Of a retry, which takes files as they are now, and so looks at no time."""
    run, folder = tar
    item = replace(run.plan.item(0, 0), modified=None)
    write_tar(folder / "t.tar", members)
    with pytest.raises(ChangedError, match=r"t\.tar has no a b\.v1\.png of \d+ bytes at 512 any more"):
        list(frames_of(item, str(folder)))
    assert not is_readable(item, str(folder))


def test_an_image_of_a_tar_that_is_gone_is_missing(tar: tuple[Run, Path]) -> None:
    run, folder = tar
    (folder / "t.tar").rename(folder / "u.tar")
    [batch] = slices(tar, (0,))
    assert (batch["summaries"][0].reason, batch["summaries"][0].reason_class) == (
        "t.tar is missing, or its folder is", "missing"
    )  # fmt: skip
    with pytest.raises(MissingError, match=r"t\.tar is missing"):
        list(frames_of(replace(run.plan.item(0, 0), modified=None), str(folder)))
