import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "filterwarnings",
        "ignore:The image decoding and encoding capabilities of TorchVision are deprecated:DeprecationWarning",
    )
    config.addinivalue_line("filterwarnings", "ignore:This DataLoader will create:UserWarning")
