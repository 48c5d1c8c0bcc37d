"""A chat server on a loopback socket that does what it is told, mostly wrong things.

    with FaultServer([status(429, headers={"Retry-After": "1"}), hang(), ok('{"answer": 1}')]) as server:
        ...                    # server.url is the base_url
    assert len(server.requests) == 3

Each request takes the next step of the script; the last step is repeated for ever.  The script may also be a function
of the request that gives a step.  Each connection carries one request.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Received:
    """One request, as it came over the wire."""

    raw: bytes
    """Every byte, headers included."""
    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, kw_only=True)
class Line:
    """The server's end of a connection."""

    socket: socket.socket
    request: Received
    closing: threading.Event
    """Set when the server closes down."""

    def send(self, data: bytes) -> bool:
        """Whether the other side still took it."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True


Step = Callable[[Line], None]


def completion(
    text: Any = "{}",
    *,
    finish_reason: str | None = "stop",
    usage: Mapping[str, Any] | None = None,
    model: str = "fault-model",
    message: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The body of a chat completion, as a record."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [
            {
                "index": 0,
                "finish_reason": finish_reason,
                "message": {"role": "assistant", "content": text, **(message or {})},
            }
        ],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15} if usage is None else dict(usage),
    }


def ok(text: Any = "{}", **changes: Any) -> Step:
    """A good answer with this text; the keywords are those of `completion`."""
    return answer(completion(text, **changes))


def answer(data: Any, **changes: Any) -> Step:
    """Any record as JSON, with status 200."""
    return status(200, body=json.dumps(data).encode(), **changes)


def error(code: int, message: str, /, *, headers: Mapping[str, str] | None = None, **more: Any) -> Step:
    """An error in the shape that OpenAI gives it."""
    return status(code, body=json.dumps({"error": {"message": message, **more}}).encode(), headers=headers)


def status(
    code: int,
    *,
    body: bytes = b"{}",
    headers: Mapping[str, str] | None = None,
    content_type: str = "application/json",
) -> Step:
    """Any status with any body."""

    def step(line: Line) -> None:
        line.send(_head(code, len(body), content_type, headers) + body)

    return step


def html(code: int = 200) -> Step:
    page = b"<!doctype html><html><head><title>Sign in to the network</title></head><body>No.</body></html>"
    return status(code, body=page, content_type="text/html")


def bad_gzip() -> Step:
    return status(200, body=b"this was never compressed", headers={"Content-Encoding": "gzip"})


def good_gzip(text: str) -> Step:
    """A good answer, compressed although nobody asked for that."""
    body = gzip.compress(json.dumps(completion(text)).encode())
    return status(200, body=body, headers={"Content-Encoding": "gzip"})


def raw(data: bytes) -> Step:
    """These bytes and a clean close."""

    def step(line: Line) -> None:
        line.send(data)

    return step


def redirect(location: str, code: int = 307) -> Step:
    return status(code, headers={"Location": location})


def hang(seconds: float = 60.0) -> Step:
    """Never answer."""

    def step(line: Line) -> None:
        line.closing.wait(seconds)

    return step


def drip(*, pause_seconds: float = 0.1, text: str = "{}") -> Step:
    """A good answer, byte by byte."""

    def step(line: Line) -> None:
        body = json.dumps(completion(text)).encode()
        for byte in _head(200, len(body)) + body:
            if not line.send(bytes([byte])) or line.closing.wait(pause_seconds):
                return

    return step


def drip_body(*, pause_seconds: float = 0.1, text: str = "{}") -> Step:
    """The head at once, then the body byte by byte."""

    def step(line: Line) -> None:
        body = json.dumps(completion(text)).encode()
        line.send(_head(200, len(body)))
        for byte in body:
            if not line.send(bytes([byte])) or line.closing.wait(pause_seconds):
                return

    return step


def later(step: Step, *, seconds: float) -> Step:
    """The step after a while."""

    def wait(line: Line) -> None:
        if not line.closing.wait(seconds):
            step(line)

    return wait


def reset_before() -> Step:
    """Reset the connection instead of an answer."""
    return lambda line: _reset(line.socket)


def reset_mid_body() -> Step:
    def step(line: Line) -> None:
        line.send(_head(200, 1000) + b'{"choices": [')
        # What is sent right before a reset may be lost with it.
        line.closing.wait(0.1)
        _reset(line.socket)

    return step


def close_mid_body() -> Step:
    return raw(_head(200, 1000) + b'{"choices": [')


def flood() -> Step:
    """A body without an end."""

    def step(line: Line) -> None:
        line.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")
        while not line.closing.is_set() and line.send(b" " * 65536):
            pass

    return step


class FaultServer:
    """The server; a context manager that leaves no thread and no socket behind."""

    def __init__(self, script: Iterable[Step] | Callable[[Received], Step]):
        self.requests: list[Received] = []
        self._script = script if callable(script) else _in_turn(script)
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []

    @property
    def url(self) -> str:
        """What to put into `base_url`."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def raw(self) -> bytes:
        """Every byte that was received."""
        return b"".join(request.raw for request in self.requests)

    def __enter__(self) -> FaultServer:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name="fault-server", daemon=True)
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        _shut(self._listener)
        self._acceptor.join(5)
        self._listener.close()
        with self._lock:
            threads, sockets = list(self._threads), list(self._sockets)
        for connection in sockets:
            _shut(connection)
        for thread in threads:
            thread.join(5)

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), name="fault-server", daemon=True)
            with self._lock:
                self._threads.append(thread)
                self._sockets.append(connection)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            request = _receive(connection)
            if request is None:
                return
            with self._lock:
                self.requests.append(request)
                step = self._script(request)
            step(Line(socket=connection, request=request, closing=self._closing))


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _in_turn(steps: Iterable[Step]) -> Callable[[Received], Step]:
    left = list(steps)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def _head(
    code: int, length: int, content_type: str = "application/json", headers: Mapping[str, str] | None = None
) -> bytes:
    lines = [f"HTTP/1.1 {code} Status", f"Content-Type: {content_type}", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode()


def _receive(connection: socket.socket) -> Received | None:
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65536)
        if not chunk:
            return None
        data += chunk
        if data[:1] == b"\x16":  # somebody tries to speak TLS
            return None
    head, _, body = data.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    while len(body) < int(headers.get("content-length", 0)):
        chunk = connection.recv(65536)
        if not chunk:
            return None
        body += chunk
    method, path, _ = first.split(" ", 2)
    return Received(raw=head + b"\r\n\r\n" + body, method=method, path=path, headers=headers, body=body)


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
