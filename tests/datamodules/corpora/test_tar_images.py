import bz2
import gzip
import io
import lzma
import os
import re
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import webdataset

from datamodules import tar_members
from datamodules.corpora.tar_images import TarImages
from datamodules.corpus import Item, check_key
from datamodules.errors import CorpusError
from datamodules.run.plan import ShardSize
from datamodules.run.planning import write_plan
from datamodules.run.store import Folder
from support.image_files import image_bytes, write_tar

LONG = "sub/" + "n" * 120


def listed(root: Path, **options: Any) -> list[Item]:
    return list(TarImages(str(root), **options).items())


def test_images_come_in_the_order_of_the_tars_with_their_byte_offsets(tmp_path: Path) -> None:
    tars = {"b.tar": {"2.jpg": b"two", "10.PNG": b"ten"}, "a.tar": {"x/1.webp": b"one", "x/1.txt": b"text"}}
    for name, members in tars.items():
        write_tar(tmp_path / name, members)
    items = listed(tmp_path, split="dev")
    assert [item.key for item in items] == ["x/1", "2", "10"]
    assert [(item.path, item.frames, item.cost, item.split) for item in items] == [
        ("a.tar", ("x/1.webp",), 3, "dev"), ("b.tar", ("2.jpg",), 3, "dev"), ("b.tar", ("10.PNG",), 3, "dev")
    ]  # fmt: skip
    assert [item.meta for item in items] == [{"image": f"{n}"} for n in ("a/x/1.webp", "b/2.jpg", "b/10.PNG")]
    for item, content in zip(items, (b"one", b"two", b"ten"), strict=True):
        assert (tmp_path / item.path).read_bytes()[item.start_byte :][: item.cost] == content
        assert item.modified == os.stat(tmp_path / item.path).st_mtime
    assert items == listed(tmp_path, split="dev")


def test_samples_come_in_the_order_of_their_images(tmp_path: Path) -> None:
    write_tar(tmp_path / "t.tar", dict.fromkeys(["c.json", "a.json", "a.jpg", "b.jpg", "c.jpg", "b.json"], b"{}"))
    assert [item.key for item in listed(tmp_path)] == ["a", "b", "c"]


def test_the_json_of_a_sample_may_be_anywhere_in_the_tar(tmp_path: Path) -> None:
    members = {"a.jpg": b"1", "a.json": b'{"a": 1}', "b.jpg": b"2", "c.jpg": b"3", "c.x.json": b"no", "b.json": b"{}"}
    path = write_tar(tmp_path / "sub" / "t.tar", members)
    result: dict[str, Any] = {item.key: item.meta.get("json_files") for item in listed(tmp_path, tars="**/*.tar")}
    assert result["c"] is None
    for key, content in (("a", b'{"a": 1}'), ("b", b"{}")):
        [[where, start_byte, num_bytes]] = result[key]
        assert tmp_path / where == path
        assert path.read_bytes()[start_byte:][:num_bytes] == content


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_keys_are_those_of_webdataset_and_illegal_ones_are_encoded(tmp_path: Path) -> None:
    names = ["a.v1.jpg", "x.y/b.jpg", "ü-1_%20.jpg", f"{LONG}.jpg"]
    write_tar(tmp_path / "t.tar", dict.fromkeys(names, b"x"))
    seen = [sample["__key__"] for sample in webdataset.WebDataset(str(tmp_path / "t.tar"), shardshuffle=False)]
    items = listed(tmp_path)
    assert [item.key for item in items] == ["a", "x%2Ey/b", "ü-1_%20", LONG]
    assert [item.key for item in items if item.key in seen] == ["a", "ü-1_%20", LONG]
    write_tar(tmp_path / "t.tar", {"./a b.jpg": b"x", "/abs/c.jpg": b"x", "._d.jpg": b"x", "e/._f.jpg": b"x"})
    items = listed(tmp_path)
    assert [(item.key, item.meta["image"]) for item in items] == [("a%20b", "t/a b.jpg"), ("abs/c", "t/abs/c.jpg")]
    assert [item.frames for item in items] == [("./a b.jpg",), ("/abs/c.jpg",)]
    assert [check_key(item.key) for item in items]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_long_and_non_ascii_names_are_read_in_every_tar_format(tmp_path: Path, form: int) -> None:
    name = f"{LONG}ü.jpg" if form != tarfile.USTAR_FORMAT else f"{LONG[:90]}/ü.jpg"
    write_tar(tmp_path / "t.tar", {name: b"content"}, form)
    [item] = listed(tmp_path)
    assert item.frames == (name,)
    assert (tmp_path / "t.tar").read_bytes()[item.start_byte :][: item.cost] == b"content"


def test_tars_are_chosen_by_a_pattern_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("train-0.tar", "train-1.tar", "val-0.tar", ".hidden.tar", "sub/x.tar"):
        write_tar(tmp_path / name, {f"{os.path.basename(name)[:-4].strip('.')}.jpg": b"x"})
    assert [item.key for item in listed(tmp_path)] == ["train-0", "train-1", "val-0"]
    assert [item.key for item in listed(tmp_path, tars="train-*.tar", max_items=1)] == ["train-0"]
    assert [item.key for item in listed(tmp_path, tars="**/*.tar")] == ["x", "train-0", "train-1", "val-0"]


def problems(root: Path, **options: Any) -> list[tuple[str, str | None]]:
    """Return (key, problem) of each item with a problem."""
    return [(item.key, item.problem) for item in listed(root, **options) if item.problem]


def test_a_key_of_several_tars_is_preceded_by_the_tar_whatever_max_items(tmp_path: Path) -> None:
    for name in ("t0.tar", "sub/t 1.tar", "t2.tar"):
        write_tar(tmp_path / name, {f"{number}.jpg": b"x" for number in ("1", "2", name[-5])})
    keys = ["sub/t%201/1", "sub/t%201/2", "t0/1", "t0/2", "0", "t2/1", "t2/2"]
    assert [item.key for item in listed(tmp_path, tars="**/*.tar")] == keys
    assert [item.key for item in listed(tmp_path, tars="**/*.tar", max_items=3)] == keys[:3]
    write_plan(listed(tmp_path), Folder(tmp_path / "run"), {}, ShardSize())


@pytest.mark.parametrize("first", ["a.jpg", "./a.jpg"])
def test_the_last_member_of_a_name_counts(tmp_path: Path, first: str) -> None:
    members = {first: b"old", "b.jpg": b"b", "a.json": b"{}"}
    path = write_tar(tmp_path / "t.tar", members)
    with tarfile.open(path, "a") as tar:
        for name, content in (("a.jpg", b"newer"), ("a.json", b"[1]")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    items = listed(tmp_path)
    assert [(item.key, item.frames, item.problem) for item in items] == [
        ("a", ("a.jpg",), None), ("b", ("b.jpg",), None)
    ]  # fmt: skip
    content = path.read_bytes()
    assert content[items[0].start_byte :][: items[0].cost] == b"newer"
    [[_, start_byte, num_bytes]] = items[0].meta["json_files"]
    assert content[start_byte:][:num_bytes] == b"[1]"


def test_two_images_with_the_same_key_fail_their_sample(tmp_path: Path) -> None:
    write_tar(tmp_path / "t.tar", {"v1.0.jpg": b"x", "v1.1.jpg": b"x", "v2.jpg": b"x"})
    assert problems(tmp_path) == [("v1", "v1.0.jpg and v1.1.jpg are images with the same key")]


def test_a_member_that_leads_out_of_the_tar_fails_its_sample(tmp_path: Path) -> None:
    write_tar(tmp_path / "t.tar", {"a.jpg": b"x", "../a.jpg": b"x"})
    [(key, problem)] = problems(tmp_path)
    assert re.fullmatch(r"t/%byte-\d+", key)
    assert problem == "no key can be made from the path '../a': it has an empty, '.' or '..' part"


@pytest.mark.parametrize("name", ["b.jpg", "a.json"])
def test_a_link_fails_its_sample(tmp_path: Path, name: str) -> None:
    path = write_tar(tmp_path / "t.tar", {"a.jpg": b"x", "c.jpg": b"x"})
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo(name)
        link.type, link.linkname = tarfile.SYMTYPE, "c.jpg"
        tar.addfile(link)
    assert problems(tmp_path) == [
        (name[0], f"{name} is a link, a device or a sparse file: put the file itself into the tar")
    ]


def test_a_link_to_a_missing_tar_is_one_failed_item(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"a.jpg": b"x"})
    (tmp_path / "b.tar").symlink_to("gone.tar")
    [(key, problem)] = problems(tmp_path)
    assert key == "b/%tar"
    assert problem is not None
    assert "b.tar is a link to gone.tar, which cannot be read: No such file or directory" in problem


def test_skipped_members_are_counted_once(tmp_path: Path) -> None:
    for name in ("t0.tar", "t1.tar"):
        write_tar(tmp_path / name, {"a.jpg": b"x", "a.cls": b"1", "a.json": b"{}", "._a.jpg": b"x"})
    corpus = TarImages(str(tmp_path))
    assert len(list(corpus.items())) == 2
    assert str(corpus.skipped) == "2 files with other extensions (.cls 2), 2 hidden files"
    write_tar(tmp_path / "x.tar", {"a.txt": b"x"})
    with pytest.raises(
        CorpusError, match=r"has no images, which are .*; skipped: 1 file with another extension \(\.txt"
    ):
        listed(tmp_path, tars="x.tar")


def first_byte(item: Item) -> int:
    assert item.start_byte is not None
    return item.start_byte


def damage(root: Path, keys: Any) -> str:
    """Return what is wrong with `t.tar`, and check the keys of the samples before that."""
    *samples, bad = listed(root)
    assert [(item.key, item.problem) for item in samples] == [(key, None) for key in keys]
    assert (bad.key, bad.path, bad.frames) == ("t/%tar", "t.tar", ())
    assert bad.problem is not None
    assert bad.problem.endswith(f". The {len(keys):,} samples before that are used")
    return bad.problem


@pytest.mark.parametrize(
    ("name", "compress"), [("gzip", gzip.compress), ("bzip2", bz2.compress), ("xz", lzma.compress)]
)
def test_a_compressed_tar_is_one_failed_item(tmp_path: Path, name: str, compress: Callable[..., Any]) -> None:
    path = write_tar(tmp_path / "t.tar", {"a.jpg": b"x"})
    path.write_bytes(compress(path.read_bytes()))
    assert f"t.tar is compressed by {name}, and images are read from the middle of tars: unpack it" in damage(
        tmp_path, []
    )


WHOLE = {f"{number}.jpg": image_bytes(number) for number in range(5)}


def test_a_tar_cut_off_anywhere_gives_its_whole_images_and_one_failed_item(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", WHOLE)
    content, items = path.read_bytes(), listed(tmp_path)
    for length in range(0, len(content), 256):
        path.write_bytes(content[:length])
        keys = [item.key for item in items if first_byte(item) + item.cost <= length]
        if length > -(-(first_byte(items[-1]) + items[-1].cost) // 512) * 512:
            assert listed(tmp_path) == [replace(item, modified=os.stat(path).st_mtime) for item in items]
        else:
            assert re.search(
                r"t\.tar (is not a tar, or damaged|is (damaged or )?cut off) at .*byte", damage(tmp_path, keys)
            )


def test_the_byte_at_which_a_tar_is_cut_off_is_named(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", WHOLE)
    offset = first_byte(listed(tmp_path)[3]) - 512
    path.write_bytes(path.read_bytes()[:offset])
    assert f"t.tar is cut off at byte {offset:,}: the mark of its end is missing" in damage(tmp_path, "012")
    path.write_bytes(path.read_bytes()[: offset - 500])
    assert f"t.tar is cut off at byte {offset - 500:,}, within 2.jpg" in damage(tmp_path, "01")


def test_damaged_headers_are_reported_with_their_byte(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", WHOLE)
    content, items = path.read_bytes(), listed(tmp_path)
    for number, item in enumerate(items):
        offset = first_byte(item) - 512
        path.write_bytes(content[:offset] + b"\xff" * 200 + content[offset + 200 :])
        where = f"byte {offset:,}" if offset else "its first byte"
        assert re.search(rf"t\.tar is .*damaged .*{where}", damage(tmp_path, "01234"[:number]))


def test_a_negative_size_causes_no_endless_loop(tmp_path: Path) -> None:
    header = bytearray(tarfile.TarInfo("a.txt").tobuf())
    header[124:136] = b"\xff" * 10 + b"\xfe\x00"  # -512: the next header would be this one
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "t.tar").write_bytes(tarfile.TarInfo("b.txt").tobuf() + bytes(header) + bytes(1024))
    assert "damaged or cut off at byte 512: 'a.txt' has -512 bytes" in damage(tmp_path, [])


def header(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0) -> bytes:
    """Return a header with any size, also an invalid one."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def extended(kind: bytes, content: bytes) -> bytes:
    return header("extended", kind, len(content)) + content.ljust(-(-len(content) // 512) * 512, b"\0")


def record(keyword: str, value: object) -> bytes:
    """Return a record of a pax header, which begins with its own length."""
    rest = f" {keyword}={value}\n".encode()
    length = len(rest) + len(str(len(rest)))
    return str(length + (len(str(length)) > len(str(len(rest))))).encode() + rest


CONTENT = b"good".ljust(512, b"\0")
GOOD = header("good.jpg", size=4) + CONTENT
PAX, GLOBAL, LONG_NAME, LONG_LINK = tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK
HUGE = 20 << 30


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (header("a.jpg", size=HUGE), "is cut off at byte 3,072, within a.jpg"),
        (header("a.jpg", size=1 << 80), "is cut off at byte 3,072, within a.jpg"),
        (header("a.jpg", b"?", 1 << 80), "is cut off at byte 3,072, within a.jpg"),
        (
            header("a.jpg", size=-(1 << 80)),
            "damaged or cut off at byte 1,024: 'a.jpg' has -1208925819614629174706176 b",
        ),
        (header("x", PAX, HUGE), "at byte 1,024: an extended header has 21,474,836,480 bytes; the limit is 1,048,576"),
        (header("x", GLOBAL, HUGE), "an extended header has 21,474,836,480 bytes; the limit"),
        (header("x", LONG_NAME, HUGE), "an extended header has 21,474,836,480 bytes; the limit"),
        (header("x", LONG_LINK, HUGE), "an extended header has 21,474,836,480 bytes; the limit"),
        (header("x", PAX, -512), "'x' has -512 bytes"),
        (header("x", PAX, 4096), "an extended header is cut off"),
        (extended(PAX, record("mtime", 1)) * 3000, "one file has more than 16 extended headers, the limit"),
        (extended(LONG_NAME, b"a.jpg") * 3000, "one file has more than 16 extended headers, the limit"),
        (extended(GLOBAL, record("comment", "x")) * 3000, "one file has more than 16 extended headers, the limit"),
        (extended(PAX, b"2 " * 200_000 + b"="), "an extended header is malformed"),
        (extended(PAX, b"1" * 100_000), "an extended header is malformed"),
        (extended(PAX, b"99 path=a\n"), "an extended header is malformed"),
        (extended(PAX, record("size", "-5")), "an extended header gives the size '-5'"),
        (extended(PAX, record("size", "9" * 5000)), "an extended header gives the size '999"),
        (extended(PAX, record("size", HUGE)) + header("a.jpg"), "is cut off at byte 4,096, within a.jpg"),
        (extended(GLOBAL, record("path", "a.jpg")), "a global header gives all files the same path"),
        (
            extended(LONG_NAME, b"a" * 5000 + b".jpg") + GOOD,
            "a file has a name of more than 4,096 characters, the limit",
        ),
        (
            extended(PAX, record("path", "a" * 5000)) + GOOD,
            "a file has a name of more than 4,096 characters, the limit",
        ),
    ],
)
def test_headers_above_a_limit_end_their_tar(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "t.tar").write_bytes(GOOD + content + bytes(1536))
    assert reason in damage(tmp_path, ["good"])


def test_more_zeros_after_the_last_file_than_the_limit_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar_members, "_MAX_PADDING_BYTES", 4 << 20)
    (tmp_path / "t.tar").write_bytes(GOOD)
    os.truncate(tmp_path / "t.tar", 8 << 20)
    assert "t.tar has more than 4,194,304 zeros from byte 1,024 on, the limit" in damage(tmp_path, ["good"])


@pytest.mark.parametrize(
    "content",
    [
        header("a.jpg", tarfile.LNKTYPE),
        header("a.jpg", tarfile.SYMTYPE),
        header("a.jpg", tarfile.FIFOTYPE),
        header("a.jpg", tarfile.CHRTYPE),
        header("a.jpg", tarfile.BLKTYPE, size=HUGE),
        extended(PAX, record("GNU.sparse.map", "0,4")) + header("a.jpg", size=4) + CONTENT,
        extended(PAX, record("GNU.sparse.name", "a.jpg")) + header("b", size=4) + CONTENT,
        header("a.jpg", tarfile.GNUTYPE_SPARSE, size=4) + CONTENT,
    ],
)  # fmt: skip
def test_links_devices_and_sparse_files_fail_their_sample_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.tar").write_bytes(content + GOOD + bytes(1024))
    bad, good = listed(tmp_path)
    assert (bad.key, bad.problem) == (
        "a",
        "a.jpg is a link, a device or a sparse file: put the file itself into the tar",
    )
    assert (good.key, good.problem, good.start_byte) == ("good", None, len(content) + 512)


def test_the_map_of_an_old_sparse_file_is_skipped(tmp_path: Path) -> None:
    first = bytearray(header("a.jpg", tarfile.GNUTYPE_SPARSE, size=4))
    first[482] = 1
    first[148:156] = b" " * 8
    first[148:156] = b"%06o\0 " % sum(first)
    more = bytearray(512)
    more[504] = 1
    content = bytes(first) + bytes(more) * 2 + bytes(512) + CONTENT
    (tmp_path / "t.tar").write_bytes(content + GOOD + bytes(1024))
    assert [(item.key, item.start_byte) for item in listed(tmp_path)] == [("a", 2048), ("good", len(content) + 512)]
    (tmp_path / "t.tar").write_bytes(GOOD + bytes(first) + bytes(more))
    assert "t.tar is cut off at byte 2,048, within a.jpg" in damage(tmp_path, ["good"])


def test_extended_headers_of_all_kinds_are_read(tmp_path: Path) -> None:
    padded = record("path", "b/ü.jpg").ljust(100, b"\0")  # some writers pad with zeros
    content = (
        extended(GLOBAL, record("comment", "x"))
        + extended(LONG_LINK, b"c\0") + extended(LONG_NAME, b"a.jpg\0") + GOOD
        + extended(PAX, record("mtime", 1) + record("SCHILY.xattr.user." + "k" * 255, "=v\n") + padded) + GOOD
        + extended(PAX, record("size", "4")) + header("c.jpg", size=0) + CONTENT
    )  # fmt: skip
    (tmp_path / "t.tar").write_bytes(content + bytes(1024))
    items = listed(tmp_path)
    assert [(item.key, item.frames, item.problem) for item in items] == [
        ("a", ("a.jpg",), None), ("b/ü", ("b/ü.jpg",), None), ("c", ("c.jpg",), None)
    ]  # fmt: skip
    assert all((tmp_path / "t.tar").read_bytes()[item.start_byte :][: item.cost] == b"good" for item in items)


def test_of_concatenated_tars_the_samples_of_the_first_are_used(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", WHOLE)
    path.write_bytes(path.read_bytes() * 2)
    assert "or several tars were concatenated there" in damage(tmp_path, "01234")


@pytest.mark.parametrize("content", [b"", b"text", bytes(5000) + b"x", os.urandom(2000)])
def test_a_file_that_is_not_a_tar_is_one_failed_item(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.tar").write_bytes(content)
    assert "t.tar is " in damage(tmp_path, [])


def test_no_tars_or_no_root_fail(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"has no tars 'x\*\.tar': set --data\.tars"):
        listed(tmp_path, tars="x*.tar")
    with pytest.raises(CorpusError, match="is not a folder"):
        listed(tmp_path / "nowhere")


@pytest.mark.parametrize("pattern", ["", "/data/*.tar", "../*.tar", "sub/../*.tar", "a**/*.tar"])
def test_an_invalid_pattern_fails(tmp_path: Path, pattern: str) -> None:
    write_tar(tmp_path / "t.tar", {"a.jpg": b"x"})
    message = rf"--data\.tars '{re.escape(pattern)}': .*; give a pattern below --data\.root, such as train-\*\.tar"
    with pytest.raises(CorpusError, match=message):
        listed(tmp_path, tars=pattern)


def test_contents_are_not_read(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", {"a.jpg": bytes(1 << 20), "b.jpg": bytes(1 << 20)})
    reads = []

    class Counting(io.FileIO):
        def read(self, size: Any = -1) -> bytes:
            content = super().read(size)
            reads.append(len(content))
            return content

        def readinto(self, buffer: Any) -> int:
            reads.append(super().readinto(buffer))
            return reads[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.open", lambda file, *_: io.BufferedReader(Counting(file)))
        assert len(listed(tmp_path)) == 2
    assert path.stat().st_size > 2 << 20
    assert 0 < sum(reads) < 1 << 17
