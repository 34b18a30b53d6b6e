import csv
import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest

from datamodules.corpora.phoenix import Phoenix2014T
from datamodules.corpus import Item
from datamodules.errors import ConfigError
from datamodules.media.image import read_image
from preprocess.commands.sample import make_sample_corpus
from preprocess.mediapipe_graph import HolisticGraph

TOWARDS = {"WEST": (-1, 0), "OST": (1, 0), "NORD": (0, -1), "SUED": (0, 1)}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sample_corpus(tmp_path_factory.mktemp("sample") / "corpus", num_frames=4)


@pytest.fixture(scope="module")
def items(corpus: Path) -> list[Item]:
    return list(Phoenix2014T(str(corpus)).items())


def test_phoenix_lists_six_two_and_two_sentences(items: list[Item]) -> None:
    assert [item.split for item in items] == ["train"] * 6 + ["dev"] * 2 + ["test"] * 2
    assert all(item.frames == tuple(f"images{n:04d}.png" for n in range(1, 5)) for item in items)
    assert items[0].key == "train/demo_hopper_train-1"
    assert items[0].meta == {
        "sentence_id": "demo_hopper_train-1",
        "text": "der wind weht erst nach westen und dann nach norden",
        "glosses": "WEST NORD",
        "signer": "Signer01",
        "language": "gsg",
        "num_missing_frames": 0,
    }


def test_annotations_have_the_columns_of_phoenix(corpus: Path) -> None:
    with open(corpus / "annotations" / "manual" / "PHOENIX-2014-T.dev.corpus.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="|"))
    assert list(rows[0]) == ["name", "video", "start", "end", "speaker", "orth", "translation"]
    assert [row["video"] for row in rows] == ["demo_collins_dev-1/1/*.png", "demo_hopper_dev-2/1/*.png"]


def test_frames_are_as_large_as_those_of_phoenix(corpus: Path, items: list[Item]) -> None:
    sizes = {tuple(read_image(corpus / item.path / name).shape) for item in items for name in item.frames}
    assert sizes == {(3, 260, 210)}


def test_dev_and_test_hold_known_glosses_in_sentences_not_seen_in_train(items: list[Item]) -> None:
    train = [item.meta["glosses"] for item in items if item.split == "train"]
    others = [item.meta["glosses"] for item in items if item.split != "train"]
    assert not set(train) & set(others)
    for place in (0, 1):
        assert {sentence.split()[place] for sentence in train} == set(TOWARDS)


@pytest.mark.reference
def test_mediapipe_finds_a_face_that_moves_as_the_glosses_say(corpus: Path, items: list[Item]) -> None:
    with HolisticGraph() as graph:
        for item in items[4:8]:  # both persons, every gloss
            result = [graph(read_image(corpus / item.path / name).permute(1, 2, 0).numpy()) for name in item.frames]
            assert all(landmarks.pose is not None for landmarks in result)
            middles = np.array([landmarks.face[:, :2].mean(0) for landmarks in result if landmarks.face is not None])
            assert len(middles) == len(result)
            for gloss, start in zip(item.meta["glosses"].split(), (0, 2), strict=True):
                moved, towards = middles[start + 1] - middles[start], np.array(TOWARDS[gloss])
                assert moved @ towards > 10 > abs(moved @ towards[::-1]), (item.key, gloss)


def test_sample_corpus_is_the_same_each_time(corpus: Path, tmp_path: Path) -> None:
    def digest(root: Path) -> str:
        files = sorted(path for path in root.rglob("*") if path.is_file())
        text = b"".join(str(path.relative_to(root)).encode() + path.read_bytes() for path in files)
        return hashlib.sha256(text).hexdigest()

    assert digest(make_sample_corpus(tmp_path / "again", num_frames=4)) == digest(corpus)


def test_sample_corpus_fills_an_empty_folder_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    assert make_sample_corpus(tmp_path / "corpus", 4) == tmp_path / "corpus"
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_sample_corpus_in_a_folder_with_something_in_it_fails(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"is not empty: name a folder that is new or empty"):
        make_sample_corpus(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_sample_corpus_below_a_file_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/corpus cannot be made: Not a directory\. Name a folder"):
        make_sample_corpus(tmp_path / "file" / "corpus")


def test_sample_corpus_of_too_few_frames_fails(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"num_frames = 3 must be 4 or more"):
        make_sample_corpus(tmp_path / "corpus", num_frames=3)


@pytest.mark.parametrize("module", ["matplotlib.cbook", "skimage.data"])
def test_sample_corpus_without_the_demo_extra_fails(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"needs {module}: python -m pip install 'framemill\[demo\]'"):
        make_sample_corpus(tmp_path / "corpus")
    assert not list(tmp_path.iterdir())
