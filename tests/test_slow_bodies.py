"""408: bodies that arrive slowly. There are 30 s for all of a body, and 10 s for a pause in it.

The quick tests shorten these times. The slow ones wait for them, on real connections.
"""

import asyncio
import select
import time
from contextlib import ExitStack

import pytest
from assertions import assert_error, assert_head, assert_status, assert_task, assert_tasks
from client import on_every_route_with_a_body, stalling
from wire import Connection

import todo

TOO_SLOW = "The body did not arrive in time: send it again, faster and without a pause"
TOO_LARGE = "The body is larger than 1048576 bytes: send less"
NOT_JSON = "Send JSON with the header Content-Type: application/json (curl --json does)"


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
        return stalling(b'{"name":"bread"')
    monkeypatch.setattr(todo, "BODY_TIMEOUT", 0.05)
    return dripping()


@on_every_route_with_a_body
def test_a_slow_body_is_408(client, slow_body, method, target):
    client.create_task("milk")
    assert_error(client.request(method, target, content=slow_body), 408, TOO_SLOW)
    assert_tasks(client.list_tasks(), [{"name": "milk", "done": False, "id": 1}])


@pytest.mark.parametrize(
    "beginning",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b'{"name":"bread","done":true}', id="a whole task"),
        pytest.param(b"\xff", id="not UTF-8"),
        pytest.param(b"{]", id="not JSON"),
    ],
)
def test_a_body_that_pauses_is_408_whatever_has_arrived(client, monkeypatch, beginning):
    monkeypatch.setattr(todo, "BODY_PAUSE", 0.03)
    assert_error(client.post("/tasks", content=stalling(beginning)), 408, TOO_SLOW)
    assert client.list_tasks() == []


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        pytest.param("POST", "/tasks", {"Idempotency-Key": ""}, id="invalid key"),
        pytest.param("PUT", "/tasks/1", {"If-Match": '"x"'}, id="false precondition"),
        pytest.param("PATCH", "/tasks/2", {}, id="no such task"),
    ],
)
def test_a_body_that_pauses_is_408_whatever_else_is_wrong(
    client, monkeypatch, method, target, headers
):
    client.create_task()
    monkeypatch.setattr(todo, "BODY_PAUSE", 0.03)
    response = client.request(method, target, content=stalling(b"{"), headers=headers)
    assert_error(response, 408, TOO_SLOW)


def test_each_part_of_a_body_may_be_followed_by_a_whole_pause(client, monkeypatch):
    monkeypatch.setattr(todo, "BODY_PAUSE", 0.01)

    async def body():
        # From the first part on a pause may take longer, so that a busy machine fails no test.
        monkeypatch.setattr(todo, "BODY_PAUSE", 10)
        yield b'{"name":"milk",'
        await asyncio.sleep(0.03)  # That is longer than the first part could have taken.
        yield b'"done":false}'

    response = client.post("/tasks", content=body())
    assert_task(response, {"name": "milk", "done": False, "id": 1}, location="/tasks/1")


def test_other_requests_are_served_while_a_body_pauses(client):
    slow = client.begin("POST", "/tasks", content=stalling(b'{"name":"bread"'))
    client.create_task("milk")
    assert not slow.done()
    slow.cancel()
    assert_tasks(client.list_tasks(), [{"name": "milk", "done": False, "id": 1}])


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
        ("OPTIONS", "/tasks"),
        ("DELETE", "/tasks/1"),
        ("DELETE", "/tasks?done=false"),
    ],
)
def test_a_slow_body_is_cut_off_although_nobody_reads_it(client, slow_body, method, path):
    client.create_task("milk")
    assert_error(client.request(method, path, content=slow_body), 408, TOO_SLOW)
    assert_tasks(client.list_tasks(), [{"name": "milk", "done": False, "id": 1}])


def test_a_slow_body_is_cut_off_for_head_as_for_get(client, monkeypatch):
    monkeypatch.setattr(todo, "BODY_PAUSE", 0.03)
    response = client.get("/tasks", content=stalling(b"{"))
    assert_error(response, 408, TOO_SLOW)
    assert_head(client.head("/tasks", content=stalling(b"{")), response)


# The real times, on real connections


def responds_before(connection, end):
    """Return whether a response arrives before this time."""
    readable, _, _ = select.select([connection.socket], [], [], max(0, end - time.monotonic()))
    return bool(readable)


BODY = b'{"name":"milk","done":false}'

# The headers and the beginning of a body, and the response. The test sends them all at once.
PAUSING = [
    ({"Content-Length": "28"}, b'{"name":', 408, TOO_SLOW),
    ({"Transfer-Encoding": "chunked"}, b'5\r\n{"n', 408, TOO_SLOW),
    ({"Content-Length": str(2**62)}, b'{"name":', 413, TOO_LARGE),
    ({"Content-Length": "28", "Content-Type": "text/plain"}, b'{"name":', 415, NOT_JSON),
]


@pytest.mark.slow
def test_a_body_that_pauses_for_10_s_ends_the_connection(server):
    with ExitStack() as stack:
        connections = [stack.enter_context(Connection(server)) for _ in PAUSING]
        started = time.monotonic()
        for connection, (headers, beginning, _, _) in zip(connections, PAUSING, strict=True):
            connection.send_request("POST", "/tasks", headers=headers)
            connection.send(beginning)
        assert not responds_before(connections[0], started + 9)
        for connection, (_, _, status, detail) in zip(connections, PAUSING, strict=True):
            assert responds_before(connection, started + 20)
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
        for seconds in (7, 14, 21, 28):
            assert not responds_before(connection, started + seconds)
            connection.send(b" ")
            refused.send(b" ")
        assert responds_before(connection, started + 37)  # A pause of 10 s would end later.
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
        for number, seconds in enumerate((7, 14, 21, 27)):
            assert not responds_before(connection, started + seconds)
            connection.send(BODY[number * 7 : number * 7 + 7])
        response = connection.read_response()
        assert_status(response, 200)
        id = response.json()["id"]
        assert_task(response, {"name": "milk", "done": False, "id": id}, location=f"/tasks/{id}")


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), [("GET", "/info"), ("DELETE", "/tasks/0")])
def test_a_pause_of_10_s_in_a_body_that_nobody_reads_is_a_408(server, method, path):
    with Connection(server) as connection:
        started = time.monotonic()
        connection.send_request(method, path, headers={"Content-Length": "1000"})
        connection.send(b" ")
        assert not responds_before(connection, started + 9)
        assert responds_before(connection, started + 20)
        assert_error(connection.read_response(), 408, TOO_SLOW)
        assert connection.read_rest() == b""
