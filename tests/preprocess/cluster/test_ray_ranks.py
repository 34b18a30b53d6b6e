"""How many ranks fit a Ray cluster, and where in the plan they begin."""

import pytest

from preprocess.cluster.ray_ranks import Resources, position


@pytest.mark.parametrize(
    ("cpus", "gpus", "node", "fitting"),
    [
        (8, 0, {"CPU": 32.0, "GPU": 4.0}, 4),
        (8, 1, {"CPU": 32.0, "GPU": 3.0}, 3),
        (8, 1, {"CPU": 32.0}, 0),
        (8, 0, {"CPU": 7.0}, 0),
        (8, 0, {"memory": 1e9}, 0),
        (1, 0.1, {"CPU": 64.0, "GPU": 1.0}, 10),  # 1 // 0.1 is 9
        (1, 0.3, {"CPU": 64.0, "GPU": 1.0}, 3),
    ],
)
def test_as_many_ranks_fit_a_node_as_its_cpus_and_gpus_allow(
    cpus: int, gpus: float, node: dict[str, float], fitting: int
) -> None:
    assert Resources(cpus, gpus).num_fitting(node) == fitting


def test_ranks_begin_far_apart_however_many_there_are() -> None:
    assert [position(number) for number in range(8)] == [0, 1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8]
