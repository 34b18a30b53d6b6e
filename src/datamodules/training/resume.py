"""Resuming within an epoch: a DataLoader whose state is a position in the order of all ranks' samples."""

from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, Dataset

from datamodules.errors import RunError
from datamodules.run.opening import differences
from datamodules.training.batches import with_tensors
from datamodules.training.sampler import EpochSampler

_LONGEST = 200  # characters of one difference in a message: a whole run may be missing


class ResumableLoader(DataLoader[dict[str, Any]]):
    """A DataLoader that continues an epoch where a checkpoint was saved, on any number of ranks and workers.

    It has the two methods of torchdata's `StatefulDataLoader`, which Lightning calls when it saves a checkpoint and
    when it resumes. The state counts batches whose training step is complete, not those that workers have read ahead.

    Args:
        batches: the samples.
        sampler: their order.
        data: what the samples are, JSON-able. Must equal that of the checkpoint, see `require_same`.
        trainer: counts the steps; None: a batch is complete when it has been taken.
        options: of `DataLoader`.
    """

    def __init__(
        self,
        batches: Dataset[dict[str, Any]],
        sampler: EpochSampler,
        data: Mapping[str, Any],
        trainer: Trainer | None,
        **options: Any,
    ) -> None:
        # the sampler yields whole batches
        super().__init__(batches, batch_size=None, sampler=sampler, collate_fn=with_tensors, **options)
        self._order, self._data, self._trainer = sampler, dict(data), trainer
        self._num_taken = 0  # in the epoch `_taken_epoch`, since its start or since a resume
        self._taken_epoch: int | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        # A generator: Lightning calls `iter` before it sets the epoch of the sampler, and workers would read ahead in
        # the order of another epoch. Nothing is read before the first `next`.
        if self._taken_epoch == self._order.epoch:
            self._order.begin_epoch()  # a second pass over one epoch, in a loop that never calls `set_epoch`
        self._taken_epoch, self._num_taken = self._order.epoch, 0
        for number, batch in enumerate(super().__iter__(), 1):
            self._num_taken = number
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch, the number of its samples that all ranks have trained on, and what the samples are."""
        num_done = self._num_taken if self._taken_epoch == self._order.epoch else 0
        if self._trainer is not None:  # a step may be under way, as when a signal saves the checkpoint
            counters = self._trainer.fit_loop.epoch_loop.batch_progress.current.state_dict()
            num_done = min(num_done, counters["processed"] - (len(self) - self._order.num_steps_left))
        return {"epoch": self._order.epoch, "position": self._order.position(num_done), "data": self._data}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next pass continue from a state, in its epoch.

        At the end of an epoch, Lightning's next one begins, and the samples may have changed.

        Args:
            state_dict: what `state_dict` returned, on any number of ranks and with any batch size.

        Raises:
            RunError: the state is of other samples or of another order. The message names what differs.
            ConfigError: fewer samples are left in the epoch than there are ranks.
        """
        if self._trainer is not None and _begins_epoch(self._trainer):
            return
        require_same(state_dict["data"], self._data)
        self._order.resume(state_dict["epoch"], state_dict["position"])
        self._taken_epoch = None
        if self._trainer is not None:
            self._count_steps(self._trainer)

    def _count_steps(self, trainer: Trainer) -> None:
        """Set Lightning's counter of the batches of this epoch, which the checkpoint has in batches of its own size.

        Lightning ends the epoch when the counter reaches the number of batches, which the number of ranks and the batch
        size determine. For those of the checkpoint, nothing changes.
        """
        progress = trainer.fit_loop.epoch_loop.batch_progress
        if progress.is_last_batch:  # all of them, or as many as `limit_train_batches` allows
            limit = trainer.limit_train_batches
            num_done = min(limit, len(self)) if isinstance(limit, int) else int(limit * len(self))
        else:
            num_done = len(self) - self._order.num_steps_left
        counters = progress.current.state_dict()  # processed, and others that differ from it by one while hooks run
        change = num_done - counters["processed"]
        progress.current.load_state_dict({name: count + change for name, count in counters.items()})


def _begins_epoch(trainer: Trainer) -> bool:
    """Return whether a checkpoint that Lightning resumes was saved at the end of an epoch; correct its counters.

    With `max_steps`, Lightning resumes at the end of an epoch as it does within one: it ends the epoch once more, and
    counts the next one as done without a step. And where `max_steps` itself ended an epoch early, it goes on with the
    next epoch, at the step that it had reached.
    """
    epochs, steps = trainer.fit_loop.epoch_progress, trainer.fit_loop.epoch_loop
    if epochs.current.state_dict()["processed"] < epochs.current.ready:
        return False  # within an epoch
    is_whole = steps.batch_progress.is_last_batch
    for progress in (epochs.current, epochs.total):
        num_done = progress.ready if is_whole else progress.ready - 1
        progress.load_state_dict({**progress.state_dict(), "processed": num_done, "completed": num_done})
    steps.restarting = not is_whole
    return is_whole


def require_same(saved: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Check that a checkpoint was saved by a training on the same data.

    Args:
        saved: what the checkpoint says of its data. Its `selection` says how the samples were selected, which may
            change as long as the samples are the same.
        data: the same of the data at hand.

    Raises:
        RunError: they differ. The message names all differences.
    """
    compared = (saved.keys() | data.keys()) - {"selection"}
    if any(saved.get(name) != data.get(name) for name in compared):
        different = [text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…" for text in differences(saved, data)]
        raise RunError(
            "the checkpoint was saved by a training on other data. Give the same run, split, exclude=…, where=… "
            f"and seed, or load only its weights. It differs in: {'; '.join(different)}"
        )
