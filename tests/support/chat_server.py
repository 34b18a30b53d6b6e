"""An HTTP server on this machine that answers OpenAI's chat completions, correctly or not, as a test decides."""

import base64
import io
import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MODEL = "tiny-vlm"


@dataclass
class Ask:
    """One request for a caption; `nth`: how often this image and prompt came before, from 0."""

    body: dict[str, Any]
    headers: dict[str, str]
    nth: int

    @property
    def prompt(self) -> str:
        return str(self.body["messages"][-1]["content"][1]["text"])

    @property
    def url(self) -> str:
        return str(self.body["messages"][-1]["content"][0]["image_url"]["url"])

    @property
    def image(self) -> NDArray[np.uint8]:
        content = base64.b64decode(self.url.partition(",")[2])
        return np.asarray(Image.open(io.BytesIO(content)))

    @property
    def brightness(self) -> int:
        return round(float(self.image.mean()))


@dataclass
class Reply:
    """What the server does: waits, then answers with `body`, or hangs up in the middle of it.

    Attributes:
        pause_seconds: set: `body` is sent over and over, with such pauses, until the client hangs up.
        is_raw: `body` is sent as it is, without a status line and headers before it.
    """

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    drops: bool = False
    pause_seconds: float | None = None
    is_raw: bool = False


def said(
    content: object, finish: str = "stop", num_tokens: int = 3, message: Any = None, usage: Any = None, **more: Any
) -> Reply:
    """An answer as servers give it; `message` and `usage` are further fields of these."""
    message = {"role": "assistant", "content": content, **(message or {})}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    tokens = {"prompt_tokens": 5, "completion_tokens": num_tokens, "total_tokens": 5 + num_tokens}
    usage = {**tokens, **(usage or {})}
    answer = {"id": "1", "object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage}
    return Reply(json.dumps(answer).encode(), **more)


def refused(status: int, message: str, **headers: str) -> Reply:
    """Return an error in the form of vLLM."""
    body = json.dumps({"error": {"message": message, "type": "Error", "code": status}})
    return Reply(body.encode(), status, {name.replace("_", "-"): value for name, value in headers.items()})


def describe(ask: Ask) -> Reply:
    """Return the caption of a working server: the brightness of the image, and the prompt."""
    return said(f" {ask.brightness}: {ask.prompt}\n")


class ChatServer(ThreadingHTTPServer):
    """Use as a context manager; as a proxy, it answers for any host.

    Attributes:
        url: of its API.
        asks: requests for captions so far.
        headers: of all requests so far, by names in small letters.
        peak: greatest number of requests at once.
        connections: how many were made.
        models: names that `/v1/models` lists by default.
        closing: set when the server is about to close.
    """

    daemon_threads = False  # closing waits for all answers: no thread outlives its test
    request_queue_size = 128

    def __init__(self, behave: Callable[[Ask], Reply] = describe, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.behave = behave
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.asks: list[Ask] = []
        self.headers: list[dict[str, str]] = []
        self.peak = self.connections = self._now = 0
        listed = {"object": "list", "data": [{"id": MODEL, "object": "model", "root": "org/Tiny-VLM"}]}
        self.models = Reply(json.dumps(listed).encode())
        self._lock = threading.Lock()
        self.closing = threading.Event()
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> "ChatServer":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()
        self._thread.join()
        self.closing.set()
        for connection in self._open:
            with suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        self._open.append(request)
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may go away."""

    def reply(self, body: dict[str, Any], headers: dict[str, str]) -> Reply:
        with self._lock:
            nth = sum(earlier.body == body for earlier in self.asks)
            self.asks.append(ask := Ask(body, headers, nth))
            self._now += 1
            self.peak = max(self.peak, self._now)
        try:
            reply = self.behave(ask)
            self.closing.wait(reply.seconds)
            return reply
        finally:
            with self._lock:
                self._now -= 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServer

    def do_GET(self) -> None:
        self._note_headers()
        self._send(self.server.models if urlsplit(self.path).path == "/v1/models" else refused(404, "Not Found"))

    def do_POST(self) -> None:
        headers = self._note_headers()
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            self._send(refused(404, "Not Found"))
        else:
            self._send(self.server.reply(body, headers))

    def _note_headers(self) -> dict[str, str]:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.headers.append(headers)
        return headers

    def _send(self, reply: Reply) -> None:
        is_endless = reply.pause_seconds is not None
        if not reply.is_raw:
            self.send_response(reply.status)
            length = {} if is_endless else {"Content-Length": str(len(reply.body))}
            for name, value in {"Content-Type": "application/json", **length, **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
        self.wfile.write(reply.body[: len(reply.body) // 2] if reply.drops else reply.body)
        while is_endless and not self.server.closing.wait(reply.pause_seconds):
            self.wfile.write(reply.body)
        if reply.drops or reply.is_raw or is_endless:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Log nothing."""
