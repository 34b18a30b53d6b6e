import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from datamodules.errors import EnvironmentFailure
from datamodules.run.leases import Claim, Leases, RankIdentity
from datamodules.run.store import Entry, Folder
from support.runs import Clock, claim_all, hold, start, wait_for


def put(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def test_one_of_many_simultaneous_claims_wins(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    names = [f"train-{number:06d}" for number in range(40)]
    ready, won = context.Barrier(7), context.Queue()
    processes = [start(claim_all, tmp_path, names, ready, won) for _ in range(6)]
    ready.wait(60)
    winners = dict(won.get(timeout=30) for _ in processes)
    assert sorted(name for claimed in winners.values() for name in claimed) == names
    survey = Leases(Folder(tmp_path)).list_claims()
    for pid, claimed in winners.items():
        for name in claimed:
            [claim] = survey[name]
            assert claim.holder is not None
            assert (claim.holder.pid, claim.generation, claim.dead) == (pid, 0, False)
    ready.wait(60)
    for process in processes:
        process.join(10)


def test_a_killed_holder_is_seen_dead_at_once(tmp_path: Path) -> None:
    claimed = multiprocessing.get_context("forkserver").Queue()
    process = start(hold, tmp_path, "train-000000", claimed)
    assert claimed.get(timeout=30)
    leases = Leases(Folder(tmp_path))
    assert not leases.list_claims()["train-000000"][0].dead
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    assert leases.list_claims()["train-000000"][0].dead
    assert leases.claim("train-000000", 1)
    first, second = leases.list_claims()["train-000000"]
    assert second.holder is not None
    assert (first.dead, second.dead, second.holder.rank) == (True, False, leases.identity.rank)


def test_a_rank_reads_a_few_unknown_claims_at_once_the_longest_held_first(tmp_path: Path) -> None:
    holders = [Leases(Folder(tmp_path)) for _ in range(3)]
    for number, holder in reversed(list(enumerate(holders))):
        assert holder.claim(f"train-{number:06d}")
        os.utime(tmp_path / f"work/leases/train-{number:06d}.000000", (number, number))
    leases = Leases(Folder(tmp_path))
    assert list(leases.list_claims(max_reads=0)) == []
    assert list(leases.list_claims(max_reads=1)) == ["train-000000"]
    assert list(leases.list_claims(max_reads=1)) == ["train-000000", "train-000001"]
    assert list(leases.list_claims()) == ["train-000000", "train-000001", "train-000002"]
    assert list(leases.list_claims(max_reads=0)) == ["train-000000", "train-000001", "train-000002"]


def test_a_reused_process_id_is_another_process() -> None:
    this = RankIdentity.of_this_process()
    assert not this.has_died()
    assert RankIdentity(this.rank, this.machine, this.pid, this.started - 100).has_died()


def test_a_rank_of_another_machine_is_not_known_to_be_dead() -> None:
    assert not RankIdentity("x", "another machine", 1, 0).has_died()


def test_a_rank_whose_heartbeat_stopped_by_the_observers_clock_is_dead(tmp_path: Path) -> None:
    clock = Clock()
    holder, onlooker = Leases(Folder(tmp_path)), Leases(Folder(tmp_path), stale_seconds=60, clock=clock)
    holder.claim("train-000000")

    def dead() -> bool:
        return onlooker.list_claims()["train-000000"][0].dead

    assert not dead()
    clock.now += 59
    assert not dead()
    holder.beat()
    clock.now += 59
    assert not dead()
    clock.now += 59
    assert not dead()
    clock.now += 2
    assert dead()
    holder.beat()
    assert not dead()


def test_a_clock_set_to_another_year_declares_no_rank_dead(tmp_path: Path) -> None:
    holder, onlooker = Leases(Folder(tmp_path)), Leases(Folder(tmp_path))
    holder.claim("train-000000")
    os.utime(tmp_path / "work" / "ranks" / holder.identity.rank, (0, 0))
    assert not onlooker.list_claims()["train-000000"][0].dead


def test_one_generation_has_one_holder_and_the_next_is_free(tmp_path: Path) -> None:
    one, other = Leases(Folder(tmp_path)), Leases(Folder(tmp_path))
    assert one.claim("a-1")
    assert not other.claim("a-1")
    assert other.claim("a-1", 1)
    assert [claim.holder and claim.holder.rank for claim in one.list_claims()["a-1"]] == [
        one.identity.rank,
        other.identity.rank,
    ]
    assert one.claimed() == {"a-1"}


def test_a_claim_whose_creation_the_file_server_repeats_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases, link = Leases(Folder(tmp_path)), os.link
    monkeypatch.setattr(os, "link", lambda *args: (link(*args), link(*args)))
    assert leases.claim("a-1")


def test_a_claim_that_cannot_be_confirmed_fails_rather_than_stay_held_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases, link = Leases(Folder(tmp_path)), os.link
    monkeypatch.setattr(os, "link", lambda *args: (link(*args), link(*args)))
    monkeypatch.setattr(Path, "samefile", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(OSError, match="Input/output error"):
        leases.claim("a")


def test_release_removes_only_the_ranks_own_claim(tmp_path: Path) -> None:
    one, other = Leases(Folder(tmp_path)), Leases(Folder(tmp_path))
    one.claim("a-1")
    other.claim("a-1", 1)
    one.release("a-1")
    assert [claim.generation for claim in other.list_claims()["a-1"]] == [1]
    other.release("a-1")
    assert other.claimed() == set()


def test_clear_removes_the_claims_on_one_name_up_to_the_ranks_own(tmp_path: Path) -> None:
    one, other = Leases(Folder(tmp_path)), Leases(Folder(tmp_path))
    for leases, name, generation in ((one, "a-1", 0), (other, "a-1", 1), (one, "a-10", 0), (one, "a-2", 0)):
        assert leases.claim(name, generation)
    other.clear("a-1")
    assert other.claimed() == {"a-10", "a-2"}
    one.release("a-1")
    one.clear("never-claimed")


def test_close_releases_every_claim(tmp_path: Path) -> None:
    leases = Leases(Folder(tmp_path))
    leases.claim("a-1")
    leases.claim("a-2")
    leases.close()
    assert list((tmp_path / "work" / "leases").iterdir()) == list((tmp_path / "work" / "ranks").iterdir()) == []


def test_a_claim_released_while_it_is_checked_counts_as_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Leases(Folder(tmp_path)).claim("a-1")
    onlooker = Leases(Folder(tmp_path))
    real = onlooker._holder

    def removed_before(claim: Entry) -> Any:
        (tmp_path / claim.name).unlink()
        return real(claim)

    monkeypatch.setattr(onlooker, "_holder", removed_before)
    [claim] = onlooker.list_claims()["a-1"]
    assert (claim.holder, claim.dead) == (None, True)


def test_a_truncated_rank_file_belongs_to_a_dead_rank(tmp_path: Path) -> None:
    leases = Leases(Folder(tmp_path))
    put(tmp_path / "work" / "leases" / "a-1.000000", '{"identity": {"rank": "x", "mach')
    [claim] = leases.list_claims()["a-1"]
    assert (claim.holder, claim.dead) == (None, True)


@pytest.mark.parametrize(
    "content",
    [
        '{"identity": {"rank": "../x", "machine": "m", "pid": 1, "started": 2}}',
        '{"identity": {"rank": 1}}',
        '{"identity": {"rank": "x", "pid": -1}}',
        '{"rank": "x"}',
        "[]",
        "[" * 2000,
    ],
)
def test_invalid_rank_files_belong_to_dead_ranks_and_invalid_claims_are_ignored(tmp_path: Path, content: str) -> None:
    leases = Leases(Folder(tmp_path))
    for name in ("a-1.000000", "a-1.first", "a-2.-00001", "a-2"):
        put(tmp_path / "work" / "leases" / name, content)
    assert leases.list_claims() == {"a-1": [Claim("a-1", 0, None, dead=True)]}
    assert leases.claimed() == {"a-1"}  # all others can be leased
    (tmp_path / "work" / "ranks" / "other").write_text(content)
    assert leases.at_work() == set()


def test_files_that_nfs_keeps_after_removal_are_not_claims(tmp_path: Path) -> None:
    leases = Leases(Folder(tmp_path))
    put(tmp_path / "work" / "leases" / ".nfs000000000123abc", "")
    assert leases.list_claims() == {}
    assert leases.claimed() == set()


def test_a_heartbeat_updates_the_rank_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leases = Leases(Folder(tmp_path))
    file = tmp_path / "work" / "ranks" / leases.identity.rank
    os.utime(file, (0, 0))
    monkeypatch.setattr(Folder, "beat_seconds", 0.01)
    with leases.beating():
        wait_for(lambda: file.stat().st_mtime > 0)


def test_a_folder_that_cannot_be_made_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFailure, match="cannot be written to"):
        Leases(Folder(tmp_path / "file" / "run"))


def test_a_file_system_without_hard_links_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    leases = Leases(Folder(tmp_path))
    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(EnvironmentFailure, match=r"hard link .* Operation not supported"):
        leases.claim("a-1")
