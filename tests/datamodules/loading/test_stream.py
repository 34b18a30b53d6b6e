from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from datamodules.corpus import Item
from datamodules.errors import ExtractError
from datamodules.loading.request import Batching
from datamodules.run.folder import Run
from support.frame_corpora import corpus_run, gray_of, slices, summaries_of, write_image
from support.runs import make_run


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


def test_a_batch_has_the_items_whose_first_frame_it_holds(corpus: tuple[Run, Path]) -> None:
    plan = corpus[0].plan
    [batch] = slices(corpus, (3, 4, 5))
    assert batch["rows"] == [3]
    assert batch["items"] == {3: plan.item(0, 3)}
    assert [batch["items"] for batch in slices(corpus, (9,), slice_frames=10)] == [{9: plan.item(0, 9)}, {}, {}]


def test_a_batch_says_how_many_frames_its_new_items_have_in_all(corpus: tuple[Run, Path]) -> None:
    [batch] = slices(corpus, (3, 4, 5))
    assert batch["num_frames"] == {3: 1}
    batches = list(slices(corpus, (9,), slice_frames=10))
    assert [batch["num_frames"] for batch in batches] == [{9: sum(len(batch["rows"]) for batch in batches)}, {}, {}]


def test_batches_say_how_long_their_frames_took(corpus: tuple[Run, Path]) -> None:
    batches = list(slices(corpus, (9,), slice_frames=10))
    [summary] = batches[-1]["summaries"]
    assert all(batch["seconds"]["read"] > 0 for batch in batches)
    assert sum(batch["seconds"]["read"] for batch in batches) == pytest.approx(summary.read_seconds)
    [images] = slices(corpus, (0, 1, 3))
    assert images["seconds"]["read"] == pytest.approx(sum(summary.read_seconds for summary in images["summaries"]))


def test_frames_of_different_sizes_are_a_list(corpus: tuple[Run, Path]) -> None:
    [batch] = slices(corpus, (1, 2))
    assert isinstance(batch["frames"], list)
    assert [tuple(frame.shape) for frame in batch["frames"]] == [(3, 6, 8), (3, 9, 5)]


def test_unreadable_images_fail_with_reasons_and_their_neighbours_are_read(corpus: tuple[Run, Path]) -> None:
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


def test_a_damaged_sequence_fails_after_the_frames_before_the_damage(corpus: tuple[Run, Path]) -> None:
    batches = slices(corpus, (8,), slice_frames=2)
    assert [index for batch in batches for index in batch["frame_idx"]] == [0, 1, 2]
    summary = summaries_of(batches)[8]
    assert summary.reason.startswith("3.png cannot be decoded (8 bytes)")
    assert (summary.reason_class, summary.num_frames) == ("decode", 3)


def test_a_file_that_is_not_a_video_fails(corpus: tuple[Run, Path]) -> None:
    [batch] = slices(corpus, (10,))
    assert "text.mp4 does not open as a video" in summaries_of([batch])[10].reason


def test_with_a_transform_batches_have_results_instead_of_frames(corpus: tuple[Run, Path]) -> None:
    batches = slices(corpus, (1, 3), (9,), transform=Mean)
    assert all("frames" not in batch for batch in batches)
    assert batches[0]["results"] == [("0/images/1", 1, 10), ("0/images/3", 1, 30)]
    assert [count for batch in batches[1:] for _, count, _ in batch["results"]] == list(range(1, 24))


def test_a_frame_that_a_transform_refuses_fails_its_item_only(corpus: tuple[Run, Path]) -> None:
    batches = slices(corpus, (7,), (6,), transform=Mean)
    assert (summaries_of(batches)[7].reason, summaries_of(batches)[7].reason_class) == (
        "102 is too bright",
        "extract",
    )
    assert summaries_of(batches)[6].reason is None


class Groups:
    """Each frame's value, with the values of all frames of its group; refuses groups with a frame of mean 102."""

    num_frames = 4

    def start(self, item: Item) -> None:
        self.key = item.key

    def results(self, frames: Sequence[Any]) -> list[Any]:
        values = [int(frame.float().mean().round()) for frame in frames]
        if 102 in values:
            raise ExtractError("102 is too bright")
        return [(self.key, value, values) for value in values]


def test_a_group_transform_gets_groups_of_the_frames_of_one_item(corpus: tuple[Run, Path]) -> None:
    images, *video = slices(corpus, (1, 3), (9,), transform=Groups, slice_frames=5)
    assert images["results"] == [("0/images/1", 10, [10]), ("0/images/3", 30, [30])]
    assert [len(batch["results"]) for batch in video] == [5, 5, 5, 5, 3]
    results = [result for batch in video for result in batch["results"]]
    assert [index for batch in video for index in batch["frame_idx"]] == list(range(23))
    assert [len(values) for *_, values in results] == [4] * 20 + [3] * 3
    for index, (_, value, values) in enumerate(results):
        assert value == values[index % 4]
        assert abs(value - gray_of(index)) < 4


def test_a_group_that_is_refused_or_damaged_fails_its_item_only(corpus: tuple[Run, Path]) -> None:
    summaries = summaries_of(slices(corpus, (7, 8), (6,), transform=Groups))
    assert (summaries[7].reason, summaries[7].reason_class) == ("102 is too bright", "extract")
    assert summaries[8].reason is not None
    assert summaries[8].reason.startswith("3.png cannot be decoded (8 bytes)")
    assert summaries[6].reason is None


class Size(NamedTuple):
    num_pixels: int
    num_tokens: int


class Sizes:
    """Claims the value of a gray image as its number of pixels, and `tokens(value)` tokens; refuses the value 102."""

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


def test_the_summaries_of_a_window_come_with_its_last_batch_in_the_order_of_the_ticket(
    corpus: tuple[Run, Path],
) -> None:
    batches = slices(corpus, (6, 4, 0, 5, 1), slice_frames=1, transform=Sizes, batching=Batching(10))
    assert [batch["rows"] for batch in batches] == [[0], [1], [6]]
    assert [[summary.row for summary in batch["summaries"]] for batch in batches] == [[], [], [6, 4, 0, 5, 1]]
    assert summaries_of(batches)[4].reason == "4.png is empty (0 bytes)"
    assert [set(batch["items"]) for batch in batches] == [{0}, {1}, {6}]


def test_a_window_of_bad_images_only_is_a_batch_without_results(corpus: tuple[Run, Path]) -> None:
    [batch] = slices(corpus, (4, 5), transform=Sizes, batching=Batching(10))
    assert (batch["rows"], batch["results"], len(batch["summaries"])) == ([], [], 2)


def test_frames_of_videos_and_sequences_come_in_order_whatever_their_sizes(corpus: tuple[Run, Path]) -> None:
    for row, sizes in ((9, [4, 4, 4, 4, 4, 3]), (8, [2])):
        batches = slices(corpus, (row,), transform=Sizes, batching=Batching(10, max_pixels=1))
        assert [len(batch["rows"]) for batch in batches] == sizes
        assert [index for batch in batches for index in batch["frame_idx"]] == list(range(sum(sizes)))


def test_summaries_have_the_files_of_single_images_if_requested(corpus: tuple[Run, Path]) -> None:
    for store in ("png", None):
        summaries = summaries_of(slices(corpus, (0, 2, 3, 4), (7,), store=store))
        for row in (0, 2, 3):
            content = (corpus[1] / "images" / f"{row}.png").read_bytes()
            assert summaries[row].content == (content if store else None)
        assert (summaries[4].content, summaries[7].content) == (None, None)  # the one is empty, the other a sequence
