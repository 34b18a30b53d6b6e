"""Runs in a bucket whose server loses replies, races, is slow, refuses or is away."""

import logging
import os
import pickle
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from datamodules import object_store
from datamodules.errors import ConfigError, EnvironmentFailure, RunError
from datamodules.object_store import StaleVersionError, StoreUnavailableError
from datamodules.run import bucket as bucket_module
from datamodules.run.bucket import Bucket, open_store
from datamodules.run.plan import Plan, ShardSize
from datamodules.run.planning import write_plan
from datamodules.run.rank import Rank
from datamodules.run.store import Folder
from support.faulty_proxy import Fault, FaultyProxy, faulty_proxy
from support.runs import FINGERPRINT, finish, lease, make_run, some_items
from support.s3_server import PAGE_SIZE, S3Server

pytest.importorskip("obstore")

_CONFLICT = b"<Error><Code>ConditionalRequestConflict</Code></Error>"
_SLOW_DOWN = b"<Error><Code>SlowDown</Code></Error>"
_DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
_EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy through which the stores of this test reach the S3 server. Nobody waits long."""
    monkeypatch.setattr(object_store, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(object_store, "_MAX_RETRIES", 0)
    monkeypatch.setattr(bucket_module, "_CONFLICT_SECONDS", (0.001, 0.01))
    with faulty_proxy(s3.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.fixture
def store(proxy: FaultyProxy, s3: S3Server, tmp_path: Path) -> Bucket:
    """An empty prefix of a bucket behind the proxy."""
    return Bucket(f"s3://{s3.make_bucket()}/run", str(tmp_path))


def _methods(proxy: FaultyProxy) -> list[str]:
    return [method for method, _ in proxy.requests]


@pytest.mark.parametrize("retries", [0, 3], ids=["here", "in the client"])
def test_a_creator_whose_reply_was_lost_has_won(
    store: Bucket, proxy: FaultyProxy, retries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "_MAX_RETRIES", retries)
    proxy.faults.append(Fault("PUT"))
    assert store.create("records/a.json", b"mine")
    assert _methods(proxy) == ["PUT", "PUT", "GET"]


def test_a_creator_whose_put_conflicts_tries_again(store: Bucket, proxy: FaultyProxy) -> None:
    proxy.faults.append(Fault("PUT", status=409, body=_CONFLICT, times=2))
    assert store.create("records/a.json", b"mine")
    assert store.read("records/a.json") == b"mine"
    proxy.faults.append(Fault("PUT", status=409, body=_CONFLICT))
    assert not store.create("records/a.json", b"another's")


def test_a_put_that_arrives_late_changes_nothing(
    store: Bucket, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "_REQUEST_SECONDS", 0.5)
    proxy.faults.append(Fault("PUT", seconds=1.0))
    assert store.create("records/a.json", b"mine")
    store.replace("records/a.json", b"newer")
    proxy.wait()
    assert store.read("records/a.json") == b"newer"


def test_of_many_creators_one_wins_despite_conflicts_and_lost_replies(store: Bucket, proxy: FaultyProxy) -> None:
    proxy.faults += [Fault("PUT", status=409, body=_CONFLICT, times=5), Fault("PUT", times=5), Fault("GET", times=3)]
    won: list[bytes] = []

    def create(content: bytes) -> None:
        if store.create("work/leases/a.000000", content):
            won.append(content)

    threads = [threading.Thread(target=create, args=(b"%d" % number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [store.read("work/leases/a.000000")] == won


def test_waits_for_a_store_that_does_not_answer(
    store: Bucket, proxy: FaultyProxy, caplog: pytest.LogCaptureFixture
) -> None:
    store.prepare()
    proxy.faults += [Fault(method, "a.tar", status=503, body=_SLOW_DOWN, times=4) for method in ("PUT", "GET")]
    with store.staged("a.tar") as path:
        path.write_bytes(b"samples")
    assert store.read("a.tar") == b"samples"
    (message, _) = caplog.messages  # one for each time without an answer
    assert message == f"{store} does not answer. Trying again for 900 s"
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2


def test_gives_up_once_for_all_requests(store: Bucket, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bucket, "patience_seconds", 0.3)
    store.prepare()
    proxy.faults += [Fault("PUT", status=503, times=100), Fault("POST", status=503, times=100)]
    with pytest.raises(StoreUnavailableError, match="does not answer"):
        store.create("records/a.json", b"mine")
    proxy.requests.clear()
    with pytest.raises(StoreUnavailableError, match="does not answer"):
        store.remove("records/a.json")
    assert _methods(proxy) == ["POST"]
    proxy.faults.clear()
    store.remove("records/a.json")
    proxy.faults.append(Fault("PUT", status=503, times=2))
    assert store.create("records/a.json", b"mine")  # it is patient again


@pytest.mark.parametrize(("status", "body"), [(400, _EXPIRED), (403, _EXPIRED), (403, _DENIED)])
def test_a_refused_request_is_not_repeated(store: Bucket, proxy: FaultyProxy, status: int, body: bytes) -> None:
    store.prepare()
    proxy.requests.clear()
    proxy.faults += [Fault(method, status=status, body=body, times=100) for method in ("PUT", "HEAD", "GET")]
    reason = "credentials are missing, wrong or expired" if body == _EXPIRED else "HTTP 403 AccessDenied"
    with pytest.raises(OSError, match=reason):
        store.create("records/a.json", b"mine")
    with pytest.raises(OSError, match=reason):
        store.find("records/a.json")
    assert _methods(proxy) == ["PUT", "HEAD", "GET"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("PUT", status=403, body=_DENIED), "no permission to create objects in {store} (HTTP 403 AccessDenied"),
        (Fault("GET", "probe", 403, _DENIED), "no permission to read objects in {store} (HTTP 403 AccessDenied"),
        (Fault("PUT", "", 403, _DENIED, after=2), "no permission to overwrite objects in {store} (HTTP 403"),
        (Fault("GET", "list-type", 403, _DENIED), "no permission to list objects in {store} (HTTP 403 AccessDenied"),
        (Fault("POST", "delete", 403, _DENIED), "no permission to delete objects in {store} (HTTP 403 AccessDenied"),
        (Fault("PUT", status=501), "cannot create objects in {store}: HTTP 501"),
    ],
)
def test_says_what_a_rank_may_not_do(store: Bucket, proxy: FaultyProxy, fault: Fault, message: str) -> None:
    proxy.faults.append(fault)
    with pytest.raises(EnvironmentFailure, match=re.escape(message.format(store=store))):
        store.prepare()


def test_refuses_a_store_that_ignores_the_condition(store: Bucket, proxy: FaultyProxy) -> None:
    proxy.ignores_conditions = True
    with pytest.raises(EnvironmentFailure, match="created one object twice: it ignores the condition If-None-Match"):
        store.prepare()
    assert store.names("work/staging") == []


def test_refuses_a_missing_bucket(proxy: FaultyProxy, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match=r"^cannot create objects in s3://none-such/run: there is no such bu"):
        Bucket("s3://none-such/run", str(tmp_path)).prepare()


def test_leaves_nothing_of_a_probe(store: Bucket, tmp_path: Path) -> None:
    store.prepare()
    assert (store.names(), list(tmp_path.rglob("*.*/*/*"))) == ([], [])


@pytest.mark.parametrize("status", [403, 400], ids=["policy", "more than 5 GB"])
def test_publishes_where_the_server_copies_nothing(store: Bucket, proxy: FaultyProxy, status: int) -> None:
    store.create("work/staging/a.tar", b"samples")
    proxy.faults.append(Fault("PUT", "a.tar", status=status, body=b"<Error><Code>Refused</Code></Error>"))
    store.publish("work/staging/a.tar", "a.tar")
    assert (store.read("a.tar"), store.names("work/staging")) == (b"samples", [])


def test_a_staged_file_is_kept_until_its_copy_is_whole(store: Bucket, proxy: FaultyProxy) -> None:
    error = b"<?xml version='1.0'?><Error><Code>InternalError</Code></Error>"  # S3 may say so after a 200
    store.create("work/staging/a.tar", b"samples")
    proxy.faults.append(Fault("PUT", "a.tar", status=200, body=error, times=100))
    store._patience_seconds = 0.1
    with pytest.raises(OSError):  # noqa: PT011
        store.publish("work/staging/a.tar", "a.tar")
    proxy.faults.clear()
    assert store.read("work/staging/a.tar") == b"samples"


def test_several_publish_a_file_at_once(store: Bucket) -> None:
    store.create("work/staging/a.tar", b"samples")
    threads = [threading.Thread(target=store.publish, args=("work/staging/a.tar", "a.tar")) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (store.read("a.tar"), store.names("work/staging")) == (b"samples", [])


def test_a_large_file_is_uploaded_and_read_in_parts(
    store: Bucket, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bucket_module, "_PART_BYTES", 5 << 20)  # the least that S3 takes
    content = os.urandom(11 << 20)
    proxy.faults.append(Fault("PUT", "partNumber=2"))
    with store.staged("a.tar") as path:
        path.write_bytes(content)
    assert not path.exists()
    proxy.requests.clear()
    with store.open("a.tar") as file:
        assert b"".join(iter(lambda: file.read(1 << 20), b"")) == content
        assert file.read_at(10, 5) == content[5:15]
    assert len(proxy.requests) < 9


def test_a_small_file_is_read_by_two_requests(store: Bucket, proxy: FaultyProxy) -> None:
    store.create("tables/a.parquet", bytes(range(256)) * 1000)
    proxy.requests.clear()
    with store.open("tables/a.parquet") as file:
        for offset in (255_000, 1000, 100_000):
            file.seek(offset)
            assert file.read(5) == file.read_at(5, offset)
    assert _methods(proxy) == ["HEAD", "GET"]


def test_an_open_file_that_was_replaced_is_not_read_further(store: Bucket) -> None:
    store.create("a.tar", b"one" * 1_000_000)
    with store.open("a.tar") as file:
        assert file.read(3) == b"one"
        store.replace("a.tar", b"two" * 1_000_000)
        with pytest.raises(StaleVersionError):
            file.read_at(3, 2_000_000)


def test_lists_more_than_one_page(store: Bucket, proxy: FaultyProxy, s3: S3Server) -> None:
    name = str(store).removeprefix("s3://").partition("/")[0]
    for number in range(PAGE_SIZE + 1):
        s3.client.put_object(Bucket=name, Key=f"run/records/{number:06d}.json", Body=b"")
    assert store.names("records") == [f"{number:06d}.json" for number in range(PAGE_SIZE + 1)]
    assert len(proxy.requests) == 2


def test_keys_that_no_run_makes_are_left_out_or_named(store: Bucket, s3: S3Server) -> None:
    name = str(store).removeprefix("s3://").partition("/")[0]
    for key in ("run/", "run/records/", "run/records/a.json", "runner/b.json", "run/.hidden", "c.json"):
        s3.client.put_object(Bucket=name, Key=key, Body=b"")
    assert (store.names(), store.names("records")) == (["records"], ["a.json"])
    assert [entry.name for entry in store.list("records")] == ["records/a.json"]
    s3.client.put_object(Bucket=name, Key="run/records//b.json", Body=b"")
    with pytest.raises(OSError, match=r"a key cannot be used as a path\..*run/records//"):
        store.names("records")


def test_a_run_can_be_a_whole_bucket(s3: S3Server, tmp_path: Path) -> None:
    store = open_store(f"s3://{s3.make_bucket()}/", str(tmp_path))
    store.prepare()
    assert store.create("records/a.json", b"a")
    assert (store.names(), [entry.name for entry in store.list("records")]) == (["records"], ["records/a.json"])


@pytest.mark.parametrize("name", ["../other/a.json", "records/../../a.json", "records//a.json", "a\nb"])
def test_names_do_not_lead_out_of_the_prefix(store: Bucket, proxy: FaultyProxy, name: str) -> None:
    with pytest.raises(OSError, match="cannot be used as a path"):
        store.create(name, b"")
    assert proxy.requests == []


def test_neither_pickles_nor_messages_hold_credentials(store: Bucket, s3: S3Server) -> None:
    store.create("plan.arrow", b"plan")
    secret = s3.environment["AWS_SECRET_ACCESS_KEY"]
    assert secret.encode() not in pickle.dumps(store)
    assert secret not in f"{store!r} {store} {vars(store)}"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12: of a process with threads
def test_a_forked_process_is_refused_and_does_not_hang(store: Bucket) -> None:
    store.create("plan.arrow", b"plan")
    pid = os.fork()
    if pid == 0:
        try:
            store.read("plan.arrow")
        except RuntimeError as error:
            os._exit(7 if "Start processes by 'forkserver' or 'spawn'" in str(error) else 1)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_scratch_is_private_and_named_after_the_url(tmp_path: Path) -> None:
    store = open_store("memory://test/run", str(tmp_path))
    assert store.work.parent == tmp_path / f"framemill-{os.geteuid()}"
    assert store.work.name.startswith("memory-test-run-")
    assert store.work == open_store("memory://test/run/", str(tmp_path)).work
    assert store.work != open_store("memory://test-run", str(tmp_path)).work
    store.prepare()
    assert store.work.parent.stat().st_mode & 0o777 == 0o700
    store.work.parent.chmod(0o755)
    store = open_store("memory://test/run", str(tmp_path))
    with pytest.raises(EnvironmentFailure, match="is not a folder that only this user can enter"):
        store.prepare()


def test_a_run_takes_nothing_from_the_spools_of_another_that_was_at_its_url(tmp_path: Path) -> None:
    store = open_store("memory://reused/run", str(tmp_path))
    with Rank(make_run(store, some_items(4))) as rank:
        opened = lease(rank)
        finish(rank, opened, rows=[0, 1])
    with Rank(make_run(store, some_items(4))) as rank:
        assert lease(rank).missing == [2, 3]
    for name in store.names():
        store.remove(name)
    with Rank(make_run(store, [replace(item, cost=2) for item in some_items(4)])) as rank:
        assert lease(rank).missing == [0, 1, 2, 3]


def test_scratch_is_no_link_and_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / f"framemill-{os.geteuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EnvironmentFailure, match="is not a folder that only this user can enter"):
        open_store("memory://test/run", str(tmp_path)).prepare()
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentFailure, match="cannot create the scratch folder"):
        open_store("memory://test/run", str(tmp_path / "file")).prepare()


def test_a_path_is_a_folder_and_a_url_a_bucket(tmp_path: Path) -> None:
    assert isinstance(open_store(tmp_path), Folder)
    assert isinstance(open_store("s3://bucket"), Bucket)
    assert str(open_store("s3://bucket/a/b/")) == "s3://bucket/a/b"
    with pytest.raises(ConfigError, match=r"^--output.dir ftp://host/x: ftp:// is not supported"):
        open_store("ftp://host/x")
    with pytest.raises(ConfigError, match=r"^--output.dir s3:/bucket/x lacks a slash: s3://bucket/x\. Give"):
        open_store("s3:/bucket/x")
    assert isinstance(open_store("./s3:/bucket/x"), Folder)


def test_a_file_that_is_too_large_is_not_read_whole(store: Bucket) -> None:
    store.create("dataset.json", bytes((16 << 20) + 1))
    with pytest.raises(RunError, match="the limit for such a file is 16,777,216: remove it"):
        store.read("dataset.json")


def test_a_plan_takes_three_requests_and_each_of_its_shards_one(
    store: Bucket, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_module, "_WHOLE_BYTES", 0)  # as if the plan were large
    store.prepare()
    write_plan(some_items(6), store, FINGERPRINT, ShardSize(max_items=2, min_shards=1))
    proxy.requests.clear()
    plan = Plan(store)
    assert [shard.num_items for shard in plan.shards] == [2, 2, 2]
    assert _methods(proxy) == ["HEAD", "GET", "HEAD"]  # the last looks for an extension
    assert plan.items(2) + plan.items(0) == [*some_items(6)[4:], *some_items(6)[:2]]
    assert _methods(proxy)[3:] == ["HEAD", "GET", "GET"]
    assert [plan.item(0, row) for row in (0, 1)] == some_items(6)[:2]
    assert len(proxy.requests) == 6
    assert list(store.names("work/staging")) == []
