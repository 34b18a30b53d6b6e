"""The vocabulary and the merges of CLIP's tokenizer: those that are installed, or those of a folder or the hub.

All CLIP models have the same vocabulary (Radford et al., 2021): 256 bytes, the same at the end of a word, a word for
each of 48,894 merges, and two marks. OpenAI published it as a list of merges, which is in open_clip_torch's wheel.
"""

import gzip
import hashlib
import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from datamodules.errors import ConfigError
from datamodules.hub import find_files
from datamodules.printable import printable

INSTALLED = "clip"  # the name that stands for the installed vocabulary
START, END = "<|startoftext|>", "<|endoftext|>"

Merge = tuple[str, str]

_PACKAGE, _FILE = "open_clip_torch", "open_clip/bpe_simple_vocab_16e6.txt.gz"
_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"  # as OpenAI's CLIP has it on GitHub
_NUM_MERGES = 48_894  # the file has more, which CLIP does not use
_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # of a folder: one of these sets
_ADVICE = "Give a folder with CLIP's vocab.json and merges.txt, clip for the installed ones, or null for no tokens"


def read_vocabulary(name: str) -> tuple[dict[str, int], list[Merge]]:
    """Return the vocabulary (word: id) and the merges of CLIP's tokenizer, complete.

    Args:
        name: `clip`: the installed ones; or a folder with `tokenizer.json`, or with `vocab.json` and `merges.txt`; or a
            name on the Hugging Face hub, which is asked only if its cache on this machine does not have the files.

    Raises:
        ConfigError: the files are missing, damaged, or not those of CLIP's tokenizer.
    """
    if name == INSTALLED:
        return _installed()
    return _of_folder(find_files(name, "--model.tokenizer", _FILES, advice=_ADVICE))


def _installed() -> tuple[dict[str, int], list[Merge]]:
    try:
        content = Path(str(distribution(_PACKAGE).locate_file(_FILE))).read_bytes()
    except (PackageNotFoundError, OSError):
        content = b""
    if hashlib.sha256(content).hexdigest() != _SHA256:
        raise ConfigError(
            f"{_FILE} of the package {_PACKAGE} is missing, or is not CLIP's. Run `pip install --force-reinstall "
            f"--no-deps {_PACKAGE}`, or give a folder with CLIP's vocab.json and merges.txt in --model.tokenizer"
        )
    lines = gzip.decompress(content).decode().split("\n")[1 : 1 + _NUM_MERGES]  # the first line is the version
    merges = [(first, second) for first, second in map(str.split, lines)]
    letters = _letters()
    words = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges), START, END]
    return {word: number for number, word in enumerate(words)}, merges


def _letters() -> list[str]:
    """Return the letters that stand for the 256 bytes, in the order of their ids.

    A byte that Latin-1 can print is that character, and comes first; the others are the characters from U+0100 on.
    """
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [*map(chr, printed), *(chr(256 + number) for number in range(256 - len(printed)))]


def _of_folder(folder: Path) -> tuple[dict[str, int], list[Merge]]:
    """Return the complete vocabulary and merges of CLIP's tokenizer in `folder`."""
    try:
        if (folder / "tokenizer.json").is_file():
            model = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]
            vocabulary, lines = model["vocab"], model["merges"]
        else:
            vocabulary = json.loads((folder / "vocab.json").read_text("utf-8"))
            lines = (folder / "merges.txt").read_text("utf-8").split("\n")[1:]  # the first line is the version
        pairs = [line.split() if isinstance(line, str) else line for line in lines if line]
        merges = [(str(first), str(second)) for first, second in pairs]
        words = set(vocabulary)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"the tokenizer in {folder} is damaged: {printable(str(error))[:300]}") from error
    letters = {letter + end for letter in _letters() for end in ("", "</w>")}
    merged = {first + second for first, second in merges}
    if words != letters | merged | {START, END}:
        raise ConfigError(
            f"the tokenizer in {folder} is not CLIP's, or cut off: {len(words):,} words, {len(merges):,} merges. "
            "CLIP's has start, end, 512 letters, and a word for each merge"
        )
    return vocabulary, merges
