"""What all sign-language corpora do with bad rows, by the lists of How2Sign and OpenASL."""

import re
from pathlib import Path

import pytest

from datamodules.corpora.how2sign import How2Sign
from datamodules.corpora.openasl import OpenASL
from datamodules.corpus import Item
from datamodules.errors import ConfigError, CorpusError

HEADER = ["VIDEO_ID", "VIDEO_NAME", "SENTENCE_ID", "SENTENCE_NAME", "START_REALIGNED", "END_REALIGNED", "SENTENCE"]


def row(name: str = "a_0-5", start: str = "0.5", stop: str = "2", text: str = "Hi.", video: str = "a-5") -> list[str]:
    return ["a", video, name.split("-")[0], name, start, stop, text]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("train", "val"):
        (tmp_path / f"videos/{folder}").mkdir(parents=True)
        (tmp_path / f"videos/{folder}/a-5.mp4").write_bytes(b"x" * 7)
    return tmp_path / "videos"


def how2sign(root: Path, *rows: list[str], header: list[str] = HEADER, split: str = "train") -> How2Sign:
    path = root.parent / f"{split}.csv"
    path.write_text("".join("\t".join(fields) + "\n" for fields in (header, *rows)), encoding="utf-8")
    return How2Sign(str(root), str(path), [split], folder="{split}")


def problem(corpus: How2Sign | OpenASL) -> tuple[str, str]:
    """Return key and problem of the last item; no other item may have a problem."""
    *good, bad = corpus.items()
    assert all(item.problem is None for item in good)
    assert bad.problem is not None
    return bad.key, bad.problem


def test_a_sentence_of_how2sign_is_a_part_of_its_video(root: Path) -> None:
    corpus = how2sign(root, row("-fZ_0-5-rgb_front", "5.94", "9.02", 'He said: "Hi."'))
    [item] = corpus.items()
    assert item == Item(
        "train/-fZ_0-5-rgb_front", "train", "train/a-5.mp4", start_seconds=5.94, stop_seconds=9.02, cost=7,
        modified=(root / "train/a-5.mp4").stat().st_mtime,
        meta={"sentence_id": "-fZ_0-5-rgb_front", "text": 'He said: "Hi."', "language": "ase", "source_id": "a"},
    )  # fmt: skip
    assert list(corpus.items()) == [item]


def test_each_split_has_its_list(root: Path) -> None:
    for split in ("val", "train"):
        how2sign(root, row(), row("a_1-5"), split=split)
    corpus = How2Sign(str(root), f"{root.parent}/{{split}}.csv", ["val", "train"], folder="{split}", max_items=1)
    assert [(item.key, item.split, item.path) for item in corpus.items()] == [
        ("val/a_0-5", "val", "val/a-5.mp4"), ("train/a_0-5", "train", "train/a-5.mp4"),
    ]  # fmt: skip


def test_a_sentence_of_openasl_has_times_of_a_clock(tmp_path: Path) -> None:
    (tmp_path / "y.mp4").write_bytes(b"x")
    table = tmp_path / "openasl-v1.0.tsv"
    header = "vid\tyid\tstart\tend\traw-text\ttokenized-text\tgloss\tsplit\n"
    times = "00:01:02.500\t01:00:03.000"
    table.write_text(f'{header}y-{times.split()[0]}\ty\t{times}\t"Hi," he said.\thi\tHI\tvalid\nx\ty\t0\t1\t\t\t\t\n')
    first, bad = OpenASL(str(tmp_path), str(table)).items()
    assert (first.key, first.split, first.path) == ("valid/y-00%3A01%3A02%2E500", "valid", "y.mp4")
    assert (first.start_seconds, first.stop_seconds) == (62.5, 3603.0)
    assert first.meta == {"sentence_id": "y-00:01:02.500", "text": '"Hi," he said.', "language": "ase"}
    assert (bad.key, bad.split) == ("unknown/%line-3", "unknown")
    assert (bad.problem or "").endswith("line 3: 'split' is '': give text or a whole number")


def test_a_sentence_of_openasl_has_the_box_of_its_signer(tmp_path: Path) -> None:
    (tmp_path / "y.mp4").write_bytes(b"x")
    table, boxes = tmp_path / "openasl-v1.0.tsv", tmp_path / "bbox-v1.0.json"
    table.write_text("vid\tyid\tstart\tend\traw-text\tsplit\na\ty\t0\t1\tA.\ttrain\nb\ty\t1\t2\tB.\ttrain\n")
    boxes.write_text('{"a": [0.1, 0.2, 0.9, 1.0]}')
    corpus = OpenASL(str(tmp_path), str(table), str(boxes))
    assert [item.meta["box"] for item in corpus.items()] == [[0.1, 0.2, 0.9, 1.0], None]
    boxes.write_text("[]")
    with pytest.raises(CorpusError, match=r"bbox-v1\.0\.json is not an object with a box for each sentence"):
        OpenASL(str(tmp_path), str(table), str(boxes))
    boxes.write_text("{")
    with pytest.raises(CorpusError, match=r"--data\.boxes .*bbox-v1\.0\.json cannot be read: "):
        OpenASL(str(tmp_path), str(table), str(boxes))


@pytest.mark.parametrize("text", ["", "nan"])
def test_a_sentence_without_text_has_an_empty_one(root: Path, text: str) -> None:
    [item] = how2sign(root, row(text=text)).items()
    assert (item.problem, item.meta["text"]) == (None, "")


def test_a_video_that_was_not_downloaded_is_listed_and_fails_when_it_is_read(root: Path) -> None:
    items = list(how2sign(root, row(), row("b_0-5", video="b-5")).items())
    assert [(item.path, item.cost, item.modified is None, item.problem) for item in items] == [
        ("train/a-5.mp4", 7, False, None), ("train/b-5.mp4", 0, True, None),
    ]  # fmt: skip


def test_if_no_video_was_downloaded_the_folder_is_wrong(root: Path) -> None:
    with pytest.raises(CorpusError, match=r"none of the 1 files of .*train\.csv is in --data\.root"):
        list(how2sign(root, row(video="b-5")).items())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row("b", start=""), "'START_REALIGNED' is '': a sentence needs a time there"),
        (row("b", stop="nan"), "'END_REALIGNED' is 'nan': a sentence needs a time there"),
        (row("b", start="3", stop="2"), "END_REALIGNED = 2 is not after START_REALIGNED = 3"),
        (row("b", start="0:75"), r"'START_REALIGNED' is '0:75': give seconds from 0 on, as a number or HH:MM:SS\.mmm"),
        (row("b", video="../a"), "'train/../a.mp4' leads out of the folder"),
        (row("b", video=""), "'VIDEO_NAME' is '': give text"),
    ],
)
def test_a_row_with_a_wrong_value_fails_alone(root: Path, bad: list[str], message: str) -> None:
    key, reason = problem(how2sign(root, row(), bad))
    assert key == "train/b"
    assert re.search(rf"train\.csv, line 3: {message}", reason)


def test_a_row_without_id_is_named_by_its_line(root: Path) -> None:
    key, reason = problem(how2sign(root, row(), row("")))
    assert (key, reason.endswith("line 3: 'SENTENCE_NAME' is '': give text or a whole number")) == (
        "train/%line-3",
        True,
    )


def test_sentences_with_the_same_id_fail_because_either_may_be_meant(root: Path) -> None:
    first, good, second = how2sign(root, row(text="Hi."), row("b"), row(text="Bye.")).items()
    assert (good.key, good.problem) == ("train/b", None)
    assert [first.key, second.key] == ["train/%line-2", "train/%line-4"]
    for item in (first, second):
        assert (item.problem or "").endswith("the split train has several sentences 'a_0-5': remove all but one")


def test_overlapping_sentences_are_used_and_counted(root: Path) -> None:
    corpus = how2sign(root, row("a", "0", "2"), row("c", "3", "4"), row("b", "1.5", "3"))
    assert [item.problem for item in corpus.items()] == [None] * 3
    assert corpus.notes() == ["1 sentence begins before another one of the same video ends: each has all of its frames"]


def test_the_list_of_another_release_is_refused_with_both_sets_of_columns(root: Path) -> None:
    header = [name.replace("_REALIGNED", "") for name in HEADER]
    with pytest.raises(CorpusError) as error:
        list(how2sign(root, row(), header=header).items())
    assert str(error.value).partition("train.csv ")[2] == (
        "has no column 'START_REALIGNED', 'END_REALIGNED'. How2Sign expects 'VIDEO_NAME', 'SENTENCE_NAME', "
        "'START_REALIGNED', 'END_REALIGNED', 'SENTENCE'; found 'VIDEO_ID', 'VIDEO_NAME', 'SENTENCE_ID', "
        "'SENTENCE_NAME', 'START', 'END', 'SENTENCE'. Is it another release?"
    )


def test_what_identifies_a_run_are_the_lists_not_their_paths(root: Path) -> None:
    corpus = how2sign(root, row())
    (root.parent / "train.csv").rename(root.parent / "moved.csv")
    moved = How2Sign(str(root), str(root.parent / "moved.csv"), ["train"], folder="{split}")
    others = how2sign(root, row("b"))
    public = [{name: value for name, value in vars(each).items() if name[0] != "_"} for each in (corpus, moved, others)]
    assert public[0] == public[1] != public[2]


def test_wrong_options_are_refused(root: Path) -> None:
    how2sign(root, row())
    path = str(root.parent / "train.csv")
    with pytest.raises(ConfigError, match=r"--data\.splits is empty"):
        How2Sign(str(root), path, [])
    with pytest.raises(ConfigError, match=r"train\.csv is one list for the splits train, val, test: write \{split\}"):
        How2Sign(str(root), path)
    with pytest.raises(CorpusError, match=r"'dev-1' cannot name a split"):
        How2Sign(str(root), path, ["dev-1"])
    with pytest.raises(CorpusError, match=r"the list .*gone\.csv cannot be read"):
        How2Sign(str(root), str(root / "gone.csv"), ["train"])
