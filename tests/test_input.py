"""Anything at all, sent to the running server: no 5xx, every error in its shape, and good clients never notice."""

import json
import socket
import sqlite3
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Event
from typing import Any

import httpx
import pytest
from conftest import Server
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_errors import JSON, MIB, TASK, Wire, ask, check_error, chunked, compact

FUZZ = settings(
    max_examples=100,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
LISTS = ("/tasks", "/tasks/")


def check(answer: httpx.Response, method: str = "GET") -> None:
    """Check what every answer has in common: it is a success, or an error in the contract's shape."""
    status = answer.status_code
    assert status in (200, 204, 304, 400, 401, 404, 405, 408, 412, 413, 415, 422), answer.content[:1000]
    if status >= 400 and method != "HEAD":
        check_error(answer, status)


def alive(wire: Wire) -> None:
    """Check that the connection is still good for a request."""
    assert wire.request("GET", "/info").answer().content == b'"starlette"'


@pytest.fixture(scope="module")
def good(server: Server) -> Iterator[Server]:
    """The server, which says nothing of errors in its log, and whose file is sound, after all of this."""
    yield server
    assert "Traceback" not in server.log
    assert "ERROR" not in server.log
    with closing(sqlite3.connect(server.db)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


# Anything that is HTTP

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)
words = st.sampled_from(
    ["true", "OFF", "1", 1, 0, 1.0, -0.0, True, False, None, "maybe", 2, 10**400, float("inf"), "\ud800"]
)
objects = st.fixed_dictionaries(
    {}, optional={"name": st.text() | values, "done": words | values, "id": values, "\ud800": values}
)
bodies = st.one_of(
    st.binary(max_size=200),
    values.map(lambda value: compact_or_escaped(value)),
    objects.map(lambda value: compact_or_escaped(value)),
    st.tuples(objects, st.sampled_from(["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1"])).map(
        lambda pair: compact_or_escaped(pair[0]).decode().encode(pair[1], errors="replace")
    ),
    st.text(alphabet='{}[]":,0123456789.eE+-\\u truefalsn\x00', max_size=60).map(str.encode),
)
types = st.sampled_from(["application/json"] * 5 + ["application/x+json", "text/plain", "", "application/json;x=\xff"])
visible = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=20)
fields = st.dictionaries(
    st.sampled_from(["If-Match", "If-None-Match", "Idempotency-Key", "Authorization", "Origin", "Range", "Expect-CT"])
    | st.text(alphabet="abcXYZ-", min_size=1).filter(lambda name: name.strip("-")),
    visible | st.sampled_from(["*", '""', '"', "W/", 'W/"a', ",", ', ,"a"', '"a", *', "bytes=0-1", "\t"]),
    max_size=4,
)
segments = st.sampled_from(
    ["tasks", "1", "0", "info", "", "docs", "..", "%00", "%0A", "%2F", "%FF", "9" * 30]
) | st.text(alphabet="abc019%-._~+:@!$&'()*,;=", max_size=8)
paths = st.sampled_from(["/tasks", "/tasks/", "/tasks/1", "/tasks/2"]) | st.lists(segments, max_size=4).map(
    lambda parts: "/" + "/".join(parts)
)
pairs = st.tuples(
    st.sampled_from(["done", "q", "limit", "after", "x", ""]), st.text(alphabet="019+-._%aetru&=é\x00 ,", max_size=8)
)
queries = st.lists(pairs, max_size=4).map(lambda found: "&".join(f"{name}={value}" for name, value in found))
methods = st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])


def compact_or_escaped(value: Any) -> bytes:
    try:
        return compact(value)
    except UnicodeEncodeError:  # half a character
        return json.dumps(value).encode()


def quoted(text: str) -> str:
    """The text as it may stand in a request line, its percent signs as they are."""
    return "".join(
        letter if "!" <= letter <= "~" else "".join(f"%{byte:02X}" for byte in letter.encode()) for letter in text
    )


@FUZZ
@given(method=st.sampled_from(["POST", "PUT", "PATCH"]), body=bodies)
@example(method="POST", body=b'{"name":"x","done":1e400}')
@example(method="POST", body=b'{"name":"\\ud800","done":"\\udfff"}')
@example(method="PATCH", body=b'{"name":NaN}')
def test_any_body(good: Server, method: str, body: bytes) -> None:
    with Wire(good) as wire:
        check(wire.request(method, "/tasks" if method == "POST" else "/tasks/1", JSON, body).answer())
        alive(wire)


@FUZZ
@given(method=methods, path=paths, query=queries, type=types, headers=fields, body=bodies)
def test_any_request(
    good: Server, method: str, path: str, query: str, type: str, headers: dict[str, str], body: bytes
) -> None:
    with Wire(good) as wire:
        target = quoted(path) + (f"?{quoted(query)}" if query else "")
        lines = [f"{method} {target} HTTP/1.1", "Host: test", f"Content-Type: {type}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        wire.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        check(wire.answer(head=method == "HEAD"), method)
        alive(wire)


@FUZZ
@given(query=queries, path=st.sampled_from(LISTS), method=st.sampled_from(["GET", "DELETE"]))
@example(query="limit=1" + "_1" * 5000, path="/tasks", method="GET")
@example(query="after=" + "9" * 5000, path="/tasks", method="GET")
@example(query="", path="/tasks", method="DELETE")
@example(query="q=x", path="/tasks", method="DELETE")
def test_any_parameters(good: Server, query: str, path: str, method: str) -> None:
    check(ask(good, method, f"{path}?{quoted(query)}"))


@FUZZ
@given(id=st.text(max_size=30) | st.integers().map(str) | st.sampled_from(["1\n", "\n", "1/", "../1", "1" * 10_000]))
def test_any_id(good: Server, id: str) -> None:
    path = "".join(f"%{byte:02X}" for byte in id.encode())
    for method, body in [("GET", b""), ("PUT", TASK), ("PATCH", b"{}"), ("DELETE", b"")]:
        check(ask(good, method, f"/tasks/{path}", JSON, body))


@FUZZ
@given(key=visible, tags=visible)
def test_any_key_and_tags(good: Server, key: str, tags: str) -> None:
    with Wire(good) as wire:
        for method, path in [("POST", "/tasks"), ("PUT", "/tasks/1"), ("GET", "/tasks/1"), ("GET", "/tasks?limit=1")]:
            lines = f"Idempotency-Key: {key}\r\nIf-Match: {tags}\r\nIf-None-Match: {tags}\r\n".encode("latin-1")
            head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode()
            wire.send(head + b"Content-Length: %d\r\n" % len(TASK) + lines + b"\r\n" + TASK)
            check(wire.answer())


# Anything at all

HEAD = b"POST /tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
GARBAGE = {
    "nothing": b"",
    "newlines": b"\r\n" * 1000,
    "zeros": b"\x00" * 1000,
    "words": b"hello\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n",
    "HTTP/9": b"GET / HTTP/9.9\r\n\r\n",
    "no path": b"GET  HTTP/1.1\r\n\r\n",
    "bytes in the path": b"GET /tasks/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "bytes in the query": b"GET /tasks?q=\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    "a star": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "a tunnel": b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    "an unknown method": b"BREW /tasks HTTP/1.1\r\nHost: x\r\n\r\n",
    "no name": b"GET / HTTP/1.1\r\n: x\r\n\r\n",
    "a bare name": b"GET / HTTP/1.1\r\nHost\r\n\r\n",
    "a zero in a header": b"GET / HTTP/1.1\r\nHost: \x00\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nHost: x\r\n y\r\n\r\n",
    "a long header": b"GET / HTTP/1.1\r\nX: " + b"x" * 300_000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * 5000 + b"\r\n",
    "a negative length": HEAD + b"Content-Length: -1\r\n\r\n" + TASK,
    "a length in words": HEAD + b"Content-Length: many\r\n\r\n" + TASK,
    "a length with a plus": HEAD + b"Content-Length: +28\r\n\r\n" + TASK,
    "a huge length": HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n" + TASK,
    "two lengths": HEAD + b"Content-Length: 28\r\nContent-Length: 5\r\n\r\n" + TASK,
    "a length and chunks": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(TASK),
    "a length too small": HEAD + b"Content-Length: 5\r\n\r\n" + TASK,
    "an unknown encoding": HEAD + b"Transfer-Encoding: gzip\r\n\r\n" + TASK,
    "a chunk that lies": CHUNKED + b"5\r\n" + TASK + b"\r\n0\r\n\r\n",
    "a chunk of words": CHUNKED + b"xyz\r\n" + TASK,
    "a negative chunk": CHUNKED + b"-1\r\n" + TASK,
    "a huge chunk": CHUNKED + b"F" * 100 + b"\r\n" + TASK,
    "a chunk without its end": CHUNKED + b"1C\r\n" + TASK + b"0\r\n\r\n",
    "an upgrade": b"GET /tasks HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    "an upgrade to HTTP/2": b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
    "an odd host": b"GET /tasks HTTP/1.1\r\nHost: [::1\r\n\r\n",
    "no host": b"GET /tasks HTTP/1.1\r\n\r\n",
}


def send_and_leave(server: Server, data: bytes) -> bytes:
    """All that comes back for some bytes, after which the client says that there are no more."""
    with Wire(server) as wire:
        try:
            wire.send(data).socket.shutdown(socket.SHUT_WR)
            return wire.file.read()
        except (ConnectionError, BrokenPipeError):
            return b""


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_refused_and_the_server_goes_on(server: Server, data: bytes) -> None:
    back = send_and_leave(server, data)
    assert b" 500 " not in back.partition(b"\r\n")[0]
    assert ask(server, "GET", "/healthz").content == b'{"status":"ok"}'


@FUZZ
@given(data=st.binary(max_size=300), whole=st.booleans())
def test_any_bytes(good: Server, data: bytes, whole: bool) -> None:
    back = send_and_leave(good, HEAD + b"\r\n" + data if whole else data)
    assert b" 500 " not in back


@FUZZ
@given(lies=st.lists(st.tuples(st.integers(-2, 300), st.binary(max_size=40)), max_size=5))
def test_chunks_that_lie(good: Server, lies: list[tuple[int, bytes]]) -> None:
    body = b"".join(b"%x\r\n%s\r\n" % (size, data) for size, data in lies)
    assert b" 500 " not in send_and_leave(good, CHUNKED + body)


def test_pipelined_requests_are_answered_in_order(client: httpx.Client, server: Server) -> None:
    post = HEAD + b"Content-Length: %d\r\n\r\n" % len(TASK) + TASK
    get = b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n"
    with Wire(server) as wire:
        wire.send((post + get) * 50 + get)
        ids = []
        for _ in range(50):
            ids.append(wire.answer().json()["id"])
            assert wire.answer().content == b'"starlette"'
        assert wire.answer().content == b'"starlette"'
    assert ids == sorted(set(ids))
    assert [task["id"] for task in client.get("/tasks").json()] == ids


def test_pipelined_errors_do_not_mix_with_their_neighbours(server: Server) -> None:
    requests = [
        (b"GET /nothing", b"", 404),
        (b"POST /tasks", b"{", 422),
        (b"PUT /info", b"x" * 100, 405),
        (b"GET /", b"", 200),
    ]
    with Wire(server) as wire:
        for line, body, _ in requests * 10:
            head = b" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            wire.send(line + head % len(body) + body)
        for _, _, status in requests * 10:
            assert wire.answer().status_code == status


@pytest.mark.parametrize("wanted", ["100-continue", "100-Continue"])
def test_a_client_that_asks_before_it_sends_may(server: Server, wanted: str) -> None:
    with Wire(server) as wire:
        wire.request("POST", "/tasks", {**JSON, "Expect": wanted, "Content-Length": str(len(TASK))})
        assert wire.file.readline().startswith(b"HTTP/1.1 100")
        assert wire.file.readline() == b"\r\n"
        assert wire.send(TASK).answer().status_code == 200


def test_a_body_that_is_refused_early_leaves_the_connection_in_step(server: Server) -> None:
    large = b"x" * (3 * MIB)
    for method, path, headers, status in [
        ("POST", "/tasks", JSON, 413),
        ("POST", "/tasks", {"Content-Type": "text/plain"}, 415),
        ("POST", "/nothing", JSON, 404),
        ("POST", "/info", JSON, 405),
        ("GET", "/info", JSON, 200),
    ]:
        with Wire(server) as wire:
            assert wire.request(method, path, headers, large).answer().status_code == status
            alive(wire)


# Clients that vanish


def vanish(server: Server, data: bytes, reset: bool) -> None:
    """Send something and go away at once: with a reset, or quietly."""
    wire = Wire(server)
    if reset:
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with wire:
        wire.send(data)


WHOLE = HEAD + b"Content-Length: %d\r\n\r\n" % len(TASK) + TASK
LIST = b"GET /tasks HTTP/1.1\r\nHost: x\r\n\r\n"
SEARCH = b"GET /tasks?q=x HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("reset", [True, False])
def test_clients_that_vanish_trouble_no_other(serve: Callable[..., Server], reset: bool) -> None:
    server = serve()
    with closing(sqlite3.connect(server.db)) as db, db:
        db.executemany("INSERT INTO task (name, done) VALUES (?, 0)", [("x" * 2_000,)] * 10_000)
    stopped = Event()

    def good() -> int:
        done = 0
        with server.client() as client:
            while not stopped.is_set() or done < 10:
                task = client.post("/tasks", content=compact({"name": str(done), "done": True}), headers=JSON).json()
                assert client.get(f"/tasks/{task['id']}").json() == {"name": str(done), "done": True, "id": task["id"]}
                assert client.delete(f"/tasks/{task['id']}").content == b"1"
                done += 1
        return done

    with ThreadPoolExecutor(4) as pool:
        working = [pool.submit(good) for _ in range(3)]
        try:
            for _ in range(15):
                for data in (WHOLE, WHOLE[:-5], CHUNKED + b"5\r\n{", LIST, SEARCH, HEAD[:20]):
                    vanish(server, data, reset)
        finally:
            stopped.set()
        assert all(future.result() >= 10 for future in working)
    with server.client() as client:
        assert len(client.get("/tasks?done=false").json()) >= 10_000
    assert "Traceback" not in server.log
    assert "ERROR" not in server.log
    assert server.stop() in (0, -15)


def test_clients_that_vanish_with_requests_in_line_trouble_no_other(serve: Callable[..., Server]) -> None:
    server = serve()  # uvicorn on uvloop logs a traceback for each: it sends to a connection that is closed
    for number in range(20):
        vanish(server, WHOLE * 20, reset=number % 2 == 0)
        answer = ask(server, "POST", "/tasks", JSON, compact({"name": str(number), "done": True}))
        assert ask(server, "GET", answer.headers["location"]).json()["name"] == str(number)
    assert len(ask(server, "GET", "/tasks?done=true").json()) == 20
    assert "Unexpected" not in server.log


def test_many_idle_and_half_open_connections_hold_up_nobody(server: Server) -> None:
    wires = [Wire(server) for _ in range(200)]
    try:
        for number, wire in enumerate(wires):
            wire.send([b"", HEAD[:30], HEAD, WHOLE[:-3], CHUNKED][number % 5])
        for _ in range(20):
            assert ask(server, "POST", "/tasks", JSON, TASK).status_code == 200
    finally:
        for wire in wires:
            wire.__exit__()
