import json

import numpy as np
import pytest
import torch

from datamodules.errors import RunError
from datamodules.samples.keypoints import KeypointSample, KeypointSamples


def make(key: str = "a", frames: int = 3, points: int = 143) -> KeypointSample:
    chance = np.random.default_rng(frames)
    return KeypointSample(
        key,
        chance.random((frames, points, 3), np.float32),
        chance.integers(0, 2, (frames, 4), np.uint8),
        chance.random((frames, 33), np.float32),
        {"layout": points, "width": 210, "height": 260, "fps": None, "glosses": "ÜBER", "frames": ["1.png"]},
    )


@pytest.mark.parametrize("frames", [0, 1, 7])
def test_what_is_decoded_is_what_was_encoded(frames: int) -> None:
    sample = make(frames=frames)
    files = KeypointSamples().encode(sample)
    assert sorted(files) == ["json", "keypoints.npy", "presence.npy", "visibility.npy"]
    found = KeypointSamples().decode("a", {**files, "extra.txt": b"ignored"})
    assert (found.key, found.meta) == ("a", sample.meta)
    for name in ("keypoints", "presence", "visibility"):
        there, here = getattr(found, name), getattr(sample, name)
        assert there.dtype == here.dtype
        np.testing.assert_array_equal(there, here)


def test_equal_samples_give_equal_bytes_whatever_their_layout_in_memory() -> None:
    sample, other = make(), make()
    other.meta = dict(reversed(other.meta.items()))
    other.keypoints = np.asfortranarray(other.keypoints)
    assert KeypointSamples().encode(sample) == KeypointSamples().encode(other)


def test_a_batch_is_padded_with_zeros_and_masked() -> None:
    samples = [make("a", 2), make("b", 5), make("c", 1)]
    batch = KeypointSamples().collate(samples)
    assert batch["key"] == ["a", "b", "c"]
    assert batch["meta"] == [sample.meta for sample in samples]
    assert batch["lengths"].tolist() == [2, 5, 1]
    assert batch["lengths"].dtype == torch.int64
    assert batch["mask"].dtype == torch.bool
    assert batch["mask"].tolist() == [[True] * n + [False] * (5 - n) for n in (2, 5, 1)]
    shapes = {"keypoints": (3, 5, 143, 3), "presence": (3, 5, 4), "visibility": (3, 5, 33)}
    for name, shape in shapes.items():
        assert tuple(batch[name].shape) == shape
        for row, sample in zip(batch[name], samples, strict=True):
            values = getattr(sample, name)
            np.testing.assert_array_equal(row[: len(values)].numpy(), values)
            assert not row[len(values) :].any()
        assert batch[name].numpy().dtype == getattr(samples[0], name).dtype


def test_samples_of_two_layouts_are_no_batch() -> None:
    with pytest.raises(RunError, match=r"^a has 143 keypoints, but b has 75 keypoints: they were made"):
        KeypointSamples().collate([make("a"), make("b", points=75)])


@pytest.mark.parametrize("name", ["keypoints.npy", "presence.npy", "visibility.npy", "json"])
@pytest.mark.parametrize("content", [None, b"", b"text", b"\x93NUMPY\x01", b"PK\x03\x04 zip"])
def test_a_sample_with_a_missing_or_damaged_file_fails(name: str, content: bytes | None) -> None:
    files = KeypointSamples().encode(make())
    if content is None:
        del files[name]
    else:
        files[name] = content
    with pytest.raises(RunError, match=r"train/a is no keypoint sample: .*preprocess verify"):
        KeypointSamples().decode("train/a", files)


def test_a_pickle_is_refused() -> None:
    files = KeypointSamples().encode(make())
    import io

    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(RunError, match="is no keypoint sample"):
        KeypointSamples().decode("a", {**files, "keypoints.npy": buffer.getvalue()})


def test_half_a_character_becomes_a_question_mark() -> None:
    sample = make()
    sample.meta["title"] = "a dog \ud83d"
    files = KeypointSamples().encode(sample)
    assert KeypointSamples().decode("a", files).meta["title"] == "a dog ?"


def test_the_json_is_readable_text() -> None:
    assert json.loads(KeypointSamples().encode(make())["json"])["glosses"] == "ÜBER"
    assert "ÜBER".encode() in KeypointSamples().encode(make())["json"]
