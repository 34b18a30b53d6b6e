from collections.abc import Iterator

import pytest

from support.zygote import Zygote


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """Forks `preprocess` processes; its own start takes seconds."""
    zygote = Zygote()
    yield zygote
    zygote.close()
