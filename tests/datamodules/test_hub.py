"""Where the files of models are: folders, the hub's cache, the hub."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from datamodules.errors import ConfigError
from datamodules.hub import find_folder


def find(name: str, revision: str | None = None) -> Path:
    return find_folder(
        name,
        "--model.model",
        ["*.json"],
        lambda folder: None if (folder / "config.json").is_file() else "config.json",
        "Give a folder",
        revision,
    )


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Path]:
    """A hub of one's own: what its cache (True) has, and what it lets be downloaded (False), by `local_files_only`."""
    folders: dict[str, Path] = {}

    def download(name: str, revision: str | None, allow_patterns: list[str], local_files_only: bool = False) -> str:
        assert allow_patterns == ["*.json"]
        try:
            return str(folders[f"{'cache' if local_files_only else 'hub'}:{name}@{revision}"])
        except KeyError:
            raise FileNotFoundError(f"{name} is not in the {'cache' if local_files_only else 'hub'}") from None

    def ask(name: str, revision: str | None, timeout: float) -> None:
        if f"hub:{name}@{revision}" not in folders:
            raise FileNotFoundError("no  such\nname")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("huggingface_hub.model_info", ask)
    return folders


def whole(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_a_folder_is_itself(hub: dict[str, Path], tmp_path: Path) -> None:
    assert find(str(whole(tmp_path / "model"))) == tmp_path / "model"
    with pytest.raises(ConfigError, match=r"^--model\.model /\S+ has no config\.json\. Give a folder$"):
        find(str(tmp_path))


def test_the_cache_comes_before_the_hub(hub: dict[str, Path], tmp_path: Path) -> None:
    hub["cache:a/b@None"], hub["hub:a/b@None"] = whole(tmp_path / "cached"), whole(tmp_path / "loaded")
    assert find("a/b") == tmp_path / "cached"


def test_what_the_cache_has_in_part_comes_from_the_hub(hub: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "cached").mkdir()
    hub["cache:a/b@v1"], hub["hub:a/b@v1"] = tmp_path / "cached", whole(tmp_path / "loaded")
    assert find("a/b", "v1") == tmp_path / "loaded"


def test_what_is_nowhere_fails_and_says_where_it_was_looked_for(hub: dict[str, Path], tmp_path: Path) -> None:
    message = (
        r"^--model\.model a/b: there is no folder /.*/a/b, and a/b cannot be loaded from the Hugging Face hub: "
        r"no such name\. Give a folder$"
    )
    with pytest.raises(ConfigError, match=message):
        find("a/b")
    with pytest.raises(ConfigError, match="and a/b at revision v2 cannot be loaded"):
        find("a/b", "v2")


def test_what_the_hub_itself_has_in_part_fails(hub: dict[str, Path], tmp_path: Path) -> None:
    hub["hub:a/b@None"] = tmp_path
    with pytest.raises(ConfigError, match=r"cannot be loaded from the Hugging Face hub: it has no config\.json\. Give"):
        find("a/b")


@pytest.fixture
def silent_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """One that takes connections, and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{listening.getsockname()[1]}")
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", f"http://127.0.0.1:{listening.getsockname()[1]}")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("datamodules.hub._TIMEOUT_SECONDS", 0.5)
        yield


def test_a_hub_that_does_not_answer_is_not_waited_for(silent_hub: None) -> None:
    started = time.monotonic()
    with pytest.raises(ConfigError, match=r"cannot be loaded from the Hugging Face hub: timed out\. Give"):
        find("a/b")
    assert time.monotonic() - started < 5


def test_a_proxy_is_named_and_a_variable_that_no_client_can_use(
    hub: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("https_proxy", "all_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://me:tops3cret@proxy:3128")
    through = (
        r"from the Hugging Face hub through the proxy http://proxy:3128 of HTTPS_PROXY \(NO_PROXY=\S+ goes past it\):"
    )
    with pytest.raises(ConfigError, match=rf"{through} no such name\. Give a folder"):
        find("a/b")
    monkeypatch.setenv("ALL_PROXY", "socks4://me:tops3cret@127.0.0.1:9")
    with pytest.raises(ConfigError, match=rf"{through} the environment variable ALL_PROXY cannot be used: .*\. Give"):
        find("a/b")


@pytest.mark.parametrize("revision", ["../../../home/me", "a/../b", "/etc"])
def test_a_revision_that_is_a_path_is_refused(hub: dict[str, Path], revision: str) -> None:
    with pytest.raises(ConfigError, match=r"^--model\.model a/b: revision '.*' is not a branch, tag or commit$"):
        find("a/b", revision)


def test_a_name_that_is_too_long_for_a_path_is_one_line(hub: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"^--model\.model x{300}: there is no folder "):
        find("x" * 300)


def test_a_token_of_the_hub_is_masked_in_what_it_says(hub: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(name: str, revision: str | None, timeout: float) -> None:
        raise ValueError("Illegal header value b'Bearer hf_tops3cret' for https://me:p%40ss@mirror/\x1b[2J")

    monkeypatch.setattr("huggingface_hub.model_info", ask)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://me:p%40ss@mirror")
    monkeypatch.setenv("HF_TOKEN", "hf_tops3cret")
    with pytest.raises(ConfigError, match=r"b'Bearer \*\*\*' for https://me:\*\*\*@mirror/\\x1b\[2J\. Give"):
        find("a/b")
