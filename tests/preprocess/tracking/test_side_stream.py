import pytest
import torch

from preprocess.tracking.side_stream import SideStream, at_once


def test_work_at_once_is_done_before_its_result_is_asked_for() -> None:
    done: list[int] = []
    wait = at_once(lambda: done.append(1) or 5, [])  # type: ignore[func-returns-value]
    assert done == [1]
    assert (wait(), wait(), done) == (5, 5, [1])


@pytest.mark.gpu
def test_work_beside_the_current_stream_reads_what_that_has_computed() -> None:
    start = SideStream(torch.device("cuda"))
    busy = torch.rand(4096, 4096, device="cuda")
    for number in range(10):
        for _ in range(4):
            busy = busy @ busy
        values = torch.full((1000,), number, device="cuda")
        wait = start(lambda values=values: int((values * 2).sum().item()), [values])  # type: ignore[misc]
        del values  # whose memory the next values must not get while it is read
        assert wait() == 2000 * number


@pytest.mark.gpu
def test_an_exception_of_the_work_is_raised_where_its_result_is_asked_for() -> None:
    wait = SideStream(torch.device("cuda"))(lambda: torch.empty(1 << 50, device="cuda"), [])
    with pytest.raises(torch.OutOfMemoryError):
        wait()
