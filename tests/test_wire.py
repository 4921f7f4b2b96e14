"""What only a real server shows: bodies and answers in pieces, many on one connection, and clients
that stall, vanish, or send what is no HTTP.
"""

import select
import shutil
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event

import pytest
from helpers import (
    BREAD,
    MIB,
    TASK,
    check,
    check_error,
    check_tagged,
    compact,
    fields,
    insert,
    strict,
)
from processes import Server
from wire import JSON, Wire, ask, chunked, cut, memory, written

Serve = Callable[..., Server]

BODY = compact(TASK)
CHUNKS = {**JSON, "Transfer-Encoding": "chunked"}
CLOSE = {**JSON, "Connection": "close"}
TOKEN = {"Authorization": "Bearer secret"}
TEXT = {"Content-Type": "text/plain"}
POST = written("POST", "/tasks", BODY)
INFO = written("GET", "/info", b"")
ROWS = 300_000


@pytest.fixture(scope="module")
def long(empty: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with 300,000 tasks, 40 MB of JSON; its tests may change the last task."""
    db = shutil.copy(empty, tmp_path_factory.mktemp("long"))
    insert(db, ((f"{number:0100}", False) for number in range(ROWS)))
    server = Server(db)
    yield server
    server.stop()
    assert "Traceback" not in server.log


def check_alive(wire: Wire) -> None:
    """Check that the connection is still good for a request."""
    check(wire.send(INFO).answer(), "starlette")


def check_created(server: Server, wire: Wire, task: dict[str, object] = TASK) -> int:
    """Check the answer that creates a task, and return its id."""
    answer = wire.answer()
    id = answer.json()["id"]
    check_tagged(answer, {**task, "id": id}, location=f"/tasks/{id}")
    assert ask(server, "GET", f"/tasks/{id}").content == answer.content
    return id


# Bodies


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_body_may_come_in_chunks(server: Server, size: int) -> None:
    with Wire(server) as wire:
        wire.request("POST", "/tasks", chunked(*cut(BODY, size)), CHUNKS)
        check_created(server, wire)
        check_alive(wire)


def test_a_request_may_come_byte_by_byte(server: Server) -> None:
    with Wire(server) as wire:
        wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in cut(written("POST", "/tasks", chunked(*cut(BODY, 3)), CHUNKS), 1):
            wire.send(byte)
        check_created(server, wire)


EXACT = BODY + b" " * (MIB - len(BODY))


@pytest.mark.parametrize(
    ("headers", "exact", "more"),
    [
        (JSON, EXACT, EXACT + b" "),
        (CHUNKS, chunked(EXACT), chunked(EXACT, b" ")),
        (CHUNKS, chunked(*cut(EXACT, 1000)), chunked(*cut(EXACT + b" ", 1000))),
    ],
    ids=["declared", "one chunk", "many chunks"],
)
def test_a_body_has_at_most_1_mib(
    server: Server, headers: dict[str, str], exact: bytes, more: bytes
) -> None:
    with Wire(server) as wire:
        wire.request("POST", "/tasks", exact, headers)
        check_created(server, wire)
        check_error(wire.request("POST", "/tasks", more, headers).answer(), 413)
        check_alive(wire)


REFUSED = {
    401: ("POST", "/tasks", {"Authorization": "Bearer no"}, {}),
    404: ("POST", "/nothing", {}, {"detail": "Not Found"}),
    405: ("POST", "/info", {}, {"allow": "GET, HEAD, OPTIONS"}),
    413: ("PUT", "/tasks/1", {}, {}),
    415: ("PATCH", "/tasks/1", TEXT, {}),
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("guarded") / "todo.db", TODO_TOKEN="secret")
    yield server
    server.stop()
    assert "ERROR" not in server.log


@pytest.mark.parametrize("status", REFUSED)
def test_a_client_that_sends_8_mib_and_closes_hears_why_not(guarded: Server, status: int) -> None:
    method, path, headers, more = REFUSED[status]
    sent = {**TOKEN, **CLOSE, **headers}
    with Wire(guarded) as wire:
        answer = wire.request(method, path, b"x" * (8 * MIB), sent).answer()
        check_error(answer, status, connection="close", **more)
        assert wire.rest() == b""


@pytest.mark.parametrize("status", REFUSED)
def test_a_body_that_is_refused_leaves_the_connection_in_step(guarded: Server, status: int) -> None:
    method, path, headers, more = REFUSED[status]
    sent = {**TOKEN, **JSON, **headers}
    with Wire(guarded) as wire:
        answer = wire.request(method, path, b"x" * (3 * MIB), sent).answer()
        check_error(answer, status, **more)
        check(wire.request("GET", "/info", headers=TOKEN).answer(), "starlette")


def test_a_client_that_asks_before_it_sends_may(server: Server) -> None:
    with Wire(server) as wire:
        length = {"Content-Length": str(len(BODY))}
        head = wire.request("POST", "/tasks", headers={**JSON, **length, "Expect": "100-continue"})
        assert head.head().status_code == 100
        wire.send(BODY)
        check_created(server, wire)
        check_alive(wire)


# Bodies that stall

STALLING = [
    (408, "POST", "/tasks", {**JSON, "Content-Length": "28"}, b""),
    (408, "POST", "/tasks", {**JSON, "Content-Length": "28"}, BODY[:10]),
    (408, "POST", "/tasks", CHUNKS, b""),
    (408, "POST", "/tasks", CHUNKS, b'5\r\n{"n'),
    (408, "POST", "/tasks", {**JSON, "Content-Length": "28", "Idempotency-Key": ""}, b"\xff"),
    (408, "PUT", "/tasks/0", {**JSON, "Content-Length": "28"}, BODY[:-1]),
    (408, "PATCH", "/tasks/0", {**JSON, "Content-Length": "28", "If-Match": '"x"'}, BODY[:-1]),
    (413, "POST", "/tasks", {**JSON, "Content-Length": str(MIB + 1)}, BODY),
    (413, "POST", "/tasks", {**JSON, "Content-Length": str(2**62)}, BODY),
    (413, "PUT", "/tasks/0", CHUNKS, b"%x\r\n%s " % (MIB + 1, EXACT)),
    (415, "POST", "/tasks", {**TEXT, "Content-Length": "28"}, BODY[:10]),
    (415, "PATCH", "/tasks/0", {**TEXT, "Content-Length": str(MIB + 1)}, b""),
]


@pytest.mark.slow
def test_a_body_that_stalls_for_10_s_is_answered_and_the_connection_closed(server: Server) -> None:
    def stall(status: int, method: str, path: str, headers: dict[str, str], sent: bytes) -> None:
        started = time.monotonic()
        with Wire(server) as wire:
            answer = wire.request(method, path, sent, headers).answer()
            assert 9.5 < time.monotonic() - started < 15
            check_error(answer, status, connection="close")
            assert wire.rest() == b""

    with ThreadPoolExecutor(len(STALLING)) as threads:
        for stalled in [threads.submit(stall, *request) for request in STALLING]:
            stalled.result()
    assert "Traceback" not in server.log


@pytest.mark.slow
def test_a_body_that_never_pauses_for_10_s_is_taken_however_slow_it_is(server: Server) -> None:
    with Wire(server) as wire:
        wire.request("POST", "/tasks", headers={**JSON, "Content-Length": str(len(BODY))})
        for piece in cut(BODY, 10):
            assert not select.select([wire.socket], [], [], 4)[0]  # no answer yet
            wire.send(piece)
        check_created(server, wire)


# Many requests on one connection


def test_a_connection_serves_one_request_after_another_until_the_client_closes_it(
    server: Server,
) -> None:
    with Wire(server) as wire:
        for _ in range(3):
            wire.send(POST)
            check_created(server, wire)
            check_alive(wire)
        answer = wire.request("GET", "/info", headers={"Connection": "close"}).answer()
        check(answer, "starlette", connection="close")
        assert wire.rest() == b""


def test_requests_in_line_are_answered_in_order(server: Server) -> None:
    line = POST + INFO + written("POST", "/tasks", b"{", TEXT) + written("PUT", "/info", BODY * 50)
    with Wire(server) as wire:
        wire.send(line * 20)
        ids = []
        for _ in range(20):
            ids.append(check_created(server, wire))
            check(wire.answer(), "starlette")
            check_error(wire.answer(), 415)
            check_error(wire.answer(), 405, allow="GET, HEAD, OPTIONS")
    assert ids == sorted(set(ids))


# What is no HTTP

HEAD = b"POST /tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
MALFORMED = {
    "zeros": b"\x00" * 1000,
    "words": b"hello\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500,
    "HTTP 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP 9": b"GET / HTTP/9.9\r\n\r\n",
    "no path": b"GET  HTTP/1.1\r\n\r\n",
    "bytes in the path": b"GET /tasks/\xff\xfe HTTP/1.1\r\n\r\n",
    "a tunnel": b"CONNECT x:80 HTTP/1.1\r\n\r\n",
    "an unknown method": b"BREW /tasks HTTP/1.1\r\n\r\n",
    "no name": b"GET / HTTP/1.1\r\n: x\r\n\r\n",
    "a bare name": b"GET / HTTP/1.1\r\nHost\r\n\r\n",
    "a zero in a header": b"GET / HTTP/1.1\r\nHost: \x00\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nHost: x\r\n y\r\n\r\n",
    "a negative length": HEAD + b"Content-Length: -1\r\n\r\n" + BODY,
    "a length in words": HEAD + b"Content-Length: many\r\n\r\n" + BODY,
    "a huge length": HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n" + BODY,
    "two lengths": HEAD + b"Content-Length: 28\r\nContent-Length: 5\r\n\r\n" + BODY,
    "a length and chunks": CHUNKED[:-2] + b"Content-Length: 5\r\n\r\n" + chunked(BODY),
    "an unknown encoding": HEAD + b"Transfer-Encoding: gzip\r\n\r\n" + BODY,
    "a body beyond its length": HEAD + b"Content-Length: 5\r\n\r\n" + BODY,
    "a chunk beyond its length": CHUNKED + b"5\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a chunk of words": CHUNKED + b"xyz\r\n" + BODY,
    "a negative chunk": CHUNKED + b"-1\r\n" + BODY,
    "a huge chunk": CHUNKED + b"F" * 100 + b"\r\n" + BODY,
}
ODD = {
    "a long header": b"GET /info HTTP/1.1\r\nX: " + b"x" * 300_000 + b"\r\n\r\n",
    "many headers": b"GET /info HTTP/1.1\r\n" + b"X: x\r\n" * 5000 + b"\r\n",
    "an odd host": b"GET /info HTTP/1.1\r\nHost: [::1\r\n\r\n",
    "no host": b"GET /info HTTP/1.1\r\n\r\n",
    "empty lines before": b"\r\n" * 1000 + INFO,
    "an upgrade": b"GET /info HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
}


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_http_is_refused_by_uvicorn(server: Server, sent: bytes) -> None:
    with Wire(server) as wire:
        answer = wire.send(sent).answer()
        assert (answer.status_code, answer.text) == (400, "Invalid HTTP request received.")
        assert wire.rest() == b""
    check(ask(server, "GET", "/info"), "starlette")
    assert "Traceback" not in server.log


@pytest.mark.parametrize("sent", ODD.values(), ids=ODD)
def test_odd_requests_are_answered_as_others(server: Server, sent: bytes) -> None:
    with Wire(server) as wire:
        check(wire.send(sent).answer(), "starlette")
        check_alive(wire)


# HEAD

HEADS = ["/", "/info", "/healthz", "/openapi.json", "/docs", "/tasks", "/tasks/", "/tasks?limit=2"]
HEADS += ["/tasks/1", "/tasks/0", "/x"]


@pytest.mark.parametrize("path", HEADS)
def test_head_has_the_headers_of_get_and_no_body(server: Server, path: str) -> None:
    with Wire(server) as wire:
        answer = wire.request("GET", path).answer()
        head = wire.request("HEAD", path).head()
        assert (head.status_code, fields(head)) == (answer.status_code, fields(answer))
        check_alive(wire)


def test_head_of_a_long_list_reads_no_more_than_its_beginning(long: Server) -> None:
    def seconds(method: str) -> float:
        started = time.perf_counter()
        with Wire(long) as wire:
            wire.request(method, "/tasks", headers=CLOSE).rest()
        return time.perf_counter() - started

    with Wire(long) as wire:
        head = wire.request("HEAD", "/tasks").head()
        assert (head.status_code, fields(head)) == (200, {"content-type": "application/json"})
        check_alive(wire)
    assert min(seconds("HEAD") for _ in range(5)) < seconds("GET") / 20


# Long lists


def test_a_list_is_sent_while_it_is_read_and_memory_stays_flat(long: Server) -> None:
    last = f"/tasks/{ROWS}"
    Path(f"/proc/{long.process.pid}/clear_refs").write_text("5")  # forget the most so far
    before = memory(long)
    with Wire(long) as wire:
        head = wire.request("GET", "/tasks").head()
        name = f"changed at {time.time()}"
        assert ask(long, "PATCH", last, compact({"name": name})).status_code == 200
        tasks = strict(wire.body(head))
        check_alive(wire)
    assert [task["id"] for task in tasks] == [*range(1, ROWS + 1)]
    assert tasks[0] == {"name": f"{0:0100}", "done": False, "id": 1}
    assert tasks[-1] == {"name": name, "done": False, "id": ROWS}
    assert memory(long, "VmHWM") - before < 10 * MIB  # of 40


def test_clients_that_do_not_read_hold_up_nobody(long: Server) -> None:
    before = memory(long)
    with ExitStack() as stack:
        for _ in range(20):
            wire = stack.enter_context(Wire(long))
            assert wire.request("GET", "/tasks").head().status_code == 200
        for id in range(1, 100):
            task = {"name": f"{id - 1:0100}", "done": False, "id": id}
            check_tagged(ask(long, "GET", f"/tasks/{id}"), task)
        assert memory(long) - before < 20 * MIB  # of 800


def test_a_list_that_breaks_off_has_no_end_and_no_second_answer(serve: Serve, long: Server) -> None:
    server = serve()
    insert(server.db, ((f"{number:0100}", False) for number in range(ROWS // 3)))
    with Wire(server) as wire:
        head = wire.request("GET", "/tasks").send(INFO).head()
        with closing(sqlite3.connect(server.db)) as db:
            db.execute("ALTER TABLE task RENAME TO task_no_more")
        with pytest.raises(ConnectionError, match="broken off"):
            wire.body(head)
        assert wire.rest() == b""
    server.stop()
    assert "Traceback" not in server.log
    assert server.log.count("An answer broke off") == 1


# Clients that vanish

LEFT = [
    POST,
    POST[:-5],
    HEAD[:20],
    CHUNKED + b"5\r\n{",
    POST * 20,
    POST[:-5] + POST,
    written("GET", "/tasks", b""),
    written("GET", "/tasks", b"") + INFO,
    written("GET", "/tasks?q=nowhere", b"") + POST,
    written("GET", "/tasks?q=nowhere&limit=1", b"") + INFO,
    written("POST", "/tasks", b"x" * MIB, TEXT) + INFO,
]


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "quietly"])
def test_clients_that_vanish_trouble_no_other(serve: Serve, reset: bool) -> None:
    server = serve()
    insert(server.db, [("x" * 1000, False)] * 5000)
    over = Event()

    def work() -> int:
        count = 0
        with Wire(server) as wire:
            while not over.is_set() or count < 10:
                wire.request("POST", "/tasks", compact(BREAD))
                id = check_created(server, wire, BREAD)
                check(wire.request("DELETE", f"/tasks/{id}").answer(), 1)
                count += 1
        return count

    with ThreadPoolExecutor(2) as threads:
        working = [threads.submit(work) for _ in range(2)]
        for sent in LEFT * 10:
            Wire(server).send(sent).vanish(reset)
        over.set()
        assert all(worker.result() for worker in working)
    assert "Traceback" not in server.log
    assert "Unexpected" not in server.log
    assert ask(server, "GET", "/tasks?done=true").json() == []


def test_clients_that_send_half_a_request_hold_up_nobody(server: Server) -> None:
    with ExitStack() as stack:
        for number in range(200):
            wire = stack.enter_context(Wire(server))
            wire.send([b"", HEAD[:30], HEAD, POST[:-3], CHUNKED][number % 5])
        with Wire(server) as wire:
            for _ in range(20):
                wire.send(POST)
                check_created(server, wire)
    assert "Traceback" not in server.log
