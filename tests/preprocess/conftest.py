from collections.abc import Iterator

import pytest

from support.fork_server import ForkServer


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """Forks `preprocess` processes; its own start takes seconds."""
    fork_server = ForkServer()
    yield fork_server
    fork_server.close()
