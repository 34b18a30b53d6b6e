import pytest

from datamodules.corpora.phoenix import Phoenix2014T
from datamodules.errors import CorpusError
from frame_making import write_image

HEADER = "name|video|start|end|speaker|orth|translation"


def write_split(root, split, rows, frames=2, header=HEADER, encoding="utf-8"):
    """A split whose sentences have `frames` frames each; `rows` are names, or whole rows."""
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


def test_sentences_come_in_the_order_of_the_table_with_their_frames(tmp_path):
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
        "name": "zwei-02", "signer": "Signer01", "glosses": "MORGEN REGEN", "translation": "morgen „regen“ im süden"
    }  # fmt: skip
    assert items == list(Phoenix2014T(str(tmp_path), ["train", "dev"]).items())


def test_max_items_limits_each_split(tmp_path):
    write_split(tmp_path, "dev", ["a", "b", "c"])
    write_split(tmp_path, "train", ["d", "e", "f"])
    corpus = Phoenix2014T(str(tmp_path), ["dev", "train"], max_items=2)
    assert [item.key for item in corpus.items()] == ["dev/a", "dev/b", "train/d", "train/e"]


def test_quotes_in_a_translation_are_text(tmp_path):
    write_split(tmp_path, "dev", ['a|x|-1|-1|Signer01|"A|"so', "b"])
    assert next(Phoenix2014T(str(tmp_path), ["dev"]).items()).meta["translation"] == '"so'


def test_what_macos_leaves_beside_a_frame_is_no_frame(tmp_path):
    write_split(tmp_path, "dev", ["a"])
    (tmp_path / "features/fullFrame-210x260px/dev/a/._images0001.png").write_text("")
    [item] = Phoenix2014T(str(tmp_path), ["dev"]).items()
    assert item.frames == ("images0001.png", "images0002.png")


def test_a_missing_root_fails(tmp_path):
    with pytest.raises(CorpusError, match="is no folder"):
        list(Phoenix2014T(str(tmp_path / "nowhere")).items())


def test_an_empty_root_or_a_split_without_table_fails(tmp_path):
    with pytest.raises(CorpusError, match=r"train\.corpus\.csv is missing; name the splits"):
        list(Phoenix2014T(str(tmp_path)).items())


def test_a_row_without_its_folder_fails(tmp_path):
    write_split(tmp_path, "dev", ["a"], frames=0)
    with pytest.raises(CorpusError, match="dev/a cannot be listed: No such file"):
        list(Phoenix2014T(str(tmp_path), ["dev"]).items())


def test_a_row_with_an_empty_folder_fails(tmp_path):
    write_split(tmp_path, "dev", ["a"], frames=0)
    (tmp_path / "features/fullFrame-210x260px/dev/a").mkdir(parents=True)
    with pytest.raises(CorpusError, match=r"line 2: 'a' has no frames in "):
        list(Phoenix2014T(str(tmp_path), ["dev"]).items())


@pytest.mark.parametrize("header", ["", "name,speaker,orth,translation", "name|video|start|end|speaker|orth"])
def test_a_wrong_header_fails(tmp_path, header):
    write_split(tmp_path, "dev", ["a"], header=header)
    with pytest.raises(CorpusError, match=r"has no column .*its header is"):
        list(Phoenix2014T(str(tmp_path), ["dev"]).items())


def test_a_short_row_fails(tmp_path):
    write_split(tmp_path, "dev", ["a", "b|only"])
    with pytest.raises(CorpusError, match=r"dev\.corpus\.csv, line 3: fewer fields than columns"):
        list(Phoenix2014T(str(tmp_path), ["dev"]).items())


def test_a_table_that_is_not_utf8_fails(tmp_path):
    write_split(tmp_path, "dev", ["ä|x|-1|-1|Signer01|A|a"], encoding="latin-1")
    with pytest.raises(CorpusError, match=r"dev\.corpus\.csv cannot be read"):
        list(Phoenix2014T(str(tmp_path), ["dev"]).items())


def test_a_name_that_leads_out_of_the_corpus_fails(tmp_path):
    write_split(tmp_path, "dev", ["a"])
    table = tmp_path / "annotations/manual/PHOENIX-2014-T.dev.corpus.csv"
    table.write_text(f"{HEADER}\n../a|x|-1|-1|s|A|a\n")
    with pytest.raises(CorpusError, match="no key can be made"):
        list(Phoenix2014T(str(tmp_path), ["dev"]).items())
