"""Hugging Face `datasets` loads every kind of run by its dataset card, also if the first samples are awkward."""

import io
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from datamodules import features_of
from datamodules.card import CARD, is_stale, write_card
from datamodules.corpus import Item
from datamodules.errors import RunError
from datamodules.run.folder import Run
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import ShardSize
from datamodules.run.rank import Rank
from datamodules.run.reader import CommittedSamples
from datamodules.run.result import Result
from datamodules.samples.captions import CaptionSamples
from datamodules.samples.clips import ClipSamples
from datamodules.samples.keypoints import KeypointSamples
from datamodules.samples.pose import PoseSamples
from datamodules.samples.tracks import TrackSamples
from preprocess.commands.merge import merge
from preprocess.integrity import verify
from support.caption_runs import caption_items, made_caption
from support.clip_runs import ClipItems, made_clip
from support.keypoint_runs import MadeItems, made_sample
from support.pose_runs import made_pose
from support.run_paths import folder_of, record_path
from support.runs import Listed
from support.track_runs import made_sample as made_tracks

ENTITIES = [{"text": "a cow", "begin": 0, "end": 5, "boxes": [[0.0, 0.25, 0.5, 1.0]]}]


def make_run(folder: Path, kind: Any, samples: Iterable[tuple[Item, Any]], **arguments: Any) -> Run:
    """A run in shards of two of these samples, each of its item; an item fails if its sample is None."""
    made = {item.key: sample for item, sample in samples}
    class_path = f"{type(kind).__module__}.{type(kind).__name__}"
    made_by = {"samples": {"class_path": class_path}, "extractor": {"init_args": arguments}}
    run = open_or_plan(folder, Listed([item for item, _ in samples]), made_by, ShardSize(max_items=2, min_shards=1))
    with Rank(run) as rank:
        while opened := rank.lease():
            for row, item in enumerate(opened.items):
                sample = made[item.key]
                failed: dict[str, Any] = {"reason": "it is empty", "reason_class": "decode"} if sample is None else {}
                members = {} if sample is None else kind.encode(sample)
                rank.add(opened.shard.number, Result(row, num_frames=1, **failed), members)
    write_card(run)
    return run


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`datasets.load_dataset`, offline, with a cache of its own."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    import datasets

    datasets.disable_progress_bars()
    return lambda *names, **options: datasets.load_dataset(*names, cache_dir=str(tmp_path / "cache"), **options)


def require_equal(loaded: Any, run: Run) -> None:
    """Raise unless the rows of all splits of `loaded` are the committed samples, field by field, in type and value."""
    rows = {row["__key__"]: row for split in loaded.values() for row in split}
    samples = dict(CommittedSamples(run))
    assert rows.keys() == samples.keys()
    for key, files in samples.items():
        for column, value in rows[key].items():
            if column not in files:
                assert value is None or column.startswith("__")
            elif column.endswith("npy"):
                array = np.load(io.BytesIO(files[column]))
                np.testing.assert_array_equal(np.asarray(value, array.dtype).reshape(array.shape), array)
            elif isinstance(value, Image.Image):
                np.testing.assert_array_equal(np.asarray(value), np.asarray(Image.open(io.BytesIO(files[column]))))
            elif column == "json":
                assert json.dumps(value, sort_keys=True) == json.dumps(json.loads(files[column]), sort_keys=True)
            else:
                assert value == (files[column].decode() if column == "txt" else files[column])
        assert not files.keys() - rows[key].keys()


def keypoints(folder: Path) -> Run:
    """Images first, whose `fps` is null, then videos, whose `frames` are empty; two runs that were merged."""
    kind, parts = KeypointSamples(), []
    for split, videos in (("train", False), ("dev", True)):
        items = list(MadeItems({split: 6}, videos=videos).items())
        parts.append(folder_of(make_run(folder / split, kind, [(item, made_sample(item)) for item in items])))
    return merge(parts, folder / "all")


def clips(folder: Path) -> Run:
    """`size` null or missing; whole seconds first."""
    items = list(ClipItems({"train": 7, "all": 1}).items())
    samples = [made_clip(item) for item in items]
    for sample in samples[:6]:
        sample.meta |= {"size": None, "duration": 6}
    samples[6].meta |= {"size": [0.5, 1], "duration": 6.5}
    return make_run(folder, ClipSamples(), list(zip(items, samples, strict=True)))


def captions(folder: Path) -> Run:
    """Empty captions without entities first; images as they were, of three formats."""
    items = caption_items(*(f"{number}.jpg" for number in range(6)), "6.PNG", "7.webp")
    kinds = [{"status": "empty", "entities": []}] * 6 + [{"status": "truncated", "entities": ENTITIES}] * 2
    samples = [made_caption(item, number, **kind) for number, (item, kind) in enumerate(zip(items, kinds, strict=True))]
    return make_run(folder, CaptionSamples(), list(zip(items, samples, strict=True)), store_images="original")


def poses(folder: Path) -> Run:
    """Six images without people, then one with two."""
    items = caption_items(*(f"{number}.jpg" for number in range(7)))
    people = [0] * 6 + [2]
    samples = [(item, made_pose(item, count, resize="square")) for item, count in zip(items, people, strict=True)]
    return make_run(folder, PoseSamples(), samples, store_images="jpg")


def tracks(folder: Path) -> Run:
    """Six videos without objects, then one with an object."""
    info: dict[str, Any] = {
        "width": 8,
        "height": 6,
        "fps": 25.0,
        "num_frames": 1,
        "duration": 0.04,
        "pixel_aspect_ratio": 1.0,
    }
    info |= {"num_skipped_frames": 0, "num_frames_from_header": 1}
    info |= {"duration_seconds_from_header": 0.04, "average_fps_from_header": None}
    mask: Any = {"size": [6, 8], "counts": "04"}
    found: Any = {"obj_id": 1, "label": "car", "score": 0.5, "bbox": [0, 0, 2, 3], "mask": mask}
    samples = []
    for number in range(7):
        item = Item(str(number), "train", f"{number}.mp4")
        meta = {"path": item.path, "prompt": "car.", "video_info": info, "num_objects": int(number == 6)}
        lines: Any = [{"frame_idx": 0, "timestamp": 0.0, "objects": [found] if number == 6 else []}]
        samples.append((item, made_tracks(item.key, lines, meta)))
    return make_run(folder, TrackSamples(), samples)


@pytest.mark.parametrize("make", [keypoints, clips, captions, poses, tracks])
def test_every_kind_of_run_loads_by_its_card_whatever_its_first_samples(
    make: Callable[[Path], Run], tmp_path: Path, load: Callable[..., Any]
) -> None:
    run = make(tmp_path / "run")
    loaded = load(str(folder_of(run)))
    require_equal(loaded, run)
    require_equal(load(str(folder_of(run)), streaming=True), run)
    assert next(iter(loaded.values())).features == features_of(run)
    assert not list(verify(run))


def test_features_of_a_run_are_enough_for_the_stock_webdataset_builder(
    tmp_path: Path, load: Callable[..., Any]
) -> None:
    run = poses(tmp_path / "run")
    tars = sorted(map(str, folder_of(run).glob("*.tar")))
    require_equal(load("webdataset", data_files=tars, features=features_of(folder_of(run))), run)


def test_splits_without_samples_and_tars_out_of_sight_are_not_loaded(tmp_path: Path, load: Callable[..., Any]) -> None:
    items = caption_items("a.jpg", "b.jpg") + caption_items("c.jpg", split="test")
    samples = [(item, made_caption(item) if item.key != "c" else None) for item in items]
    run = make_run(tmp_path / "run", CaptionSamples(), samples)
    for name in ("superseded", "stray", "work"):
        (folder_of(run) / name).mkdir(exist_ok=True)
        (folder_of(run) / name / "train-000009.tar").write_bytes((folder_of(run) / "train-000000.tar").read_bytes())
    assert {split: rows["__key__"] for split, rows in load(str(folder_of(run))).items()} == {"train": ["a", "b"]}


def test_every_field_of_the_corpus_has_a_column_of_its_type(tmp_path: Path) -> None:
    metas: list[dict[str, Any]] = [
        {"image": "0.jpg", "price": 5},
        {"image": "1.jpg", "price": 0.5, "tags": ["a"]},
        {"image": "2.jpg", "x": {}},
    ]
    items = [Item(str(number), "train", "", (f"{number}.jpg",), meta=meta) for number, meta in enumerate(metas)]
    run = make_run(tmp_path / "run", CaptionSamples(), [(item, made_caption(item)) for item in items])
    types = features_of(run)["json"]
    expected = {"price": "float64", "x": "string", "num_tokens": "int32"}
    assert {name: types[name].dtype for name in expected} == expected
    assert types["tags"].feature.dtype == "string"
    assert "| x | string |  | of the corpus, as JSON text |" in (folder_of(run) / CARD).read_text()


@pytest.mark.parametrize(
    ("one", "other", "types"),
    [
        (5, "5", ("int64", "string")),
        (2**53 + 1, 0.5, ("int64", "float64")),
        ([0.5], [2**53 + 1], ("list<float64>", "list<int64>")),
    ],
)
def test_runs_whose_corpus_fields_have_no_common_type_cannot_be_merged(
    tmp_path: Path, one: Any, other: Any, types: tuple[str, str]
) -> None:
    folders = []
    for name, value in (("a", one), ("b", other)):
        item = Item(name, "train", "", (f"{name}.jpg",), meta={"image": f"{name}.jpg", "price": value})
        folders.append(folder_of(make_run(tmp_path / name, CaptionSamples(), [(item, made_caption(item))])))
    with pytest.raises(RunError, match=rf"field 'price' is {types[1]} in .*b, and {types[0]} in the runs before it: "):
        merge(folders, tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_a_card_that_a_user_has_changed_is_kept_and_a_stale_one_is_reported(tmp_path: Path) -> None:
    run = poses(tmp_path / "run")
    card = folder_of(run) / CARD
    written = card.read_text()
    card.write_text(written.replace("split: train", "split: test"))
    assert [problem.is_stale_card for problem in verify(run)] == [True]
    write_card(run)
    assert card.read_text() == written
    card.write_text("# Mine\n")
    write_card(run)
    assert card.read_text() == "# Mine\n"
    assert not list(verify(run))


def test_a_rank_that_is_slow_leaves_no_card_of_fewer_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [(item, made_caption(item)) for item in caption_items("a.jpg", "b.jpg", "c.jpg")]
    run = make_run(tmp_path / "run", CaptionSamples(), samples)
    record, elsewhere = record_path(run, run.plan.shards[-1].name), tmp_path / "record.json"
    record.rename(elsewhere)
    num_written = 0

    def write_late(name: str, content: bytes) -> None:
        nonlocal num_written
        num_written += 1
        if elsewhere.exists():  # another rank commits its shard after the text was made
            elsewhere.rename(record)
        replace_file(name, content)

    replace_file = run.store.replace
    monkeypatch.setattr(run.store, "replace", write_late)
    write_card(run)
    assert not is_stale(run)
    assert num_written == 2


def test_a_new_run_in_the_same_folder_is_not_read_from_the_cache(tmp_path: Path, load: Any) -> None:
    item, sample = next(iter(caption_items("a.jpg"))), made_caption
    for text in ("a cow", "a dog"):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        make_run(tmp_path / "run", CaptionSamples(), [(item, replace(sample(item), caption=text))])
        assert load(str(tmp_path / "run"))["train"]["txt"][:] == [text]


def test_a_kind_without_declared_fields_has_no_card(tmp_path: Path) -> None:
    class Undeclared:
        def encode(self, sample: Any) -> dict[str, bytes]:
            return {"json": b"{}"}

    run = make_run(tmp_path / "run", Undeclared(), [(item, item) for item in caption_items("a.jpg")])
    assert not (folder_of(run) / CARD).exists()
    with pytest.raises(RunError, match=r"the fields of the samples in .* are unknown\. If the class"):
        features_of(run)


def test_the_class_that_a_plan_names_is_not_imported_for_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_samples.py").write_text(
        "from datamodules.samples.captions import CaptionSamples\nclass OwnSamples(CaptionSamples): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own_kind = import_module("own_samples").OwnSamples()
    run = make_run(tmp_path / "run", own_kind, [(item, made_caption(item)) for item in caption_items("a.jpg")])
    card = (folder_of(run) / CARD).read_text()
    assert "| caption | string |" in card
    monkeypatch.delitem(sys.modules, "own_samples")
    assert list(verify(run)) == []
    write_card(run)
    with pytest.raises(RunError, match="If the class of the samples is your own, import it first"):
        features_of(run)
    assert (folder_of(run) / CARD).read_text() == card
    assert "own_samples" not in sys.modules


class Altered(KeypointSamples):
    """Keypoints of which one file is another, or missing."""

    def __init__(self, ending: str, content: bytes | None) -> None:
        self.ending, self.content = ending, content

    def encode(self, sample: Any) -> dict[str, bytes]:
        others = {ending: file for ending, file in super().encode(sample).items() if ending != self.ending}
        return others if self.content is None else {**others, self.ending: self.content}


@pytest.mark.parametrize(
    ("ending", "content", "problem"),
    [
        ("json", b"{", r"a\.json is damaged: Expecting"),
        ("json", b"[" * 100_000, r"a\.json is damaged: it is nested too deeply"),
        ("json", b"[1]", r"a\.json is damaged: its json is not an object"),
        ("json", None, r"the sample a has no json"),
        ("keypoints.npy", b"PK", r"a\.keypoints\.npy is damaged: "),
        ("keypoints.npy", b"\x93NUMPY\x01\x00\x06\x00{'a':", r"a\.keypoints\.npy is damaged: "),
    ],
)
def test_a_first_sample_that_is_damaged_fails_in_one_line(
    tmp_path: Path, ending: str, content: bytes | None, problem: str
) -> None:
    item = Item("a", "train", "a", ("0.png",), cost=1)
    with pytest.raises(RunError, match=rf"^[^\n]*{problem}[^\n]*; run `preprocess verify`$"):
        make_run(tmp_path, Altered(ending, content), [(item, made_sample(item))])


def test_a_card_explains_each_field(tmp_path: Path) -> None:
    text = (folder_of(poses(tmp_path / "run")) / CARD).read_text()
    assert yaml.safe_load(text.split("---\n")[1])["configs"][0]["data_files"] == [
        {"split": "train", "path": "train-*.tar"}
    ]
    assert "| original_width | int32 | px | of the image, upright as its EXIF says |" in text


def test_names_of_fields_stay_names_in_the_card(tmp_path: Path) -> None:
    names = ["a|b`<script>", "[x](http://y)", "www.x.y", "a\n---\n|c|\r", "\u202e\x1b\x85\u2028", "k: [v", "num_frames"]
    items = [replace(item, meta={**item.meta, **dict.fromkeys(names, 1)}) for item in caption_items("a.png")]
    run = make_run(tmp_path, CaptionSamples(), [(item, made_caption(item, **item.meta)) for item in items])
    text = (tmp_path / CARD).read_text("utf-8")
    front, body = text.removeprefix("---\n").split("\n---\n")
    columns = {column["name"]: column for column in yaml.safe_load(front)["dataset_info"]["features"]}
    assert {field["name"] for field in columns["json"]["struct"]} >= set(names)
    assert all(line.isprintable() for line in text.split("\n"))
    rows = [line for line in body.split("\n") if "of the corpus" in line]
    assert [row.count("|") for row in rows] == [5] * len(names)
    for shown in ("&#91;x&#93;(http&#58;//y)", "num_frames"):
        assert any(row.startswith(f"| {shown} | int64 |") for row in rows)
    assert not re.search(r"[`<\[\\\r]|://|www\.", "".join(rows))
    assert not is_stale(run)
