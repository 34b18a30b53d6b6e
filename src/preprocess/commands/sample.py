"""`preprocess sample`: make a small corpus with PHOENIX-2014-T's layout from two photographs in Python wheels.

A camera pans and zooms over the portraits of Grace Hopper (matplotlib) and Eileen Collins (scikit-image, NASA), both
in the public domain. A sentence has two glosses, and a gloss is one movement of the person across the image:

| gloss | the person moves | gloss | the person moves |
|-------|------------------|-------|------------------|
| WEST  | left             | NORD  | up               |
| OST   | right            | SUED  | down             |

So a small model learns the glosses from the keypoints in seconds. No sentence of dev or test occurs in train. Every
gloss occurs three times in train, both as first and as second gloss.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.errors import ConfigError
from preprocess.commands.arguments import local_path
from preprocess.scratch import scratch_beside
from preprocess.terminal import Parser, say

_SIZE_PX = (210, 260)  # width, height, as in PHOENIX-2014-T
_HEADER = "name|video|start|end|speaker|orth|translation"
_TOWARDS = {"WEST": (-1, 0), "OST": (1, 0), "NORD": (0, -1), "SUED": (0, 1)}  # x to the right, y down
_SPOKEN = {"WEST": "westen", "OST": "osten", "NORD": "norden", "SUED": "süden"}
_CLOSEST = 0.93  # height of the closest view, relative to the widest


@dataclass(frozen=True)
class _Portrait:
    """A photograph, and the path of the camera over it, in px of the photograph.

    Attributes:
        name: part of the names of its sentences.
        centre: x, y of the centre of the widest view, px.
        view_height: height of the widest view, px.
        stride: how far one gloss moves the person in x and y, px; small enough that the face stays in view.
    """

    name: str
    centre: tuple[float, float]
    view_height: float
    stride: tuple[float, float]


_PORTRAITS = {
    "Signer01": _Portrait("hopper", (258, 290), 475, (108, 76)),
    "Signer02": _Portrait("collins", (228, 223), 400, (90, 46)),
}
_SENTENCES = {
    "train": [
        ("Signer01", ("WEST", "NORD")),
        ("Signer02", ("OST", "SUED")),
        ("Signer01", ("SUED", "OST")),
        ("Signer02", ("NORD", "WEST")),
        ("Signer01", ("NORD", "SUED")),
        ("Signer02", ("WEST", "OST")),
    ],
    "dev": [("Signer02", ("OST", "NORD")), ("Signer01", ("SUED", "WEST"))],
    "test": [("Signer01", ("WEST", "SUED")), ("Signer02", ("NORD", "OST"))],
}


def main(arguments: Sequence[str]) -> int:
    """Run `preprocess sample`, print the folder of the corpus, and return the exit status."""
    say(str(make_sample_corpus(parser().parse_args(arguments).dest)))
    return 0


def parser() -> Parser:
    """Return the parser of the command's options."""
    parser = Parser(
        "preprocess sample", description="Make a small corpus with PHOENIX-2014-T's layout, to try Framemill on."
    )
    parser.add_argument("dest", metavar="D", type=local_path, help="folder to make")
    return parser


def make_sample_corpus(dest: Path, num_frames: int = 24) -> Path:
    """Make the demo corpus: 6 sentences in train, 2 in dev, 2 in test, as PNGs of 210x260 px with annotations.

    The same versions of Pillow and of the two wheels give the same bytes. `dest` appears complete or not at all.

    Args:
        dest: folder to make, the `root` of `Phoenix2014T`; it may exist if it is empty.
        num_frames: number of frames of each sentence, at least 4; half of them for each gloss.

    Returns:
        `dest`, absolute.

    Raises:
        ConfigError: `dest` is not empty or cannot be made, `num_frames` is too small, or the demo extra is not
            installed.
    """
    if num_frames < 4:
        raise ConfigError(f"{num_frames = } must be 4 or more, two for each gloss")
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise ConfigError(f"{dest} is not empty: name a folder that is new or empty")
    dest = dest.absolute()
    photographs = dict(zip(_PORTRAITS, _photographs(), strict=True))
    try:
        with scratch_beside(dest) as scratch:
            for split in _SENTENCES:
                _write_split(scratch, split, photographs, num_frames)
            os.rename(scratch, dest)
    except OSError as error:
        raise ConfigError(f"{dest} cannot be made: {error.strerror}. Name a folder that can be written to") from error
    return dest


def _write_split(root: Path, split: str, photographs: dict[str, Image.Image], num_frames: int) -> None:
    rows = [_HEADER]
    for number, (signer, glosses) in enumerate(_SENTENCES[split], 1):
        name = f"demo_{_PORTRAITS[signer].name}_{split}-{number}"
        folder = root / "features" / "fullFrame-210x260px" / split / name
        views = _views(_PORTRAITS[signer], glosses, num_frames, zoom_in=number % 2 == 1)
        _write_frames(folder, photographs[signer], views)
        rows.append(f"{name}|{name}/1/*.png|-1|-1|{signer}|{' '.join(glosses)}|{_spoken(glosses)}")
    _write_annotations(root, split, rows)


def _photographs() -> list[Image.Image]:
    try:
        from matplotlib.cbook import get_sample_data
        from skimage.data import astronaut
    except ImportError as error:
        raise ConfigError(
            f"the demo corpus needs {error.name or 'the demo extra'}: python -m pip install 'framemill[demo]'"
        ) from error
    hopper = Image.open(str(get_sample_data("grace_hopper.jpg", asfileobj=False)), formats=["JPEG"]).convert("RGB")
    collins: NDArray[np.uint8] = astronaut()
    return [hopper, Image.fromarray(collins)]


def _views(portrait: _Portrait, glosses: Sequence[str], num_frames: int, *, zoom_in: bool) -> NDArray[np.float64]:
    """Return the view of the camera in each frame: [num_frames, 4], left, top, right, bottom, px of the photograph."""
    time = np.linspace(0, len(glosses), num_frames)[:, None]
    progress = np.clip(time - np.arange(len(glosses)), 0, 1)
    eased = progress * progress * (3 - 2 * progress)  # the camera rests between two glosses
    path = eased @ np.array([_TOWARDS[gloss] for gloss in glosses], dtype=np.float64)
    path -= (path.min(0) + path.max(0)) / 2  # the whole path stays in the photograph
    closeness = eased.mean(1) if zoom_in else 1 - eased.mean(1)
    height = portrait.view_height * (1 - (1 - _CLOSEST) * closeness)
    half = np.stack([height * _SIZE_PX[0] / _SIZE_PX[1], height], axis=1) / 2
    centre = np.array(portrait.centre) - path * portrait.stride  # a camera that moves left moves the person right
    return np.concatenate([centre - half, centre + half], axis=1)


def _write_frames(folder: Path, photograph: Image.Image, views: NDArray[np.float64]) -> None:
    folder.mkdir(parents=True)
    for number, (left, top, right, bottom) in enumerate(views.tolist(), 1):
        frame = photograph.resize(_SIZE_PX, Image.Resampling.BICUBIC, box=(left, top, right, bottom))
        frame.save(folder / f"images{number:04d}.png", compress_level=4)


def _spoken(glosses: Sequence[str]) -> str:
    first, then = (_SPOKEN[gloss] for gloss in glosses)
    return f"der wind weht erst nach {first} und dann nach {then}"


def _write_annotations(root: Path, split: str, rows: list[str]) -> None:
    folder = root / "annotations" / "manual"
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join(rows) + "\n"
    (folder / f"PHOENIX-2014-T.{split}.corpus.csv").write_text(text, encoding="utf-8", newline="\n")
