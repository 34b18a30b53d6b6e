"""Finds fields of samples that their kind does not declare."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datamodules import features_of
from datamodules.run.folder import Run
from datamodules.run.reader import CommittedSamples


def undeclared_fields(folder: Path) -> set[str]:
    """The fields of the samples' json, named with dots, that the run's columns do not have."""
    columns = names_in(features_of(folder)["json"])
    samples = (json.loads(files["json"].read()) for _, files in CommittedSamples(Run(folder)).opened())
    return {name for sample in samples for name in names_in(sample)} - columns


def names_in(fields: Mapping[str, Any], prefix: str = "") -> set[str]:
    """The names of `fields`, and of the objects in it."""
    inner = (names_in(each, f"{prefix}{name}.") for name, each in fields.items() if isinstance(each, Mapping))
    return {f"{prefix}{name}" for name in fields}.union(*inner)
