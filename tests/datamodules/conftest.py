from collections.abc import Callable

import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "filterwarnings",
        "ignore:The image decoding and encoding capabilities of TorchVision are deprecated:DeprecationWarning",
    )
    config.addinivalue_line("filterwarnings", "ignore:This DataLoader will create:UserWarning")


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Make this process the given rank of as many as given."""

    def be(rank: int, num_ranks: int) -> None:
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda *_: num_ranks)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda *_: rank)

    return be
