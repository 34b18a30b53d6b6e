"""The place of an item in a run's plan, by its key."""

from datamodules.errors import RunError
from datamodules.run.folder import Run
from datamodules.run.keys import nearest_keys, shards_with
from datamodules.run.plan import Shard


def find(run: Run, key: str) -> tuple[Shard, int]:
    """Return (shard, row) of the item with this key. Reads only the keys of the plan.

    Raises:
        RunError: no item has this key; the message names the closest keys.
    """
    for number in shards_with(run.plan, {key}):
        return run.plan.shards[number], run.plan.keys(number).index(key)
    nearest = ", ".join(map(repr, nearest_keys(run, key)))
    raise RunError(f"{run.store} has no item {key!r} among {run.plan.num_items:,}; closest: {nearest}")
