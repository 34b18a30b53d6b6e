"""The sample kind of a run: which classes are imported, and which are refused."""

import sys
from pathlib import Path

import pytest

from datamodules.errors import ConfigError, RunError
from datamodules.run.folder import Run
from datamodules.run.kind import import_kind, kind_of
from datamodules.samples.keypoints import KeypointSamples
from support.keypoint_runs import MadeItems, make_run

CORPUS = MadeItems({"train": 1})
OWN = "from datamodules.samples.keypoints import KeypointSamples\nclass Own(KeypointSamples): pass\nclass Other: pass\n"


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_kind.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_kind", raising=False)
    return "own_kind"


def run_of(folder: Path, class_path: str) -> Run:
    return make_run(folder, CORPUS, fingerprint={"samples": {"class_path": class_path}})


def test_a_kind_of_framemill_is_that_of_the_plan(tmp_path: Path) -> None:
    assert type(kind_of(make_run(tmp_path / "run", CORPUS))) is KeypointSamples


def test_a_kind_from_elsewhere_is_not_imported_until_it_is_named(tmp_path: Path, own_module: str) -> None:
    run = run_of(tmp_path / "run", "own_kind.Own")

    with pytest.raises(ConfigError, match=r"holds samples of own_kind\.Own.* add --kind own_kind\.Own"):
        kind_of(run)
    assert own_module not in sys.modules

    import_kind("own_kind.Own")
    assert type(kind_of(run)).__name__ == "Own"


@pytest.mark.parametrize(
    ("class_path", "reason"),
    [
        ("datamodules.samples.keypoints.Missing", "no attribute 'Missing'"),
        ("datamodules.samples.missing.Kind", "no attribute 'missing'"),
        ("datamodules.samples.keypoints.PARTS", "not a subclass of datamodules.samples.SampleKind"),
        ("os.system", "not a subclass of datamodules.samples.SampleKind"),
        ("os.path.<locals>.Kind", "invalid format"),
    ],
)
def test_a_class_that_is_not_a_sample_kind_is_refused(tmp_path: Path, class_path: str, reason: str) -> None:
    with pytest.raises(RunError, match=reason):
        kind_of(run_of(tmp_path / "run", class_path))


@pytest.mark.parametrize("class_path", ["own_kind.Missing", "own_kind.Other", "no_such_module.Kind", "own_kind"])
def test_a_named_class_that_cannot_be_used_is_an_error(own_module: str, class_path: str) -> None:
    with pytest.raises(ConfigError, match=f"^--kind {class_path} cannot be used: "):
        import_kind(class_path)
