"""Opening a run: one rank plans it if it is new; later the settings are compared with those of the plan."""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

from datamodules.corpus import Corpus
from datamodules.errors import EnvironmentFailure, RunError
from datamodules.objects import absolute_root
from datamodules.run.bucket import as_store
from datamodules.run.drift import require_planned
from datamodules.run.folder import PLANNING, Run
from datamodules.run.leases import Leases
from datamodules.run.plan import ShardSize, plan_name
from datamodules.run.planning import write_plan
from datamodules.run.store import Store

_log = logging.getLogger(__name__)


def open_or_plan(
    folder: str | os.PathLike[str] | Store,
    corpus: Corpus,
    fingerprint: Mapping[str, Any],
    size: ShardSize,
    device: str = "",
) -> Run:
    """Open the run in `folder`, and plan it first if it is new.

    Any number of ranks may call this at once: one of them lists the corpus and logs what it left out; the others wait
    for the plan.

    Args:
        folder: the output folder, or its store.
        corpus: is listed if the run is new.
        fingerprint: everything that changes results, JSON-able. It must equal the fingerprint of an existing run.
        size: of the shards of a new run.
        device: model of this rank's device, recorded in a plan that this call writes; see `Plan.device`.

    Raises:
        RunError: the folder holds a run with another fingerprint (the message names what differs); the corpus root has
            moved and does not hold the planned items; or a folder of the run is a link. Nothing is changed.
        CorpusError: see `write_plan`.
        EnvironmentFailure: the folder cannot be written to.
    """
    store, root = as_store(folder), absolute_root(corpus.root)
    if not store.find(plan_name()):
        store.check_folders()
        plan_once(store, plan_name(), lambda: _plan(corpus, store, fingerprint, size, device, root))
    run = Run(store)
    different = differences(run.plan.fingerprint, json.loads(json.dumps(fingerprint)))
    if different:
        raise RunError(
            f"{store} holds a run with other settings. Use another --output.dir, or continue with the same settings. "
            f"It differs in: {'; '.join(different)}"
        )
    if root not in run.plan.roots:
        require_planned(run.plan, root, corpus.root_option)
    return run


def _plan(
    corpus: Corpus, store: Store, fingerprint: Mapping[str, Any], size: ShardSize, device: str, root: str
) -> None:
    """List the corpus, write the plan, and log what the listing noted."""
    write_plan(corpus.items(), store, fingerprint, size, device=device, roots=[root])
    for note in corpus.notes():
        _log.warning("%s", note)


def plan_once(store: Store, name: str, write: Callable[[], None], is_done: Callable[[], bool] | None = None) -> None:
    """Let one of the ranks that call this write the plan; the others return once it is written.

    If the writing rank dies, another takes over, as for a shard.

    Args:
        store: of the run.
        name: of the plan in it.
        write: writes it.
        is_done: returns whether it is written; None: it is once the file `name` exists.

    Raises:
        EnvironmentFailure: the plan cannot be written.
    """
    is_done = is_done or (lambda: store.find(name) is not None)
    store.prepare()
    pause = store.beat_seconds / 20
    try:
        with closing(Leases(store)) as leases:
            while not is_done():
                claims = leases.list_claims().get(PLANNING, [])
                generation = claims[-1].generation + 1 if claims else 0
                if (claims and not claims[-1].dead) or not leases.claim(PLANNING, generation):
                    time.sleep(pause)  # longer and longer: many ranks may wait for hours
                    pause = min(1.5 * pause, store.beat_seconds)
                    continue
                with leases.beating():
                    write()
                leases.clear(PLANNING)
                return
    except OSError as error:
        if not is_done():  # if it is, a rank that was taken for dead has written it, and its plan is valid
            raise EnvironmentFailure(f"cannot write the plan {store.locate(name)}: {error}") from error


def differences(theirs: Any, ours: Any, name: str = "") -> list[str]:
    """Compare two fingerprints.

    Args:
        theirs: fingerprint of an existing run, or a part of it.
        ours: the fingerprint to compare, or the same part of it.
        name: of that part, with dots; empty: the whole fingerprint.

    Returns:
        A text for every field that differs, with its name and both values; empty if the fingerprints are equal.
    """
    if isinstance(theirs, dict) and isinstance(ours, dict):
        fields = sorted(theirs.keys() | ours.keys())
        return [
            difference
            for field in fields
            for difference in differences(theirs.get(field), ours.get(field), f"{name}.{field}" if name else field)
        ]
    return [] if theirs == ours else [f"{name}: {theirs!r} there, {ours!r} here"]
