"""Clients of object stores, opened by URL, and their errors as those of a file system.

| URL                     | store                                       | credentials                                  |
|-------------------------|---------------------------------------------|----------------------------------------------|
| `s3://bucket/prefix`    | S3, or a server with its protocol, which    | as boto3 finds them: `AWS_*` variables,      |
|                         | `AWS_ENDPOINT_URL` or the AWS profile names | profiles, SSO, roles, the machine's; none if |
|                         |                                             | `AWS_SKIP_SIGNATURE=true`                    |
| `gs://bucket/prefix`    | Google Cloud Storage                        | Application Default Credentials              |
| `az://container/prefix` | Azure Blob Storage, of the account that     | `AZURE_*` variables, managed identity; the   |
|                         | `AZURE_STORAGE_ACCOUNT_NAME` names          | CLI if `AZURE_USE_AZURE_CLI=true`            |
| `file:///folder`        | a folder that exists, as an object store    |                                              |
| `memory://name`         | the memory of this process                  |                                              |

The clients are obstore's, which is an extra. Its errors print Rust structures and the URL of the request, which may
hold a signature. `repeated` turns them into OSErrors without either.
"""

import errno
import logging
import math
import os
import re
import time
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from datamodules.errors import ConfigError
from datamodules.network import without_credentials
from datamodules.printable import printable

if TYPE_CHECKING:
    from obstore.store import MemoryStore, ObjectStore

SCHEMES = ("s3", "gs", "az", "file", "memory")
PATIENCE_SECONDS = 900.0  # a store may be out of reach for this long: switches and routers restart within it
_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 1.0, 15.0  # between the attempts of `repeated`; doubles up to the maximum
_REQUEST_SECONDS = 60  # limit of one request with its content, which is some MB
# obstore repeats requests by itself, but no signal interrupts it meanwhile: it does so briefly, then `repeated` does
_RETRY_SECONDS, _MAX_RETRIES = 20, 3
_CREDENTIALS_SECONDS = 600  # obstore asks again 300 s before the end; boto3 renews credentials 600 s before theirs
_MAX_MESSAGE_CHARS = 200
_WARNING_SECONDS = 60.0
_NO_CREDENTIALS = (
    "there are no AWS credentials. Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; for a public "
    "bucket AWS_SKIP_SIGNATURE=true"
)

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([^<]*)</Code>|\(code: (\w+)\)")  # of an answer, or of one object in it
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
_SERVER = re.compile(r"Error performing [A-Z]+ (https?://[^/\s?]+)")
# error codes of stores that do not accept the credentials, with the status 400, 401 or 403
_CREDENTIALS = re.compile(
    "ExpiredToken|TokenRefreshRequired|InvalidToken|InvalidAccessKeyId|SignatureDoesNotMatch|RequestTimeTooSkewed|"
    "AuthenticationFailed|InvalidAuthenticationInfo|ExpiredAuthenticationToken"
)
_NO_BUCKET = re.compile("NoSuchBucket|ContainerNotFound|The specified bucket does not exist")
# how the messages of those errors begin that obstore raises as Python's FileNotFoundError and ValueError
_OBSTORE_PREFIXES = ("Object at location", "Could not parse path")

_log = logging.getLogger(__name__)
_warned_at = -math.inf  # in monotonic s
_user_pid: int | None = None  # of the process whose requests obstore's threads serve

T = TypeVar("T")


class StoreUnavailableError(OSError):
    """The store as a whole cannot be used: it does not answer, has no such bucket, or refuses the credentials."""


class StaleVersionError(OSError):
    """An object has another version than the request named (HTTP 412)."""


class StoreUrl(NamedTuple):
    """The parts of the URL of an object store.

    Attributes:
        scheme: one of `SCHEMES`.
        bucket: the bucket or container; "" for a folder.
        prefix: path in the bucket, without slashes at its ends; absolute path of a folder.
    """

    scheme: str
    bucket: str
    prefix: str


def is_url(text: object) -> bool:
    """Return whether `text` is a URL of any scheme (`s3://…`, `https://…`), and not a path."""
    return isinstance(text, str) and _URL.fullmatch(text) is not None


def parse_url(url: str, option: str = "") -> StoreUrl:
    """Split the URL of an object store. Nothing in it is percent-decoded, because `%` and blanks are legal in keys.

    Args:
        url: a text for which `is_url` holds.
        option: that the user gave it with, for messages.

    Raises:
        ConfigError: the scheme is not supported, the bucket is missing, or the URL holds credentials.
    """
    what = f"{option} {printable(without_credentials(url))}".lstrip()
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    scheme, prefix = scheme.lower(), prefix.strip("/")
    if scheme not in SCHEMES:
        raise ConfigError(f"{what}: {scheme}:// is not supported. Give a local folder, or s3://, gs:// or az://")
    if scheme == "file":
        if bucket not in ("", "localhost"):
            raise ConfigError(f"{what} is not a folder of this machine. Give file:///folder")
        return StoreUrl(scheme, "", f"/{prefix}")
    if "@" in bucket:
        raise ConfigError(f"{what}: credentials do not belong in a URL. Remove them, and set them in the environment")
    if not bucket or re.search(r"[\s?#\\]", bucket):
        raise ConfigError(f"{what} does not name a bucket. Give {scheme}://bucket/prefix")
    return StoreUrl(scheme, bucket, prefix)


def open_object_store(url: str, option: str = "") -> "ObjectStore":
    """Return a client for the objects below a URL. Paths in its methods are relative to the URL.

    It sends no request to the store, but may look up credentials.

    Args:
        url: of one of `SCHEMES`.
        option: that the user gave it with, for messages.

    Raises:
        ConfigError: the URL is not that of a supported store, or the extra is not installed.
        StoreUnavailableError: there are no credentials, or the folder of a `file://` is missing.
    """
    scheme, bucket, prefix = parse_url(url, option)
    _require_extra(f"{option} {url}".lstrip())
    from obstore.store import AzureStore, GCSStore, LocalStore

    if scheme == "memory":
        return _memory_store(f"{bucket}/{prefix}")
    if scheme == "file":
        if not os.path.isdir(prefix):
            raise StoreUnavailableError(errno.ENOENT, "the folder is missing", url)
        return LocalStore(prefix)
    options: dict[str, Any] = {
        "prefix": prefix or None,
        "client_options": {"timeout": timedelta(seconds=_REQUEST_SECONDS)},
        "retry_config": {"max_retries": _MAX_RETRIES, "retry_timeout": timedelta(seconds=_RETRY_SECONDS)},
    }
    if scheme == "s3":
        return _open_s3(url, bucket, options)
    make: Callable[..., ObjectStore] = GCSStore if scheme == "gs" else AzureStore
    return repeated(lambda: make(bucket, **options), url, patience_seconds=0)


def repeated(
    request: Callable[[], T],
    url: str,
    patience_seconds: float = PATIENCE_SECONDS,
    on_wait: Callable[[], None] = lambda: None,
) -> T:
    """Return what `request` returns. While the store does not answer, or asks to slow down, repeat it.

    A request that creates an object may have reached the store though its answer was lost; its repetition then raises
    FileExistsError.

    Args:
        request: calls methods of obstore.
        url: of the object or prefix, for errors.
        patience_seconds: time after which no repetition starts.
        on_wait: called before each wait, which is of 15 s at most.

    Raises:
        FileNotFoundError: there is no such object.
        FileExistsError: the object exists, or is being created, and the request was not to replace it.
        StaleVersionError: the object has another version than the request named.
        PermissionError: the credentials are valid, but do not allow this.
        StoreUnavailableError: the store did not answer within the time, there is no such bucket, or the credentials
            are missing, wrong or expired.
        OSError: the store refuses the request for another reason, such as a path that cannot be a key.
        RuntimeError: this process was forked from one that has used an object store.
    """
    from obstore.exceptions import BaseError

    _require_unforked()
    deadline, pause = time.monotonic() + patience_seconds, _PAUSE_SECONDS
    while True:
        try:
            return request()
        except (BaseError, FileNotFoundError, ValueError) as error:
            if not isinstance(error, BaseError) and not str(error).startswith(_OBSTORE_PREFIXES):
                raise  # it is not obstore's
            failure = _as_os_error(error, url)
            is_temporary = isinstance(failure, StoreUnavailableError) and failure.errno == errno.EHOSTUNREACH
            if not is_temporary or time.monotonic() + pause > deadline:
                raise failure from None  # the text of obstore's error may hold a signature
            minutes = (deadline - time.monotonic()) / 60
            _warn(f"{url}: {str(failure.strerror).rstrip('.')}. Trying again for up to {minutes:.0f} min")
        on_wait()
        time.sleep(pause)
        pause = min(2 * pause, _MAX_PAUSE_SECONDS)


def _open_s3(url: str, bucket: str, options: dict[str, Any]) -> "ObjectStore":
    """Open a bucket of S3 with the endpoint, region and credentials of the environment and the AWS profile."""
    import boto3
    from botocore.exceptions import BotoCoreError
    from obstore.auth.boto3 import Boto3CredentialProvider
    from obstore.store import S3Store

    try:
        session = boto3.Session()
        endpoint = session._session.get_scoped_config().get("endpoint_url")
        if os.environ.get("AWS_SKIP_SIGNATURE", "").lower() not in ("true", "1"):
            if session.get_credentials() is None:
                raise StoreUnavailableError(errno.EACCES, _NO_CREDENTIALS, url)
            lifetime = timedelta(seconds=_CREDENTIALS_SECONDS)
            options["credential_provider"] = Boto3CredentialProvider(session, ttl=lifetime)
    except BotoCoreError as error:  # a profile that is missing or malformed, a role that cannot be assumed
        raise StoreUnavailableError(errno.EACCES, f"the AWS credentials: {_one_line(str(error))}", url) from None
    for variable in ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):  # the last one that is set wins
        endpoint = os.environ.get(variable) or endpoint
    if endpoint:
        options["endpoint"] = endpoint
        options["client_options"]["allow_http"] = endpoint.startswith("http://")
    if session.region_name:
        options["region"] = session.region_name
    return repeated(lambda: S3Store(bucket, **options), url, patience_seconds=0)


def _warn(message: str) -> None:
    """Log `message`, once a minute for all threads: of many requests that fail, one is enough to see."""
    global _warned_at
    if time.monotonic() - _warned_at > _WARNING_SECONDS:
        _warned_at = time.monotonic()
        _log.warning("%s", message)


def _require_unforked() -> None:
    """Raise in a forked process, where requests would wait forever for threads that the fork did not copy."""
    global _user_pid
    _user_pid = _user_pid or os.getpid()
    if _user_pid != os.getpid():
        raise RuntimeError(
            "a process that was forked from one that has used an object store cannot use it. Start processes by "
            "'forkserver' or 'spawn' (DataLoader: multiprocessing_context)"
        )


@cache
def _memory_store(name: str) -> "MemoryStore":
    """Return the store of this name: the same one whenever it is opened in this process."""
    from obstore.store import MemoryStore

    return MemoryStore()


def _require_extra(what: str) -> None:
    try:
        import boto3  # noqa: F401
        import obstore  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"{what}: object storage needs the package {error.name}, on Python 3.11 or later. "
            "pip install 'framemill[cloud]'"
        ) from error


def _as_os_error(error: Exception, url: str) -> OSError:
    """Return the OSError for an error of obstore, with the code and message of the store's answer."""
    from obstore import exceptions

    text = str(error).partition("\n\nDebug source:")[0]
    code, message, status = (_first(pattern, text) for pattern in (_CODE, _MESSAGE, _STATUS))
    answer = f"HTTP {status} {code}: {_one_line(message)}".rstrip(": ") if status else ""
    if isinstance(error, exceptions.UnauthenticatedError) or _CREDENTIALS.search(code):
        reason = f"the credentials are missing, wrong or expired. {answer}".rstrip()
        return StoreUnavailableError(errno.EACCES, reason, url)
    if _NO_BUCKET.search(text):
        return StoreUnavailableError(errno.ENOENT, "there is no such bucket", url)
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "there is no such object", url)
    if isinstance(error, exceptions.AlreadyExistsError):
        return FileExistsError(errno.EEXIST, "the object exists", url)
    if isinstance(error, exceptions.PreconditionError):
        return StaleVersionError(errno.ESTALE, "the object has another version", url)
    if isinstance(error, exceptions.PermissionDeniedError) or code == "AccessDenied":
        return PermissionError(errno.EACCES, answer or "access is denied", url)
    if isinstance(error, (exceptions.InvalidPathError, ValueError)):
        return OSError(errno.EINVAL, f"a key cannot be used as a path. {_one_line(text)}", url)
    if status.startswith("3") or "Received redirect" in text:
        return StoreUnavailableError(errno.EINVAL, "the bucket is in another region. Set AWS_REGION", url)
    if status.startswith("4") and status not in ("408", "429"):
        return OSError(errno.EINVAL, answer, url)
    if status == "501":
        return OSError(errno.EOPNOTSUPP, answer, url)
    server = without_credentials(_first(_SERVER, text))
    if isinstance(error, exceptions.NotSupportedError) or not (server or "HTTP error" in text):  # no request was sent
        return OSError(errno.EINVAL, _one_line(text), url)
    server = server or "the store"  # an answer that breaks off is an HTTP error without the server's name
    return StoreUnavailableError(errno.EHOSTUNREACH, f"{server} does not answer. {answer}".rstrip(), url)


def _first(pattern: re.Pattern[str], text: str) -> str:
    """Return the last group of the first match; "" without one."""
    return found[found.lastindex or 0] if (found := pattern.search(text)) else ""


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))[:_MAX_MESSAGE_CHARS]
