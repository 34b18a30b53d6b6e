import queue

import pytest
import torch

from datamodules.errors import ExtractError
from datamodules.line.frames import FrameRequest, FrameStream, Ticket
from frame_making import corpus_run, gray_of


class Untouched:
    """Is told what is touched, and does not mind."""

    def touch(self, shard, rows):
        pass

    def let_go(self):
        pass


class Mean:
    """Each frame's mean; refuses frames of mean 102."""

    def start(self, item):
        self.key, self.count = item.key, 0

    def __call__(self, frame):
        self.count += 1
        value = int(frame.float().mean().round())
        if value == 102:
            raise ExtractError("102 is too bright")
        return self.key, self.count, value


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    return corpus_run(folder / "media", folder / "run"), folder / "media"


def slices(corpus, *tickets, slice_frames=4, transform=None):
    run, root = corpus
    waiting = queue.SimpleQueue()
    for rows in (*tickets, None):
        waiting.put(rows and Ticket(0, rows))
    return list(FrameStream(run.plan.path, str(root), waiting, FrameRequest(slice_frames, transform), Untouched()))


def ends(batches):
    return {end["row"]: end for batch in batches for end in batch["ends"]}


def test_single_images_are_one_batch(corpus):
    [batch] = slices(corpus, (0, 1, 3))
    assert batch["frames"].shape == (3, 3, 6, 8)
    assert batch["frames"].dtype == torch.uint8
    assert batch["frames"].float().mean((1, 2, 3)).tolist() == [0, 10, 30]
    assert (batch["shard"], batch["rows"], batch["frame_idx"]) == (0, [0, 1, 3], [0, 0, 0])
    assert [(end["row"], end["num_frames"], end["size"], end["reason"]) for end in batch["ends"]] == [
        (0, 1, (6, 8), None),
        (1, 1, (6, 8), None),
        (3, 1, (6, 8), None),
    ]


def test_frames_of_different_sizes_are_a_list(corpus):
    [batch] = slices(corpus, (1, 2))
    assert isinstance(batch["frames"], list)
    assert [tuple(frame.shape) for frame in batch["frames"]] == [(3, 6, 8), (3, 9, 5)]


def test_images_that_cannot_be_read_are_ends_with_reasons_and_spare_their_neighbours(corpus):
    [batch] = slices(corpus, (3, 4, 5, 6))
    assert batch["rows"] == [3, 6]
    assert {row: end["reason"] for row, end in ends([batch]).items()} == {
        3: None, 4: "4.png is empty (0 bytes)", 5: "5.png is missing", 6: None
    }  # fmt: skip
    assert ends([batch])[4]["reason_class"] == "decode"


def test_a_ticket_of_bad_images_only_is_a_batch_without_frames(corpus):
    [batch] = slices(corpus, (4, 5))
    assert len(batch["frames"]) == 0
    assert len(batch["ends"]) == 2


@pytest.mark.parametrize(("slice_frames", "sizes"), [(4, [4, 4, 4, 4, 4, 3]), (23, [23]), (100, [23]), (1, [1] * 23)])
def test_a_video_comes_in_order_in_slices_and_ends_with_its_last(corpus, slice_frames, sizes):
    batches = slices(corpus, (9,), slice_frames=slice_frames)
    assert [len(batch["frames"]) for batch in batches] == sizes
    assert [index for batch in batches for index in batch["frame_idx"]] == list(range(23))
    assert [len(batch["ends"]) for batch in batches] == [0] * (len(sizes) - 1) + [1]
    end = ends(batches)[9]
    assert (end["num_frames"], end["fps"], end["size"], end["reason"]) == (23, 25.0, (48, 64), None)
    means = torch.cat([batch["frames"] for batch in batches]).float().mean((1, 2, 3))
    assert (means - torch.tensor([gray_of(k) for k in range(23)])).abs().max() < 4


def test_a_sequence_that_breaks_is_an_end_after_the_frames_before(corpus):
    batches = slices(corpus, (8,), slice_frames=2)
    assert [index for batch in batches for index in batch["frame_idx"]] == [0, 1, 2]
    end = ends(batches)[8]
    assert end["reason"].startswith("3.png cannot be decoded (8 bytes)")
    assert (end["reason_class"], end["num_frames"]) == ("decode", 3)


def test_what_is_no_video_is_an_end(corpus):
    [batch] = slices(corpus, (10,))
    assert "text.mp4 does not open as a video" in ends([batch])[10]["reason"]


def test_a_transform_gives_results_in_place_of_frames(corpus):
    batches = slices(corpus, (1, 3), (9,), transform=Mean)
    assert all("frames" not in batch for batch in batches)
    assert batches[0]["results"] == [("0/images/1", 1, 10), ("0/images/3", 1, 30)]
    assert [count for batch in batches[1:] for _, count, _ in batch["results"]] == list(range(1, 24))


def test_a_transform_that_refuses_a_frame_fails_its_item_only(corpus):
    batches = slices(corpus, (7,), (6,), transform=Mean)
    assert (ends(batches)[7]["reason"], ends(batches)[7]["reason_class"]) == ("102 is too bright", "extract")
    assert ends(batches)[6]["reason"] is None
