"""`preprocess retry` end to end: failed items are tried again with other settings, and no sample occurs twice."""

import re
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from datamodules.run.folder import Run
from datamodules.run.rank import Rank
from datamodules.run.reader import CommittedSamples
from preprocess.cli import main
from preprocess.commands.run import conclude
from preprocess.integrity import coverage, verify
from support.brightness import BrightnessSamples
from support.environment import process_environment
from support.retry_runs import do, make_failing_run, open_retry
from support.runs import finish

KEYS = [f"train/i{number}" for number in range(8)]
POISONED = {"train/i2": 7, "train/i5": 7}
OWN = ["--model", "support.brightness.Brightness", "--data.corpus", "support.brightness.ImageFolders"]


@pytest.fixture
def folder(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of eight images, of which the poisoned and an empty one, i7, failed."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, key in enumerate(KEYS):
        _picture(POISONED.get(key, 100 + number)).save(corpus / f"i{number}.png")
    (corpus / "i7.png").write_bytes(b"")
    config = tmp_path / "brightness.yaml"
    config.write_text(
        "model: {class_path: support.brightness.Brightness, init_args: {poison: 7, batch_size: 1}}\n"
        "data: {num_workers: 0, corpus: {class_path: support.brightness.ImageFolders, init_args: {root: corpus}}}\n"
        "output: {dir: nowhere, shards: {max_items: 3, min_shards: 1}}\n"
        "trainer: {accelerator: cpu}\n"
    )
    monkeypatch.chdir(tmp_path)
    run = ["run", "--config", str(config), "--output.dir", str(tmp_path / "run")]
    assert main(run) == 0
    assert last_line(capfd) == "8 planned = 5 committed + 3 failed + 0 missing"
    return tmp_path / "run"


def _picture(value: int) -> Image.Image:
    return Image.fromarray(np.full((8, 8, 3), value, np.uint8))


def last_line(capfd: pytest.CaptureFixture[str]) -> str:
    """Return the last line of standard error before the summary, which is indented, without the name of the run."""
    lines = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("  ")]
    return lines[-1].partition(": ")[2]


def brightness(folder: Path) -> dict[str, float]:
    decoded = (BrightnessSamples().decode(key, members) for key, members in CommittedSamples(Run(folder)))
    return {sample.key: sample.brightness.tolist()[0] for sample in decoded}


def test_the_processes_of_one_job_work_on_one_retry_however_late_they_start(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    submitted = datetime.now(timezone.utc).isoformat()
    for _ in range(2):
        assert main(["retry", "--output.grace_seconds=100", f"--since={submitted}", str(folder), *OWN]) == 0
        assert last_line(capfd) == "8 planned = 5 committed + 3 failed + 0 missing"
    assert len(Run(folder).retries) == 1
    assert main(["retry", str(folder), *OWN]) == 0
    assert len(Run(folder).retries) == 2
    with pytest.raises(SystemExit, match="2"):
        main(["retry", str(folder), "--since", "yesterday"])
    assert "argument --since: 'yesterday' is not a time such as" in capfd.readouterr().err


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_failed_items_are_committed_with_other_settings_and_read_by_all(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")  # the corpus was given relative to another folder
    config = (folder / "config.yaml").read_bytes()
    assert main(["retry", str(folder), *OWN, "--class", "extract", "--model.poison", "null"]) == 0
    assert last_line(capfd) == "8 planned = 7 committed + 1 failed + 0 missing"
    assert (folder / "config.yaml").read_bytes() == config
    assert brightness(folder) == {
        key: POISONED.get(key, 100 + number) for number, key in enumerate(KEYS) if key != "train/i7"
    }
    assert list(brightness(folder)) == KEYS[:7]
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    dataset = webdataset.WebDataset(urls, shardshuffle=False, nodesplitter=webdataset.split_by_node)
    assert sorted(sample["__key__"] for sample in dataset) == KEYS[:7]  # it leaves its files open
    assert list(verify(Run(folder))) == []
    fingerprint = Run(folder, 1).plan.fingerprint
    assert fingerprint["extractor"]["init_args"]["poison"] is None
    assert fingerprint["retry"] == {"of": Run(folder).fingerprint_digest, "classes": ["extract"], "keys": None}


def test_a_corpus_with_another_root_option_is_read_from_another_folder(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = folder.parent / "brightness.yaml"
    config.write_text(config.read_text().replace("ImageFolders", "Pictures").replace("{root:", "{folder:"))
    other = folder.parent / "other"
    assert main(["run", "--config", str(config), "--output.dir", str(other)]) == 0
    monkeypatch.chdir("/")
    named = ["--model", "support.brightness.Brightness", "--data.corpus", "support.brightness.Pictures"]
    assert main(["retry", str(other), *named, "--class", "extract", "--model.poison", "null"]) == 0
    assert last_line(capfd) == "8 planned = 7 committed + 1 failed + 0 missing"


def test_a_corpus_that_moved_is_read_where_it_is_now(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    moved = (folder.parent / "corpus").rename(folder.parent / "moved")
    assert main(["retry", str(folder), *OWN, "--model.poison", "null", f"--data.root={moved}"]) == 0
    assert last_line(capfd) == "8 planned = 7 committed + 1 failed + 0 missing"
    plan = Run(folder, 1).plan
    assert plan.fingerprint["corpus"] == {
        "class_path": "support.brightness.ImageFolders",
        "init_args": {"split": "train"},
    }
    assert plan.roots == [str(moved)]


def test_a_configuration_may_name_the_same_corpus_again_but_no_other(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = folder.parent / "brightness.yaml"
    command = ["retry", str(folder), "--config", str(config), "--output.dir", str(folder), "--model.poison", "null"]
    text = config.read_text()
    config.write_text(text.replace("{root: corpus}", "{root: corpus, split: dev}"))
    assert main(command) == 2
    assert "cannot change corpus.init_args.split: 'train' there, 'dev' here. Start a new run" in capfd.readouterr().err
    assert Run(folder).retries == []
    config.write_text(text)
    assert main(command) == 0
    assert last_line(capfd) == "8 planned = 7 committed + 1 failed + 0 missing"


def test_a_retry_needs_no_list_and_works_from_another_folder(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = folder.parent / "brightness.yaml"
    config.write_text(
        config.read_text()
        .replace("support.brightness.ImageFolders", "datamodules.corpora.images.Images")
        .replace("{root: corpus}", "{root: corpus, image_list: list.txt}")
    )
    (folder.parent / "list.txt").write_text("i1.png\ni2.png\n")
    other = folder.parent / "other"
    assert main(["run", "--config", str(config), "--output.dir", str(other)]) == 0
    (folder.parent / "list.txt").unlink()
    monkeypatch.chdir("/")
    assert main(["retry", str(other), "--model", "support.brightness.Brightness", "--model.poison", "null"]) == 0
    assert last_line(capfd) == "2 planned = 2 committed + 0 failed + 0 missing"
    assert Run(other, 1).plan.fingerprint["corpus"] == Run(other).plan.fingerprint["corpus"]


def test_a_file_that_was_fixed_is_committed_by_a_second_retry(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["retry", str(folder), *OWN, "--model.poison", "null"]
    assert main(command) == 0
    assert last_line(capfd) == "8 planned = 7 committed + 1 failed + 0 missing"
    _picture(107).save(folder.parent / "corpus" / "i7.png")
    assert main(command) == 0
    assert last_line(capfd) == "8 planned = 8 committed + 0 failed + 0 missing"
    assert brightness(folder)["train/i7"] == 107
    assert [retry.plan.num_items for retry in Run(folder).retries] == [3, 1]
    assert main(command) == 0
    assert last_line(capfd) == "nothing to retry"


def test_the_items_of_a_list_are_tried_again_whether_they_failed_or_are_samples(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flagged = folder.parent / "flagged.txt"
    flagged.write_text("train/i3\n\ntrain/i5\n")
    _picture(33).save(folder.parent / "corpus" / "i3.png")
    _picture(44).save(folder.parent / "corpus" / "i4.png")
    before = brightness(folder)
    command = ["retry", str(folder), *OWN, "--keys", str(flagged), "--model.poison", "null"]
    assert main(command) == 0
    assert last_line(capfd) == "8 planned = 6 committed + 2 failed + 0 missing"
    assert brightness(folder) == before | {"train/i3": 33, "train/i5": 7}
    assert list(verify(Run(folder))) == []
    assert main([*command, "--class", "decode"]) == 0
    assert last_line(capfd) == "nothing to retry"


def test_a_list_with_unknown_keys_plans_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flagged = folder.parent / "flagged.txt"
    flagged.write_text("train/i3\ntrain/i33\n")
    assert main(["retry", str(folder), *OWN, "--keys", str(flagged)]) == 2
    error = capfd.readouterr().err
    assert f"{flagged} names a key that is not in {folder}: 'train/i33'. The nearest key is 'train/i3'" in error
    assert error.count("\n") == 1
    assert Run(folder).retries == []


def test_a_retry_that_died_is_finished_by_the_same_command_and_others_are_refused(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["retry", str(folder), *OWN, "--model.poison", "null", "--output.shards.max_items", "1"]
    monkeypatch.setattr("support.brightness.Brightness.assemble", _die_at("train/i5"))
    with pytest.raises(RuntimeError, match="died"):
        main(command)
    monkeypatch.undo()
    assert {shard.name for shard in Run(folder, 1).plan.shards} - Run(folder, 1).committed() == {
        "train-retry001-000001",
        "train-retry001-000002",
    }
    capfd.readouterr()
    assert main(command[:6]) == 2
    assert "unfinished retry, retry 1, with other settings" in capfd.readouterr().err
    assert main(command) == 0
    assert last_line(capfd) == "8 planned = 7 committed + 1 failed + 0 missing"
    assert list(verify(Run(folder))) == []


def _die_at(key: str) -> Callable[..., object]:
    from support.brightness import Brightness

    assemble = Brightness.assemble

    def assemble_or_die(extractor: Brightness, item: object, results: object, end: object) -> object:
        if item.key == key:  # type: ignore[attr-defined]
            raise RuntimeError("died")
        return assemble(extractor, item, results, end)  # type: ignore[arg-type]

    return assemble_or_die


@pytest.mark.slow
def test_two_ranks_of_torchrun_retry_as_one(folder: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "preprocess"]
    environment = process_environment(PYTHONWARNINGS="")
    command = [*launcher, "retry", str(folder), *OWN, "--model.poison", "null", "--output.shards.max_items", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "8 planned = 7 committed + 1 failed + 0 missing" in done.stderr
    assert [retry.retry for retry in Run(folder).retries] == [1]  # though i7 failed again
    assert list(verify(Run(folder))) == []
    assert coverage(Run(folder)).committed == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--class", "crash"], "--class crash: no item of"),
        (["--model.poisonn", "1"], "poisonn"),
        (["--output.shards.max_items", "0"], "shard size max_items = 0"),
        (["--data.split", "dev"], "--data.split cannot change in a retry, which takes its items from the plan"),
        (["--data.corpus.init_args.split=dev"], "--data.split cannot change in a retry"),
        (["--data.corpus", "support.brightness.Pictures"], "--data.corpus cannot change in a retry"),
    ],
)
def test_wrong_options_fail_in_one_line_and_plan_nothing(
    folder: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["retry", str(folder), *OWN, *arguments]) == 2
    error = capfd.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert Run(folder).retries == []


def test_a_folder_without_a_configuration_fails(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["retry", str(make_failing_run(tmp_path))]) == 2
    assert "has no config.yaml to retry with" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("corpus", "named", "message"),
    [
        ({"class_path": "evil_corpus.Evil"}, "datamodules.corpora.images.Images", "add --data.corpus evil_corpus.Evil"),
        ({"class_path": "datamodules.corpora.images.Path"}, None, "images.Path, which is not a concrete subclass"),
        (
            {"class_path": "datamodules.corpora.images.Nothing"},
            None,
            "names the class .*images.Nothing, which cannot be imported",
        ),
        ({"class_path": "datamodules.corpora.os;x"}, None, "'datamodules.corpora.os;x', which is not of the form"),
        ({}, None, "names the class '', which is not of the form"),
        (
            {"class_path": "datamodules.corpora.images.Images", "init_args": {"items": 3}},
            None,
            "gives the corpus .*images.Images the argument 'items', which it does not have",
        ),
        ({"class_path": "datamodules.corpora.images.Images", "init_args": {"_list": 3}}, None, "the argument '_list'"),
    ],
)
def test_a_corpus_that_the_plan_names_is_imported_only_if_it_can_be_trusted(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    corpus: dict[str, object],
    named: str | None,
    message: str,
) -> None:
    (tmp_path / "evil_corpus.py").write_text("class Evil: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    folder = make_failing_run(tmp_path / "run", ["train/a-bad-always"], corpus=corpus)
    (folder / "config.yaml").write_text("model: {class_path: support.brightness.Brightness}\n")
    assert main(["retry", str(folder), *(["--data.corpus", named] if named else [])]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert re.search(message, line)
    assert "evil_corpus" not in sys.modules


def test_a_retry_with_classes_of_the_user_says_which_options_to_add(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["retry", str(folder), "--model.poison", "null"]
    for _ in range(2):
        assert main(command) == 2
        command += capfd.readouterr().err.rpartition("If you trust it, add ")[2].split()
    assert set(command[4:]) == set(OWN)
    assert main(command) == 0
    assert last_line(capfd) == "8 planned = 7 committed + 1 failed + 0 missing"


def test_ending_a_run_leaves_a_retry_in_the_making_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = make_failing_run(tmp_path / "run")
    with Rank(open_retry(folder)) as rank:
        opened = rank.lease()
        assert opened is not None
        finish(rank, opened, rows=[1])
        spooled = list((folder / "work" / "spool").iterdir())
        assert conclude(Run(folder), partial=False) == 0
        assert conclude(Run(folder, 1), partial=False) == 1
        assert list((folder / "work" / "spool").iterdir()) == spooled
    do(Run(folder, 1))
    assert conclude(Run(folder, 1), partial=False) == 0
    assert last_line(capfd) == "9 planned = 6 committed + 3 failed + 0 missing"
