"""The example of a corpus: sentences of long videos become clips, without any file of Framemill being edited."""

from pathlib import Path

import pytest

from datamodules.run.failures import failures
from datamodules.run.folder import Run
from datamodules.run.reader import CommittedSamples
from datamodules.samples.clips import ClipSamples
from examples.extending.how2sign import COLUMNS, How2Sign
from preprocess.cli import main
from support.video_files import KINDS, number_in, write

SENTENCES = [
    ("long", "long_0", "0.4", "0.8", "Hello."),
    ("long", "long_1", "1.2", "2.0", 'He said: "Hi."'),
    ("long", "long_2", "2.0", "1.0", "Ends before it begins."),
    ("gone", "gone_0", "0.0", "1.0", "Its video is missing."),
]


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    write(tmp_path / "long", KINDS["b-frames"], 60)  # frame k is shown at 0.04 k seconds
    table = tmp_path / "train.tsv"
    table.write_text("".join("\t".join(row) + "\n" for row in (COLUMNS, *SENTENCES)))
    return ["--data.root", str(tmp_path), "--data.sentences", str(table)]


def test_each_sentence_becomes_the_frames_of_its_part_of_the_video(options: list[str], tmp_path: Path) -> None:
    clips = ["--model", "preprocess.pipelines.clips.Clips", "--model.tokenizer", "null", "--model.num_frames", "2"]
    corpus = ["--data.corpus", "examples.extending.how2sign.How2Sign", *options, "--data.num_workers", "0"]
    size = ["--model.height", "96", "--model.width", "128"]
    output = ["--output.dir", str(tmp_path / "run"), "--max-failures", "100%", "--trainer.accelerator", "cpu"]
    assert main(["run", *clips, *size, *corpus, *output]) == 0

    run = Run(tmp_path / "run")
    samples = [ClipSamples().decode(key, files) for key, files in CommittedSamples(run, "train")]
    frames = {sample.key: [number_in(frame) for frame in sample.frames] for sample in samples}
    assert frames == {"long_0": [10, 19], "long_1": [30, 49]}
    assert [sample.meta["text"] for sample in samples] == ["Hello.", 'He said: "Hi."']
    reasons = {failure.item.key: failure.reason for failure in failures(run)}
    assert reasons == {
        "long_2": f"{tmp_path}/train.tsv, line 4: the sentence goes from 2.0 s to 1.0 s",
        "gone_0": "gone.mp4 is missing",
    }


def test_another_list_is_another_run(tmp_path: Path, options: list[str]) -> None:
    first = How2Sign(str(tmp_path), options[-1])
    moved = Path(options[-1]).rename(tmp_path / "moved.tsv")
    assert How2Sign(str(tmp_path), str(moved)).sentences_sha256 == first.sentences_sha256
    moved.write_text(moved.read_text() + "long\tlong_3\t0\t1\tMore.\n")
    assert How2Sign(str(tmp_path), str(moved)).sentences_sha256 != first.sentences_sha256
