"""A proxy before an HTTP server that loses replies, answers errors, delays and records requests."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

_HOP_HEADERS = ("connection", "transfer-encoding", "content-length", "date", "server")


@dataclass
class Fault:
    """What happens to the next requests of one kind.

    Attributes:
        method: of the requests.
        part: of their paths with the query, percent-decoded.
        status: answered without asking the server; 0: the server does what is requested, and its reply is lost.
        body: of the answer.
        seconds: delay before that.
        times: number of requests that this happens to.
        after: number of requests of this kind before them.
    """

    method: str
    part: str = ""
    status: int = 0
    body: bytes = b""
    seconds: float = 0.0
    times: int = 1
    after: int = 0


@dataclass
class FaultyProxy:
    """A running proxy.

    Attributes:
        url: of the proxy.
        faults: that are still to happen; tests add to them.
        requests: method and path with the query of every request so far, in the order of their arrival.
        ignores_conditions: the server does not see the headers of conditional requests.
        latency_seconds: delay of every request.
    """

    url: str
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    ignores_conditions: bool = False
    latency_seconds: float = 0.0
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _num_open: int = 0

    def wait(self) -> None:
        """Wait until no request is in progress."""
        with self._changed:
            self._changed.wait_for(lambda: self._num_open == 0)

    @contextmanager
    def request(self, method: str, path: str) -> Iterator[Fault | None]:
        """Record a request, which is in progress during the block, and yield what happens to it; None: nothing."""
        with self._changed:
            self.requests.append((method, path))
            self._num_open += 1
            fault = self._next_fault(method, path)
        try:
            yield fault
        finally:
            with self._changed:
                self._num_open -= 1
                self._changed.notify_all()

    def _next_fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.method == method and fault.part in path and fault.times:
                if fault.after:
                    fault.after -= 1
                    return None
                fault.times -= 1
                return fault
        return None


@contextmanager
def faulty_proxy(server_url: str) -> Iterator[FaultyProxy]:
    """Start a proxy of the server at `server_url` on a free port of the loopback interface; stop it at the end."""
    host, port = urlsplit(server_url).hostname or "", urlsplit(server_url).port

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with proxy.request(self.command, unquote(self.path)) as fault:
                self._answer(content, fault)

        def _answer(self, content: bytes, fault: Fault | None) -> None:
            time.sleep(proxy.latency_seconds + (fault.seconds if fault else 0))
            if fault and fault.status:
                self._reply(fault.status, {}, fault.body)
                return
            connection = HTTPConnection(host, port)
            ignored = ("if-none-match", "if-match") if proxy.ignores_conditions else ()
            headers = {name: value for name, value in self.headers.items() if name.lower() not in ignored}
            connection.request(self.command, self.path, content, headers)
            response = connection.getresponse()
            body = response.read()
            connection.close()
            if fault:
                self.close_connection = True  # without a reply
            else:
                self._reply(response.status, dict(response.getheaders()), body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815

        def _reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
            is_head = self.command == "HEAD"
            size = headers.get("Content-Length", "0") if is_head else str(len(body))
            with suppress(ConnectionError):  # the client did not wait
                self.send_response(status)
                for name, value in {**headers, "Content-Length": size}.items():
                    if name.lower() not in _HOP_HEADERS or name == "Content-Length":
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(b"" if is_head else body)

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    server = Server(("127.0.0.1", 0), Handler)
    proxy = FaultyProxy(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
