"""Opening a run: planned now by one of its ranks if it is new, else compared with how it was planned."""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from datamodules.corpus import Corpus
from datamodules.errors import EnvironmentFailure, RunError
from datamodules.run.drift import require_planned
from datamodules.run.files import require_own_folders
from datamodules.run.folder import PLANNING, Run, plan_path
from datamodules.run.leases import Leases
from datamodules.run.plan import ShardSize
from datamodules.run.planning import write_plan

_log = logging.getLogger(__name__)


def open_or_plan(
    folder: str | os.PathLike[str], corpus: Corpus, fingerprint: Mapping[str, Any], size: ShardSize, device: str = ""
) -> Run:
    """The run in `folder`: planned now if it is new, else as it was planned, if that was for the same fingerprint.

    Any number of ranks may call this at once: one lists the corpus and says what the listing skipped; the others wait
    for its plan. `device` is the model of this rank's device, which a plan written now keeps; see `Plan.device`.

    Raises:
        RunError: the folder holds a run with another fingerprint (the message names what differs), or of items that
            are not below the corpus root, which is another than when they were planned; or one of the folders that a
            run makes is a link. Nothing is changed.
        CorpusError: see `write_plan`.
        EnvironmentFailure: the folder cannot be written to.
    """
    path, root = plan_path(Path(folder)), os.path.realpath(corpus.root)
    if not path.exists():
        require_own_folders(Path(folder))
        plan_once(path, lambda: _plan(corpus, path, fingerprint, size, device, root))
    run = Run(folder)
    different = differences(run.plan.fingerprint, json.loads(json.dumps(fingerprint)))
    if different:
        raise RunError(
            f"{folder} holds a run made otherwise; use another --output.dir, or go on with the same settings. "
            f"It differs in: {'; '.join(different)}"
        )
    if root not in run.plan.roots:
        require_planned(run.plan, root, corpus.root_option)
    return run


def _plan(corpus: Corpus, path: Path, fingerprint: Mapping[str, Any], size: ShardSize, device: str, root: str) -> None:
    write_plan(corpus.items(), path, fingerprint, size, device=device, roots=[root])
    for note in corpus.notes():
        _log.warning("%s", note)


def plan_once(path: Path, write: Callable[[], None]) -> None:
    """Have one of all ranks that call this `write` the plan `path`, which the others wait for.

    Raises:
        EnvironmentFailure: it cannot be written.
    """
    try:
        with closing(Leases(path.parent / "work")) as leases:
            while not path.exists():
                claims = leases.list_claims().get(PLANNING, [])
                generation = claims[-1].generation + 1 if claims else 0
                if (claims and not claims[-1].dead) or not leases.claim(PLANNING, generation):
                    time.sleep(0.1)
                    continue
                with leases.beating():
                    write()
                leases.clear(PLANNING)
    except OSError as error:
        if not path.exists():  # else it was planned by a rank that was thought dead, and that plan stands
            raise EnvironmentFailure(f"cannot write the plan {path}: {error}") from error


def differences(theirs: Any, ours: Any, name: str = "") -> list[str]:
    """In which fields, named with dots, two fingerprints differ, and how; empty if they are equal."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        keys = sorted(theirs.keys() | ours.keys())
        return [d for k in keys for d in differences(theirs.get(k), ours.get(k), f"{name}.{k}" if name else k)]
    return [] if theirs == ours else [f"{name}: {theirs!r} there, {ours!r} here"]
