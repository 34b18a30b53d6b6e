import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from datamodules.corpora.phoenix import Phoenix2014T
from datamodules.corpus import Item
from datamodules.errors import ConfigError, CorpusError
from support.frame_corpora import write_image

HEADER = "name|video|start|end|speaker|orth|translation"


def write_split(
    root: Path, split: str, rows: Any, frames: Any = 2, header: str = HEADER, encoding: str = "utf-8"
) -> None:
    """Write a split whose sentences have `frames` frames each; `rows` are names, or whole rows."""
    table = root / "annotations" / "manual" / f"PHOENIX-2014-T.{split}.corpus.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        row if "|" in row else f"{row}|{row}/1/*.png|-1|-1|Signer01|MORGEN REGEN|morgen „regen“ im süden"
        for row in rows
    ]
    table.write_bytes("\n".join([header, *lines, ""]).encode(encoding))
    for row in rows:
        for k in range(frames):
            folder = root / "features" / "fullFrame-210x260px" / split / row.split("|")[0]
            write_image(folder / f"images{k + 1:04d}.png", k)


def test_sentences_come_in_the_order_of_the_table_with_their_frames(tmp_path: Path) -> None:
    write_split(tmp_path, "dev", ["zwei-02", "eins-01"], frames=3)
    write_split(tmp_path, "train", ["drei-03"])
    items = list(Phoenix2014T(str(tmp_path), ["train", "dev"]).items())
    assert [(item.key, item.split) for item in items] == [
        ("train/drei-03", "train"), ("dev/zwei-02", "dev"), ("dev/eins-01", "dev")
    ]  # fmt: skip
    item = items[1]
    assert item.path == "features/fullFrame-210x260px/dev/zwei-02"
    assert item.frames == ("images0001.png", "images0002.png", "images0003.png")
    assert item.cost == sum((tmp_path / item.path / name).stat().st_size for name in item.frames)
    assert item.meta == {
        "sentence_id": "zwei-02", "text": "morgen „regen“ im süden", "glosses": "MORGEN REGEN", "signer": "Signer01",
        "language": "gsg", "num_missing_frames": 0,
    }  # fmt: skip
    assert items == list(Phoenix2014T(str(tmp_path), ["train", "dev"]).items())


def test_max_items_limits_each_split(tmp_path: Path) -> None:
    write_split(tmp_path, "dev", ["a", "b", "c"])
    write_split(tmp_path, "train", ["d", "e", "f"])
    corpus = Phoenix2014T(str(tmp_path), ["dev", "train"], max_items=2)
    assert [item.key for item in corpus.items()] == ["dev/a", "dev/b", "train/d", "train/e"]


def test_quotes_in_a_translation_are_text(tmp_path: Path) -> None:
    write_split(tmp_path, "dev", ['a|x|-1|-1|Signer01|"A|"so', "b"])
    assert next(Phoenix2014T(str(tmp_path), ["dev"]).items()).meta["text"] == '"so'


def test_hidden_files_of_macos_are_not_frames(tmp_path: Path) -> None:
    write_split(tmp_path, "dev", ["a"])
    (tmp_path / "features/fullFrame-210x260px/dev/a/._images0001.png").write_text("")
    [item] = Phoenix2014T(str(tmp_path), ["dev"]).items()
    assert item.frames == ("images0001.png", "images0002.png")


def test_a_missing_root_fails(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="is not a folder"):
        list(Phoenix2014T(str(tmp_path / "nowhere")).items())


def test_an_empty_root_or_a_split_without_table_fails(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"train\.corpus\.csv is missing; name the splits that exist"):
        list(Phoenix2014T(str(tmp_path)).items())


def test_a_sentence_without_its_folder_or_frames_is_listed_with_its_problem(tmp_path: Path) -> None:
    write_split(tmp_path, "dev", ["a", "gone", "empty"])
    frames = tmp_path / "features/fullFrame-210x260px/dev"
    shutil.rmtree(frames / "gone")
    shutil.rmtree(frames / "empty")
    (frames / "empty").mkdir()
    items = list(Phoenix2014T(str(tmp_path), ["dev"]).items())
    assert [item.key for item in items] == ["dev/a", "dev/gone", "dev/empty"]
    assert items[0].problem is None
    assert "dev/gone cannot be read: No such file" in (items[1].problem or "")
    assert items[2].problem == "features/fullFrame-210x260px/dev/empty has no frames"


def test_a_split_without_any_frames_fails(tmp_path: Path) -> None:
    write_split(tmp_path, "dev", ["a"], frames=0)
    with pytest.raises(CorpusError, match="210x260px/dev, the folder of the frames, is missing"):
        list(Phoenix2014T(str(tmp_path), ["dev"]).items())


def named(root: Path, names: Any, **options: Any) -> Item:
    """Return the item of a sentence whose frames have these names."""
    write_split(root, "dev", ["a"], frames=0)
    folder = root / "features/fullFrame-210x260px/dev/a"
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()
    [item] = Phoenix2014T(str(root), ["dev"], **options).items()
    return item


ORDERS = [
    [f"images{number}.png" for number in range(1, 13)],
    ["1.png", "2.PNG", "03.jpg", "10.png"],
    ["images0999.png", "images1000.png", "images10000.png"],
    [f"video2_fn{number}-0.png" for number in (0, 1, 9, 10, 100)],
    ["cover.png", "Frame1.png", "frame2.png", "frame10.png"],
    ["a2.png", "a10.png", "b1.png"],
    ["shot1_frame10.png", "shot2_frame9.png", "shot10_frame1.png"],
]


@pytest.mark.parametrize("names", ORDERS)
def test_frames_come_in_the_order_of_their_numbers(tmp_path: Path, names: list[str]) -> None:
    item = named(tmp_path, sorted(names, reverse=True))
    assert item.frames == tuple(names)
    assert item.problem is None


@pytest.mark.parametrize(
    ("names", "num_missing"),
    [
        ([f"images{number}.png" for number in (1, 2, 3)], 0),
        ([f"images{number:04d}.png" for number in (1, 2, 5, 9, 10)], 5),
        (["images0003.png", "images0004.png"], 2),
        (["0.png", "1.png", "3.png"], 1),
        (["images0005.png"], 4),
        (["video2_fn000000-0.png", "video2_fn000003-0.png"], 2),
        (["one.png", "two.png"], 0),
        (["a1.png", "a9.png", "b1.png"], 0),
    ],
)
def test_missing_frames_are_counted_from_1_on(tmp_path: Path, names: list[str], num_missing: int) -> None:
    item = named(tmp_path, names)
    assert (item.meta["num_missing_frames"], item.problem) == (num_missing, None)


def test_a_sentence_with_gaps_fails_if_configured(tmp_path: Path) -> None:
    item = named(tmp_path, ["images0002.png", "images0004.png"], gaps="fail")
    assert item.problem == (
        "2 frames are missing: features/fullFrame-210x260px/dev/a has 2, images0002.png to images0004.png"
    )
    assert named(tmp_path / "whole", ["images0001.png"], gaps="fail").problem is None
    with pytest.raises(ConfigError, match=r"--data\.gaps drop: choose from allow, fail"):
        Phoenix2014T(str(tmp_path), gaps="drop")  # type: ignore[arg-type]


def test_a_note_counts_the_sentences_with_gaps(tmp_path: Path) -> None:
    write_split(tmp_path, "dev", ["a", "b", "c"], frames=3)
    for name in ("a", "c"):
        (tmp_path / f"features/fullFrame-210x260px/dev/{name}/images0002.png").unlink()
    corpus = Phoenix2014T(str(tmp_path), ["dev"])
    for _ in range(2):
        list(corpus.items())
        [note] = corpus.notes()
        assert note.startswith("2 sentences have gaps in the numbers of the frames: see num_missing_frames")
    failing = Phoenix2014T(str(tmp_path), ["dev"], max_items=1, gaps="fail")
    list(failing.items())
    assert failing.notes() == ["1 sentence has gaps in the numbers of the frames: each fails"]
    whole = Phoenix2014T(str(tmp_path), ["dev"])
    assert next(whole.items())
    (tmp_path / "features/fullFrame-210x260px/dev/a/images0003.png").unlink()
    (tmp_path / "features/fullFrame-210x260px/dev/c/images0003.png").unlink()
    list(whole.items())
    assert whole.notes() == []


@pytest.mark.parametrize("other", ["images0001.png", "IMAGES1.png", "images1.jpg"])
def test_two_frames_with_the_same_number_fail_their_sentence(tmp_path: Path, other: str) -> None:
    item = named(tmp_path, ["images1.png", "images2.png", other])
    assert item.problem is not None
    assert "has two frames with the same number, " in item.problem
    assert "images1.png" in item.problem
    assert other in item.problem


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_table_with_a_byte_order_mark_is_read(tmp_path: Path, encoding: str) -> None:
    write_split(tmp_path, "dev", ["a"], encoding=encoding)
    [item] = Phoenix2014T(str(tmp_path), ["dev"]).items()
    assert (item.key, item.meta["text"]) == ("dev/a", "morgen „regen“ im süden")


@pytest.mark.parametrize("table", ["", "phoenix-2014-multisigner", "phoenix-2014-signerindependent-SI5"])
def test_the_layout_of_phoenix_2014_is_recognised(tmp_path: Path, table: str) -> None:
    name = "train.SI5.corpus.csv" if table.endswith("SI5") else "train.corpus.csv"
    path = tmp_path / table / "annotations/manual" / name
    path.parent.mkdir(parents=True)
    path.write_text("id|folder|signer|annotation\n")
    with pytest.raises(CorpusError, match=r"is PHOENIX-2014 .*, not PHOENIX-2014-T\. "):
        list(Phoenix2014T(str(tmp_path)).items())


@pytest.mark.parametrize("header", ["", "name,speaker,orth,translation", "name|video|start|end|speaker|orth"])
def test_a_wrong_header_fails(tmp_path: Path, header: str) -> None:
    write_split(tmp_path, "dev", ["a"], header=header)
    with pytest.raises(CorpusError, match=r"has no column .*its header is"):
        list(Phoenix2014T(str(tmp_path), ["dev"]).items())


@pytest.mark.parametrize("row", ["b|only", "b|x|-1|-1|Signer01|A|a|b"])
def test_a_row_with_more_or_fewer_fields_fails_alone(tmp_path: Path, row: str) -> None:
    write_split(tmp_path, "dev", ["a", row, "c"])
    before, bad, after = Phoenix2014T(str(tmp_path), ["dev"]).items()
    assert (before.problem, bad.key, bad.split, after.problem) == (None, "dev/b", "dev", None)
    assert bad.problem is not None
    assert bad.problem.endswith("dev.corpus.csv, line 3: it has more or fewer fields than the header")


def test_a_table_that_is_not_utf8_fails(tmp_path: Path) -> None:
    write_split(tmp_path, "dev", ["ä|x|-1|-1|Signer01|A|a"], encoding="latin-1")
    with pytest.raises(CorpusError, match=r"dev\.corpus\.csv cannot be read"):
        list(Phoenix2014T(str(tmp_path), ["dev"]).items())


def test_a_name_that_leads_out_of_the_corpus_fails_its_sentence(tmp_path: Path) -> None:
    write_split(tmp_path, "dev", ["a"])
    table = tmp_path / "annotations/manual/PHOENIX-2014-T.dev.corpus.csv"
    table.write_text(f"{HEADER}\n../a|x|-1|-1|s|A|a\n")
    [bad] = Phoenix2014T(str(tmp_path), ["dev"]).items()
    assert bad.key == "dev/%line-2"
    assert "line 2: no key can be made" in (bad.problem or "")


def test_a_text_may_be_longer_than_the_default_limit_of_the_csv_module(tmp_path: Path) -> None:
    write_split(tmp_path, "dev", [f"a|x|-1|-1|Signer01|A|{'a' * 131_073}"])
    [item] = Phoenix2014T(str(tmp_path), ["dev"]).items()
    assert (item.problem, len(item.meta["text"])) == (None, 131_073)


def test_short_rows_below_a_huge_header_fail_fast(tmp_path: Path) -> None:
    """Filling each of 3,000 rows with 60,000 empty values would take minutes."""
    write_split(tmp_path, "dev", ["a"], header=HEADER + "".join(f"|c{number}" for number in range(60_000)))
    table = tmp_path / "annotations/manual/PHOENIX-2014-T.dev.corpus.csv"
    with open(table, "a") as file:
        file.write("b|x\n" * 3000)
    first, *others = Phoenix2014T(str(tmp_path), ["dev"]).items()
    assert (first.key, first.problem) == ("dev/a", None)
    assert len(others) == 3000
    assert {(item.problem or "").partition(": ")[2] for item in others} == {
        "it has more or fewer fields than the header"
    }


def test_a_folder_or_fifo_among_the_frames_fails_its_sentence_alone(tmp_path: Path) -> None:
    write_split(tmp_path, "dev", ["a", "b", "c"])
    frames = tmp_path / "features/fullFrame-210x260px/dev"
    (frames / "a/images0003.png").mkdir()
    os.mkfifo(frames / "b/images0003.png")
    a, b, c = Phoenix2014T(str(tmp_path), ["dev"]).items()
    assert a.problem is not None
    assert b.problem is not None
    assert a.problem.endswith("a/images0003.png cannot be read: Is a directory")
    assert b.problem.endswith("b/images0003.png cannot be used: it is a FIFO, not a regular file")
    assert c.problem is None
