"""The packages that `gpu.py` needs on a machine that has only torch, numpy and Triton."""

from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_THERE = ("torch", "numpy")
_NOT_LISTED = {
    "torchvision",  # its release depends on that of torch
    "docopt",  # has no wheel; only the command of num2words needs it
}
_FOR_TESTS = ("pytest", "pytest-timeout", "scikit-image", "matplotlib")
_OPENCV = "opencv-python-headless"  # here another distribution may have it
_PYTHON = {"python_version": "3.12", "python_full_version": "3.12.0"}


def carried_wheels(without: Iterable[str]) -> list[str]:
    """Return `name==version` of Framemill's requirements and theirs, in the versions installed here, sorted.

    Args:
        without: requirements that are not needed, or are carried otherwise.
    """
    left_out = {canonicalize_name(name) for name in without}
    needed = [each for each in _requirements("framemill") if canonicalize_name(each.name) not in left_out]
    names = _closure([*needed, *map(Requirement, (*_FOR_TESTS, _OPENCV))])
    return sorted(map(_pinned, names - _closure(map(Requirement, _THERE)) - _NOT_LISTED))


def _closure(requirements: Iterable[Requirement]) -> set[str]:
    """Return the names of required packages, and of all that these require."""
    queue, seen = list(requirements), set()
    while queue:
        requirement = queue.pop()
        key = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if key not in seen:
            seen.add(key)
            queue += _requirements(*key)
    return {name for name, _ in seen}


def _requirements(name: str, extras: Iterable[str] = ()) -> Iterator[Requirement]:
    """Yield what a package requires for Python 3.12; nothing if it is not installed here."""
    try:
        texts = distribution(name).requires or ()
    except PackageNotFoundError:
        return
    for requirement in map(Requirement, texts):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({**_PYTHON, "extra": extra}) for extra in ("", *extras)):
            yield requirement


def _pinned(name: str) -> str:
    try:
        return f"{name}=={distribution(name).version}"
    except PackageNotFoundError:
        return name
