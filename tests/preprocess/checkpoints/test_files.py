"""Checkpoints from someone else: pickles that run code, archives that explode, folders and sizes that never end."""

import argparse
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from datamodules.errors import ConfigError
from datamodules.model_files import reason, refusing
from preprocess.checkpoints.files import CONFIG, find_checkpoint, is_plain_tensor, load_pickle, sha256_of
from preprocess.checkpoints.model_folder import ModelFolder
from preprocess.tracking.meta_checkpoint import MetaFile

OPTION = "--model.model"


class Touching:
    """Makes the file `path` where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (Touching, r"posix\.mkdir"),
        (lambda path: argparse.Namespace(path=path), r"argparse\.Namespace"),
        (lambda path: nn.Linear(1, 1), r"torch\.nn\.modules\.linear\.Linear"),
    ],
)
def test_a_pickle_that_needs_code_is_not_loaded_and_says_what_to_do(
    tmp_path: Path, make: Callable[[Path], Any], wanted: str, is_zip: bool
) -> None:
    torch.save({"model": make(tmp_path / "made")}, tmp_path / "a.pth", _use_new_zipfile_serialization=is_zip)
    message = rf"^a\.pth cannot be read: it needs {wanted}, and no code of a .* Convert it to safetensors"
    with pytest.raises(ConfigError, match=message) as failure:
        load_pickle(tmp_path / "a.pth", "a.pth")
    assert "weights_only" not in str(failure.value)
    assert not (tmp_path / "made").exists()


def test_torchscript_is_code(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        for name in ("data.pkl", "constants.pkl", "version", "code/__torch__.py"):
            archive.writestr(f"a/{name}", b"3\n")
    with pytest.raises(ConfigError, match=r"it is TorchScript, which is code, .* to safetensors") as failure:
        load_pickle(tmp_path / "a.pth", "a.pth")
    assert "weights_only" not in str(failure.value)


@pytest.mark.parametrize("mmap", [True, False])
def test_an_archive_that_is_compressed_is_not_unpacked(tmp_path: Path, mmap: bool) -> None:
    torch.save({"weight": torch.zeros(1 << 20)}, tmp_path / "whole.pth")
    bomb = zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "whole.pth") as whole, bomb:
        for member in whole.infolist():
            bomb.writestr(member.filename, whole.read(member))
    with pytest.raises(ConfigError, match=r"^a\.pth is compressed \(4,\d+,\d+ bytes of content\)"):
        load_pickle(tmp_path / "a.pth", "a.pth", mmap)
    assert load_pickle(tmp_path / "whole.pth", "whole.pth", mmap)["weight"].shape == (1 << 20,)


@pytest.mark.parametrize(
    "state",
    [
        {"image_encoder.trunk.patch_embed.proj.weight": torch.zeros(())},
        {"image_encoder.trunk.patch_embed.proj.weight": torch.zeros((), device="meta").expand(8, 3, 7, 7)},
        {"image_encoder.trunk.patch_embed.proj.weight": torch.zeros(()).expand(8, 3, 7, 7), 5: torch.zeros(1)},
        {"image_encoder.trunk.patch_embed.proj.weight": torch.zeros(()).expand(1 << 20, 3, 7, 7)},
    ],
)
def test_tensors_that_are_none_or_larger_than_their_file_are_refused(tmp_path: Path, state: dict[Any, Any]) -> None:
    torch.save({"model": state}, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match=r"a\.pt is (no file of Meta's SAM 2|damaged: .* is larger than the file)"):
        MetaFile(tmp_path / "a.pt", OPTION).config()


def test_only_a_tensor_with_all_its_values_in_memory_is_plain() -> None:
    assert is_plain_tensor(torch.ones(2))
    assert not any(map(is_plain_tensor, (torch.ones(2).to_sparse(), torch.ones(2, device="meta"), [1.0])))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of a checkpoint, of which none is opened yet."""
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "preprocessor_config.json").write_text("{}")
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 126}')
    return tmp_path


def found(folder: Path) -> Path:
    return find_checkpoint(str(folder), OPTION, [CONFIG])


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
    assert found(folder) == folder
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=rf"^--model\.model .*/config\.json {reason}"):
        found(folder)


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "\udcff"])
def test_a_config_that_is_no_json_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=r"/config\.json cannot be read: "):
        found(folder)


def test_files_of_a_checkpoint_that_cannot_be_opened_or_read_whole_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "gone.json").symlink_to("nothing")  # as in a cache that was cleaned up
    assert found(folder) == folder
    (folder / "additional_chat_templates").mkdir()
    for name in ("a.json", "additional_chat_templates/a.jinja"):
        os.mkfifo(folder / name)
        with pytest.raises(ConfigError, match=rf"/{name} is not a regular file$"):
            found(folder)
        (folder / name).unlink()
    with open(folder / "merges.txt", "wb") as file:
        file.truncate((1 << 28) + 1)
    with pytest.raises(ConfigError, match=r"/merges\.txt is larger than 256 MB"):
        found(folder)


def test_the_identity_of_a_checkpoint_leaves_out_links_to_nothing(folder: Path) -> None:
    whole = sha256_of(folder)
    (folder / "gone.json").symlink_to("nothing")  # as in a cache that was cleaned up
    assert sha256_of(folder) == whole


@pytest.mark.parametrize("name", ["../b.safetensors", "/b.safetensors", "b/b.safetensors"])
def test_weights_outside_the_folder_are_refused(folder: Path, name: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ConfigError, match=rf"index\.json names '{name}', which is not in it"):
        found(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": 5}}))
    with pytest.raises(ConfigError, match=r"index\.json is damaged"):
        found(folder)


def test_a_checkpoint_with_code_of_its_own_asks_nobody(folder: Path) -> None:
    config = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"cannot load its config: it needs code of its own, which is not run: use a"):
        ModelFolder.find(str(folder), OPTION, ("sam2_video",))


class Odd(Exception):
    """Of a library: safetensors and tokenizers have such errors."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Odd("not\n this \x1b[2J"), "not this \\x1b[2J"),
        (KeyError("added_tokens"), "KeyError: 'added_tokens'"),
        (MemoryError(), "MemoryError"),
        (RuntimeError("x" * 1000), "x" * 300),
        (RuntimeError("details: set weights_only"), "it is damaged, or not a file of weights"),
        (
            RuntimeError("set `ignore_mismatched_sizes`"),
            "its weights do not have the shapes that its config.json has",
        ),
    ],
)
def test_whatever_a_library_raises_is_one_short_line(error: Exception, expected: str) -> None:
    assert reason(error) == expected
    with pytest.raises(ConfigError, match=r"^a file: "), refusing("a file"):
        raise error
