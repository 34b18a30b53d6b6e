"""Starts the workers of a rank before it loads its models, so that both take the same time."""

from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.loading.prefetch import Loader


class StartWorkers(Callback):
    """Starts the workers in `setup`, which Lightning calls before that of the module, where models are loaded.

    Args:
        loader: its workers are started, and have their first tickets.
    """

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start the workers."""
        self._loader.start()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the workers if the models cannot be loaded. Otherwise the one who iterates ends them."""
        self._loader.close()
