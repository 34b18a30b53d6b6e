"""The clips pipeline, whole: videos and their texts in, samples and training batches out."""

import html
import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import ftfy
import numpy as np
import pytest
import regex
import torch
from transformers import CLIPTokenizer

from datamodules import FramesDataModule
from datamodules.corpus import Item
from datamodules.errors import ConfigError, ExtractError
from datamodules.loading.request import FrameRequest
from datamodules.media.decoding import Decoding
from datamodules.media.sampling import Uniform
from datamodules.media.video import read_frames
from datamodules.run.failures import failures
from datamodules.run.folder import Run
from datamodules.run.reader import CommittedSamples
from datamodules.samples.clips import ClipSample, ClipSamples
from preprocess.cli import main
from preprocess.frame_transforms import JpegTransform
from preprocess.integrity import verify
from preprocess.pipelines.clips import Clips, ClipTokenizer
from support.clip_runs import MERGES, ClipItems, make_clip_run, saved_tokenizer, write_corpus, write_tokenizer
from support.fork_server import ForkServer
from support.runs import tars
from support.undeclared_fields import undeclared_fields
from support.video_files import Kind, numbers, write

ROOT = Path(__file__).parents[3]
LONG = "milk the cow " * 40
TEXTS = {"a": "Milk the  COW!", "b é": LONG, "c": "Kühe"}
EVENLY = np.linspace(0, 39, 16).astype(int).tolist()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("clips") / "corpus", TEXTS)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer")


def run(corpus: Path, folder: Path, *options: str, num_workers: int = 0) -> int:
    config = ["--config", str(ROOT / "configs" / "clips.yaml"), "--data.num_workers", str(num_workers)]
    data = ["--data.pairs", str(corpus / "train_pairs.json"), "--data.clips_dir", str(corpus / "clips")]
    return main(["run", *config, *data, "--output.dir", str(folder), *options])


@pytest.fixture(scope="module")
def shards(corpus: Path, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the configuration that users start, with workers."""
    folder = tmp_path_factory.mktemp("run") / "run"
    assert run(corpus, folder, "--model.tokenizer", str(tokenizer), num_workers=2) == 0
    return folder


def samples(folder: Path) -> list[ClipSample]:
    return [ClipSamples().decode(*files) for files in CommittedSamples(Run(folder))]


def test_each_pair_becomes_a_sample_of_16_evenly_spaced_rgb_frames(shards: Path, corpus: Path) -> None:
    found = samples(shards)
    assert [sample.key for sample in found] == ["a", "b%20é", "c"]
    for sample, name in zip(found, TEXTS, strict=True):
        expected = read_frames(corpus / "clips" / f"{name}.mp4", Uniform(16), (160, 256)).frames
        assert (sample.frames.shape, sample.frames.dtype) == ((16, 160, 256, 3), np.dtype(np.uint8))
        np.testing.assert_array_equal(sample.frames, expected.permute(0, 2, 3, 1).numpy())
        assert numbers(list(sample.frames)) == EVENLY


def test_the_json_describes_the_pair_and_the_video(shards: Path) -> None:
    assert not undeclared_fields(shards)
    first = samples(shards)[0].meta
    assert first.pop("pts_seconds") == pytest.approx([0.04 * number for number in EVENLY])
    assert first == {
        "vid": "a", "text": "Milk the  COW!", "begin_time": 1.0, "end_time": 2.6, "duration": 1.6, "size": [],
        "path": "a.mp4", "width": 128, "height": 96, "pixel_aspect_ratio": 1.0, "fps": 25.0, "num_frames": 40,
        "num_skipped_frames": 0, "codec": "h264", "backends": ["pyav"], "num_tokens": 8, "truncated": False,
    }  # fmt: skip


def test_tokens_are_those_of_transformers_padded_with_0(shards: Path, tokenizer: Path) -> None:
    peer = CLIPTokenizer.from_pretrained(tokenizer)
    for sample, text in zip(samples(shards), TEXTS.values(), strict=True):
        ids = peer(text, truncation=True, max_length=77)["input_ids"]
        assert sample.tokens is not None
        assert (sample.tokens.dtype, sample.tokens.tolist()) == (np.dtype(np.int64), ids + [0] * (77 - len(ids)))
        assert sample.meta["text"] == text
    assert [s.meta["truncated"] for s in samples(shards)] == [False, True, False]
    assert samples(shards)[1].meta["num_tokens"] == len(peer.tokenize(LONG)) + 2


def test_ranks_without_workers_give_the_same_bytes(corpus: Path, tokenizer: Path, shards: Path, tmp_path: Path) -> None:
    assert run(corpus, tmp_path / "run", "--model.tokenizer", str(tokenizer)) == 0
    tars = [[path.read_bytes() for path in sorted(folder.glob("*.tar"))] for folder in (shards, tmp_path / "run")]
    assert tars[0] == tars[1]


@pytest.mark.parametrize(("store", "names"), [("jpeg", [f"{k:03d}.jpg" for k in range(16)]), ("mp4", ["mp4"])])
def test_frames_are_stored_as_asked(corpus: Path, shards: Path, tmp_path: Path, store: str, names: list[str]) -> None:
    options = ["--model.store", store, "--model.tokenizer", "null"]
    assert run(corpus, tmp_path / "run", *options) == 0
    for sample, raw in zip(samples(tmp_path / "run"), samples(shards), strict=True):
        assert (sorted(sample.stored), sample.tokens) == (names, None)
        assert numbers(list(sample.frames)) == EVENLY
        assert np.abs(sample.frames.astype(int) - raw.frames).mean() < 4
        assert "num_tokens" not in sample.meta
        assert sample.meta["text"] == raw.meta["text"]


def test_an_empty_text_fails_its_pair_alone(tokenizer: Path, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", {"a": "cow", "b": " \n", "c": None, "d": "milk"}, num_frames=16)
    assert run(corpus, tmp_path / "run", "--model.tokenizer", str(tokenizer)) == 0
    assert {
        failure.item.path: (failure.reason, failure.reason_class) for failure in failures(Run(tmp_path / "run"))
    } == {
        "b.mp4": ("its text is empty", "extract"),
        "c.mp4": ("its text is empty", "extract"),
    }


@pytest.mark.parametrize(
    ("short", "expected"),
    [("repeat", [k * 9 // 15 for k in range(16)]), ("pad", [*range(10), *[9] * 6]), ("fail", None)],
)
def test_short_videos_fail_or_are_filled_as_asked(tmp_path: Path, short: str, expected: list[int] | None) -> None:
    corpus = write_corpus(tmp_path / "corpus", {"a": "cow"}, num_frames=10)
    options = ["--model.tokenizer", "null", "--model.short", short, "--max-failures", "100%"]
    assert run(corpus, tmp_path / "run", *options) == 0
    if expected is None:
        (failure,) = failures(Run(tmp_path / "run"))
        assert failure.reason == "a.mp4: it has 10 frames, and 16 are requested"
    else:
        (sample,) = samples(tmp_path / "run")
        assert numbers(list(sample.frames)) == expected
        assert sample.meta["pts_seconds"] == pytest.approx([0.04 * number for number in expected])


def test_videos_without_texts_become_clips_whose_fields_have_one_type(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    write(tmp_path / "videos" / "a", Kind(), 20)
    rows = [{"key": "a", "rate": 5, "note": 7}, {"key": "b", "rate": 0.5, "note": "7", "tags": ["x"]}]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps({"video": "a.mp4", **row}) + "\n" for row in rows))
    corpus = ["--data.corpus", "datamodules.corpora.videos.Videos", "--data.root", str(tmp_path / "videos")]
    corpus += ["--data.video_list", str(tmp_path / "list.jsonl")]
    model = ["--model", "preprocess.pipelines.clips.Clips", "--model.tokenizer", "null", "--model.num_frames", "5"]
    rest = ["--data.num_workers", "0", "--output.dir", str(tmp_path / "run"), "--trainer.accelerator", "cpu"]
    assert main(["run", *model, *corpus, *rest]) == 0
    sample, other = samples(tmp_path / "run")
    fields = [repr([each.meta[name] for name in ("rate", "note", "tags")]) for each in (sample, other)]
    assert fields == ["[5.0, '7', None]", "[0.5, '\"7\"', ['x']]"]
    assert (sample.frames.shape, sample.tokens, "text" in sample.meta) == ((5, 160, 256, 3), None, False)
    assert numbers(list(sample.frames)) == [0, 4, 9, 14, 19]


def test_a_missing_tokenizer_stops_a_run_before_it_starts(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(corpus, tmp_path / "run", "--model.tokenizer", str(tmp_path / "nowhere")) == 2
    folder = tmp_path / "nowhere"
    assert f"there is no folder {folder}, and {folder} cannot be loaded from the" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_content_of_the_tokenizer_belongs_to_the_fingerprint_but_not_its_path(
    corpus: Path, tokenizer: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = write_tokenizer(tmp_path / "same")
    assert run(corpus, shards, "--model.tokenizer", str(same)) == 0
    merges = (same / "merges.txt").read_text()
    (same / "merges.txt").write_text(merges.replace("c o\nco w</w>", "o w</w>\nc ow</w>"))
    words = json.loads((same / "vocab.json").read_text())
    words["ow</w>"] = words.pop("co")
    (same / "vocab.json").write_text(json.dumps(words))
    assert run(corpus, shards, "--model.tokenizer", str(same)) == 2
    assert "holds a run with other settings" in capsys.readouterr().err


def test_a_tokenizer_is_read_from_the_cache_of_the_hub(tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cached(name: str, local_files_only: bool, **options: Any) -> str:
        assert local_files_only
        return str(tokenizer)

    monkeypatch.setattr("huggingface_hub.snapshot_download", cached)
    assert ClipTokenizer("some/clip").sha256 == ClipTokenizer(str(tokenizer)).sha256


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("vocab.json", None, r"has no tokenizer\.json, nor vocab\.json and merges\.txt\. Give a folder with CLIP"),
        ("merges.txt", None, "has no tokenizer.json, nor vocab.json and merges.txt"),
        ("vocab.json", "{", "is damaged: Expecting property name"),
        ("vocab.json", '{"<|startoftext|>": 0, "<|endoftext|>": 1}', "is not CLIP's, or cut off: 2 words, 5 merges"),
        ("merges.txt", "#version: 0.2\nc o\nco w</w>\n", "is not CLIP's, or cut off: 519 words, 2 merges"),
        ("merges.txt", "#version: 0.2\nc\n", "is damaged"),
        ("tokenizer.json", "{}", "is damaged: 'model'"),
    ],
)
def test_tokens_are_never_made_up(tmp_path: Path, file: str, content: str | None, message: str) -> None:
    folder = write_tokenizer(tmp_path / "tokenizer")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    with pytest.raises(ConfigError, match=message):
        ClipTokenizer(str(folder))


NASTY = [
    "It&#39;s the cow&amp;#39;s milk", "“Curly” ‘quotes’ don’t", "schÃ¶ne cow", "&lt;|endoftext|&gt; milk",
    "<|endoftext|> cow", "cow <|STARTOFTEXT|><|endoftext|>milk", "ΟΔΟΣ", "J\u030c \u01f0 İstanbul",
    "cow\u00a0\u2003milk\x1c x", "ﬁne ½ ²",
    "🚗 cow👨‍👩‍👧", "I'LL don'T 'S we’ve", "汽车 milk", "a\u200bb", "100%%$$ 3.14", "\ufeffcow", "CoW\r\n\tmilk",
    "&amp;amp;lt;3", "<b>milk</b> &eacute;", "\x1b[36mcow", "Ｍｉｌｋ",
]  # fmt: skip


_MARKS = r"<\|startoftext\|>|<\|endoftext\|>"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def of_openai(text: str, folder: Path) -> list[int]:
    """Tokenize as OpenAI's `simple_tokenizer.py`, except that its two special tokens are split like other text."""
    vocabulary = json.loads((folder / "vocab.json").read_text())
    ranks = {merge: rank for rank, merge in enumerate(tuple(merge.split()) for merge in MERGES)}
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + place) for place, byte in enumerate(others)}
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    text = re.sub(r"\s+", " ", text).strip().lower()
    parts = regex.findall(f"{_MARKS}|{_WORDS}", text, regex.IGNORECASE)
    ids = []
    for token in (word for part in parts for word in regex.findall(_WORDS, part, regex.IGNORECASE)):
        word = [letters[byte] for byte in token.encode()]
        word[-1] += "</w>"
        while known := [(ranks[pair], place) for place, pair in enumerate(pairwise(word)) if pair in ranks]:
            place = min(known)[1]
            word[place : place + 2] = ["".join(word[place : place + 2])]
        ids += [vocabulary[part] for part in word]
    return ids


@pytest.mark.parametrize("text", NASTY)
def test_cleaned_texts_have_the_tokens_of_openai(text: str, tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path / "tokenizer")
    tokens, count = ClipTokenizer(str(folder), "openai")(text)
    assert tokens[:count].tolist() == [517, *of_openai(text, folder), 518]


@pytest.mark.parametrize("text_cleaning", ["none", "openai"])
@pytest.mark.parametrize("text", ["<|endoftext|>", "cow <|startoftext|> milk", "<|ENDOFTEXT|>cow", "a<|endoftext|>b"])
def test_special_tokens_within_a_text_are_text(text: str, text_cleaning: Any, tokenizer: Path) -> None:
    tokens, count = ClipTokenizer(str(tokenizer), text_cleaning)(text)
    assert tokens[0] == 517
    assert tokens[count - 1] == 518
    assert max(tokens[1 : count - 1]) < 517
    assert count > len("endoftext")


def test_cleaning_changes_the_fingerprint(tokenizer: Path) -> None:
    plain, clean = (Clips(tokenizer=str(tokenizer), text_cleaning=name) for name in ("none", "openai"))
    assert plain.provenance()["tokenizer"] != clean.provenance()["tokenizer"]
    assert clean.provenance()["ftfy"] == version("ftfy")
    assert "ftfy" not in plain.provenance()
    item = Item("a", "train", "a.mp4", meta={"text": "&nbsp;"})
    plain.validate(item)
    with pytest.raises(ExtractError, match="its text is empty after cleaning"):
        clean.validate(item)


def test_exactly_77_tokens_are_not_truncated(tokenizer: Path) -> None:
    tokens = ClipTokenizer(str(tokenizer))
    for num_words in (75, 76):
        ids, count = tokens("cow " * num_words)
        assert (ids.tolist(), count) == ([517, *[513] * 75, 518], num_words + 2)


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (Item("a", "train", "a.mp4"), r"its corpus gives no text\. Set --model\.tokenizer null"),
        (Item("a", "train", "a.mp4", meta={"text": " \n"}), "its text is empty"),
        (
            Item("a", "train", "a.mp4", meta={"text": "cow \ud83d"}),
            "its text has a lone surrogate",
        ),
        (Item("a", "train", "a", ("0.png",), meta={"text": "cow"}), "a is not a video, which clips need"),
        (
            Item("a", "train", "a.mp4", meta={"text": "cow", "width": 3}),
            "corpus field 'width' collides with a field",
        ),
        (
            Item("a", "train", "a.mp4", meta={"text": "cow", "begin_time": "00:12"}),
            "'begin_time' is '00:12', where a number",
        ),
        (
            Item("a", "train", "a.mp4", meta={"text": "cow", "size": 0.5}),
            r"'size' is 0\.5, where a list is needed",
        ),
        (
            Item("a", "train", "a.mp4", meta={"text": "cow", "size": ["a"]}),
            r"'size' is \['a'\], where a number is",
        ),
    ],
)
def test_items_without_text_or_video_are_refused(item: Item, reason: str, tokenizer: Path) -> None:
    with pytest.raises(ExtractError, match=reason):
        Clips(tokenizer=str(tokenizer)).validate(item)


def test_without_a_tokenizer_a_video_needs_no_text() -> None:
    Clips(tokenizer=None).validate(Item("a", "train", "a.mp4"))
    with pytest.raises(ExtractError, match="its text is empty"):
        Clips(tokenizer=None).validate(Item("a", "train", "a.mp4", meta={"text": ""}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 0}, r"num_frames = 0, .* must be 1 or more"),
        ({"width": 0}, "width = 0 must be 1 or more"),
        ({"store": "mp4", "width": 255}, "width = 255 must be even for store = 'mp4'"),
        ({"short": "cut"}, "short = 'cut'"),
    ],
)
def test_options_out_of_range_fail(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Clips(**{"tokenizer": None, **options})


def test_the_options_decide_which_frames_are_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Clips(num_frames=8, height=32, width=48, short="pad", tokenizer=None).frames
    assert wanted == FrameRequest(8, None, Uniform(8, "pad"), (32, 48), Decoding())
    assert Clips(tokenizer=None, store="jpeg").frames.transform is JpegTransform
    by_gpu = Clips(tokenizer=None, decode="cuda")
    assert (by_gpu.frames.decoding.backend, by_gpu.frames.decoding.device) == ("torchcodec", "cuda")
    monkeypatch.setattr("preprocess.pipelines.clips.version", lambda name: f"that of {name}")  # it may not be there
    assert by_gpu.provenance() == {"tokenizer": "none", "torchcodec": "that of torchcodec"}


def test_frames_are_views_into_the_batch() -> None:
    frames = torch.arange(2 * 4 * 6 * 3, dtype=torch.uint8).reshape(2, 4, 6, 3).permute(0, 3, 1, 2)
    results = Clips(tokenizer=None).extract({"rows": [0, 0], "frames": frames})  # type: ignore[typeddict-item]
    assert [result.flags.c_contiguous for result in results] == [True, True]
    assert results[1].ctypes.data == frames[1].data_ptr()


def test_a_training_batch_has_frames_tokens_texts_and_sizes(shards: Path) -> None:
    data = FramesDataModule(shards=shards, samples=ClipSamples(), batch_size=3, num_workers=0)
    (batch,) = list(data.train_dataloader())
    assert (batch["frames"].shape, batch["frames"].dtype) == ((3, 16, 3, 160, 256), torch.uint8)
    assert batch["tokens"].shape == (3, 77)
    assert sorted(batch["text"]) == sorted(TEXTS.values())
    assert batch["sizes_mask"].sum(1).tolist() == [list(TEXTS.values()).index(text) for text in batch["text"]]


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("num_frames", "8", "extractor.init_args.num_frames: 16 there, 8 here"),
        ("width", "64", "extractor.init_args.width: 256 there, 64 here"),
        ("store", "jpeg", "extractor.init_args.store: 'raw' there, 'jpeg' here"),
        ("tokenizer", "null", "' there, 'none' here"),
    ],
)
def test_a_retry_keeps_the_form_of_the_clips(
    option: str,
    value: str,
    told: str,
    corpus: Path,
    tokenizer: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "clips").symlink_to(corpus / "clips")
    pairs = [{"vid": name, "clip_path": f"{name}.mp4", "transcript": "cow"} for name in ("a", "gone")]
    (tmp_path / "train_pairs.json").write_text(json.dumps(pairs))
    assert run(tmp_path, tmp_path / "run", "--model.tokenizer", str(tokenizer), "--max-failures", "1") == 0
    assert main(["retry", str(tmp_path / "run"), f"--model.{option}", value]) == 2
    assert told in capsys.readouterr().err
    assert Run(tmp_path / "run").retries == []
    assert main(["retry", str(tmp_path / "run"), "--model.short", "pad"]) == 0


@pytest.mark.parametrize(("in_bucket", "num_workers"), [(False, 0), pytest.param(True, 1, marks=pytest.mark.slow)])
def test_two_ranks_train_contrastively_on_committed_clips(
    tmp_path: Path, request: pytest.FixtureRequest, in_bucket: bool, num_workers: int
) -> None:
    make_clip_run(tmp_path / "run", ClipItems({"train": 8}))
    shards = str(tmp_path / "run")
    if in_bucket:
        server = request.getfixturevalue("s3")
        bucket = server.make_bucket()
        server.upload(tmp_path / "run", bucket, "run/")
        shards = f"s3://{bucket}/run"
    script = Path(__file__).parents[2] / "support/contrastive_training.py"
    done = subprocess.run(
        [sys.executable, str(script), shards, str(tmp_path), str(num_workers)],
        capture_output=True,
        text=True,
        timeout=170,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    for epoch in range(20):
        assert sorted(first["keys"][epoch] + second["keys"][epoch]) == [f"train/v{number}" for number in range(8)]
    assert first["keys"][0] != first["keys"][1]
    assert first["weights"] == second["weights"]
    for rank in (first, second):
        assert np.mean(rank["losses"][-5:]) < 0.9 * rank["losses"][0]


def test_two_ranks_of_which_one_is_killed_end_with_the_shards_of_an_undisturbed_run(
    corpus: Path, tmp_path: Path, fork_server: ForkServer
) -> None:
    pairs = [
        {"vid": f"{name}{copy}", "clip_path": f"{name}.mp4", "transcript": text}
        for copy in range(8)
        for name, text in TEXTS.items()
    ]
    (tmp_path / "train_pairs.json").write_text(json.dumps(pairs))
    (tmp_path / "clips").symlink_to(corpus / "clips")
    options = ["--model.tokenizer", "null"]
    assert run(tmp_path, tmp_path / "undisturbed", *options) == 0

    config = ["--config", str(ROOT / "configs" / "clips.yaml"), "--data.num_workers", "0", *options]
    data = ["--data.pairs", str(tmp_path / "train_pairs.json"), "--data.clips_dir", str(tmp_path / "clips")]
    command = ["run", *config, *data, "--output.dir", str(tmp_path / "run")]
    fork_server.run_two_and_kill_one(command, tmp_path / "run", num_shards=4)
    assert tars(tmp_path / "run") == tars(tmp_path / "undisturbed")
    assert list(verify(Run(tmp_path / "run"))) == []
