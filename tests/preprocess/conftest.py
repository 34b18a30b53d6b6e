from collections.abc import Iterator
from typing import Any

import pytest

from support.fork_server import ForkServer


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """Forks `preprocess` processes; its own start takes seconds."""
    fork_server = ForkServer()
    yield fork_server
    fork_server.close()


@pytest.fixture
def offline_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hugging Face hub cannot be reached: `no network for NAME`."""

    def offline(name: str, **options: Any) -> None:
        raise FileNotFoundError(f"no network for {name}")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    monkeypatch.setattr("huggingface_hub.model_info", offline)
