"""The Job of Kubernetes in `configs`: its command is one that `preprocess` parses, and its fields fit it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from preprocess.job.pipeline_cli import PipelineCLI, parse_pipeline

ROOT = Path(__file__).parents[1]


@pytest.fixture
def job() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "configs" / "kubernetes" / "job.yaml").read_text())
    assert (loaded["apiVersion"], loaded["kind"]) == ("batch/v1", "Job")
    spec: dict[str, Any] = loaded["spec"]
    return spec


@pytest.fixture
def pod(job: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = job["template"]["spec"]
    return spec


@pytest.fixture
def rank(pod: dict[str, Any]) -> dict[str, Any]:
    [container] = pod["containers"]
    assert container["name"] == "rank"
    return dict(container)


@pytest.fixture
def parsed(rank: dict[str, Any]) -> PipelineCLI:
    words: list[str] = [*rank["command"], *rank["args"]]
    assert words[:2] == ["preprocess", "run"]
    return parse_pipeline(words[2:])


def test_every_pod_is_replaced_by_itself_until_it_succeeds(job: dict[str, Any], pod: dict[str, Any]) -> None:
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"] > 1
    assert job["backoffLimitPerIndex"] >= 3  # attempts at an item that crashes its rank
    assert pod["restartPolicy"] == "Never"


@pytest.mark.parametrize(
    ("exit_status", "is_disrupted", "action"),
    [
        (137, True, "Ignore"),  # killed, as its machine was taken back
        (143, False, "Ignore"),
        (1, False, "Count"),
        (3, False, "Count"),  # disk full, credentials expired
        (137, False, "Count"),  # out of memory
        (139, False, "Count"),
        (2, False, "FailJob"),
        (4, False, "FailJob"),
    ],
)
def test_a_pod_starts_again_unless_all_would_fail(
    job: dict[str, Any], exit_status: int, is_disrupted: bool, action: str
) -> None:
    for rule in job["podFailurePolicy"]["rules"]:
        if "onExitCodes" in rule:
            codes = rule["onExitCodes"]
            assert (codes["containerName"], codes["operator"]) == ("rank", "In")
            matches = exit_status in codes["values"]
        else:
            assert rule["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
            matches = is_disrupted
        if matches:
            assert rule["action"] == action
            return
    assert action == "Count"


def test_the_command_runs_a_pipeline_from_bucket_to_bucket(parsed: PipelineCLI, rank: dict[str, Any]) -> None:
    assert parsed.data.corpus is not None
    assert parsed.data.corpus.root == "s3://my-bucket/signs"
    assert parsed.output.dir == "s3://my-bucket/keypoints"
    assert str(parsed.data.num_workers) == rank["resources"]["requests"]["cpu"]


def test_the_grace_time_and_the_volumes_are_those_of_the_command(
    parsed: PipelineCLI, pod: dict[str, Any], rank: dict[str, Any]
) -> None:
    assert pod["terminationGracePeriodSeconds"] > parsed.output.grace_seconds
    paths = {mount["name"]: mount["mountPath"] for mount in rank["volumeMounts"]}
    assert paths == {"scratch": parsed.output.scratch, "shm": "/dev/shm"}
    volumes = {volume["name"]: volume["emptyDir"] for volume in pod["volumes"]}
    assert set(volumes) == set(paths)
    assert volumes["shm"]["medium"] == "Memory"
    assert volumes["scratch"].get("medium", "") == ""
