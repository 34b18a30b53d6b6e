def pytest_configure(config):
    config.addinivalue_line(
        "filterwarnings",
        "ignore:The image decoding and encoding capabilities of TorchVision are deprecated:DeprecationWarning",
    )
    config.addinivalue_line("filterwarnings", "ignore:This DataLoader will create:UserWarning")
