"""The place of an item in a run's plan, by its key."""

import difflib
from itertools import chain, islice

from datamodules.errors import RunError
from datamodules.run.folder import Run
from datamodules.run.plan import Shard

_MAX_COMPARED = 20_000  # keys compared with a mistyped one: takes about a second


def find(run: Run, key: str) -> tuple[Shard, int]:
    """Return (shard, row) of the item with this key. Reads only the keys of the plan.

    Raises:
        RunError: no item has this key; the message names the closest keys.
    """
    for shard in run.plan.shards:
        keys = run.plan.keys(shard.number)
        if key in keys:
            return shard, keys.index(key)
    all_keys = chain.from_iterable(run.plan.keys(shard.number) for shard in run.plan.shards)
    known = list(islice(all_keys, _MAX_COMPARED))
    longer = [other for other in known if key in other]  # such as a name without its split
    close = longer[:3] or difflib.get_close_matches(key, known, n=3)
    hint = f"; closest: {', '.join(map(repr, close))}" if close else f"; the first is {known[0]!r}"
    raise RunError(f"{run.store} has no item {key!r} among {run.plan.num_items:,}{hint}")
