"""Items whose files are objects of a store: they are fetched ahead, within limits, and checked by their ETags."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.corpora.images import Images
from datamodules.corpora.pairs import Pairs
from datamodules.corpora.phoenix import Phoenix2014T
from datamodules.corpora.tar_images import TarImages
from datamodules.corpora.videos import Videos
from datamodules.corpus import Corpus
from datamodules.run.folder import Run
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import ShardSize
from support.frame_corpora import consume, write_image, write_video
from support.image_files import image_bytes, write_tar
from support.runs import FINGERPRINT, tars
from support.s3_server import S3Server

pytest.importorskip("obstore")


def write_images(root: Path) -> Corpus:
    for number in range(9):
        write_image(root / "i" / f"{number}.png", number)
    (root / "i" / "broken.png").write_text("no image")
    return Images(str(root))


def write_videos(root: Path) -> Corpus:
    for number in range(3):
        write_video(root / "videos" / f"{number}.mp4", 5 + number)
    (root / "videos" / "broken.mp4").write_text("no video")
    (root / "videos" / "empty.mp4").write_text("")
    return Videos(str(root))


def write_pairs(root: Path) -> Corpus:
    write_video(root / "a.mp4", 30)
    rows = [{"id": str(k), "video": "a.mp4", "text": "x", "from": k / 5, "to": (k + 1) / 5} for k in range(5)]
    rows += [{"id": "gone", "video": "gone.mp4", "text": "x", "from": None, "to": None}]
    (root / "pairs.json").write_text(json.dumps(rows))
    from datamodules.corpora.pairs import Columns

    return Pairs(str(root), f"{root}/pairs.json", Columns(start="from", stop="to"))


def write_phoenix(root: Path) -> Corpus:
    manual = root / "annotations" / "manual"
    manual.mkdir(parents=True)
    rows = [f"{name}|x|-1|-1|Signer01|WEST|im westen" for name in ("a", "b", "c")]
    (manual / "PHOENIX-2014-T.train.corpus.csv").write_text(
        "\n".join(["name|video|start|end|speaker|orth|translation", *rows])
    )
    for name, count in (("a", 5), ("b", 1), ("c", 40)):
        for number in range(count):
            write_image(root / f"features/fullFrame-210x260px/train/{name}/images{number + 1:04d}.png", number)
    return Phoenix2014T(str(root), ["train"])


def write_tars(root: Path) -> Corpus:
    root.mkdir()
    for name, offset in (("a", 0), ("b", 10)):
        write_tar(root / f"{name}.tar", {f"{k + offset}.png": image_bytes(k + offset) for k in range(6)})
    return TarImages(str(root))


CORPORA: dict[str, Callable[[Path], Corpus]] = {
    "images": write_images,
    "videos": write_videos,
    "pairs": write_pairs,
    "phoenix": write_phoenix,
    "tars": write_tars,
}


def moved_to(root: str, corpus: Corpus) -> Corpus:
    """The corpus with another root."""
    moved = object.__new__(type(corpus))
    vars(moved).update(vars(corpus), root=root)
    return moved


def run_over(corpus: Corpus, folder: Path, num_workers: int = 0) -> Run:
    run = open_or_plan(folder, corpus, FINGERPRINT, ShardSize(max_items=4, min_shards=1))
    consume(run, corpus.root, num_workers)  # type: ignore[arg-type]
    return run


def failures_of(run: Run) -> dict[str, tuple[str, str]]:
    """By key, the class and the reason of the failed items."""
    rows = [row for shard in run.plan.shards for row in run.table(shard.name).to_pylist()]
    return {row["key"]: (row["reason_class"], row["reason"]) for row in rows if row["reason"]}


@pytest.mark.parametrize("kind", CORPORA)
def test_a_run_over_a_bucket_gives_the_tars_of_one_over_a_folder(kind: str, tmp_path: Path, s3: S3Server) -> None:
    corpus = CORPORA[kind](tmp_path / "corpus")
    bucket = s3.make_bucket()
    s3.upload(tmp_path / "corpus", bucket, "in/")
    of_folder = run_over(corpus, tmp_path / "folder")
    of_bucket = run_over(moved_to(f"s3://{bucket}/in", corpus), tmp_path / "bucket")
    assert tars(tmp_path / "bucket") == tars(tmp_path / "folder")
    assert len(tars(tmp_path / "bucket")) == len(of_folder.plan.shards)
    assert failures_of(of_bucket) == failures_of(of_folder)


def test_workers_fetch_objects(tmp_path: Path, s3: S3Server) -> None:
    corpus = write_videos(tmp_path / "corpus")
    for number in range(9):
        write_image(tmp_path / "corpus" / f"{number}.png", number)
    bucket = s3.make_bucket()
    s3.upload(tmp_path / "corpus", bucket)
    run_over(corpus, tmp_path / "folder")
    run_over(moved_to(f"s3://{bucket}", corpus), tmp_path / "bucket", num_workers=2)
    assert tars(tmp_path / "bucket") == tars(tmp_path / "folder")
    assert not (tmp_path / "bucket" / "work" / "scratch").exists() or not os.listdir(
        tmp_path / "bucket" / "work" / "scratch"
    )
