"""An S3 server on this machine (moto), and the environment in which clients find it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import pytest

PAGE_SIZE = 20  # objects that the server lists at once; S3 lists 1,000
_START_SECONDS = 30.0


class S3Server:
    """A running server. It keeps its objects in memory.

    Attributes:
        url: `http://127.0.0.1:{port}`.
        environment: variables with which boto3 and this package find it.
        client: boto3's client of it.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.environment = {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "SECRET-testing",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": url,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }
        import boto3

        with patch.dict(os.environ, self.environment):
            self.client: Any = boto3.client("s3")

    def make_bucket(self, objects: Mapping[str, bytes] = {}) -> str:
        """Make a bucket of a new name with `objects` by key, and return the name."""
        bucket = f"bucket-{uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=bucket)
        for key, content in objects.items():
            self.client.put_object(Bucket=bucket, Key=key, Body=content)
        return bucket

    def upload(self, folder: Path, bucket: str, prefix: str = "") -> None:
        """Copy the files below `folder` into a bucket, links followed."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.client.put_object(Bucket=bucket, Key=f"{prefix}{path.relative_to(folder)}", Body=path.read_bytes())


@contextmanager
def running_s3_server(page_size: int = PAGE_SIZE) -> Iterator[S3Server]:
    """Start a server on a free port of the loopback interface, and stop it at the end.

    Args:
        page_size: number of objects that the server lists at once.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    environment = {**os.environ, "MOTO_S3_DEFAULT_MAX_KEYS": str(page_size)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        yield S3Server(f"http://127.0.0.1:{port}")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("moto's server does not start")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """An S3 server, shared by all tests of a process."""
    with running_s3_server() as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The S3 server, which the environment of this test and of its processes names."""
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server
