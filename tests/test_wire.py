"""What only a real server shows: HTTP in pieces, long lists, clients that stall or vanish."""

import select
import shutil
import socket
import sqlite3
import time
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from helpers import MIB, TASK, check, check_error, check_tagged, compact, fields, insert, strict
from processes import Load, Server, tasks_of
from wire import JSON, Wire, ask, chunked, cut, written

BODY = compact(TASK)
LENGTH = {**JSON, "Content-Length": str(len(BODY))}
CHUNKS = {**JSON, "Transfer-Encoding": "chunked"}
TOKEN = {"Authorization": "Bearer secret"}
TEXT = {"Content-Type": "text/plain"}
POST = written("POST", "/tasks", BODY)
INFO = written("GET", "/info", b"")
LIST = written("GET", "/tasks", b"")
ROWS = 300_000
LARGEST = BODY.ljust(MIB)
SIZES = {
    "declared": (JSON, LARGEST, LARGEST + b" "),
    "chunks": (CHUNKS, chunked(*cut(LARGEST, 1000)), chunked(*cut(LARGEST + b" ", 1000))),
}
REFUSED = [
    (401, "/tasks", {"Authorization": "Bearer no"}, {}),
    (404, "/nothing", {}, {"detail": "Not Found"}),
    (405, "/info", {}, {"allow": "GET, HEAD, OPTIONS"}),
    (413, "/tasks", {}, {}),
    (415, "/tasks", TEXT, {}),
]
STALLING = [
    (408, LENGTH, BODY[:-1]),
    (408, CHUNKS, b'5\r\n{"n'),
    (413, {**JSON, "Content-Length": str(2**62)}, BODY),
    (415, {**LENGTH, **TEXT}, BODY[:10]),
]
HEAD = b"POST /tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
MALFORMED = {
    "words": b"hello\r\n\r\n",
    "a tunnel": b"CONNECT x:80 HTTP/1.1\r\n\r\n",
    "a huge length": HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n" + BODY,
    "a length and chunks": CHUNKED[:-2] + b"Content-Length: 5\r\n\r\n" + chunked(BODY),
    "a body beyond its length": HEAD + b"Content-Length: 5\r\n\r\n" + BODY,
    "a chunk of words": CHUNKED + b"xyz\r\n" + BODY,
}
ODD = {
    "a long header": b"GET /info HTTP/1.1\r\nX: " + b"x" * 300_000 + b"\r\n\r\n",
    "an odd host": b"GET /info HTTP/1.1\r\nHost: [::1\r\n\r\n",
    "an upgrade": written("GET", "/info", b"", {"Connection": "Upgrade", "Upgrade": "h2c"}),
}
HEADS = "/ /info /healthz /openapi.json /docs /tasks /tasks/ /tasks?limit=2 /tasks/1 /tasks/0 /x"
LEFT = [
    *(b"", HEAD[:20], HEAD, CHUNKED + b"5\r\n{", POST[:-5], POST, POST * 20, LIST, LIST + INFO),
    written("GET", "/tasks?q=nowhere&limit=1", b"") + INFO,
    written("POST", "/tasks", b"x" * MIB, TEXT) + INFO,
]


@pytest.fixture(scope="module")
def long(empty, tmp_path_factory):
    """A server with 300,000 tasks, 40 MB of JSON, which one of its tests changes at the end."""
    db = shutil.copy(empty, tmp_path_factory.mktemp("long"))
    insert(db, ((f"{number:0100}", False) for number in range(ROWS)))
    server = Server(db)
    yield server
    server.stop()
    assert "Traceback" not in server.log


def check_alive(wire):
    """Check that the connection is still good for a request."""
    check(wire.send(INFO).answer(), "starlette")


def check_created(server, wire):
    """Check the answer that creates TASK, and return its id."""
    answer = wire.answer()
    id = answer.json()["id"]
    check_tagged(answer, {**TASK, "id": id}, location=f"/tasks/{id}")
    assert ask(server, "GET", f"/tasks/{id}").content == answer.content
    return id


def test_a_client_may_ask_before_it_sends_a_body_byte_by_byte_and_in_chunks(server):
    with Wire(server) as wire:
        wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire.request("POST", "/tasks", headers={**CHUNKS, "Expect": "100-continue"})
        assert wire.head().status_code == 100
        for byte in cut(chunked(*cut(BODY, 3)), 1):
            wire.send(byte)
        check_created(server, wire)
        check_alive(wire)


@pytest.mark.parametrize("size", SIZES)
def test_a_body_has_at_most_1_mib(server, size):
    headers, exact, more = SIZES[size]
    with Wire(server) as wire:
        wire.request("POST", "/tasks", exact, headers)
        check_created(server, wire)
        check_error(wire.request("POST", "/tasks", more, headers).answer(), 413)
        assert wire.rest() == b""


def test_a_client_hears_why_its_body_is_refused_and_may_ask_again_or_close(serve):
    server = serve(TODO_TOKEN="secret")
    for status, path, headers, more in REFUSED:
        sent = {**JSON, **TOKEN, **headers}
        with Wire(server) as wire:
            if status != 413:
                check_error(wire.request("POST", path, LARGEST, sent).answer(), status, **more)
                check(wire.request("GET", "/info", headers=TOKEN).answer(), "starlette")
            wire.request("POST", path, bytes(8 * MIB), {**sent, "Connection": "close"})
            check_error(wire.answer(), status, connection="close", **more)
            assert wire.rest() == b""
    server.stop()
    assert "ERROR" not in server.log


@pytest.mark.slow
def test_a_body_that_stalls_for_10_s_is_answered_and_the_connection_closed(server):
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(server)) for _ in STALLING]
        for wire, (_, headers, sent) in zip(wires, STALLING, strict=True):
            wire.request("POST", "/tasks", sent, headers)
        assert not select.select([wire.socket for wire in wires], [], [], 9.5)[0]  # no answer yet
        ending = time.monotonic()
        for wire, (status, _, _) in zip(wires, STALLING, strict=True):
            check_error(wire.answer(), status, connection="close")
            assert wire.rest() == b""
        assert time.monotonic() - ending < 5
    assert "Traceback" not in server.log


@pytest.mark.slow
def test_a_body_that_never_pauses_for_10_s_is_taken_however_slow_it_is(server):
    with Wire(server) as wire:
        wire.request("POST", "/tasks", headers=LENGTH)
        for piece in cut(BODY, 10):
            assert not select.select([wire.socket], [], [], 4)[0]  # no answer yet
            wire.send(piece)
        check_created(server, wire)


def test_requests_in_line_are_answered_in_order(server):
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


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_http_is_refused_by_uvicorn(server, sent):
    with Wire(server) as wire:
        answer = wire.send(sent).answer()
        assert (answer.status_code, answer.text) == (400, "Invalid HTTP request received.")
        assert wire.rest() == b""
    check(ask(server, "GET", "/info"), "starlette")
    assert "Traceback" not in server.log


@pytest.mark.parametrize("sent", ODD.values(), ids=ODD)
def test_odd_requests_are_answered_as_others(server, sent):
    with Wire(server) as wire:
        check(wire.send(sent).answer(), "starlette")
        check_alive(wire)


@pytest.mark.parametrize("path", HEADS.split())
def test_head_has_the_headers_of_get_and_no_body(server, path):
    with Wire(server) as wire:
        answer = wire.request("GET", path).answer()
        head = wire.request("HEAD", path).head()
        assert (head.status_code, fields(head)) == (answer.status_code, fields(answer))
        check_alive(wire)


def test_head_of_a_long_list_reads_no_more_than_its_beginning(long):
    times = []
    with Wire(long) as wire:
        for method in ("HEAD", "HEAD", "HEAD", "HEAD", "GET"):
            started = time.perf_counter()
            head = wire.request(method, "/tasks").head()
            assert (head.status_code, fields(head).get("etag")) == (200, None)
            if method == "GET":
                wire.body(head)
            check_alive(wire)  # once all of the answer is sent
            times.append(time.perf_counter() - started)
    assert min(times) < times[-1] / 20


def peak(server):
    """The most memory that a server has had, in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def test_a_list_is_sent_while_it_is_read_and_memory_stays_flat(long):
    """What is changed, created or deleted meanwhile may be in it; what stays, is, once."""
    Path(f"/proc/{long.process.pid}/clear_refs").write_text("5")  # forget the most so far
    before = peak(long)
    with ExitStack() as stack:
        for _ in range(20):  # the last one reads its list, and the others hold up nobody
            wire = stack.enter_context(Wire(long))
            head = wire.send(LIST).head()
            assert head.status_code == 200
        changed = ask(long, "PUT", f"/tasks/{ROWS}", BODY).json()
        created = ask(long, "POST", "/tasks", BODY).json()
        check(ask(long, "DELETE", f"/tasks/{ROWS - 1}"), 1)
        tasks = strict(wire.body(head))
        check_alive(wire)
        check(ask(long, "DELETE", f"/tasks/{created['id']}"), 1)
    assert tasks[0] == {"name": f"{0:0100}", "done": False, "id": 1}
    assert tasks[-2:] == [changed, created]
    assert [task["id"] for task in tasks[:-2]] == [*range(1, ROWS - 1)]
    assert peak(long) - before < 10 * MIB  # of 800


def test_a_list_that_breaks_off_has_no_end_and_no_second_answer(serve):
    server = serve()
    insert(server.db, ((f"{number:0100}", False) for number in range(ROWS // 3)))
    with Wire(server) as wire:
        head = wire.send(LIST + INFO).head()
        with closing(sqlite3.connect(server.db)) as db:
            db.execute("ALTER TABLE task RENAME TO task_no_more")
        with pytest.raises(ConnectionError, match="broken off"):
            wire.body(head)
        assert wire.rest() == b""
    server.stop()
    assert "Traceback" not in server.log
    assert server.log.count("An answer broke off") == 1


@pytest.mark.parametrize("leave", ["with a reset", "quietly", "not at all"])
def test_clients_that_stall_or_vanish_trouble_no_other(serve, leave):
    server = serve()
    insert(server.db, [("x" * 1000, False)] * 5000)
    load = Load()
    load.start(server, 2)
    with ExitStack() as stack:
        for sent in LEFT * 10:
            wire = stack.enter_context(Wire(server)).send(sent)
            if leave != "not at all":
                wire.vanish(reset=leave == "with a reset")
        load.wait(answers=10)
        assert all(writer.is_alive() for writer in load.writers)
        load.stop()
    assert load.statuses.keys() == {200}
    assert load.ledger.items() <= tasks_of(server).items()
    server.stop()
    assert "Traceback" not in server.log
    assert "Unexpected" not in server.log
