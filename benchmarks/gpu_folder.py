"""The folder that `gpu.py --prepare` makes, to be carried to a machine with a GPU and without a network."""

import shutil
from collections.abc import Iterable, Sequence
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gpu_wheels import carried_wheels
from holistic_images import photos, read_folder
from holistic_parity import mediapipe_points
from preprocess.holistic.models import HOLISTIC, find_models

_ROOT = Path(__file__).resolve().parents[1]
_CODE = ("src", "benchmarks", "tests", "configs", "pyproject.toml")
_PURE = ("array-api-compat", "flatbuffers")  # packages without compiled parts, whole
_SCHEMA = "schema_py_generated.py"  # all that a pass in torch needs of ai-edge-litert
_SIZE = (210, 260)  # width and height of the reference's images in px
_FRAMES_OF_EACH = 3
_MOST_MB = 60.0
_HOW_TO_CARRY = """\
Parts whose packages are missing there are skipped. All parts need the {number} packages in {dest}/wheels.txt,
and in the releases for its torch, torchvision, and torchcodec for NVDEC. Delete the lines of what is there.
For Python 3.12 on x86-64:
    pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 \\
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -r {dest}/wheels.txt --dest {dest}/wheels
    pip install --no-index --no-deps --target {name}/packages {name}/wheels/*.whl  # there"""


def prepare(dest: Path, folders: Sequence[Path]) -> None:
    """Make the folder `dest`, and print what to do with it.

    Args:
        dest: a new folder.
        folders: of images and videos that the reference has besides crops of two photographs, such as of hands.
    """
    dest.mkdir(parents=True)
    for name in _CODE:
        _copy(_ROOT / name, dest / name)
    for path in find_models(HOLISTIC).values():
        _copy(path, dest / "models" / path.name)
    for name in _PURE:
        _copy_package(name, dest / "packages")
    _copy_package("ai-edge-litert", dest / "packages", only=("__init__.py", _SCHEMA))
    _copy_package("framemill", dest / "packages", only=("METADATA",))  # the folder is not installed, but has a version
    images = _reference_images(folders)
    np.savez_compressed(dest / "reference.npz", photos=images, **mediapipe_points(list(images)))
    megabytes = sum(path.stat().st_size for path in dest.rglob("*") if path.is_file()) / 1e6
    assert megabytes < _MOST_MB, f"{dest} has {megabytes:.0f} MB, more than {_MOST_MB:.0f}"
    print(f"{dest}: {megabytes:.1f} MB, {len(images)} images with MediaPipe's landmarks. On the machine with the GPU:")
    print(f"    python {dest.name}/benchmarks/gpu.py --minutes 9")
    wheels = carried_wheels([*_PURE, "ai-edge-litert", "mediapipe"])
    (dest / "wheels.txt").write_text("\n".join(wheels) + "\n")
    print(_HOW_TO_CARRY.format(number=len(wheels), dest=dest, name=dest.name))


def _reference_images(folders: Iterable[Path]) -> NDArray[np.uint8]:
    """Return uint8 [N, H, W, 3]: photographs, and the images and frames in `folders` at the same size."""
    more = [
        np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).resize(_SIZE))
        for folder in folders
        for image in read_folder(folder, _FRAMES_OF_EACH)
    ]
    return np.stack([*photos(), *more])


def _copy(source: Path, dest: Path) -> None:
    dest.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, dest, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, dest)


def _copy_package(name: str, dest: Path, only: Sequence[str] = ()) -> None:
    """Copy an installed package: all of its files, or those of these names right within its folder."""
    for path in distribution(name).files or ():
        is_wanted = path.name in only and len(path.parts) == 2 if only else path.suffix != ".pyc"
        if is_wanted and ".." not in path.parts:
            _copy(Path(str(path.locate())), dest / path)
