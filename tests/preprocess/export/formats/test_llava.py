"""The llava export, as Hugging Face `datasets` loads it and a chat template of transformers renders it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.errors import ConfigError
from preprocess.export.format import export
from preprocess.export.statistics import counts
from support.caption_runs import caption_items, make_caption_run, write_tokenizer

ITEMS = [*caption_items("a.jpg", "sub dir/ü 1.v2.png"), *caption_items("sub dir/c.webp", split="dev")]
# of llava-hf/llava-1.5-7b-hf, for conversations with texts
TEMPLATE = (
    "{% for message in messages %}{{ 'USER' if message['role'] == 'user' else 'ASSISTANT' }}: {{ message['content'] }} "
    "{% endfor %}"
)
PROMPT = "Describe the <b>Kühe</b>."  # of the runs of these tests


def documents(folder: Path, split: str = "train") -> Any:
    return json.loads((folder / f"{split}.json").read_text("utf-8"))


def test_conversations_of_each_split_with_paths_in_the_corpus(tmp_path: Path) -> None:
    run = make_caption_run(tmp_path / "run", ITEMS, failed=("sub%20dir/c",), store_images=False)
    assert export(tmp_path / "run", "llava", tmp_path / "out") == [tmp_path / "out"]
    assert documents(tmp_path / "out") == [
        {
            "id": key, "image": image, "status": "ok",
            "conversations": [
                {"from": "human", "value": f"<image>\n{PROMPT}"},
                {"from": "gpt", "value": f"a cow, <i>{number}</i> & Kühe"},
            ],
        }
        for number, (key, image) in enumerate([("a", "a.jpg"), (ITEMS[1].key, "sub dir/ü 1.v2.png")])
    ]  # fmt: skip
    assert documents(tmp_path / "out", "dev") == []
    statistics = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert statistics == {split: {**counts(run, split), "empty": 0} for split in ("train", "dev")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"train.json", "dev.json", "statistics.json"}


def test_datasets_loads_them_and_a_chat_template_renders_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    import datasets
    from transformers import AutoTokenizer

    make_caption_run(tmp_path / "run", ITEMS)
    export(tmp_path / "run", "llava", tmp_path / "out", prompt="What is it?")
    datasets.disable_progress_bars()
    files = {split: str(tmp_path / "out" / f"{split}.json") for split in ("train", "dev")}
    loaded = datasets.load_dataset("json", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert loaded["train"].column_names == ["id", "image", "conversations", "status"]
    tokenizer = AutoTokenizer.from_pretrained(write_tokenizer(tmp_path / "tokenizer"))
    roles = {"human": "user", "gpt": "assistant"}
    rows = [*loaded["train"], *loaded["dev"]]
    for number, row in enumerate(rows):
        messages = [{"role": roles[turn["from"]], "content": turn["value"]} for turn in row["conversations"]]
        text = tokenizer.apply_chat_template(messages, chat_template=TEMPLATE, tokenize=False)
        assert text == f"USER: <image>\nWhat is it? ASSISTANT: a cow, <i>{number}</i> & Kühe "
        with Image.open(tmp_path / "out" / "images" / row["image"]) as image:
            assert abs(int(np.asarray(image.convert("RGB")).mean().round()) - 10 * number) <= 1
    assert [row["image"] for row in rows] == ["a.jpg", "sub dir/ü 1.v2.png", "sub dir/c.webp"]


def test_a_model_without_prompt_has_the_image_alone(tmp_path: Path) -> None:
    make_caption_run(tmp_path / "run", ITEMS[:1], prompt=None)
    export(tmp_path / "run", "llava", tmp_path / "out")
    assert documents(tmp_path / "out")[0]["conversations"][0] == {"from": "human", "value": "<image>"}


def test_empty_captions_are_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datamodules.samples.captions import CaptionSample, CaptionSamples

    def emptied(self: CaptionSamples, key: str, members: Any) -> CaptionSample:
        sample = decode(self, key, members)
        return CaptionSample(key, "" if key == "a" else sample.caption, sample.meta)

    make_caption_run(tmp_path / "run", ITEMS)
    decode = CaptionSamples.decode
    monkeypatch.setattr(CaptionSamples, "decode", emptied)
    export(tmp_path / "run", "llava", tmp_path / "out")
    assert [row["id"] for row in documents(tmp_path / "out")] == [ITEMS[1].key]
    statistics = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert (statistics["train"]["empty"], statistics["dev"]["empty"]) == (1, 0)


def test_a_text_that_llava_would_take_for_an_image_is_refused(tmp_path: Path) -> None:
    make_caption_run(tmp_path / "run", ITEMS[:1], prompt="Is <image> red?")
    with pytest.raises(ConfigError, match=r"^a has <image> in its caption or prompt, which LLaVA replaces"):
        export(tmp_path / "run", "llava", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export(tmp_path / "run", "llava", tmp_path / "out", prompt="Is it red?")
