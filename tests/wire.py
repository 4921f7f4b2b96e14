"""A raw connection to a server: for requests that no HTTP client would send."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Mapping
from http.client import parse_headers
from typing import Self

import httpx
from assertions import assert_json
from server import Server


class Connection:
    """A connection on which any bytes can be sent, and the responses are read one by one."""

    def __init__(self, server: Server) -> None:
        self.socket = socket.create_connection(server.address, timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.file.close()
        self.socket.close()

    def reset(self) -> None:
        """Close the connection with a reset (RST), as when a client's machine has restarted."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def send(self, data: bytes) -> None:
        """Send these bytes."""
        self.socket.sendall(data)

    def send_request(
        self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] = {}
    ) -> None:
        """Send what `encode_request` returns for these arguments."""
        self.send(encode_request(method, target, body, headers))

    def read_head(self) -> httpx.Response:
        """Return the status and the headers of the next response, and leave its body unread."""
        line = self.file.readline()
        assert line, "The server has closed the connection."
        return httpx.Response(int(line.split()[1]), headers=parse_headers(self.file).items())

    def read_body(self, head: httpx.Response) -> bytes:
        """Return the body that follows this head; raise ConnectionError if it is cut off."""
        if "transfer-encoding" in head.headers:
            return self.read_chunks()
        size = int(head.headers.get("content-length", 0))
        body = self.file.read(size)
        if len(body) < size:
            raise ConnectionError("The response was cut off.")
        return body

    def read_chunks(self) -> bytes:
        """Return a chunked body; raise ConnectionError if it is cut off."""
        body = bytearray()
        while True:
            line = self.file.readline()
            if not line.endswith(b"\n"):
                raise ConnectionError("The response was cut off.")
            size = int(line, 16)
            chunk = self.file.read(size + 2)[:-2]
            if size == 0:
                return bytes(body)
            body += chunk

    def read_response(self) -> httpx.Response:
        """Return the next response, which must not be one to HEAD."""
        head = self.read_head()
        stream = httpx.ByteStream(self.read_body(head))
        response = httpx.Response(head.status_code, headers=head.headers, stream=stream)
        response.read()
        return response

    def read_rest(self) -> bytes:
        """Return all bytes that come until the server closes the connection."""
        with contextlib.suppress(ConnectionError):
            return self.file.read()
        return b""


def assert_still_usable(connection: Connection, headers: Mapping[str, str] = {}) -> None:
    """Assert that another request on this connection, with these headers, gets its response."""
    connection.send_request("GET", "/info", headers=headers)
    assert_json(connection.read_response(), "starlette")


def encode_request(
    method: str, target: str, body: bytes = b"", headers: Mapping[str, str] = {}
) -> bytes:
    """Return the bytes of a request.

    It has a Host; POST, PUT and PATCH have the type application/json; and a body has its length
    declared. Any of these may be given in `headers` instead.
    """
    lines = {"Host": "test"}
    if method in ("POST", "PUT", "PATCH"):
        lines["Content-Type"] = "application/json"
    if body and "Transfer-Encoding" not in headers:
        lines["Content-Length"] = str(len(body))
    lines |= headers
    head = [f"{method} {target} HTTP/1.1", *[f"{name}: {lines[name]}" for name in lines]]
    return "\r\n".join([*head, "", ""]).encode() + body


def encode_chunks(*chunks: bytes) -> bytes:
    """Return a body in the chunked transfer coding, complete with its end."""
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


def split(data: bytes, size: int) -> list[bytes]:
    """Return data in pieces of this size; the last one may be shorter."""
    return [data[start : start + size] for start in range(0, len(data), size)]
