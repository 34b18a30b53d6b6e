"""Model folders from someone else: sizes that fill the memory, files that never end, weights outside the folder."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from datamodules.errors import ConfigError
from preprocess.checkpoints.digest import sha256_of_folder
from preprocess.checkpoints.model_folder import ModelFolder

OPTION = "--model.model"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of a model. Only its config.json can be read."""
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "preprocessor_config.json").write_text("{}")
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 126}')
    return tmp_path


def find(folder: Path) -> Path:
    return ModelFolder.find(str(folder), OPTION).path


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"num_hidden_layers": 10**9}, "has num_hidden_layers = 1000000000, more than 10,000$"),
        ({"vision_config": {"depths": [2, 10**9]}}, "has depths = 1000000000, more than 10,000$"),
        ({"n_layer": 1e9}, r"has n_layer = 1000000000\.0, more than"),
        ({"num_labels": 10**9}, "has num_labels = 1000000000, more than 1,000,000$"),
        (
            {"_attn_implementation": "some/kernel"},
            "has _attn_implementation = 'some/kernel', code of the hub",
        ),
    ],
)
def test_a_config_that_asks_for_too_much_is_refused(folder: Path, config: dict[str, Any], reason: str) -> None:
    assert find(folder) == folder
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=rf"^--model\.model .*/config\.json {reason}"):
        find(folder)


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "\udcff"])
def test_a_config_that_is_no_json_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=r"/config\.json cannot be read: "):
        find(folder)


def test_files_of_a_checkpoint_that_cannot_be_opened_or_read_whole_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "gone.json").symlink_to("nothing")  # as in a cache that was cleaned up
    assert find(folder) == folder
    (folder / "additional_chat_templates").mkdir()
    for name in ("a.json", "additional_chat_templates/a.jinja"):
        os.mkfifo(folder / name)
        with pytest.raises(ConfigError, match=rf"/{name} is not a regular file$"):
            find(folder)
        (folder / name).unlink()
    with open(folder / "merges.txt", "wb") as file:
        file.truncate((1 << 28) + 1)
    with pytest.raises(ConfigError, match=r"/merges\.txt is larger than 256 MB"):
        find(folder)


def test_the_identity_of_a_checkpoint_leaves_out_links_to_nothing(folder: Path) -> None:
    whole = sha256_of_folder(folder)
    (folder / "gone.json").symlink_to("nothing")  # as in a cache that was cleaned up
    assert sha256_of_folder(folder) == whole


@pytest.mark.parametrize("name", ["../b.safetensors", "/b.safetensors", "b/b.safetensors"])
def test_weights_outside_the_folder_are_refused(folder: Path, name: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ConfigError, match=rf"index\.json names '{name}', which is outside the folder"):
        find(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": 5}}))
    with pytest.raises(ConfigError, match=r"index\.json is damaged"):
        find(folder)


def test_a_checkpoint_with_code_of_its_own_asks_nobody(folder: Path) -> None:
    config = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"cannot load its config: it needs code of its own, which is not run: use a"):
        ModelFolder.find(str(folder), OPTION, types=("sam2_video",))
