import io
import pickle
import threading
from pathlib import Path

import pytest

from datamodules.errors import RunError
from datamodules.run.bucket import open_store
from datamodules.run.store import Folder, Store


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind, ready for a rank."""
    if request.param == "folder":
        location = str(tmp_path / "run")
    else:
        pytest.importorskip("obstore")
        location = f"{request.param}://{'localhost' if request.param == 'file' else 'test'}{tmp_path}/run"
    if request.param == "s3":
        location = f"s3://{request.getfixturevalue('s3').make_bucket()}/runs/a run"
    store = open_store(location, scratch=str(tmp_path / "scratch"))
    store.prepare()
    return store


def test_of_many_creators_of_a_file_one_wins_with_its_whole_content(store: Store) -> None:
    won: list[bytes] = []

    def create(number: int) -> None:
        content = f"rank {number} ".encode() * 1000
        if store.create("records/train-000000.json", content):
            won.append(content)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [store.read("records/train-000000.json")] == won
    assert store.names("work/staging") == []


def test_a_created_file_is_not_created_again(store: Store) -> None:
    assert store.create("plan.arrow", b"one")
    assert not store.create("plan.arrow", b"two")
    assert store.read("plan.arrow") == b"one"


def test_replacing_a_file_changes_its_content_and_version(store: Store) -> None:
    store.replace("work/ranks/a", b"one")
    before = store.find("work/ranks/a")
    store.replace("work/ranks/a", b"two")
    after = store.find("work/ranks/a")
    assert store.read("work/ranks/a") == b"two"
    assert before
    assert after
    assert (before.version != after.version, after.size) == (True, 3)
    assert after.modified >= before.modified


def test_a_staged_file_appears_when_its_block_ends_and_is_published_once(store: Store) -> None:
    with store.staged("work/staging/a.tar") as path:
        path.write_bytes(b"samples")
    assert store.read("work/staging/a.tar") == b"samples"
    for _ in range(2):  # another rank may repeat it
        store.publish("work/staging/a.tar", "a.tar")
    assert (store.read("a.tar"), store.find("work/staging/a.tar")) == (b"samples", None)
    store.confirm("a.tar")


def test_a_staged_file_whose_writing_failed_is_missing(store: Store) -> None:
    def fail() -> None:
        with store.staged("work/staging/a.tar") as path:
            path.write_bytes(b"part")
            raise ValueError("it broke")

    with pytest.raises(ValueError, match="it broke"):
        fail()
    assert store.names("work/staging") == []


def test_lists_what_is_directly_in_a_folder_in_order(store: Store) -> None:
    for name in ("b.tar", "a.tar", "records/a.json", "work/leases/a.000000"):
        store.create(name, name.encode())
    assert [(entry.name, entry.size) for entry in store.list() if entry.name.endswith(".tar")] == [
        ("a.tar", 5),
        ("b.tar", 5),
    ]
    assert [entry.name for entry in store.list("records")] == ["records/a.json"]
    assert store.names("work/leases") == ["a.000000"]
    assert (store.names("missing"), list(store.list("missing")), store.find("missing")) == ([], [], None)


def test_removing_a_file_twice_is_no_error(store: Store) -> None:
    store.create("work/leases/a.000000", b"rank")
    for _ in range(2):
        store.remove("work/leases/a.000000")
    assert store.find("work/leases/a.000000") is None


def test_an_open_file_is_read_at_any_offset(store: Store) -> None:
    store.create("a.tar", bytes(range(100)))
    with store.open("a.tar") as file:
        assert file.size == 100
        assert (file.read_at(3, 50), file.read_at(5, 98), file.read_at(1, 200)) == (bytes([50, 51, 52]), b"bc", b"")
        assert file.seek(-2, io.SEEK_END) == 98
        assert (file.read(), file.seek(10), file.read(2)) == (b"bc", 10, bytes([10, 11]))


@pytest.mark.parametrize("method", ["read", "open"])
def test_a_missing_file_cannot_be_read(store: Store, method: str) -> None:
    with pytest.raises(FileNotFoundError):
        getattr(store, method)("records/a.json")


def test_a_pickled_store_has_the_same_files(store: Store) -> None:
    store.create("plan.arrow", b"plan")
    copy = pickle.loads(pickle.dumps(store))
    assert (copy.read("plan.arrow"), str(copy)) == (b"plan", str(store))
    assert copy.locate("plan.arrow") == f"{store}/plan.arrow"


def test_a_folder_in_place_of_a_small_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.arrow").mkdir()
    with pytest.raises(RunError, match="no run makes such a thing"):
        Folder(tmp_path).read("plan.arrow")
