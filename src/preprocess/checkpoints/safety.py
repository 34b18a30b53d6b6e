"""Refuses model folders, which may come from someone else, whose files could do harm when they are opened.

A FIFO or a device blocks whoever reads it, a compressed archive or a config with a billion layers fills the memory, and
an attention kernel named in a config is code of the hub.
"""

import json
import re
from pathlib import Path

from datamodules.errors import ConfigError
from datamodules.model_errors import raising_config_error
from preprocess.checkpoints.parts import FILES
from preprocess.checkpoints.pickles import require_uncompressed

_TEMPLATES = "additional_chat_templates/*"  # captions do not use them, but transformers opens them
_MAX_TEXT_BYTES = 1 << 28  # of a file without weights; tokenizers have tens of megabytes
# numbers in config.json of modules that transformers makes one by one, even where the weights do not have them
_COUNTS = re.compile(r"(?:.*_)?(?:layers?|depths?|blocks?|stages?|experts?)(?:_per_\w+)?")
_MAX_COUNT = 10_000
_MAX_LABELS = 1_000_000


def require_safe(folder: Path, what: str) -> None:
    """Check that the files of `folder` can be opened, and the model of its config.json made, without harm.

    Args:
        folder: of a model; see `parts`.
        what: what the folder is, to begin messages with.

    Raises:
        ConfigError: a file is not regular, is compressed or too large; or config.json is damaged, asks for too much, or
            names code.
    """
    for path in (path for pattern in (*FILES, _TEMPLATES) for path in folder.glob(pattern) if path.exists()):
        if not path.is_file():
            raise ConfigError(f"{what}: {path} is not a regular file")
        if path.suffix == ".bin":
            require_uncompressed(path, f"{what}: {path}")
        elif path.suffix != ".safetensors" and path.stat().st_size > _MAX_TEXT_BYTES:
            raise ConfigError(f"{what}: {path} is larger than {_MAX_TEXT_BYTES >> 20} MB, too large for what it is")
    _require_safe_config(folder / "config.json", what)


def _require_safe_config(path: Path, what: str) -> None:
    with raising_config_error(f"{what}: {path} cannot be read"):
        config = json.loads(path.read_text("utf-8"))
    fields = [("", config)]
    while fields:
        name, value = fields.pop()
        if isinstance(value, dict):
            fields += value.items()
        elif isinstance(value, list):
            fields += ((name, element) for element in value)
        elif isinstance(value, str) and name.endswith("_implementation") and "/" in value:
            raise ConfigError(f"{what}: {path} has {name} = {value!r}, code of the hub, which is not run")
        elif isinstance(value, (int, float)) and value > _limit(name):
            raise ConfigError(f"{what}: {path} has {name} = {value}, more than {_limit(name):,}")


def _limit(name: str) -> float:
    """Return the largest value that the field `name` of a config.json may have."""
    return _MAX_LABELS if name == "num_labels" else _MAX_COUNT if _COUNTS.fullmatch(name) else float("inf")
