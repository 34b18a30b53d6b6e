"""The installed tokenizer of CLIP, without a network: its tokens are those of transformers, OpenAI and open_clip."""

import json
import warnings
from importlib.metadata import distribution
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import CLIPTokenizer

from datamodules.errors import ConfigError
from preprocess import clip_vocabulary
from preprocess.clip_vocabulary import read_vocabulary
from preprocess.pipelines.clips import Clips, ClipTokenizer

with warnings.catch_warnings():  # of timm and torch, while they are imported
    warnings.simplefilter("ignore")
    from open_clip import tokenizer as open_clip

PARTS = [
    "", " ", "\t\n", "a photo of a cat", "A PHOTO OF A CAT.", "It's they'll I'd don't WE'VE 'tis",
    "It&#39;s the cow&amp;#39;s milk", "&lt;b&gt;milk&lt;/b&gt; &eacute; &nbsp; &amp;amp;lt;3",
    "<b>bold</b> <br/>", "“Curly” ‘quotes’ don’t – — …", "schÃ¶ne cow", "naïve café", "nai\u0308ve cafe\u0301",
    "ΟΔΟΣ Σίσυφος", "J\u030c ǰ İstanbul ı I", "STRASSE straße ẞ", "ﬁne ﬂour ½ ² ③ Ⅷ", "Ｍｉｌｋ\u3000ｆｕｌｌ",
    "汽车 在 路上。牛奶！", "日本語のテキスト、カタカナ", "한국어 텍스트 각", "Привет, мир! Ёлка",
    "مرحبا بالعالم ١٢٣", "שלום עולם", "हिन्दी में पाठ क्षि", "ภาษาไทยไม่มีช่องว่าง", "Tiếng Việt đầy đủ dấu",
    "🚗🚗 cow👨‍👩‍👧 🏳️‍🌈 👍🏽",
    "☃ ❤️ ♥ ✈︎ ™ © ®", "a\u200bb\u200cc\u200dd\ufeff", "\u202eabc\u202c \u2066x\u2069",
    "cow\xa0\u2003milk\u3000x\x1c y\x85z", "\x00\x01\x1b[36mcow\x7f", "CoW\r\n\tmilk\x0b\x0c.",
    "100%%$$ 3.14 1,000,000 1e-5 0x1F", "C++ C# .NET node.js foo_bar__baz", "https://example.org/a?b=c&d=e#f",
    "user@example.org", "!!!???...---___***", "(([[{{<<>>}}]]))", "\\n \\u0041 \\",
    "#hashtag @mention $5 €7 £3", "a" * 100, "ab " * 30, "supercalifragilisticexpialidocious",
    "z\u0335\u0321\u0317a\u0300\u0301\u0302\u0303l\u0334g\u0338o", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝕄𝕒𝕥𝕙 𝟙𝟚",
    "🧿\U000e0041 \ue000 \U0010ffff", "don't&apos;t 's 're 've 'm 'll 'd 'S 'RE",
    "<|start|> <|end of text|> <| |>", "«guillemets» „tief“ ‹a›",
]  # fmt: skip
TEXTS = [
    *PARTS,
    *(f"{a} {b}" for a, b in pairwise(PARTS)),
    *(f"{part}," * 40 for part in PARTS),
    *map(str.upper, PARTS),
]


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    """The tokenizer of transformers, from files with the vocabulary as open_clip reads it."""
    folder, read = tmp_path_factory.mktemp("clip"), open_clip.SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    (folder / "vocab.json").write_text(
        json.dumps({names.get(word, word): number for word, number in read.encoder.items()})
    )
    merges = sorted(read.bpe_ranks, key=read.bpe_ranks.__getitem__)
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n")
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder)
    return tokenizer


def test_the_installed_tokens_are_those_of_transformers_for_200_difficult_texts(peer: CLIPTokenizer) -> None:
    assert len(TEXTS) >= 200
    tokenizer, lengths = ClipTokenizer(), []
    for text in TEXTS:
        ids = peer(text, truncation=True, max_length=77)["input_ids"]
        tokens, length = tokenizer(text)
        assert tokens.tolist() == ids + [0] * (77 - len(ids)), repr(text)
        assert length == len(peer(text)["input_ids"])
        lengths.append(length)
    assert min(lengths) == 2
    assert sum(length > 77 for length in lengths) > 20


def test_cleaned_texts_have_the_tokens_of_open_clip() -> None:
    tokenizer = ClipTokenizer(text_cleaning="openai")
    expected = open_clip.tokenize(TEXTS, 77).numpy()
    np.testing.assert_array_equal(np.stack([tokenizer(text)[0] for text in TEXTS]), expected)


def test_known_ids_of_openai() -> None:
    tokens, length = ClipTokenizer()("a photo of a cat")
    assert tokens[:length].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]


def test_the_installed_tokenizer_is_the_default_and_has_the_sha256_of_its_files(peer: Any, tmp_path: Path) -> None:
    peer.save_pretrained(tmp_path)
    sha256 = Clips().provenance()["tokenizer"]
    assert sha256 == ClipTokenizer("clip").sha256 == ClipTokenizer(str(tmp_path)).sha256


@pytest.mark.parametrize("content", [None, b"another"])
def test_another_file_in_the_package_is_refused(
    content: bytes | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "bpe.gz"
    if content:
        file.write_bytes(content)
    assert distribution("open_clip_torch").locate_file(file) == file
    monkeypatch.setattr(clip_vocabulary, "_FILE", str(file))
    with pytest.raises(ConfigError, match=r"of the package open_clip_torch is missing, or is not CLIP's\. Run `pip"):
        read_vocabulary("clip")
