"""Requests that offer an upgrade of the protocol, such as `Upgrade: h2c`.

uvicorn hands such a request over without its body, and takes the bytes of the body for the next
request (uvicorn issue 2722). So a request with a body is refused before anything behind it runs,
and every other one closes the connection.
"""

import contextlib
import shutil

import pytest
from assertions import assert_error, assert_json, assert_status
from database import write_lock
from server import Server
from starting import lock_holders, wait_until
from wire import Connection, encode_chunks, encode_request, split

AUTHORIZATION = {"Authorization": "Bearer secret"}
REFUSAL = (
    "A request with a body must not offer an upgrade: leave out the Upgrade header "
    "(in Java, set HttpClient.Version.HTTP_1_1)"
)


@pytest.fixture(scope="module")
def server(empty_db, tmp_path_factory):
    """A server with a token, which other origins may call.

    It has no WebSockets, as if no library for them were installed, so that uvicorn does not answer
    `Upgrade: websocket` itself.
    """
    db = shutil.copy(empty_db, tmp_path_factory.mktemp("upgrades"))
    server = Server(db, "--ws", "none", TODO_TOKEN="secret", TODO_CORS_ORIGINS="*")
    yield server
    server.stop()
    assert "Traceback" not in server.log


@pytest.fixture
def path(server):
    """The path of a new task. A request that deletes it is sent as the body of another one."""
    task = {"name": "milk", "done": False}
    response = server.request("POST", "/tasks", json=task, headers=AUTHORIZATION)
    assert_status(response, 200)
    return response.headers["location"]


def upgrade_to(protocol):
    """Return the headers of a request that offers an upgrade and has the token."""
    return {"Connection": "Upgrade", "Upgrade": protocol, **AUTHORIZATION}


def send_packets(connection, head, body, timing):
    """Send a request in one packet, in two, or byte by byte, as far as the server takes it."""
    packets = {
        "one packet": [head + body],
        "head first": [head, body],
        "byte by byte": split(head + body, 1),
    }
    with contextlib.suppress(ConnectionError):  # The server may close before it has all.
        for packet in packets[timing]:
            connection.send(packet)


def assert_exists(server, path):
    """Assert that the task at this path has not been deleted."""
    assert_status(server.request("GET", path, headers=AUTHORIZATION), 200)


def assert_refused(connection):
    """Assert that the next response is the refusal, and that it is the last one."""
    assert_error(connection.read_response(), 400, REFUSAL, connection="close")
    assert connection.read_rest() == b""


# Requests with a body


@pytest.mark.parametrize("protocol", ["h2c", "websocket", "TLS/1.0", "foo", "h2c, websocket"])
@pytest.mark.parametrize("framing", ["length", "chunks", "malformed chunks"])
@pytest.mark.parametrize("timing", ["one packet", "head first", "byte by byte"])
def test_a_request_with_a_body_is_refused_and_its_body_never_runs(
    server, path, protocol, framing, timing
):
    body = encode_request("DELETE", path, headers=AUTHORIZATION)
    framings = {
        "length": ({"Content-Length": str(len(body))}, body),
        "chunks": ({"Transfer-Encoding": "chunked"}, encode_chunks(body)),
        "malformed chunks": ({"Transfer-Encoding": "chunked"}, body),
    }
    headers, encoded_body = framings[framing]
    head = encode_request("POST", "/tasks", headers={**upgrade_to(protocol), **headers})
    with Connection(server) as connection:
        send_packets(connection, head, encoded_body, timing)
        assert_refused(connection)
    assert_exists(server, path)


@pytest.mark.parametrize("timing", ["one packet", "head first", "byte by byte"])
@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/tasks"),
        ("PUT", "/tasks/1"),
        ("PATCH", "/tasks/1"),
        ("DELETE", "/tasks/0"),
        ("DELETE", "/tasks?done=maybe"),
        ("GET", "/tasks"),
        ("HEAD", "/info"),
        ("GET", "/docs"),
        ("OPTIONS", "/tasks"),
        ("TRACE", "/tasks"),
        ("POST", "/nothing"),
        ("GET", "/nothing"),
    ],
)
def test_it_is_refused_whatever_the_method_and_the_path(server, path, method, target, timing):
    body = encode_request("DELETE", path, headers=AUTHORIZATION)
    head = encode_request(
        method, target, headers={**upgrade_to("h2c"), "Content-Length": str(len(body))}
    )
    with Connection(server) as connection:
        send_packets(connection, head, body, timing)
        head = connection.read_head()
        assert_status(head, 400)
        assert head.headers["connection"] == "close"
        assert b"HTTP/1.1" not in connection.read_rest()
    assert_exists(server, path)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Authorization": "Bearer wrong"}, id="a wrong token"),
        pytest.param({"Authorization": "Bearer secret", "Content-Type": "text/plain"}, id="text"),
        pytest.param({"Authorization": "Bearer secret", "Expect": "100-continue"}, id="Expect"),
        pytest.param({"Authorization": "Bearer secret", "Upgrade": "h2c, foo"}, id="two upgrades"),
        pytest.param({"Authorization": "Bearer secret", "Upgrade": ""}, id="an empty upgrade"),
        pytest.param({"Authorization": "Bearer secret", "Connection": "x, upgrade"}, id="a list"),
        pytest.param(
            {"Authorization": "Bearer secret", "Connection": "x", "Proxy-Connection": "upgrade"},
            id="Proxy-Connection",
        ),
        pytest.param(
            {"Connection": "Upgrade, HTTP2-Settings", "HTTP2-Settings": "AAMAAABkAARAAAAAAAIAAAAA"},
            id="as curl --http2 sends it",
        ),
    ],
)
def test_it_is_refused_whatever_its_other_headers(server, path, headers):
    body = encode_request("DELETE", path, headers=AUTHORIZATION)
    upgrade = {"Connection": "Upgrade", "Upgrade": "h2c"}
    with Connection(server) as connection:
        connection.send_request("POST", "/tasks", body, {**upgrade, **headers})
        assert_refused(connection)
    assert_exists(server, path)


def test_a_preflight_with_a_body_is_refused_too(server, path):
    preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "PUT"}
    head = encode_request(
        "OPTIONS", "/tasks", headers={**upgrade_to("h2c"), **preflight, "Content-Length": "1000"}
    )
    with Connection(server) as connection:
        connection.send(head)
        assert_refused(connection)
        with contextlib.suppress(ConnectionError):
            connection.send(encode_request("DELETE", path, headers=AUTHORIZATION))
    assert_exists(server, path)


def test_an_upgrade_without_connection_upgrade_is_refused_too(server, path):
    """httptools would read this body, but a proxy may change the Connection header."""
    body = encode_request("DELETE", path, headers=AUTHORIZATION)
    with Connection(server) as connection:
        connection.send_request("POST", "/tasks", body, {"Upgrade": "h2c", **AUTHORIZATION})
        assert_refused(connection)
    assert_exists(server, path)


# Requests without a body


@pytest.mark.parametrize("protocol", ["h2c", "websocket", "TLS/1.0", "foo"])
@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/info", 200),
        ("GET", "/tasks", 200),
        ("GET", "/docs", 200),
        ("GET", "/tasks/0", 404),
        ("GET", "/nothing", 404),
        ("DELETE", "/tasks/0", 404),
        ("DELETE", "/info", 405),
        ("OPTIONS", "/tasks", 204),
    ],
)
def test_a_request_without_a_body_is_served_and_closes_the_connection(
    server, path, protocol, method, target, status
):
    with Connection(server) as connection:
        connection.send_request(method, target, headers=upgrade_to(protocol))
        response = connection.read_response()
        assert_status(response, status)
        assert response.headers["connection"] == "close"
        with contextlib.suppress(ConnectionError):
            connection.send_request("DELETE", path, headers=AUTHORIZATION)
        assert connection.read_rest() == b""
    assert_exists(server, path)


def test_a_content_length_of_0_is_no_body(server):
    with Connection(server) as connection:
        headers = {**upgrade_to("h2c"), "Content-Length": "0"}
        connection.send_request("GET", "/info", headers=headers)
        response = connection.read_response()
        assert_json(response, "starlette", connection="close", vary="Origin")


@pytest.mark.parametrize("timing", ["one packet", "one after the other"])
def test_a_request_that_is_queued_behind_an_upgrade_never_runs(server, path, timing):
    create = encode_request("POST", "/tasks", b'{"name":"milk","done":false}', AUTHORIZATION)
    upgrade = encode_request("GET", "/info", headers=upgrade_to("h2c"))
    delete = encode_request("DELETE", path, headers=AUTHORIZATION)
    packets = {
        "one packet": [create + upgrade + delete],
        "one after the other": [create, upgrade, delete],
    }
    with Connection(server) as connection:
        with write_lock(server.db):
            for packet in packets[timing]:
                connection.send(packet)
            wait_until("the first request waits", lambda: lock_holders(server.db) == 1)
            # When this is answered, uvicorn has read the others, too, and has queued them.
            assert_status(server.request("GET", "/info", headers=AUTHORIZATION), 200)
        assert_status(connection.read_response(), 200)
        response = connection.read_response()
        assert_json(response, "starlette", connection="close", vary="Origin")
        assert connection.read_rest() == b""
    assert_exists(server, path)


# CONNECT, which asks for a tunnel, is an upgrade for httptools even without an Upgrade header.


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/tasks", 405),
        ("http://test/tasks", 405),
        ("//test/tasks", 404),
        ("/nothing", 404),
        ("*", 404),
    ],
)
@pytest.mark.parametrize("timing", ["one packet", "head first", "byte by byte"])
def test_nothing_behind_connect_runs(server, path, target, status, timing):
    body = encode_request("DELETE", path, headers=AUTHORIZATION)
    headers = {"Content-Length": str(len(body)), **AUTHORIZATION}
    head = encode_request("CONNECT", target, headers=headers)
    with Connection(server) as connection:
        send_packets(connection, head, body, timing)
        response = connection.read_response()
        assert_status(response, status)
        assert response.headers["connection"] == "close"
        assert connection.read_rest() == b""
    assert_exists(server, path)


def test_the_response_to_a_connect_whose_body_is_not_read_says_close_once(server):
    headers = {"Content-Length": "1", "Expect": "100-continue", **AUTHORIZATION}
    with Connection(server) as connection:
        connection.send_request("CONNECT", "/nothing", headers=headers)
        assert_error(
            connection.read_response(), 404, "Not Found", connection="close", vary="Origin"
        )


# With a library for WebSockets, uvicorn answers their handshakes itself.


def test_a_websocket_is_refused(make_server):
    pytest.importorskip("websockets")
    server = make_server()
    handshake = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    task = server.request("POST", "/tasks", json={"name": "milk", "done": False})
    path = task.headers["location"]
    with Connection(server) as connection:
        connection.send_request("GET", "/tasks", headers=handshake)
        connection.send_request("DELETE", path)
        assert_status(connection.read_response(), 403)
        assert b"HTTP/1.1" not in connection.read_rest()
    assert_exists(server, path)
    server.stop()
    assert "Traceback" not in server.log
