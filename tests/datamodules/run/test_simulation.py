import errno
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

import pytest

from datamodules.run import bucket as bucket_module
from datamodules.run import commit, store
from datamodules.run.bucket import Bucket
from datamodules.run.store import Entry
from support.simulated.choices import Choices, RandomChoices, shrink
from support.simulated.files import Clock, File, FileSystem
from support.simulated.line import _FOLDER, interleave, shrunk, simulated, story_of
from support.simulated.modules import Os
from support.simulated.world import Machine

needs_obstore = pytest.mark.skipif(find_spec("obstore") is None, reason="needs obstore")
_CREATE = Bucket.create


@pytest.fixture(autouse=True, scope="module")
def _simulated() -> Iterator[None]:
    with simulated():
        yield


def assert_found(store: str, failure: str, first_seed: int) -> None:
    """Check that a seed from `first_seed` on fails, and that its story can be shrunk."""
    outcomes = (interleave(RandomChoices(seed, store)) for seed in range(first_seed, first_seed + 3000))
    outcome = next(outcome for outcome in outcomes if re.search(failure, str(outcome.failure)))
    story = story_of(Choices(shrunk(outcome, tries=100), store))
    assert re.search(f"FAILURE: .*({failure})", story[-1])
    assert len(story) <= 600


# Runs


stores = pytest.mark.parametrize("store", ["folder", pytest.param("bucket", marks=needs_obstore)])


def test_seeds_that_failed_once_do_so_no_more() -> None:
    # a slow request before a false conflict; a staged file that is gone; a third claim on a committed shard
    for seed in (109_523, 103_020, 102_582):
        assert interleave(RandomChoices(seed, "bucket")).failure is None


@pytest.mark.parametrize("seeds", [range(300), pytest.param(range(300, 4000), marks=pytest.mark.slow)])
@stores
def test_killed_stalled_disconnected_and_crashed_ranks_lose_and_duplicate_nothing(store: str, seeds: range) -> None:
    failures = {seed: interleave(RandomChoices(seed, store)).failure for seed in seeds}
    assert {seed: failure for seed, failure in failures.items() if failure} == {}


@stores
def test_a_seed_replays_the_same_story(store: str) -> None:
    for seed in range(20):
        recorded = RandomChoices(seed, store)
        story = story_of(recorded)
        assert story_of(RandomChoices(seed, store)) == story
        assert story_of(Choices(recorded.made, store)) == story


# A broken protocol is found


def create_by_renaming(folder: store.Folder, name: str, content: bytes, is_durable: bool = True) -> bool:
    folder.replace(name, content)
    return True


def create_after_the_tar_is_visible(
    folder: store.Folder, name: str, content: bytes, is_durable: bool = True, create: Any = store.Folder.create
) -> Any:
    if name.startswith("records/"):
        record = json.loads(content)
        Os.rename(_FOLDER / f"work/staging/{record['attempt']}.tar", _FOLDER / record["tar"]["name"])
    return create(folder, name, content, is_durable)


@pytest.mark.parametrize(
    ("module", "name", "broken", "failure", "first_seed"),
    [
        (store.Folder, "create", create_after_the_tar_is_visible, "tar is visible, but its record is missing", 0),
        (store.Folder, "create", create_by_renaming, "not the bytes of the record|the file is missing", 0),
        (
            store,
            "sync",
            lambda path: None,
            "its record is missing|the run folder has|tables/ has|the file is missing|not the bytes of the record",
            0,
        ),
        (zlib, "crc32", lambda *_: 0, "not the bytes of a run without faults|ends with", 150),
        (commit, "_publish", lambda run, record: None, "the run folder has", 0),
    ],
    ids=["files-first", "record-renamed", "folders-not-synced", "no-checksums", "never-finalized"],
)
def test_a_broken_protocol_is_found_and_its_story_shrunk(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, broken: Callable[..., Any], failure: str, first_seed: int
) -> None:
    monkeypatch.setattr(module, name, broken)
    assert_found("folder", failure, first_seed)


def create_without_a_condition(bucket: Bucket, name: str, content: bytes, is_durable: bool = True) -> bool:
    if name.startswith("records/"):
        bucket.replace(name, content)
        return True
    return _CREATE(bucket, name, content, is_durable)


def create_before_the_files_are_uploaded(bucket: Bucket, name: str, content: bytes, is_durable: bool = True) -> bool:
    staged: dict[str, bytes] = {}
    if name.startswith("records/"):
        attempt = json.loads(content)["attempt"]
        for staged_name in (f"work/staging/{attempt}.{ending}" for ending in ("tar", "parquet")):
            staged[staged_name] = bucket.read(staged_name)
            bucket.remove(staged_name)
    is_created = _CREATE(bucket, name, content, is_durable)
    for staged_name, staged_content in staged.items():
        bucket.replace(staged_name, staged_content)
    return is_created


def publish_after_removal(bucket: Bucket, staged: str, name: str) -> None:
    with suppress(FileNotFoundError):
        content = bucket.read(staged)
        bucket.remove(staged)
        bucket.replace(name, content)


def entry_that_never_changes(name: str, found: Any) -> Entry:
    return Entry(name, found["size"], "version", found["last_modified"].timestamp())


@needs_obstore
@pytest.mark.parametrize(
    ("module", "name", "broken", "failure", "first_seed"),
    [
        (Bucket, "_has_content", lambda *_: False, "the file is missing|the run folder has", 87),
        (Bucket, "_has_content", lambda *_: True, "not the bytes of the record|ends with", 0),
        (Bucket, "create", create_without_a_condition, "not the bytes of the record|the file is missing", 0),
        (Bucket, "create", create_before_the_files_are_uploaded, "the file is missing|the run folder has", 0),
        (Bucket, "publish", publish_after_removal, "the file is missing|the run folder has|tables/ has", 110),
        (bucket_module, "_entry", entry_that_never_changes, "the holders of the claims before it are alive", 0),
        (commit, "_publish", lambda run, record: None, "the run folder has", 0),
    ],
    ids=[
        "existing-is-lost",
        "existing-is-won",
        "unconditional",
        "record-first",
        "removed-first",
        "no-heartbeat",
        "never-finalized",
    ],
)
def test_a_broken_protocol_is_found_in_a_bucket(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, broken: Callable[..., Any], failure: str, first_seed: int
) -> None:
    monkeypatch.setattr(Bucket, "prepare", lambda bucket: None)  # it would refuse to work without conditional writes
    monkeypatch.setattr(module, name, broken)
    assert_found("bucket", failure, first_seed)


def test_shrinking_leaves_only_the_choices_that_matter() -> None:
    record = {index: index % 5 + 1 for index in range(1, 200)}
    assert shrink(record, lambda made: made.get(17, 0) >= 2 and 120 in made) == {17: 2, 120: 1}


# The file system


@pytest.fixture
def local() -> FileSystem:
    return FileSystem(None, lambda options: options - 1, Clock())  # everything that may be lost is lost


@pytest.fixture
def machine() -> Machine:
    return Machine(0, FileSystem(None, lambda options: 0, Clock()))


def file_of(files: FileSystem, machine: Machine, path: str) -> File:
    file = files.lookup(machine, path)
    assert isinstance(file, File)
    return file


def content(files: FileSystem, machine: Machine, path: str) -> bytes:
    return files.content(machine, file_of(files, machine, path))


def names(files: FileSystem, folder: str = "/run") -> list[str]:
    return sorted(files.folders[folder].entries)


def test_a_crash_takes_names_and_bytes_that_were_not_fsynced(local: FileSystem, machine: Machine) -> None:
    for name in ("kept", "torn", "lost"):
        local.write(machine, local.create(machine, f"/run/{name}", truncate=True), 0, b"1234")
    local.sync(file_of(local, machine, "/run/kept"))
    local.unlink(machine, "/run/lost")
    local.sync(local.folders["/run"])
    local.create(machine, "/run/lost", truncate=True)
    local.unlink(machine, "/run/kept")
    local.crash(machine)
    assert names(local) == ["kept", "torn"]
    assert content(local, machine, "/run/kept") == b"1234"
    assert content(local, machine, "/run/torn") == bytes(4)


def test_a_crash_leaves_a_renamed_file_one_of_its_names(local: FileSystem, machine: Machine) -> None:
    local.make_folder(machine, "/run/a")
    local.make_folder(machine, "/run/b")
    local.create(machine, "/run/a/old", truncate=True)
    for path in ("/run", "/run/a"):
        local.sync(local.folders[path])
    local.rename(machine, "/run/a/old", "/run/b/new")
    local.crash(machine)
    assert (names(local, "/run/a"), names(local, "/run/b")) == (["old"], [])
    local.rename(machine, "/run/a/old", "/run/b/new")
    local.sync(local.folders["/run/a"])
    local.crash(machine)
    assert (names(local, "/run/a"), names(local, "/run/b")) == ([], ["new"])


def test_a_folder_whose_name_was_not_fsynced_is_lost_with_its_content(local: FileSystem, machine: Machine) -> None:
    local.make_folder(machine, "/run/a")
    local.create(machine, "/run/a/file", truncate=True)
    local.sync(local.folders["/run/a"])
    local.crash(machine)
    assert names(local) == []
    assert local.lookup(machine, "/run/a/file") is None


def test_nfs_clients_trust_cached_listings_until_they_expire(machine: Machine) -> None:
    clock = Clock()
    server = FileSystem(10.0, lambda _: 0, clock)
    other = Machine(1, server)
    assert server.lookup(other, "/run/new") is None
    assert server.names(other, "/run") == []
    file = server.create(machine, "/run/new", truncate=True)
    server.write(machine, file, 0, b"1234")
    assert server.lookup(other, "/run/new") is None
    assert server.names(other, "/run") == []
    with pytest.raises(FileExistsError):
        server.make_folder(other, "/run/new")  # the server knows
    assert server.lookup(other, "/run/new") is file
    assert server.content(other, file) == b""
    server.sync(file)
    assert server.content(other, file) == b"1234"
    clock.now = 11.0
    assert server.names(other, "/run") == ["new"]


def test_nfs_keeps_what_is_removed_while_its_machine_has_it_open(machine: Machine) -> None:
    server = FileSystem(10.0, lambda _: 0, Clock())
    file = server.create(machine, "/run/spool", truncate=True)
    file.opened[machine.number] = 1
    server.unlink(machine, "/run/spool")
    (kept,) = names(server)
    assert kept.startswith(".nfs")
    with pytest.raises(OSError, match=os.strerror(errno.EBUSY)):
        server.unlink(machine, f"/run/{kept}")
    server.close(machine, file)
    assert names(server) == []
    assert server.is_stale(machine, file)
