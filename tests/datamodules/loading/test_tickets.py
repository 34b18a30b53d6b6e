import multiprocessing
from pathlib import Path

from datamodules.loading.tickets import LocalTickets, Ticket, Tickets, tickets
from datamodules.run.open_shard import OpenShard
from datamodules.run.result import Result
from support.frame_corpora import corpus_run


def test_tickets_group_single_images_and_depend_on_the_plan_alone(tmp_path: Path) -> None:
    run = corpus_run(tmp_path / "media", tmp_path / "run")
    opened = OpenShard(run, run.plan.shards[0], "rank", lambda _: None)
    everything = [(0, 1, 2), (3, 4, 5), (6,), (7,), (8,), (9,), (10,)]
    assert [ticket.rows for ticket in tickets(opened, 3)] == everything
    for row in (4, 6, 9):
        opened.spool.append(_result(row), {})
    assert [ticket.rows for ticket in tickets(opened, 3)] == [(0, 1, 2), (3, 4, 5), (7,), (8,), (10,)]
    opened.spool.close()


def _result(row: int) -> Result:
    return Result(row, reason="x", reason_class="decode")


def test_tickets_that_no_worker_took_can_be_taken_back() -> None:
    for tickets_of_a_kind in (Tickets(multiprocessing.get_context("forkserver")), LocalTickets()):
        for row in range(3):
            tickets_of_a_kind.put(Ticket(0, (row,)))
        assert tickets_of_a_kind.get() == Ticket(0, (0,))
        assert list(tickets_of_a_kind.take_back()) == [Ticket(0, (1,)), Ticket(0, (2,))]
        assert list(tickets_of_a_kind.take_back()) == []
