"""`benchmarks/gpu.py` on a CPU, in the sizes of a trial: that it runs, resumes, and says what it did not measure."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from preprocess.holistic.models import HOLISTIC, find_models

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
GPU = BENCHMARKS / "gpu.py"
TRIAL = ("--device", "cpu", "--tiny", "--seconds", "0", "--workers", "1")

CASE = "fp32, graph, crops in torch, batch 1"
OTHERS = ("cv2", "scipy", "pyarrow", "mediapipe", "lightning", "rich", "psutil", "platformdirs", "PIL", "transformers")

Import = Callable[[str], Any]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[Import]:
    """Import a module of the benchmarks, whose names are free again afterwards."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield import_module
    for name in {name for name in set(sys.modules) - before if (BENCHMARKS / f"{name}.py").exists()}:
        del sys.modules[name]


def run_gpu(script: Path, *options: object, **environment: str) -> str:
    command = [sys.executable, str(script), *map(str, options)]
    env = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def trial(benchmark: Import) -> Any:
    return benchmark("gpu_part").Setting("cpu", True, None, None, 1, 0.0)


def measured(benchmark: Import, part: str) -> dict[str, Any]:
    measurements = dict(benchmark("gpu").PARTS)[part]
    return {name: measure() for name, measure in benchmark(measurements.module).measurements(trial(benchmark))}


def rows_of(out: Path) -> dict[str, list[Any]]:
    return {row[1]: row for row in json.loads(out.read_text())["rows"]}


def test_with_little_but_torch_what_is_missing_is_measured_and_the_rest_kept(benchmark: Import, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({OTHERS}))\n")
    models = tmp_path / "models"
    models.mkdir()
    for path in find_models(HOLISTIC).values():
        (models / path.name).symlink_to(path)
    out = tmp_path / "gpu.json"
    facts = benchmark("gpu_part").machine_facts(trial(benchmark))
    kept = ["holistic", benchmark("gpu_results").COPY, "measured", [123456.0, "GB", 0.0, 0.0, ""]]
    failed = ["holistic", CASE, "failed", [0.0, "", 0.0, 0.0, "OutOfMemoryError"]]
    out.write_text(json.dumps({"facts": facts, "rows": [kept, failed]}))

    table = run_gpu(
        GPU, *TRIAL, "--parts", "holistic", "--models", models, "--out", out, PYTHONPATH=str(tmp_path)
    )  # fmt: skip
    rows = rows_of(out)
    assert [*rows] == [kept[1], CASE]
    assert rows[kept[1]] == kept
    rate, unit, traffic_mb, _, note = rows[CASE][3]
    assert (unit, note) == ("images", "no reference")
    assert rate > 0
    assert 500 < traffic_mb < 2000
    assert "| 123,456 GB |" in table
    assert table.strip() == out.with_suffix(".md").read_text().strip()


def test_a_measurement_that_fails_ends_no_other(benchmark: Import, tmp_path: Path) -> None:
    gpu, results = benchmark("gpu"), benchmark("gpu_results")
    noted = results.Results(tmp_path / "gpu.json")
    noted.set_facts({"torch": "2"})
    noted.plan("part", ["a", "b", "c"])
    gpu._take({"begun": "a"}, "part", noted)
    noted.put(results.Row("part", "a", "failed", results.Figures(0.0, "", note="CUDA error:\nan | illegal access")))
    assert noted.tried("part") == {"a"}
    assert noted.has_left("part")
    gpu._take({"name": "b", "figures": [50.0, "images"]}, "part", noted)
    gpu._take({"name": "c", "missing": "torchcodec"}, "part", noted)
    assert not noted.has_left("part")
    assert "| part | a | failed |  |  | CUDA error: an \\| illegal access |" in noted.markdown()
    assert "| part | c | skipped |  |  | missing: torchcodec |" in noted.markdown()
    with pytest.raises(SystemExit, match="Name another --out"):
        results.Results(tmp_path / "gpu.json").set_facts({"torch": "3"})


def test_the_table_shows_shares_of_the_limit_and_verdicts(benchmark: Import, tmp_path: Path) -> None:
    results = benchmark("gpu_results")
    noted = results.Results(tmp_path / "gpu.json")
    noted.put(results.Row("holistic", results.COPY, "measured", results.Figures(4300.0, "GB")))
    noted.put(results.Row("holistic", "fp32, graph", "measured", results.Figures(3500.0, "images", 1170.0, 16.04)))
    noted.plan("holistic", ["fp16, graph"])
    table = noted.markdown()
    assert "| holistic | fp32, graph | 3,500 images | 95% of 1,170 MB | 16.0 |  |" in table
    assert "| holistic | fp16, graph | – |  |  | no time was left |" in table
    assert "target ≥ 3,000 images/s fp32 (H200); measured 3,500, PHOENIX-2014-T in 0.08 h: yes" in table
    assert "fp16 (H200)" not in table


def test_a_part_without_its_packages_is_skipped_by_name(
    benchmark: Import, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = benchmark("gpu")
    monkeypatch.setattr(gpu, "find_spec", lambda name: None if name in ("av", "lightning") else True)
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["gpu.py", *TRIAL, "--parts", "end to end", "--out", str(out)])
    gpu.main()
    assert "| end to end |  | skipped |  |  | missing: lightning, av |" in capsys.readouterr().out


def test_traffic_is_that_of_each_operation(benchmark: Import) -> None:
    weight, bias = torch.zeros(8, 4, 1, 1), torch.zeros(8)

    def run(size: int) -> None:
        values = torch.nn.functional.conv2d(torch.zeros(size, 4, 10, 10), weight, bias)
        values.view(size, -1).relu()

    image, result, weights = 4 * 400, 4 * 800, 4 * (32 + 8)
    traffic = benchmark("gpu_traffic").traffic_per_image(run, 16)
    assert traffic.fused == image + result + weights / 16
    # also: the image is written, the bias is added by itself, and relu reads and writes
    assert traffic.eager == image + traffic.fused + 4 * result


def test_wheels_to_carry_are_all_that_torch_does_not_bring(benchmark: Import) -> None:
    wheels = benchmark("gpu_wheels").carried_wheels(["mediapipe"])
    names = {wheel.partition("==")[0] for wheel in wheels}
    assert wheels == sorted(wheels)
    assert {
        "lightning",
        "jsonargparse",
        "docstring-parser",
        "tokenizers",
        "av",
        "pillow",
        "opencv-python-headless",
    } <= names
    assert not names & {"torch", "numpy", "torchvision", "sympy", "mediapipe", "absl-py"}
    assert f"pytest=={pytest.__version__}" in wheels


def test_outcomes_of_tests_are_counted(benchmark: Import) -> None:
    output = """
tests/a/test_a.py::test_one PASSED [ 10%]
tests/a/test_a.py::test_two[x y] FAILED [ 20%]
tests/a/test_a.py::test_three PASSED
=== short test summary info ===
ERROR tests/b/test_b.py - ModuleNotFoundError: No module named 'mediapipe'
FAILED tests/a/test_a.py::test_two[x y] - assert False
"""
    note = "1 failed: test_a.py::test_two[x y]; cannot be imported: test_b.py"
    assert benchmark("gpu_tests").summary(output) == (2, note)


@pytest.mark.reference
@pytest.mark.slow
def test_a_prepared_folder_runs_elsewhere_and_measures_parity(tmp_path: Path) -> None:
    run_gpu(GPU, "--prepare", tmp_path / "carried")
    script, out = tmp_path / "carried" / "benchmarks" / "gpu.py", tmp_path / "gpu.json"
    table = run_gpu(script, *TRIAL, "--parts", "holistic", "openpose", "--out", out)
    assert "0.0 % flips" in rows_of(out)[CASE][3][4], table
    assert {row[2] for row in rows_of(out).values()} == {"measured"}, table


@pytest.mark.slow
@pytest.mark.parametrize("part", ["openpose", "tracking", "captions"])
def test_models_are_measured(part: str, benchmark: Import) -> None:
    figures = measured(benchmark, part)
    assert figures
    assert all(each.rate > 0 for each in figures.values())


@pytest.mark.slow
@pytest.mark.parametrize("part", ["tests", "end to end"])
def test_parts_of_processes_are_measured(part: str, benchmark: Import) -> None:
    figures = measured(benchmark, part)
    assert figures
    assert all(each.rate > 0 for each in figures.values())
