"""Files of `torch.save` from someone else: pickles that run code, archives that fill the memory."""

import argparse
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from datamodules.errors import ConfigError
from preprocess.checkpoints.pickles import is_plain_tensor, is_state_dict, load_pickle


class MakesFolder:
    """Makes the folder `path` when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize(
    ("make", "needed"),
    [
        (MakesFolder, r"posix\.mkdir"),
        (lambda path: argparse.Namespace(path=path), r"argparse\.Namespace"),
        (lambda path: nn.Linear(1, 1), r"torch\.nn\.modules\.linear\.Linear"),
    ],
)
def test_a_pickle_that_needs_code_is_not_loaded_and_says_what_to_do(
    tmp_path: Path, make: Callable[[Path], Any], needed: str, is_zip: bool
) -> None:
    torch.save({"model": make(tmp_path / "made")}, tmp_path / "a.pth", _use_new_zipfile_serialization=is_zip)
    message = rf"^a\.pth cannot be read: it needs {needed}, and no code of a .* Convert it to safetensors"
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


def test_only_a_tensor_with_all_its_values_in_memory_is_plain() -> None:
    assert is_plain_tensor(torch.ones(2))
    assert not any(map(is_plain_tensor, (torch.ones(2).to_sparse(), torch.ones(2, device="meta"), [1.0])))


def test_a_state_dict_has_names_and_plain_tensors_only() -> None:
    assert is_state_dict({"weight": torch.ones(2)})
    assert not any(map(is_state_dict, ([], {0: torch.ones(2)}, {"weight": [1.0]})))
