"""A raw connection to a server."""

from __future__ import annotations

import socket
import struct
from http.client import parse_headers

import httpx

JSON = {"Content-Type": "application/json"}


class Wire:
    """A connection on which anything can be sent, and each answer read as it comes."""

    def __init__(self, server):
        self.socket = socket.create_connection(server.address, timeout=30)
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)
        return self

    def request(self, method, target, body=b"", headers=JSON):
        """Send a request; its length is declared unless its headers say something of it."""
        return self.send(written(method, target, body, headers))

    def head(self):
        """The status and the headers of the next answer, whose body is not read yet."""
        status = self.file.readline().split()
        assert status, "the connection is closed"
        return httpx.Response(int(status[1]), headers=parse_headers(self.file).items())

    def answer(self):
        """The next answer, which is not one to HEAD."""
        head = self.head()
        stream = httpx.ByteStream(self.body(head))
        answer = httpx.Response(head.status_code, headers=head.headers, stream=stream)
        answer.read()
        return answer

    def body(self, head):
        """What follows this head; raise ConnectionError if it breaks off."""
        if "transfer-encoding" not in head.headers:
            return self.file.read(int(head.headers.get("content-length", 0)))
        pieces: list[bytes] = []
        while pieces[-1:] != [b""]:
            size = self.file.readline()
            if not size:
                raise ConnectionError("broken off")
            pieces.append(self.file.read(int(size, 16) + 2)[:-2])
        return b"".join(pieces)

    def rest(self):
        """All that comes until the server closes the connection."""
        try:
            return self.file.read()
        except ConnectionError:
            return b""

    def vanish(self, reset):
        """Go away at once: with a reset, or quietly."""
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.__exit__()


def written(method, target, body, headers=JSON):
    """A request as it is sent."""
    fields = {"Host": "test", **headers}
    if body and not {"Content-Length", "Transfer-Encoding"} & fields.keys():
        fields["Content-Length"] = str(len(body))
    lines = [f"{method} {target} HTTP/1.1", *[f"{name}: {fields[name]}" for name in fields]]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(*pieces):
    """A body in chunks, and its end."""
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (*pieces, b""))


def cut(data, size):
    """Data in pieces of a size."""
    return [data[start : start + size] for start in range(0, len(data), size)]


def ask(server, method, target, body=b"", headers=JSON):
    """The answer to one request on a connection of its own."""
    with Wire(server) as wire:
        return wire.request(method, target, body, headers).answer()
