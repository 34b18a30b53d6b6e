"""Clients of object stores: which URLs they take, where they find credentials, and what their errors say."""

import errno
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from datamodules import object_store
from datamodules.errors import ConfigError
from datamodules.object_store import (
    StaleVersionError,
    StoreUnavailableError,
    StoreUrl,
    is_url,
    open_object_store,
    parse_url,
    repeated,
)
from support.s3_server import S3Server

obstore = pytest.importorskip("obstore")


def _get(url: str, path: str, patience_seconds: float = 0, **options: str) -> bytes:
    store = open_object_store(url)
    options_or_none = {"if_match": options["if_match"]} if options else None
    request = lambda: bytes(obstore.get(store, path, options=options_or_none).bytes())  # noqa: E731
    return repeated(request, f"{url}/{path}", patience_seconds)


@pytest.mark.parametrize("text", ["s3://bucket", "gs://b/p", "https://example.org/x", "ftp://x", "S3://bucket/x"])
def test_is_a_url(text: str) -> None:
    assert is_url(text)


@pytest.mark.parametrize("text", ["/data/s3", "data", "s3:/bucket", "C:\\data", "12://x", "a b://c", Path("s3://x")])
def test_is_no_url(text: object) -> None:
    assert not is_url(text)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("s3://bucket", StoreUrl("s3", "bucket", "")),
        ("S3://bucket/a/b/", StoreUrl("s3", "bucket", "a/b")),
        ("gs://bucket/100%25 ü", StoreUrl("gs", "bucket", "100%25 ü")),
        ("az://container/x", StoreUrl("az", "container", "x")),
        ("file:///data/videos", StoreUrl("file", "", "/data/videos")),
        ("file://localhost/data", StoreUrl("file", "", "/data")),
    ],
)
def test_splits_a_url(url: str, parts: StoreUrl) -> None:
    assert parse_url(url) == parts


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://example.org/x", "--data.root https://example.org/x: https:// is not supported. Give a local folder"),
        ("hdfs://x/y", "hdfs:// is not supported. Give a local folder, or s3://, gs:// or az://"),
        ("s3://", "--data.root s3:// does not name a bucket. Give s3://bucket/prefix"),
        ("s3:///x", "does not name a bucket"),
        ("file://data/x", "is not a folder of this machine. Give file:///folder"),
        ("s3://AKIA:SECRET@bucket/x", "--data.root s3://bucket/x: credentials do not belong in a URL"),
    ],
)
def test_refuses_urls(url: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_url(url, "--data.root")
    assert message in str(raised.value)
    assert "SECRET" not in str(raised.value)


@pytest.mark.parametrize("package", ["obstore", "boto3"])
def test_names_the_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError) as raised:
        open_object_store("s3://bucket/x", "--data.root")
    assert str(raised.value) == (
        f"--data.root s3://bucket/x: object storage needs the package {package}, on Python 3.11 or later. "
        "pip install 'framemill[cloud]'"
    )


def test_reads_objects_by_their_exact_keys(s3: S3Server) -> None:
    keys = ["a/100% b.txt", "a/a%20b.txt", "a/ü ~*#?&+.txt"]
    bucket = s3.make_bucket({f"pre fix%20/{key}": key.encode() for key in keys})
    assert [_get(f"s3://{bucket}/pre fix%20", key) for key in keys] == [key.encode() for key in keys]


def test_errors_are_those_of_a_file_system(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"s3://{s3.make_bucket({'a.txt': b'1'})}"
    with pytest.raises(FileNotFoundError, match="no such object"):
        _get(url, "b.txt")
    with pytest.raises(StaleVersionError, match="another version"):
        _get(url, "a.txt", if_match='"0"')
    with pytest.raises(FileExistsError):
        repeated(lambda: obstore.put(open_object_store(url), "a.txt", b"2", mode="create"), url)
    with pytest.raises(OSError, match="cannot be used as a path") as invalid:
        _get(url, "a//b")
    assert invalid.value.errno == errno.EINVAL
    with pytest.raises(StoreUnavailableError, match="no such bucket"):
        _get("s3://no-such-bucket", "a.txt")
    with pytest.raises(StoreUnavailableError, match="no such bucket"):
        repeated(lambda: obstore.list(open_object_store("s3://no-such-bucket")).collect(), url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StoreUnavailableError, match=r"http://127\.0\.0\.1:1 does not answer"):
        _get(url, "a.txt")


def test_other_errors_pass_unchanged() -> None:
    for error in (
        ValueError("Could not convert"),
        FileNotFoundError(errno.ENOENT, "a local file"),
        OSError(28, "full"),
    ):

        def fail(error: Exception = error) -> None:
            raise error

        with pytest.raises(type(error)) as raised:
            repeated(fail, "s3://bucket")
        assert raised.value is error


_EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
_DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message><Key>SECRET</Key></Error>"


@contextmanager
def _answering(status: int, body: bytes, num_failures: int = 10**9) -> Iterator[str]:
    """The URL of a server that gives this answer `num_failures` times, and then the content `whole`.

    With the status 0, these answers break off after `body`.
    """
    count = iter(range(10**9))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_failure = next(count) < num_failures
            content = body if is_failure else b"whole"
            self.send_response((status if is_failure else 0) or 200)
            self.send_header("Content-Length", str(len(content) + (is_failure and not status)))
            self.send_header("Last-Modified", "Mon, 30 Nov 2026 12:00:00 GMT")
            self.send_header("ETag", '"1"')
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (400, _EXPIRED, StoreUnavailableError, "missing, wrong or expired. HTTP 400 ExpiredToken: The provided token"),
        (403, _EXPIRED, StoreUnavailableError, "missing, wrong or expired. HTTP 403 ExpiredToken: The provided token"),
        (403, _DENIED, PermissionError, "HTTP 403 AccessDenied: Access Denied"),
        (401, b"", StoreUnavailableError, "missing, wrong or expired"),
        (301, b"", StoreUnavailableError, "another region. Set AWS_REGION"),
    ],
)
def test_says_why_a_store_refuses(
    status: int, body: bytes, kind: type[OSError], message: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _answering(status, body) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(kind) as raised:
            _get("s3://bucket", "a.txt", patience_seconds=60)
    assert message in str(raised.value)
    assert "SECRET" not in str(raised.value)


def test_repeats_a_request_until_the_store_answers(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "_MAX_RETRIES", 0)
    monkeypatch.setattr(object_store, "_PAUSE_SECONDS", 0.01)
    waits: list[float] = []
    with _answering(503, b"<Error><Code>SlowDown</Code></Error>", num_failures=4) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        store = open_object_store("s3://bucket")
        request = lambda: bytes(obstore.get(store, "a.txt").bytes())  # noqa: E731
        content = repeated(request, "s3://bucket/a.txt", 60, on_wait=lambda: waits.append(time.monotonic()))
    assert (content, len(waits)) == (b"whole", 4)


def test_asks_again_for_a_content_that_breaks_off(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "_MAX_RETRIES", 0)
    monkeypatch.setattr(object_store, "_PAUSE_SECONDS", 0.01)
    with _answering(0, b"who", num_failures=2) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        assert _get("s3://bucket", "a.txt", patience_seconds=60) == b"whole"


def test_gives_up_after_its_patience(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "_MAX_RETRIES", 0)
    with _answering(503, b"<Error><Code>SlowDown</Code></Error>") as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(StoreUnavailableError, match=r"does not answer\. HTTP 503 SlowDown"):
            _get("s3://bucket", "a.txt", patience_seconds=0.5)


def test_finds_endpoint_and_credentials_in_a_profile(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket = s3.make_bucket({"a.txt": b"1"})
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    config = tmp_path / "config"
    config.write_text(
        f"[profile lab]\nregion = us-east-1\nendpoint_url = {s3.url}\naws_access_key_id = testing\n"
        "aws_secret_access_key = testing\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert _get(f"s3://{bucket}", "a.txt") == b"1"
    monkeypatch.setenv("AWS_PROFILE", "other")
    with pytest.raises(StoreUnavailableError, match="The config profile \\(other\\) could not be found"):
        open_object_store(f"s3://{bucket}")


def test_says_that_there_are_no_credentials(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(StoreUnavailableError, match=r"no AWS credentials\. Set AWS_PROFILE"):
        open_object_store("s3://bucket")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    open_object_store("s3://bucket")


def test_a_folder_and_this_process_are_object_stores(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"1")
    assert _get(f"file://{tmp_path}", "a.txt") == b"1"
    with pytest.raises(StoreUnavailableError, match="the folder is missing"):
        open_object_store(f"file://{tmp_path}/none")
    obstore.put(open_object_store("memory://one"), "a.txt", b"2")
    assert _get("memory://one", "a.txt") == b"2"
    with pytest.raises(FileNotFoundError):
        _get("memory://two", "a.txt")
