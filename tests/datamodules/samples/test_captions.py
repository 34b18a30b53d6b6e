import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import webdataset
from PIL import Image
from transformers import AutoTokenizer

from datamodules import FramesDataModule
from datamodules.corpus import Item
from datamodules.errors import ConfigError, RunError
from datamodules.samples.captions import CaptionSample, CaptionSamples
from support.caption_runs import caption_items, made_caption, make_caption_run, write_tokenizer
from support.image_files import image_bytes

ITEMS = caption_items("a.jpg", "sub/b.PNG", "sub/c.webp", "d.png", "e.png")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer"))


def sample(key: str, caption: str = "", value: int = 0, size: tuple[int, int] = (8, 6), **meta: Any) -> CaptionSample:
    return CaptionSample(key, caption, meta, image_bytes(value, "png", size), "png")


@pytest.mark.parametrize("store_images", [True, False])
@pytest.mark.parametrize("item", ITEMS[:3])
def test_what_is_decoded_is_what_was_encoded(item: Item, store_images: bool) -> None:
    made = made_caption(item, 3, store_images)
    files = CaptionSamples().encode(made)
    assert CaptionSamples().decode(item.key, {**files, "extra.txt": b"ignored"}) == made
    assert CaptionSamples().encode(made) == files
    endings = {"json", "txt", item.meta["image"].rpartition(".")[2].lower()}
    assert set(files) == (endings if store_images else {"json", "txt"})


def test_the_files_are_the_caption_the_image_and_readable_json(tmp_path: Path) -> None:
    made = made_caption(ITEMS[0], 3)
    files = CaptionSamples().encode(made)
    assert files["txt"].decode() == "a cow, <i>3</i> & Kühe"
    assert json.loads(files["json"]) == {**made.meta, "caption": "a cow, <i>3</i> & Kühe"}
    assert "Kühe".encode() in files["json"]
    assert files["jpg"] == image_bytes(30, "jpg")


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stock_webdataset_reader_decodes_captions_and_images(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as tar:
        tar.write({"__key__": "sub/b", **CaptionSamples().encode(made_caption(ITEMS[1], 3))})
    [found] = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False).decode("rgb8"))
    assert (found["__key__"], found["txt"], found["json"]["status"]) == ("sub/b", "a cow, <i>3</i> & Kühe", "ok")
    assert found["png"].shape == (6, 8, 3)


def test_half_a_character_becomes_a_question_mark() -> None:
    files = CaptionSamples().encode(CaptionSample("a", "a \ud83d cow", {"prompt": "\udc00"}))
    assert files["txt"] == b"a ? cow"
    assert json.loads(files["json"]) == {"caption": "a ? cow", "prompt": "?"}


@pytest.mark.parametrize("ending", [None, "txt", "json", "exe"])
def test_an_image_without_an_ending_of_one_is_not_encoded(ending: str | None) -> None:
    with pytest.raises(ValueError, match="a has an image whose ending is"):
        CaptionSamples().encode(CaptionSample("a", "", {}, b"x", ending))


@pytest.mark.parametrize(
    "files", [{"txt": b"a"}, {"json": b"{}"}, {"txt": b"\xff", "json": b"{}"}, {"txt": b"", "json": b"[1]"}, {}]
)
def test_a_sample_with_a_missing_or_damaged_file_fails(files: dict[str, bytes]) -> None:
    with pytest.raises(RunError, match=r"sub/a is no caption sample: .*; run `preprocess verify`"):
        CaptionSamples().decode("sub/a", files)


def test_images_of_one_size_are_stacked_and_of_several_are_a_list() -> None:
    batch = CaptionSamples().collate([sample("a", value=10), sample("b", value=20)])
    assert (batch["images"].shape, batch["images"].dtype) == ((2, 3, 6, 8), torch.uint8)
    assert batch["images"].float().mean((1, 2, 3)).tolist() == [10, 20]
    batch = CaptionSamples().collate([sample("a", value=10), sample("b", value=20, size=(5, 9))])
    assert [tuple(image.shape) for image in batch["images"]] == [(3, 6, 8), (3, 9, 5)]


def test_images_are_resized_bilinear_with_antialiasing() -> None:
    samples = [sample("a", value=10), sample("b", size=(90, 50))]
    buffer = io.BytesIO()
    Image.linear_gradient("L").save(buffer, "png")
    samples.append(CaptionSample("c", "", {}, buffer.getvalue(), "png"))
    images = CaptionSamples(size=(32, 24)).collate(samples)["images"]
    assert (images.shape, images.dtype) == ((3, 3, 32, 24), torch.uint8)
    assert images[0].unique().tolist() == [10]
    rows = images[2].float().mean((0, 2))
    assert (rows - (torch.arange(32) * 8 + 3.5)).abs().max() <= 1.5


def test_tokens_are_padded_at_their_ends_and_cut_off_at_max_tokens(tokenizer: str) -> None:
    samples = [sample("a", "a cow"), sample("b", "a red cow drinks milk"), sample("c", "")]
    batch = CaptionSamples(tokenizer, max_tokens=4).collate(samples)
    assert batch["tokens"].dtype == torch.int64
    assert batch["tokens"].tolist() == [[2, 4, 0, 0], [2, 3, 4, 5], [0, 0, 0, 0]]
    assert batch["tokens_mask"].tolist() == [[True, True, False, False], [True] * 4, [False] * 4]
    assert batch["text"] == ["a cow", "a red cow drinks milk", ""]
    assert CaptionSamples(tokenizer).collate(samples)["tokens"].shape == (3, 5)


def test_captions_are_cut_off_at_their_ends_whatever_the_tokenizer_says(tokenizer: str, tmp_path: Path) -> None:
    AutoTokenizer.from_pretrained(tokenizer, truncation_side="left", padding_side="left").save_pretrained(tmp_path)
    batch = CaptionSamples(str(tmp_path), max_tokens=2).collate([sample("a", "a red cow"), sample("b", "milk")])
    assert batch["tokens"].tolist() == [[2, 3], [6, 0]]


def test_a_batch_has_tokens_images_keys_and_meta_only_where_there_are_any() -> None:
    text = CaptionSample("a", "a cow", {"status": "ok"})
    assert CaptionSamples().collate([text]) == {"key": ["a"], "text": ["a cow"], "meta": [{"status": "ok"}]}
    assert "images" not in CaptionSamples().collate([text, sample("b")])


def test_a_size_without_images_fails_and_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"size = \(6, 8\) .*, but b has no image: run .* --model\.store_images jpg"):
        CaptionSamples(size=(6, 8)).collate([sample("a"), CaptionSample("b", "a cow", {})])


def test_a_damaged_image_fails_with_its_key() -> None:
    with pytest.raises(RunError, match=r"sub/a\.png cannot be decoded \(1 bytes\): .*; run `preprocess verify`"):
        CaptionSamples().collate([CaptionSample("sub/a", "", {}, b"x", "png")])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_committed_captions_become_training_batches(tmp_path: Path, tokenizer: str, num_workers: int) -> None:
    make_caption_run(tmp_path / "run", ITEMS, failed=("d",))
    kind = CaptionSamples(tokenizer, size=(12, 16))
    data = FramesDataModule(shards=tmp_path / "run", samples=kind, batch_size=2, num_workers=num_workers)
    batches = list(data.train_dataloader())
    assert sorted(key for batch in batches for key in batch["key"]) == ["a", "e", "sub/b", "sub/c"]
    for batch in batches:
        assert (batch["images"].shape, batch["images"].dtype) == ((2, 3, 12, 16), torch.uint8)
        values = [10 * [item.key for item in ITEMS].index(key) for key in batch["key"]]
        assert (batch["images"].float().mean((1, 2, 3)) - torch.tensor(values)).abs().max() <= 1
        assert batch["tokens"][:, :2].tolist() == [[2, 4]] * 2
        assert [meta["status"] for meta in batch["meta"]] == ["ok", "ok"]


def test_a_kind_with_a_tokenizer_can_be_sent_to_other_processes(tokenizer: str) -> None:
    sent = pickle.loads(pickle.dumps(CaptionSamples(tokenizer)))
    assert sent.collate([sample("a", "red milk")])["tokens"].tolist() == [[3, 6]]


def test_a_tokenizer_that_is_nowhere_fails_with_what_was_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*name: str, **options: Any) -> None:
        raise OSError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    monkeypatch.setattr("huggingface_hub.model_info", offline)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError,
        match=r"tokenizer some/cow: there is no folder .*/some/cow, and .* hub: offline\. Give a folder that has",
    ):
        CaptionSamples("some/cow")


def test_a_folder_without_tokenizer_files_fails_though_transformers_would_make_one_up(
    tokenizer: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(
        ConfigError, match=r"has no tokenizer\.json, nor vocab\.json and merges\.txt, .*\. Give a folder"
    ):
        CaptionSamples(str(tmp_path))
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ConfigError, match=r"the tokenizer in .* (has no words|cannot be read)"):
        CaptionSamples(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content"), [("tokenizer.json", "{"), ("tokenizer.json", "[]"), ("tokenizer_config.json", "{")]
)
def test_a_damaged_tokenizer_fails(tmp_path: Path, name: str, content: str) -> None:
    write_tokenizer(tmp_path / "made")
    (tmp_path / "made" / name).write_text(content)
    with pytest.raises(ConfigError, match=r"the tokenizer in .*made (cannot be read|has no words)"):
        CaptionSamples(str(tmp_path / "made"))


def test_numbers_below_one_fail() -> None:
    with pytest.raises(ConfigError, match=r"max_tokens = 0 and size = None must be 1 or more"):
        CaptionSamples(max_tokens=0)
    with pytest.raises(ConfigError, match=r"size = \(0, 5\)"):
        CaptionSamples(size=(0, 5))
