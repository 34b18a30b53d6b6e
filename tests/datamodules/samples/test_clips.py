import io
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import webdataset
from numpy.typing import NDArray
from PIL import Image

from datamodules.corpus import Item
from datamodules.errors import ConfigError, RunError
from datamodules.samples import clips
from datamodules.samples.clips import ClipSample, ClipSamples, jpeg, jpeg_frames, mp4_frames, raw_frames
from support.clip_runs import made_clip, picture
from support.fault_injection import in_forker
from support.mp4_files import file_with, movie

PICTURES = [picture(number) for number in range(12)]
SMOOTH = [np.full((32, 48, 3), (20 * k, 255 - 20 * k, 100), np.uint8) for k in range(12)]
STORES = {
    "raw": raw_frames,
    "jpeg": lambda frames: jpeg_frames([jpeg(frame) for frame in frames]),
    "mp4": mp4_frames,
}


def make(key: str = "a", store: str = "raw", pictures: Any = PICTURES, tokens: Any = True, **meta: Any) -> ClipSample:
    ids = np.arange(77, dtype=np.int64) if tokens else None
    return ClipSample(key, STORES[store](pictures), ids, {"text": "Kühe", "size": None, **meta})


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("tokens", [True, False])
def test_what_is_decoded_is_what_was_encoded(store: str, tokens: bool) -> None:
    sample = make(store=store, tokens=tokens)
    files = ClipSamples().encode(sample)
    found = ClipSamples().decode("a", {**files, "extra.txt": b"ignored"})
    assert (found.key, found.meta, found.stored) == ("a", sample.meta, sample.stored)
    assert (found.tokens is None) == (not tokens)
    np.testing.assert_equal(found.tokens, sample.tokens)  # None equals None
    assert ClipSamples().encode(found) == files


def test_raw_frames_come_back_as_they_are() -> None:
    assert sorted(ClipSamples().encode(make())) == ["frames.npy", "json", "tokens.npy"]
    np.testing.assert_array_equal(make().frames, np.stack(PICTURES))
    np.testing.assert_array_equal(np.load(io.BytesIO(make().stored["frames.npy"])), np.stack(PICTURES))


def test_frames_of_any_layout_in_memory_give_the_same_bytes() -> None:
    planar = [np.ascontiguousarray(frame.transpose(2, 0, 1)).transpose(1, 2, 0) for frame in PICTURES]
    assert raw_frames(planar) == raw_frames(PICTURES)


def test_tokens_are_an_npy_file_of_int64() -> None:
    found = np.load(io.BytesIO(ClipSamples().encode(make())["tokens.npy"]))
    assert (found.dtype, found.tolist()) == (np.int64, list(range(77)))


@pytest.mark.parametrize(("store", "tolerance"), [("jpeg", 3), ("mp4", 6)])
def test_lossy_frames_come_back_in_order_nearly_as_they_were(store: str, tolerance: int) -> None:
    found = make(store=store, pictures=SMOOTH).frames
    assert (found.shape, found.dtype) == ((12, 32, 48, 3), np.dtype(np.uint8))
    assert np.abs(found.astype(int) - np.stack(SMOOTH)).max() <= tolerance


@pytest.mark.parametrize("store", STORES)
def test_equal_frames_give_equal_bytes(store: str) -> None:
    assert STORES[store](PICTURES) == STORES[store]([frame.copy() for frame in PICTURES])


def test_jpegs_are_files_in_the_order_of_their_frames_that_any_reader_opens() -> None:
    files = jpeg_frames([jpeg(SMOOTH[k % 12]) for k in range(1001)])
    assert list(files)[:2] + list(files)[-1:] == ["000.jpg", "001.jpg", "1000.jpg"]
    with Image.open(io.BytesIO(files["001.jpg"])) as image:
        assert (image.format, image.size) == ("JPEG", (48, 32))
    found = ClipSample("a", dict(reversed(files.items())), None, {}).frames
    assert [abs(int(frame[0, 0, 0]) - 20 * (k % 12)) <= 3 for k, frame in enumerate(found)] == [True] * 1001


def test_an_mp4_is_h264_without_a_date() -> None:
    with av.open(io.BytesIO(make(store="mp4").stored["mp4"])) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.frames, stream.average_rate) == ("h264", 12, Fraction(8))
        assert "creation_time" not in {**file.metadata, **stream.metadata}


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stock_webdataset_reader_decodes_arrays_and_jpegs(tmp_path: Path) -> None:  # it leaves its files open
    for store in ("raw", "jpeg"):
        with webdataset.TarWriter(str(tmp_path / f"{store}.tar")) as tar:
            tar.write({"__key__": "train/a", **ClipSamples().encode(make(store=store, pictures=SMOOTH))})
    [raw] = list(webdataset.WebDataset(str(tmp_path / "raw.tar"), shardshuffle=False).decode("rgb8"))
    [jpegs] = list(webdataset.WebDataset(str(tmp_path / "jpeg.tar"), shardshuffle=False).decode("rgb8"))
    assert (raw["__key__"], raw["json"]["text"], raw["tokens.npy"].tolist()) == ("train/a", "Kühe", [*range(77)])
    np.testing.assert_array_equal(raw["frames.npy"], np.stack(SMOOTH))
    assert [jpegs[f"{k:03d}.jpg"].shape for k in range(12)] == [(32, 48, 3)] * 12


def test_a_batch_is_stacked_with_channels_before_height_and_last_in_memory() -> None:
    samples = [make("a"), make("b", pictures=PICTURES[::-1])]
    batch = ClipSamples().collate(samples)
    assert (batch["frames"].shape, batch["frames"].dtype) == ((2, 12, 3, 16, 24), torch.uint8)
    for frames, sample in zip(batch["frames"], samples, strict=True):
        np.testing.assert_array_equal(frames.permute(0, 2, 3, 1).numpy(), sample.frames)
        assert frames.is_contiguous(memory_format=torch.channels_last)
    assert (batch["tokens"].shape, batch["tokens"].dtype) == ((2, 77), torch.int64)
    assert (batch["key"], batch["text"]) == (["a", "b"], ["Kühe", "Kühe"])
    assert batch["meta"] == [sample.meta for sample in samples]


def test_a_batch_of_floats_is_between_0_and_1() -> None:
    frames = ClipSamples("float32").collate([make()])["frames"]
    assert frames.dtype == torch.float32
    torch.testing.assert_close(frames, ClipSamples().collate([make()])["frames"].float() / 255)


def test_sizes_are_padded_with_zeros_and_masked() -> None:
    batch = ClipSamples().collate([make(size=[0.5]), make(size=None), make(size=[0.25, 1, 2])])
    assert (batch["sizes"].dtype, batch["sizes"].tolist()) == (torch.float32, [[0.5, 0, 0], [0, 0, 0], [0.25, 1, 2]])
    assert batch["sizes_mask"].tolist() == [[True, False, False], [False] * 3, [True] * 3]


def test_a_batch_without_sizes_texts_or_tokens_has_none() -> None:
    sample = ClipSample("a", raw_frames(PICTURES), None, {})
    batch = ClipSamples().collate([sample, sample])
    assert (batch["sizes"].shape, batch["sizes_mask"].shape) == ((2, 0), (2, 0))
    assert batch["text"] == ["", ""]
    assert "tokens" not in batch


def test_clips_of_two_forms_are_no_batch() -> None:
    with pytest.raises(RunError, match=r"^a has frames \[12, 16, 24, 3\] and tokens, but b has .* and no tokens: they"):
        ClipSamples().collate([make("a"), make("b", tokens=False)])
    with pytest.raises(RunError, match=r"but c has frames \[3, 16, 24, 3\] and tokens: .* Rerun the pipeline"):
        ClipSamples().collate([make("a"), make("b"), make("c", pictures=PICTURES[:3])])


def test_a_dtype_that_is_none_fails() -> None:
    with pytest.raises(ConfigError, match="dtype = 'float16': choose from uint8, float32"):
        ClipSamples("float16")  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", ["frames.npy", "json"])
def test_a_sample_with_a_missing_file_fails(missing: str) -> None:
    files = ClipSamples().encode(make())
    del files[missing]
    with pytest.raises(RunError, match=rf"train/a is no clip sample: .*{missing}.*preprocess verify"):
        ClipSamples().decode("train/a", files)


@pytest.mark.parametrize(("name", "content"), [("json", b"{"), ("tokens.npy", b""), ("tokens.npy", b"PK")])
def test_a_sample_with_a_damaged_file_fails(name: str, content: bytes) -> None:
    with pytest.raises(RunError, match=r"train/a is no clip sample: .*preprocess verify"):
        ClipSamples().decode("train/a", {**ClipSamples().encode(make()), name: content})


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"x" * 200])
def test_damaged_frames_fail_when_they_are_asked_for(store: str, damage: Callable[..., Any]) -> None:
    sample = make(store=store)
    name = next(iter(sample.stored))
    files = {**ClipSamples().encode(sample), name: damage(sample.stored[name])}
    with pytest.raises(RunError, match=r"the frames of train/a are damaged: [^<]+; run `preprocess verify`"):
        ClipSamples().collate([ClipSamples().decode("train/a", files)])


@pytest.mark.parametrize("values", [np.zeros((2, 4, 3), np.uint8), np.zeros((1, 2, 4, 3), np.float32)])
def test_an_array_that_is_no_clip_fails(values: NDArray[np.uint8] | NDArray[np.float32]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, values)
    with pytest.raises(RunError, match=r"the frames of a are damaged: frames.npy is (uint8|float32) \["):
        _ = ClipSample("a", {"frames.npy": buffer.getvalue()}, None, {}).frames


def test_an_mp4_is_opened_in_bounded_memory(tmp_path: Path) -> None:
    in_forker(fails_for_memory_of_its_tables, tmp_path / "a.mp4")


def fails_for_memory_of_its_tables(_: Any) -> None:
    """Run in a process of its own: free memory that a process already holds is not limited."""
    clips._MAX_INDEX_BYTES = 64 << 20  # where it ends, FFmpeg leaves tables out
    sample = ClipSample("a", {"mp4": file_with(movie(2_000_000, num_tracks=4))}, None, {})
    with pytest.raises(RunError, match=r"the frames of a are damaged: it has no frame;"):
        _ = sample.frames


def test_an_mp4_that_repeats_a_packet_fails() -> None:
    content = jpeg(np.zeros((64, 64, 3), np.uint8))
    files = [file_with(movie(count, num_chunks=count, sample_bytes=len(content)), content) for count in (1, 50)]
    assert len(ClipSample("a", {"mp4": files[0]}, None, {}).frames) == 1
    with pytest.raises(RunError, match=r"damaged: mp4: its packets have more bytes than the file, which has [\d,]+;"):
        _ = ClipSample("a", {"mp4": files[1]}, None, {}).frames


def test_half_a_character_becomes_a_question_mark() -> None:
    sample = make()
    sample.meta["title"] = "a dog \ud83d"
    files = ClipSamples().encode(sample)
    assert ClipSamples().decode("a", files).meta["title"] == "a dog ?"


def test_the_json_is_readable_text() -> None:
    assert "Kühe".encode() in ClipSamples().encode(make())["json"]
    assert json.loads(ClipSamples().encode(made_clip(Item("a", "train", "a.mp4")))["json"])["width"] == 640
