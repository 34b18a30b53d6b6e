"""Proxies and certificates that the environment names for HTTP clients; and URLs and keys in messages."""

import html
import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit
from urllib.request import proxy_bypass

from datamodules.errors import ConfigError

PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy")  # upper or lower case; lower case takes precedence
_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")


class Proxy(NamedTuple):
    """A proxy that requests go through.

    Attributes:
        variable: the environment variable that names it.
        url: its URL, without user and password.
        host: host of the server that is reached through the proxy.
    """

    variable: str
    url: str
    host: str

    def __str__(self) -> str:
        return f"the proxy {self.url} of {self.variable} (NO_PROXY={self.host} goes past it)"


def require_usable() -> None:
    """Check the environment variables for which HTTP clients raise an unclear error when they are created.

    Raises:
        ConfigError: a proxy is not a URL, or needs a package that is missing; the certificates are missing or damaged;
            or the file for TLS keys cannot be written.
    """
    for variable, url in _proxies(PROXY_VARIABLES):
        _require_proxy(variable, url)
    if file := os.environ.get("SSLKEYLOGFILE"):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).keylog_filename = file
        except OSError as error:
            raise ConfigError(_unusable("SSLKEYLOGFILE", f"{file!r} cannot be written ({error.strerror})")) from error
    if file := os.environ.get("SSL_CERT_FILE"):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError(_unusable("SSL_CERT_FILE", f"{file!r} has no certificates ({reason})")) from error
        return  # SSL_CERT_DIR is ignored then
    folders = os.environ.get("SSL_CERT_DIR")
    if folders and not any(Path(folder).is_dir() for folder in folders.split(os.pathsep)):
        raise ConfigError(_unusable("SSL_CERT_DIR", f"there is no folder {folders!r}"))


@contextmanager
def naming_no_proxy(http: ModuleType) -> Iterator[None]:
    """Turn the error of httpx about an entry of NO_PROXY, such as the network fd00::/8, into a ConfigError.

    Args:
        http: `httpx`, or `httpx2`, which reads any entry.
    """
    try:
        yield
    except http.InvalidURL as error:
        variable = "no_proxy" if "no_proxy" in os.environ else "NO_PROXY"
        raise ConfigError(_unusable(variable, f"httpx cannot read {os.environ.get(variable)!r} ({error})")) from error


def proxy_for(url: str) -> Proxy | None:
    """Return the proxy that requests to `url` go through; None if they go to the server itself."""
    if is_excepted(url):
        return None
    target = urlsplit(url)
    for variable, proxy in _proxies((f"{target.scheme}_proxy", "all_proxy")):
        parts = urlsplit(proxy)
        return Proxy(variable, f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", target.hostname or "")
    return None


def is_excepted(url: str) -> bool:
    """Return whether NO_PROXY names the host of `url`, or a network that it lies in."""
    host, netloc = urlsplit(url).hostname or "", urlsplit(url).netloc
    if proxy_bypass(host) or proxy_bypass(netloc):
        return True
    networks = (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").split(",")
    try:
        return any(
            ip_address(host) in ip_network(network.strip(), strict=False) for network in networks if "/" in network
        )
    except ValueError:  # the host is a name, or an entry is not a network
        return False


def without_credentials(url: str) -> str:
    """Return `url` without user, password, query and fragment, any of which may be secret."""
    scheme, slashes, rest = re.split(r"[?#]", url, maxsplit=1)[0].partition("//")
    authority = re.split(r"[/\\]", rest, maxsplit=1)[0]
    return scheme + slashes + rest[authority.rfind("@") + 1 :]


def redirect_target(url: str, location: str) -> str:
    """Return where an answer to `url` with the header `Location: {location}` redirects to, without credentials."""
    try:
        return without_credentials(urljoin(url, location))
    except ValueError:  # it is not a URL
        return without_credentials(location)


def masked(text: str, secret: str | None) -> str:
    """Return `text` with `***` for `secret`, also where its characters are escaped for JSON, Python, URLs or HTML."""
    return _spellings(secret).sub("***", text) if secret else text


@lru_cache
def _spellings(secret: str) -> re.Pattern[str]:
    return re.compile("".join(map(_spellings_of_character, secret)))


def _spellings_of_character(char: str) -> str:
    code, plain = ord(char), re.escape(char)
    escaped = rf"%{code:02x}|\\{{1,8}}(?:u00|x){code:02x}|&#(?:0*{code}|x0*{code:x});"  # \\{1,8}: escaped several times
    return rf"(?:\\{{0,8}}{plain}|(?i:{escaped})|{re.escape(html.escape(char))})"


def _proxies(names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield (variable as it is spelled, URL) for those of `names` that are set."""
    for name in names:
        spellings = [variable for variable in os.environ if variable.lower() == name]
        variable = name if name in spellings else next(reversed(spellings), name)
        if url := os.environ.get(variable):
            yield variable, url if "://" in url else f"http://{url}"


def _require_proxy(variable: str, url: str) -> None:
    from httpx2 import URL, InvalidURL

    try:
        parts, _ = urlsplit(url), URL(url)
        is_cut = "@" in f"{parts.path}{parts.query}{parts.fragment}"  # a / ? or # in the password ends the host
        is_url = parts.scheme in _PROXY_SCHEMES and bool(parts.hostname) and parts.port != 0 and not is_cut
    except (ValueError, InvalidURL):
        is_url = False
    if not is_url:  # the value may hold a password
        raise ConfigError(_unusable(variable, "its value is not the URL of a proxy, such as http://HOST:3128"))
    if parts.scheme.startswith("socks") and not find_spec("socksio"):
        raise ConfigError(_unusable(variable, "a SOCKS proxy needs a package: pip install socksio"))


def _unusable(variable: str, reason: str) -> str:
    return f"the environment variable {variable} cannot be used: {reason}. Correct or unset it"
