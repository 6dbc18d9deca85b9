"""HTTP/1.1 for the pretend API server: one object per connection, bytes in, answers out, nothing that blocks."""

from __future__ import annotations

from simulator import lean_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
_LARGEST_REQUEST = 64 * 1024 * 1024
_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Request Entity Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Request:
    """One request as it came; ``body`` complete, header names in lower case."""

    __slots__ = ("body", "headers", "method", "path")

    def __init__(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.body = body


class Connection:
    """One client. It answers one request at a time; what a client sends meanwhile waits."""

    def __init__(self, socket: _socket.socket, peer: str) -> None:
        self.socket = socket
        self.peer = peer
        self.answering: Request | None = None
        self.status = 0
        self.closed = False
        self._incoming = b""
        self._outgoing = b""
        self._streaming = False
        self._close_after = False

    @property
    def has_output(self) -> bool:
        """Whether bytes wait for the client to take them."""
        return bool(self._outgoing)

    def read(self) -> None:
        """Take what the client sent; ``closed`` is set when it has gone."""
        try:
            received = self.socket.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received or len(self._incoming) > _LARGEST_REQUEST:
            self.close()
        self._incoming += received

    def next_request(self) -> Request | None:
        """Return the next complete request, None while there is none; a malformed one closes the connection."""
        if self.answering is not None or self.closed:
            return None
        head, separator, rest = self._incoming.partition(b"\r\n\r\n")
        if not separator:
            return None
        lines = head.decode("latin-1").split("\r\n")
        try:
            method, target, version = lines[0].split(" ")
            headers = {
                name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
            }
            length = int(headers.get("content-length", "0"))
        except ValueError:
            self.close()
            return None
        if len(rest) < length:
            if headers.get("expect", "").lower() == "100-continue" and not rest:
                self._put(b"HTTP/1.1 100 Continue\r\n\r\n")
            return None
        self._incoming = rest[length:]
        self._close_after = version == "HTTP/1.0" or headers.get("connection", "").lower() == "close"
        self.answering = Request(method, target.partition("?")[0], headers, rest[:length])
        return self.answering

    def respond(self, status: int, body: bytes, content_type: str = "application/json") -> None:
        """Answer the request at hand completely."""
        self._head(status, content_type, f"content-length: {len(body)}")
        self._put(body)
        self._done()

    def respond_json(self, status: int, value: object) -> None:
        """Answer with a JSON document."""
        self.respond(status, lean_json.dump(value).encode())

    def send_event(self, data: str) -> None:
        """Send one server-sent event; the first one begins the answer."""
        if not self._streaming:
            self._streaming = True
            self._head(200, "text/event-stream; charset=utf-8", "transfer-encoding: chunked")
        event = f"data: {data}\n\n".encode()
        self._put(f"{len(event):x}\r\n".encode() + event + b"\r\n")

    def end_events(self) -> None:
        """End an answer that ``send_event`` began."""
        self._put(b"0\r\n\r\n")
        self._streaming = False
        self._done()

    def flush(self) -> None:
        """Send what the client takes now."""
        while self._outgoing and not self.closed:
            try:
                sent = self.socket.send(self._outgoing)
            except BlockingIOError:
                return
            except OSError:
                self.close()
                return
            self._outgoing = self._outgoing[sent:]
        if self._close_after and self.answering is None:
            self.close()

    def close(self) -> None:
        """Close the connection; the socket itself is the server's to unregister."""
        self.closed = True

    def _head(self, status: int, content_type: str, length: str) -> None:
        self.status = status
        closing = "connection: close\r\n" if self._close_after else ""
        self._put(
            f"HTTP/1.1 {status} {_REASONS[status]}\r\nserver: podctl-simulator\r\n"
            f"content-type: {content_type}\r\n{length}\r\n{closing}\r\n".encode()
        )

    def _put(self, data: bytes) -> None:
        self._outgoing += data
        self.flush()

    def _done(self) -> None:
        self.answering = None
        self.flush()


def access_line(connection: Connection, request: Request) -> str:
    """Return uvicorn's access log line for the answered ``request``."""
    status = connection.status
    return f'INFO:     {connection.peer} - "{request.method} {request.path} HTTP/1.1" {status} {_REASONS[status]}'
