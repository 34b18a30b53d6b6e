"""What `benchmarks/keypoints.py` compares, and how it tells which is faster."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_without_mediapipe_its_contenders_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import keypoint_contenders

    for installed, expected in ((None, {"preprocess", "limit"}), (object(), {"script", "tracking", "mediapipe"})):
        monkeypatch.setattr(keypoint_contenders, "find_spec", lambda name, spec=installed: spec)
        assert expected <= keypoint_contenders.contenders().keys()
        assert ("script" in keypoint_contenders.contenders()) == (installed is not None)


def test_speeds_are_ratios_of_cpu_times_of_neighbouring_turns(capsys: pytest.CaptureFixture[str]) -> None:
    from keypoints import Turn, print_turns

    print_turns(
        {
            "script": [Turn(30, 60, 100, 90), Turn(30, 75, 100, 90)],
            "preprocess": [Turn(40, 50, 200, 120), Turn(40, 50, 200, 120)],
            "limit": [Turn(41, 45, 0, 0), Turn(41, 45, 0, 0)],
        }
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:4]] == [
        ["script", "30.0", "67.5", "100.0", "90.0"],
        ["preprocess", "40.0", "50.0", "200.0", "120.0"],
        ["limit", "41.0", "45.0", "–", "–"],
    ]
    assert lines[4].startswith("preprocess to script: 1.350 (1.200–1.500) x by CPU, whole 0.500 (0.500–0.500) x")
    assert lines[5].endswith("measured 1.350 (1.200–1.500) x: yes")
    assert lines[6].endswith("measured 0.900 (0.900–0.900) x: NO")
