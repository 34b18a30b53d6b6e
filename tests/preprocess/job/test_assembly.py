"""Items in progress receive their own results, and their assemblies are closed."""

from typing import Any

import pytest

from datamodules.corpus import Item
from datamodules.errors import ExtractError
from datamodules.loading.batch import ItemSummary
from preprocess.job.assembly import Assembly, ListAssembly, OpenItem, OpenItems, Outcome

ITEM = Item("train/a", "train", "a")


class Recorded(Assembly):
    """An assembly that refuses the result `bad`, and records what happens to it."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def add(self, frame_idx: int, result: Any) -> None:
        if result == "bad":
            raise ExtractError("a bad result")
        self.calls.append((frame_idx, result))

    def finish(self, summary: ItemSummary) -> Any:
        return summary.num_frames, self.calls

    def close(self) -> None:
        self.calls.append("closed")


def test_a_list_assembly_passes_all_results_and_the_summary_to_assemble() -> None:
    assembly = ListAssembly(lambda results, summary: (list(results), summary.num_frames))
    for frame_idx, result in enumerate("abc"):
        assembly.add(frame_idx, result)
    assert assembly.finish(ItemSummary(row=0, num_frames=3)) == (["a", "b", "c"], 3)


@pytest.mark.parametrize("second", [ExtractError("a bad frame"), "bad"])
def test_the_first_failure_closes_the_assembly_and_is_the_items_reason(second: Any) -> None:
    recorded = Recorded()
    item = OpenItem(ITEM, 2, lambda _: recorded)
    for frame_idx, result in enumerate(["a", second, "c", ExtractError("another")]):
        item.add(frame_idx, Outcome(result, None))
    with pytest.raises(ExtractError, match=r"a bad (frame|result)"):
        _ = item.assembly
    assert recorded.calls == [(0, "a"), "closed"]  # at once: a failed video may have an hour to go
    item.close()
    assert recorded.calls == [(0, "a"), "closed"]


def test_an_item_keeps_the_size_of_the_smallest_batch_of_its_frames() -> None:
    item = OpenItem(ITEM, 4, lambda _: Recorded())
    for frame_idx, split_to in enumerate([None, 4, 2, 3]):
        item.add(frame_idx, Outcome("a", split_to))
    assert item.split_to == 2


def test_an_item_that_begins_again_gets_a_new_assembly_and_the_old_one_is_closed() -> None:
    made: list[Recorded] = []

    def open_assembly(item: Item) -> Recorded:
        made.append(Recorded())
        return made[-1]

    items = OpenItems(open_assembly)
    for result in ("old", "new"):
        items.begin(0, 1, ITEM, 2)
        items[0, 1].add(0, Outcome(result, None))
    assert items[0, 1].assembly.finish(ItemSummary(row=1, num_frames=1)) == (1, [(0, "new")])
    assert made[0].calls == [(0, "old"), "closed"]


def test_only_items_without_a_result_stay_open() -> None:
    items = OpenItems(lambda _: Recorded())
    for row in range(3):
        items.begin(0, row, ITEM, 2)
    items.close_unless(lambda shard, row: row == 1)
    assert [items.get(0, row) is not None for row in range(3)] == [False, True, False]
    items.close_all()
    assert items.get(0, 1) is None
