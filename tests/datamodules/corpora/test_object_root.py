"""Corpora in an object store: they list the same items, in the same order, as corpora in a folder."""

import json
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from datamodules.corpora import object_listing
from datamodules.corpora.images import Images
from datamodules.corpora.pairs import Columns, Pairs
from datamodules.corpora.phoenix import Phoenix2014T
from datamodules.corpora.tar_images import TarImages
from datamodules.corpora.videos import Videos
from datamodules.corpus import JSON_FILES, Corpus, Item
from datamodules.errors import ConfigError, CorpusError, EnvironmentFailure
from datamodules.objects import join, list_objects
from support.s3_server import PAGE_SIZE, S3Server

pytest.importorskip("obstore")


@pytest.fixture(params=["file", "s3"])
def url_of(request: pytest.FixtureRequest) -> Iterator[Callable[[Path], str]]:
    """Returns the URL of a store with the files of a folder: the folder itself, or a bucket."""
    if request.param == "file":
        yield lambda folder: f"file://{folder}"
        return
    server: S3Server = request.getfixturevalue("s3")

    def upload(folder: Path) -> str:
        bucket = server.make_bucket()
        server.upload(folder, bucket, "some/prefix/")
        return f"s3://{bucket}/some/prefix"

    yield upload


def write(folder: Path, *names: str, content: bytes = b"12") -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def plain(items: Sequence[Item]) -> list[Item]:
    """The items without what differs between a folder and a store: times and versions."""
    assert all((item.modified is None) == (item.version is None) for item in items if item.problem is None)
    return [replace(item, modified=None, version=None) for item in items]


def same_items(of_folder: Corpus, of_store: Corpus) -> list[Item]:
    expected = [replace(item, modified=None) for item in of_folder.items()]
    items = plain(list(of_store.items()))
    url, folder = of_store.root.rstrip("/"), of_folder.root
    assert [replace(item, problem=item.problem and item.problem.replace(url, folder)) for item in items] == expected
    assert of_store.notes() == of_folder.notes()
    return expected


NAMES = (
    *("a/1.jpg", "a-b.jpg", "a.jpg", "a b/c.png", "a+/2.PNG", "z.jpg", "A.jpg", "ü/é.webp", "100% ~*#?/x&.jpg"),
    *("both.jpg", "both.png", "sub/both.jpg", "c.jpg.png", "c.jpg", ".hidden.jpg", ".cache/1.jpg", "d/.cache/2.jpg"),
    *("d/.x.jpg", "run/plan.arrow", "run/1.jpg", "run/sub/2.jpg", "note.txt", "deep/1/2/3/4/x.jpg", "%20.jpg"),
)


def test_images_of_a_store_are_those_of_a_folder(tmp_path: Path, url_of: Callable[[Path], str]) -> None:
    folder = write(tmp_path, *NAMES)
    url = url_of(folder)
    items = same_items(Images(str(folder)), Images(url))
    assert [item.image for item in items][:4] == ["%20.jpg", "100% ~*#?/x&.jpg", "A.jpg", "a/1.jpg"]
    assert plain(list(Images(f"{url}/", max_items=3).items())) == items[:3]
    same_items(Images(f"{folder}/d/../sub"), Images(f"{url}/sub"))


def test_folders_of_splits_are_matched_in_a_store(tmp_path: Path, url_of: Callable[[Path], str]) -> None:
    folder = write(tmp_path, "train/frames/1.jpg", "test/frames/sub/2.jpg", "test/other/3.jpg", ".x/frames/4.jpg")
    url = url_of(folder)
    items = same_items(Images(str(folder), split_glob="*/frames"), Images(url, split_glob="*/frames"))
    assert [item.split for item in items] == ["test", "train"]
    with pytest.raises(CorpusError, match="matches no folder below"):
        list(Images(url, split_glob="no*/frames").items())


def test_videos_of_a_store_are_those_of_a_folder(tmp_path: Path, url_of: Callable[[Path], str]) -> None:
    folder = write(tmp_path, "a.mp4", "b/a.mp4", "b/a.webm", "c.jpg")
    assert [item.key for item in same_items(Videos(str(folder)), Videos(url_of(folder)))] == [
        *("a", "b/a%2Emp4", "b/a%2Ewebm")
    ]


@pytest.mark.parametrize("max_requests", [0, 200])
def test_lists_name_files_of_a_store_by_path_or_url(
    tmp_path: Path, url_of: Callable[[Path], str], max_requests: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_listing, "_MAX_REQUESTS", max_requests)
    folder, elsewhere = write(tmp_path / "in", "a/1.mp4", "b.mp4"), write(tmp_path / "out", "x/c.mp4")
    url, other = url_of(folder), url_of(elsewhere)
    videos = tmp_path / "videos.txt"
    videos.write_text(
        f"{url}/b.mp4\na/1.mp4\nmissing.mp4\n{other}/x/c.mp4\n{other}/x/none.mp4\n/local.mp4\nhttps://x/y.mp4"
    )
    items = list(Videos(url, str(videos)).items())
    assert [(item.key, item.path, item.cost) for item in items[:3]] == [
        *(("b", "b.mp4", 2), ("a/1", "a/1.mp4", 2), ("missing", "missing.mp4", 0))
    ]
    assert (items[3].path, items[3].cost, items[3].key.endswith("/x/c")) == (f"{other}/x/c.mp4", 2, True)
    assert [item.version is None for item in items[:5]] == [False, False, True, False, True]
    assert "a path of one machine" in str(items[5].problem)
    assert "https:// is not supported" in str(items[6].problem)
    of_folder = list(Videos(str(folder), str(videos)).items())  # the list also names objects for a folder
    assert [item.cost for item in of_folder[:4]] == [2, 2, 0, 2]


def test_files_of_many_folders_in_turn_do_not_list_a_folder_for_each_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_listing, "_MAX_REQUESTS", 5)
    listed: list[str] = []

    class Counted(object_listing.ObjectListing):
        def __init__(self, folder: str) -> None:
            listed.append(folder)
            super().__init__(folder)

    monkeypatch.setattr(object_listing, "ObjectListing", Counted)
    names = [f"{folder}/{number}.mp4" for number in range(30) for folder in "abcdef"]
    root, lookup = write(tmp_path, *names), object_listing.Lookup()
    assert {lookup.stat(f"file://{root}/{name}").num_bytes for name in names} == {2}
    assert len(listed) <= len(names) / 5  # each after as many lookups again


def test_an_absolute_path_is_no_object(tmp_path: Path) -> None:
    assert join("s3://bucket/root", "/data/v.mp4") == "/data/v.mp4"
    assert join("s3://bucket/root/", "v.mp4") == "s3://bucket/root/v.mp4"


def test_pairs_of_a_store_are_those_of_a_folder(tmp_path: Path, url_of: Callable[[Path], str]) -> None:
    folder = write(tmp_path, "a.mp4", "sub/b.mp4")
    rows = [{"id": "1", "video": "a.mp4", "text": "x"}, {"id": "2", "video": "sub/b.mp4", "text": "y"}]
    rows += [{"id": "3", "video": "none.mp4", "text": "z"}, {"id": "4", "video": "../a.mp4", "text": "z"}]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    url = url_of(folder)
    of_folder, of_store = Pairs(str(folder), f"{folder}/pairs.jsonl"), Pairs(url, f"{url}/pairs.jsonl")
    assert of_folder.pairs_sha256 == of_store.pairs_sha256
    items = list(of_store.items())
    expected = [replace(item, modified=None) for item in of_folder.items()]
    assert plain(items)[:3] == expected[:3]
    assert str(items[3].problem).endswith("'../a.mp4' leads out of the folder of the videos: name a file in it")


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".json"])
def test_lists_are_read_from_a_store(tmp_path: Path, url_of: Callable[[Path], str], ending: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder, columns = write(tmp_path, "a.mp4"), Columns(id=None)
    match ending:
        case ".csv":
            (folder / "p.csv").write_text("video,text\na.mp4,hello\n", encoding="utf-16")
        case ".parquet":
            pq.write_table(pa.table({"video": ["a.mp4"], "text": ["hello"]}), folder / "p.parquet")
        case _:
            (folder / "p.json").write_text('[{"video": "a.mp4", "text": "hello"}]')
    url = url_of(folder)
    same_items(Pairs(str(folder), f"{folder}/p{ending}", columns), Pairs(url, f"{url}/p{ending}", columns))


def phoenix(folder: Path) -> Path:
    manual = folder / "annotations" / "manual"
    manual.mkdir(parents=True)
    for split, names in {"train": ("b", "a", "none"), "dev": ("c",)}.items():
        rows = (f"{name}|{name}/1/*.png|-1|-1|Signer01|WEST|im westen" for name in names)
        header = "name|video|start|end|speaker|orth|translation"
        (manual / f"PHOENIX-2014-T.{split}.corpus.csv").write_text("\n".join([header, *rows]))
    for name, numbers in {"train/a": (1, 2, 10), "train/b": (1,), "dev/c": (1, 3)}.items():
        frames = [f"features/fullFrame-210x260px/{name}/images{number:04d}.png" for number in numbers]
        write(folder, *frames, f"features/fullFrame-210x260px/{name}/.x", content=name.encode())
    return folder


def test_frame_sequences_of_a_store_are_those_of_a_folder(tmp_path: Path, url_of: Callable[[Path], str]) -> None:
    folder = phoenix(tmp_path)
    url, splits = url_of(folder), ("train", "dev")
    of_folder = [replace(item, modified=None) for item in Phoenix2014T(str(folder), splits).items()]
    corpus = Phoenix2014T(url, splits)
    items = list(corpus.items())
    is_usable = [item.problem is None for item in of_folder]
    assert is_usable == [True, True, False, True]
    assert [item for item in plain(items) if item.problem is None] == [
        item for item in of_folder if item.problem is None
    ]
    assert str(items[2].problem).endswith(
        "features/fullFrame-210x260px/train/none cannot be read: No such file or directory"
    )
    assert corpus.notes() == ["skipped: 3 hidden files", "2 sentences have gaps in the numbers of the frames: "
                              "see num_missing_frames of each, or set --data.gaps fail"]  # fmt: skip
    with pytest.raises(CorpusError, match=r"PHOENIX-2014-T\.test\.corpus\.csv is missing"):
        list(Phoenix2014T(url, ["test"]).items())


def tar_of(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            write(path.parent, ".member", content=content)
            tar.add(path.parent / ".member", name)
    os.unlink(path.parent / ".member")


@pytest.mark.parametrize("pattern", ["*.tar", "**/*.tar", "sub/t*.tar"])
def test_tars_of_a_store_are_those_of_a_folder(tmp_path: Path, url_of: Callable[[Path], str], pattern: str) -> None:
    tar_of(tmp_path / "b.tar", {"1.jpg": b"123", "1.json": b"{}", "2.png": b"4" * 700_000, "3.jpg": b"5"})
    tar_of(tmp_path / "sub" / "t1.tar", {"1.jpg": b"9", "x.txt": b"0"})
    tar_of(tmp_path / ".hidden" / "t2.tar", {"7.jpg": b"9"})
    write(tmp_path, "damaged.tar", content=b"x" * 1000)
    items = same_items(TarImages(str(tmp_path), pattern), TarImages(url_of(tmp_path), pattern))
    assert len(items) == {"*.tar": 4, "**/*.tar": 5, "sub/t*.tar": 1}[pattern]


def test_json_files_of_a_store_are_located_by_url(s3: S3Server) -> None:
    url = f"s3://{s3.make_bucket({'in/a.jpg': b'1', 'in/json/a.json': b'{}', 'other/a.json': b'{}'})}"
    [item] = Images(f"{url}/in", json_dirs=["json", f"{url}/other"]).items()
    assert item.meta[JSON_FILES] == [["json/a.json", None, None], [f"{url}/other/a.json", None, None]]
    with pytest.raises(CorpusError, match=r"--data\.json_dirs none is missing below"):
        Images(f"{url}/in", json_dirs=["none"])


def test_empty_objects_that_stand_for_folders_are_no_files(s3: S3Server) -> None:
    objects = {"videos/": b"", "videos/x.mp4/": b"", "videos/x.mp4/1.mp4": b"1", "videos/empty.mp4": b""}
    url = f"s3://{s3.make_bucket(objects)}/videos"
    assert [item.path for item in Videos(url).items()] == ["empty.mp4", "x.mp4/1.mp4"]


def test_a_listing_of_several_pages_has_all_objects(s3: S3Server) -> None:
    bucket = s3.make_bucket({f"p/{number:02d}": b"" for number in range(3 * PAGE_SIZE + 1)})
    paths = [path for path, _ in list_objects(f"s3://{bucket}/p")]
    assert paths == [f"{number:02d}" for number in range(3 * PAGE_SIZE + 1)]


@pytest.mark.parametrize(
    ("root", "kind", "message"),
    [
        (
            "s3://no-such-bucket/x",
            CorpusError,
            "--data.root s3://no-such-bucket/x cannot be read: there is no such bucket",
        ),
        ("s3://BUCKET/none", CorpusError, "/none: there is no object below this URL"),
        ("file:///no/such/folder", CorpusError, "there is no object below this URL"),
        ("https://example.org/x", ConfigError, "--data.root https://example.org/x: https:// is not supported"),
        ("s3://BUCKET/faulty", CorpusError, "a key cannot be used as a path. "),
    ],
)
def test_a_root_that_cannot_be_listed_is_refused(root: str, kind: type[Exception], message: str, s3: S3Server) -> None:
    bucket = s3.make_bucket({"faulty/a.jpg": b"1", "faulty/b//c.jpg": b"1"})
    with pytest.raises(kind) as raised:
        list(Images(root.replace("BUCKET", bucket)).items())
    assert message in str(raised.value)


def test_a_store_that_is_away_is_the_environments_fault(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(EnvironmentFailure, match="s3://another-bucket cannot be read: there are no AWS credentials"):
        list(Images("s3://another-bucket").items())


def test_keys_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.jpg")).write_bytes(b"1")
    with pytest.raises(CorpusError, match=r"a key cannot be used as a path.*non-unicode"):
        list(Images(f"file://{tmp_path}").items())
