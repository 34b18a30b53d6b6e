import bz2
import gzip
import io
import lzma
import os
import re
import tarfile

import pytest
import webdataset

from datamodules.corpora.tar_images import TarImages
from datamodules.errors import CorpusError
from datamodules.line.item import check_key
from datamodules.line.plan import ShardSize, write_plan
from image_making import image_bytes, write_tar

LONG = "sub/" + "n" * 120


def listed(root, **options):
    return list(TarImages(str(root), **options).items())


def test_images_come_by_tar_and_in_its_order_and_are_where_they_are_said_to_be(tmp_path):
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


def test_the_json_of_a_sample_is_found_wherever_it_is_in_the_tar(tmp_path):
    members = {"a.jpg": b"1", "a.json": b'{"a": 1}', "b.jpg": b"2", "c.jpg": b"3", "c.x.json": b"no", "b.json": b"{}"}
    path = write_tar(tmp_path / "sub" / "t.tar", members)
    found = {item.key: item.meta.get("json_files") for item in listed(tmp_path, tars="**/*.tar")}
    assert found["c"] is None
    for key, content in (("a", b'{"a": 1}'), ("b", b"{}")):
        [[where, start_byte, num_bytes]] = found[key]
        assert where == str(path)
        assert path.read_bytes()[start_byte:][:num_bytes] == content


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_legal_keys_are_those_that_webdataset_sees_and_others_are_encoded(tmp_path):
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
def test_long_and_non_ascii_names_are_read_in_every_form(tmp_path, form):
    name = f"{LONG}ü.jpg" if form != tarfile.USTAR_FORMAT else f"{LONG[:90]}/ü.jpg"
    write_tar(tmp_path / "t.tar", {name: b"content"}, form)
    [item] = listed(tmp_path)
    assert item.frames == (name,)
    assert (tmp_path / "t.tar").read_bytes()[item.start_byte :][: item.cost] == b"content"


def test_tars_are_chosen_by_a_pattern_and_hidden_ones_left_out(tmp_path):
    for name in ("train-0.tar", "train-1.tar", "val-0.tar", ".hidden.tar", "sub/x.tar"):
        write_tar(tmp_path / name, {f"{os.path.basename(name)[:-4].strip('.')}.jpg": b"x"})
    assert [item.key for item in listed(tmp_path)] == ["train-0", "train-1", "val-0"]
    assert [item.key for item in listed(tmp_path, tars="train-*.tar", max_items=1)] == ["train-0"]
    assert [item.key for item in listed(tmp_path, tars="**/*.tar")] == ["x", "train-0", "train-1", "val-0"]


def test_two_tars_with_one_key_are_refused_with_both_places(tmp_path):
    for name in ("t0.tar", "t1.tar"):
        write_tar(tmp_path / name, {"a.jpg": b"x"})
    with pytest.raises(CorpusError, match=r"key 'a': 't0\.tar/a\.jpg' and 't1\.tar/a\.jpg'; rename or leave out one"):
        write_plan(listed(tmp_path), tmp_path / "plan.arrow", {}, ShardSize())


def test_two_images_of_one_key_fail_with_both_names(tmp_path):
    write_tar(tmp_path / "t.tar", {"v1.0.jpg": b"x", "v1.1.jpg": b"x"})
    with pytest.raises(CorpusError, match=r"t\.tar: 'v1\.0\.jpg' and 'v1\.1\.jpg' are images of one key, 'v1'"):
        listed(tmp_path)


def test_a_member_above_the_tar_fails(tmp_path):
    write_tar(tmp_path / "t.tar", {"../a.jpg": b"x"})
    with pytest.raises(CorpusError, match=r"t\.tar: no key can be made of"):
        listed(tmp_path)


def test_a_link_fails(tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        link = tarfile.TarInfo("a.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "b.jpg"
        tar.addfile(link)
    with pytest.raises(CorpusError, match=r"t\.tar: 'a\.jpg' is a link, or has holes"):
        listed(tmp_path)


@pytest.mark.parametrize(
    ("name", "compress"), [("gzip", gzip.compress), ("bzip2", bz2.compress), ("xz", lzma.compress)]
)
def test_a_compressed_tar_fails_with_the_reason(tmp_path, name, compress):
    path = write_tar(tmp_path / "t.tar", {"a.jpg": b"x"})
    path.write_bytes(compress(path.read_bytes()))
    with pytest.raises(CorpusError, match=rf"t\.tar is compressed by {name}, so no image can be read without all"):
        listed(tmp_path)


WHOLE = {f"{number}.jpg": image_bytes(number) for number in range(5)}


def test_a_tar_cut_off_anywhere_fails_or_has_all_its_images(tmp_path):
    path = write_tar(tmp_path / "t.tar", WHOLE)
    content, end = path.read_bytes(), listed(tmp_path)[-1]
    for length in range(0, len(content), 256):
        path.write_bytes(content[:length])
        if length > -(-(end.start_byte + end.cost) // 512) * 512:
            assert len(listed(tmp_path)) == 5
        else:
            with pytest.raises(CorpusError, match=r"t\.tar (is no tar, or damaged|is (damaged or )?cut off) at .*byte"):
                listed(tmp_path)


def test_the_byte_at_which_a_tar_is_cut_off_is_named(tmp_path):
    path = write_tar(tmp_path / "t.tar", WHOLE)
    place = listed(tmp_path)[3].start_byte - 512
    path.write_bytes(path.read_bytes()[:place])
    with pytest.raises(CorpusError, match=rf"t\.tar is cut off at byte {place:,}: the mark of its end is missing"):
        listed(tmp_path)
    path.write_bytes(path.read_bytes()[: place - 100])
    with pytest.raises(CorpusError, match=rf"t\.tar is damaged or cut off at byte {place - 100:,}: unexpected end"):
        listed(tmp_path)


def test_damaged_headers_fail_with_their_byte(tmp_path):
    path = write_tar(tmp_path / "t.tar", WHOLE)
    content, items = path.read_bytes(), listed(tmp_path)
    for item in items:
        place = item.start_byte - 512
        path.write_bytes(content[:place] + b"\xff" * 200 + content[place + 200 :])
        where = f"byte {place:,}" if place else "its first byte"
        with pytest.raises(CorpusError, match=rf"t\.tar is .*damaged .*{where}"):
            listed(tmp_path)


def test_a_size_below_nothing_fails_and_is_no_endless_loop(tmp_path):
    header = bytearray(tarfile.TarInfo("a.txt").tobuf())
    header[124:136] = b"\xff" * 10 + b"\xfe\x00"  # -512: the next header would be this one
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "t.tar").write_bytes(tarfile.TarInfo("b.txt").tobuf() + bytes(header) + bytes(1024))
    with pytest.raises(CorpusError, match=r"damaged at byte 512: 'a\.txt' has -512 bytes"):
        listed(tmp_path)


def test_tars_put_together_fail(tmp_path):
    path = write_tar(tmp_path / "t.tar", WHOLE)
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(CorpusError, match=r"t\.tar is damaged .* or several tars were put together there"):
        listed(tmp_path)


@pytest.mark.parametrize("content", [b"", b"text", bytes(5000) + b"x", os.urandom(2000)])
def test_what_is_no_tar_fails(tmp_path, content):
    (tmp_path / "t.tar").write_bytes(content)
    with pytest.raises(CorpusError, match=r"t\.tar is "):
        listed(tmp_path)


def test_no_tars_or_no_root_fail(tmp_path):
    with pytest.raises(CorpusError, match=r"has no tars 'x\*\.tar': set --data\.tars"):
        listed(tmp_path, tars="x*.tar")
    with pytest.raises(CorpusError, match="is no folder"):
        listed(tmp_path / "nowhere")


@pytest.mark.parametrize("pattern", ["", "/data/*.tar", "../*.tar", "sub/../*.tar", "a**/*.tar"])
def test_a_pattern_that_can_be_none_fails(tmp_path, pattern):
    write_tar(tmp_path / "t.tar", {"a.jpg": b"x"})
    told = rf"--data\.tars '{re.escape(pattern)}': .*; give a pattern below --data\.root, such as train-\*\.tar"
    with pytest.raises(CorpusError, match=told):
        listed(tmp_path, tars=pattern)


def test_content_is_not_read(tmp_path):
    path = write_tar(tmp_path / "t.tar", {"a.jpg": bytes(1 << 20), "b.jpg": bytes(1 << 20)})
    reads = []

    class Counting(io.FileIO):
        def read(self, size=-1):
            content = super().read(size)
            reads.append(len(content))
            return content

        def readinto(self, buffer):
            reads.append(super().readinto(buffer))
            return reads[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.open", lambda name, *_: io.BufferedReader(Counting(name)))
        assert len(listed(tmp_path)) == 2
    assert path.stat().st_size > 2 << 20
    assert 0 < sum(reads) < 1 << 17
