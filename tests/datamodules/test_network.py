"""Variables of the environment for HTTP clients: those that cannot be used are named, and NO_PROXY is honoured."""

from collections.abc import Callable
from pathlib import Path

import certifi
import pytest

from datamodules.errors import ConfigError
from datamodules.network import (
    PROXY_VARIABLES,
    Proxy,
    is_excepted,
    masked,
    naming_no_proxy,
    proxy_for,
    require_usable,
    without_credentials,
)

Environment = Callable[..., None]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Environment:
    """Sets variables of HTTP clients, where no others of them are set."""
    for name in (*PROXY_VARIABLES, "no_proxy", "ssl_cert_file", "ssl_cert_dir", "sslkeylogfile"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)

    def set_all(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_all


@pytest.mark.parametrize(
    "url",
    [
        "http://h:port",
        "http://",
        "ftp://h:1",
        "socks4://h:1",
        "http://[bad",
        "http://h:80\n",
        "http://u:p#x@h:80",
        "http://u:12/x@h:80",
    ],
)
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "https_proxy", "ALL_PROXY", "Https_Proxy"])
def test_a_proxy_that_is_not_a_url_is_named_without_its_value(
    environment: Environment, variable: str, url: str
) -> None:
    environment(**{variable: url})
    with pytest.raises(ConfigError) as failure:
        require_usable()
    assert str(failure.value) == (
        f"the environment variable {variable} cannot be used: its value is not the URL of a proxy, such as "
        "http://HOST:3128. Correct or unset it"
    )


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_a_socks_proxy_needs_its_package(
    environment: Environment, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment(ALL_PROXY=f"{scheme}://me:tops3cret@127.0.0.1:1080")
    monkeypatch.setattr("datamodules.network.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^the environment variable ALL_PROXY .*: pip install socksio\. ") as failure:
        require_usable()
    assert "tops3cret" not in str(failure.value)
    monkeypatch.setattr("datamodules.network.find_spec", lambda name: name)
    require_usable()


def test_files_for_tls_that_cannot_be_used_are_named(environment: Environment, tmp_path: Path) -> None:
    damaged = tmp_path / "ca.pem"
    damaged.write_text("none")
    for variable, value, reason in (
        ("SSL_CERT_FILE", tmp_path / "gone.pem", r"gone\.pem' has no certificates \(No such file"),
        ("SSL_CERT_FILE", damaged, r"ca\.pem' has no certificates \("),
        ("SSL_CERT_DIR", tmp_path / "gone", r"there is no folder '.*gone'"),
        ("SSLKEYLOGFILE", tmp_path / "gone" / "keys", r"gone/keys' cannot be written \(No such file or directory\)"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(variable, str(value))
            with pytest.raises(ConfigError, match=rf"^the environment variable {variable} cannot be used: .*{reason}"):
                require_usable()


def test_an_entry_of_no_proxy_that_httpx_cannot_read_is_named(environment: Environment) -> None:
    httpx = pytest.importorskip("httpx")  # huggingface_hub uses httpx2 since its release 2
    environment(NO_PROXY="localhost,fd00::/8", HTTP_PROXY="http://proxy:1")
    with (
        pytest.raises(ConfigError, match=r"^the environment variable NO_PROXY .* 'localhost,fd00::/8' \(Invalid port"),
        naming_no_proxy(httpx),
    ):
        httpx.Client()


def test_what_is_usable_passes(environment: Environment, tmp_path: Path) -> None:
    require_usable()
    environment(HTTP_PROXY="proxy:3128", https_proxy="http://me:s3cret@proxy:3128", ALL_PROXY="")
    environment(SSL_CERT_FILE=certifi.where(), SSL_CERT_DIR="/nonexistent")  # which is not read where there is a file
    require_usable()
    environment(SSL_CERT_FILE="", SSL_CERT_DIR=f"/nonexistent:{tmp_path}")
    require_usable()


def test_the_proxy_of_a_url_is_that_of_its_scheme_or_of_all(environment: Environment) -> None:
    environment(http_proxy="http://me:s3cret@small:1", HTTP_PROXY="http://capital:1", ALL_PROXY="other:2")
    assert proxy_for("http://host:8000/v1") == Proxy("http_proxy", "http://small:1", "host")
    assert proxy_for("https://host/v1") == Proxy("ALL_PROXY", "http://other:2", "host")
    assert str(proxy_for("https://host/v1")) == "the proxy http://other:2 of ALL_PROXY (NO_PROXY=host goes past it)"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://host/v1", "http://host/v1"),
        ("http://me:s3cret@host:8000/v1?key=s3cret#s3cret", "http://host:8000/v1"),
        ("http://me@s3cret@host/v1/a@b", "http://host/v1/a@b"),
        ("/login?next=http://me:s3cret@host", "/login"),
        ("http://host?@s3cret", "http://host"),
        ("", ""),
    ],
)
def test_a_url_is_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    assert without_credentials(url) == shown


def test_a_secret_is_masked_however_it_is_escaped_and_nothing_else() -> None:
    assert masked("no secret", None) == "no secret"
    assert masked("a.b a-b %61%2Eb \\u0061.b &#97;.b &#x61;&#046;b", "a.b") == "*** a-b *** *** *** ***"
    assert masked("\\" * 100_000, "a.b") == "\\" * 100_000  # at once


@pytest.mark.parametrize(
    ("exceptions", "is_excepted_there"),
    [
        ("localhost", False),
        ("localhost, 10.1.2.3", True),
        ("10.1.2.3:8000", True),
        ("10.0.0.0/8", True),
        ("192.168.0.0/16", False),
        ("*", True),
    ],
)
def test_no_proxy_excepts_hosts_and_networks(
    environment: Environment, exceptions: str, is_excepted_there: bool
) -> None:
    environment(HTTP_PROXY="http://proxy:1", NO_PROXY=exceptions)
    assert is_excepted("http://10.1.2.3:8000/v1") == is_excepted_there
    assert (proxy_for("http://10.1.2.3:8000/v1") is None) == is_excepted_there
    assert not is_excepted("http://node.example.com/v1") or exceptions == "*"
