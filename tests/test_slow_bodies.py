"""Bodies that arrive slowly: 30 s for all of a body, and 10 s for a pause in it.

The quick tests shorten these times. The slow ones wait for them, on real connections.
"""

import asyncio
import select
import time
from contextlib import ExitStack

import pytest
from assertions import assert_error, assert_status
from wire import Connection

import todo

TOO_SLOW = "The body did not arrive in time: send it again, faster and without a pause"
TOO_LARGE = "The body is larger than 1048576 bytes: send less"
NOT_JSON = "Send JSON with the header Content-Type: application/json (curl --json does)"


# The bodies below end after 5 s, so that a server that waits for them fails a test and no more.


async def stalling(beginning):
    """Yield the beginning of a body, and then nothing for 5 s."""
    yield beginning
    await asyncio.sleep(5)


async def never_beginning():
    """Yield nothing for 5 s."""
    await asyncio.sleep(5)
    yield b""


async def dripping():
    """Yield a byte every 10 ms for 5 s."""
    for _ in range(500):
        yield b" "
        await asyncio.sleep(0.01)


@pytest.fixture(params=["pause", "drip"])
def slow_body(request, monkeypatch):
    """A body that pauses for too long, or that drips for too long."""
    if request.param == "pause":
        monkeypatch.setattr(todo, "BODY_PAUSE", 0.03)
        return stalling(b'{"name":"milk"')
    monkeypatch.setattr(todo, "BODY_TIMEOUT", 0.05)
    return dripping()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/tasks"),
        ("PUT", "/tasks/1"),
        ("PATCH", "/tasks/1"),
        ("PUT", "/tasks/0"),
    ],
)
def test_a_slow_body_is_refused(client, slow_body, method, path):
    created = client.create_task()
    response = client.request(method, path, content=slow_body)
    assert_error(response, 408, TOO_SLOW)
    assert client.list_tasks() == [created.json()]


def test_a_body_that_never_begins_is_refused(client, monkeypatch):
    monkeypatch.setattr(todo, "BODY_PAUSE", 0.03)
    assert_error(client.post("/tasks", content=never_beginning()), 408, TOO_SLOW)


def test_a_body_that_is_complete_before_its_end_is_sent_is_refused_too(client, monkeypatch):
    monkeypatch.setattr(todo, "BODY_PAUSE", 0.03)
    body = stalling(b'{"name":"milk","done":false}')
    assert_error(client.post("/tasks", content=body), 408, TOO_SLOW)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        pytest.param(b"\xff", {}, id="not UTF-8"),
        pytest.param(b"{]", {}, id="not JSON"),
        pytest.param(b"5", {"Idempotency-Key": ""}, id="invalid key"),
        pytest.param(b"5", {"If-Match": '"x"'}, id="false precondition"),
    ],
)
def test_what_a_body_would_have_been_refused_for_is_not_said(client, monkeypatch, body, headers):
    monkeypatch.setattr(todo, "BODY_PAUSE", 0.03)
    assert_error(client.post("/tasks", content=stalling(body), headers=headers), 408, TOO_SLOW)


# What is certain before the body has arrived is answered instead of 408.


def test_a_wrong_content_type_is_answered_when_the_body_is_slow(client, slow_body):
    response = client.post("/tasks", content=slow_body, headers={"Content-Type": "text/plain"})
    assert_error(response, 415, NOT_JSON, connection="close")


def test_a_declared_length_that_is_too_large_is_answered_when_the_body_is_slow(client, slow_body):
    headers = {"Content-Length": str(2**20 + 1)}
    response = client.post("/tasks", content=slow_body, headers=headers)
    assert_error(response, 413, TOO_LARGE)


def test_a_body_that_is_too_large_already_is_answered_when_it_pauses(client, monkeypatch):
    monkeypatch.setattr(todo, "BODY_PAUSE", 0.03)
    response = client.post("/tasks", content=stalling(b" " * (2**20 + 1)))
    assert_error(response, 413, TOO_LARGE)


def test_an_unknown_path_is_answered_when_the_body_is_slow(client, slow_body):
    response = client.post("/nothing", content=slow_body)
    assert_error(response, 404, "Not Found", connection="close")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/tasks", "GET, POST, DELETE, HEAD, OPTIONS"),
        ("DELETE", "/info", "GET, HEAD, OPTIONS"),
    ],
)
def test_a_wrong_method_is_answered_when_the_body_is_slow(client, slow_body, method, path, allow):
    response = client.request(method, path, content=slow_body)
    assert_error(response, 405, "Method Not Allowed", allow=allow, connection="close")


def test_a_missing_token_is_answered_when_the_body_is_slow(make_client, slow_body):
    response = make_client(TODO_TOKEN="secret").post("/tasks", content=slow_body)
    assert_error(response, 401, "Not authenticated", connection="close")


# Bodies that no operation reads


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/info"),
        ("GET", "/tasks/1"),
        ("HEAD", "/tasks"),
        ("OPTIONS", "/tasks"),
        ("DELETE", "/tasks/1"),
        ("DELETE", "/tasks?done=false"),
    ],
)
def test_a_slow_body_is_cut_off_although_nobody_reads_it(client, slow_body, method, path):
    task = client.create_task().json()
    response = client.request(method, path, content=slow_body)
    assert_status(response, 408)
    assert response.headers["connection"] == "close"
    assert client.list_tasks() == [task]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_body_that_nobody_reads_changes_nothing(server, method):
    path = server.request("POST", "/tasks", json={"name": "x", "done": False}).headers["location"]
    with Connection(server) as connection:
        connection.send_request(method, path, b'{"name": "y"}')
        assert_status(connection.read_response(), 200)
        connection.send_request("GET", "/info")
        assert_status(connection.read_response(), 200)


@pytest.mark.parametrize("slow_body", ["pause"], indirect=True)
def test_other_requests_are_served_meanwhile(client, slow_body):
    slow = client.begin("POST", "/tasks", content=slow_body)
    client.create_task()
    assert_error(slow.result(10), 408, TOO_SLOW)


# The real times, on real connections


def wait_for_response(connection, seconds):
    """Return whether a response arrives within this time."""
    readable, _, _ = select.select([connection.socket], [], [], seconds)
    return bool(readable)


BODY = b'{"name":"milk","done":false}'
CHUNKED = {"Transfer-Encoding": "chunked"}


@pytest.mark.slow
def test_a_body_that_pauses_for_10_s_ends_the_connection(server):
    cases = [
        ({"Content-Length": "28"}, b'{"name":', 408, TOO_SLOW),
        (CHUNKED, b'5\r\n{"n', 408, TOO_SLOW),
        ({"Content-Length": str(2**62)}, b'{"name":', 413, TOO_LARGE),
        ({"Content-Length": "28", "Content-Type": "text/plain"}, b'{"name":', 415, NOT_JSON),
    ]
    with ExitStack() as stack:
        connections = [stack.enter_context(Connection(server)) for _ in cases]
        for connection, (headers, body, _, _) in zip(connections, cases, strict=True):
            connection.send_request("POST", "/tasks", headers=headers)
            connection.send(body)
        assert not wait_for_response(connections[0], 9.5)
        for connection, (_, _, status, detail) in zip(connections, cases, strict=True):
            assert wait_for_response(connection, 5)
            assert_error(connection.read_response(), status, detail, connection="close")
            assert connection.read_rest() == b""
    assert "Traceback" not in server.log


@pytest.mark.slow
def test_a_body_that_drips_for_30_s_ends_the_connection(server):
    with Connection(server) as connection, Connection(server) as refused:
        started = time.monotonic()
        connection.send_request("POST", "/tasks", headers={"Content-Length": "1000"})
        text = {"Content-Type": "text/plain", "Content-Length": "1000"}
        refused.send_request("POST", "/tasks", headers=text)
        for seconds in (9, 18, 27, 29.5):
            assert not wait_for_response(connection, started + seconds - time.monotonic())
            connection.send(b" ")
            refused.send(b" ")
        assert wait_for_response(connection, 5)
        assert_error(connection.read_response(), 408, TOO_SLOW)
        assert connection.read_rest() == b""
        assert_error(refused.read_response(), 415, NOT_JSON, connection="close")
        assert refused.read_rest() == b""
    assert "Traceback" not in server.log


@pytest.mark.slow
def test_a_body_that_never_pauses_for_10_s_may_take_almost_30_s(server):
    with Connection(server) as connection:
        started = time.monotonic()
        connection.send_request("POST", "/tasks", headers={"Content-Length": "28"})
        for number, seconds in enumerate((9, 18, 27)):
            assert not wait_for_response(connection, started + seconds - time.monotonic())
            connection.send(BODY[number * 10 : number * 10 + 10])
        assert_status(connection.read_response(), 200)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), [("GET", "/info"), ("DELETE", "/tasks/0")])
def test_a_pause_of_10_s_in_a_body_that_nobody_reads_is_a_408(server, method, path):
    with Connection(server) as connection:
        connection.send_request(method, path, headers={"Content-Length": "1000"})
        connection.send(b" ")
        started = time.monotonic()
        response = connection.read_response()
        assert_error(response, 408, TOO_SLOW)
        assert 9 < time.monotonic() - started < 15
        assert connection.read_rest() == b""
