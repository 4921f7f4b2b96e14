"""HTTP over real connections: bodies, pipelining, methods, malformed requests, broken clients."""

from contextlib import ExitStack

import pytest
from assertions import (
    assert_empty,
    assert_error,
    assert_head,
    assert_json,
    assert_status,
    assert_task,
)
from database import insert_tasks
from load import Load
from wire import Connection, assert_still_usable, encode_chunks, encode_request, split

BODY = b'{"name":"milk","done":false}'
CHUNKED = {"Transfer-Encoding": "chunked"}
NOT_JSON = "Send JSON with the header Content-Type: application/json (curl --json does)"
TOO_LARGE = "The body is larger than 1048576 bytes: send less"
MIB = 2**20


def assert_created(server, response):
    """Assert that the response is a new task `milk`, which the server has. Return its id."""
    assert_status(response, 200)
    task = {"name": "milk", "done": False, "id": response.json()["id"]}
    assert_task(response, task, location=f"/tasks/{task['id']}")
    assert server.request("GET", f"/tasks/{task['id']}").content == response.content
    return task["id"]


# Bodies


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(encode_request("POST", "/tasks", BODY), id="with its length"),
        pytest.param(
            encode_request("POST", "/tasks", encode_chunks(*split(BODY, 3)), CHUNKED), id="chunked"
        ),
    ],
)
def test_a_request_may_arrive_byte_by_byte(server, request_bytes):
    with Connection(server) as connection:
        for byte in split(request_bytes, 1):
            connection.send(byte)
        assert_created(server, connection.read_response())
        assert_still_usable(connection)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        pytest.param({}, BODY.rjust(MIB), id="with its length"),
        pytest.param(CHUNKED, encode_chunks(*split(BODY.rjust(MIB), 1000)), id="chunked"),
    ],
)
def test_a_body_of_1_mib_is_accepted(server, headers, body):
    with Connection(server) as connection:
        connection.send_request("POST", "/tasks", body, headers)
        assert_created(server, connection.read_response())
        assert_still_usable(connection)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        pytest.param({}, BODY.ljust(MIB + 1), id="with its length"),
        pytest.param(CHUNKED, encode_chunks(*split(BODY.ljust(MIB + 1), 1000)), id="chunked"),
        pytest.param(CHUNKED, encode_chunks(BODY, b" " * 8 * MIB), id="chunked, 8 MiB"),
    ],
)
def test_a_larger_body_is_refused(server, headers, body):
    with Connection(server) as connection:
        connection.send_request("POST", "/tasks", body, headers)
        assert_error(connection.read_response(), 413, TOO_LARGE)
        assert connection.read_rest() == b""


@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
@pytest.mark.parametrize("headers", [{"Content-Length": str(2**40)}, CHUNKED], ids=str)
def test_a_refused_body_that_is_very_long_is_cut_off(server, headers, content_type):
    piece = encode_chunks(b" " * MIB).removesuffix(b"0\r\n\r\n")
    with Connection(server) as connection:
        headers = {"Content-Type": content_type, **headers}
        connection.send_request("POST", "/tasks", headers=headers)
        with pytest.raises(ConnectionError):
            connection.send(piece * 64)  # Some MiB more than it reads are in the sockets' buffers.
    assert "Traceback" not in server.log


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_body_that_no_operation_reads_is_not_taken_for_a_request(server, method):
    with Connection(server) as connection:
        connection.send_request(method, "/tasks/0", encode_request("GET", "/healthz"))
        assert_error(connection.read_response(), 404, "Task not found")
        assert_still_usable(connection)


# Several requests on one connection


def test_pipelined_requests_are_answered_in_order(server):
    create = encode_request("POST", "/tasks", BODY)
    read = encode_request("GET", "/info")
    wrong_type = encode_request("POST", "/tasks", b"{", {"Content-Type": "text/plain"})
    wrong_method = encode_request("PUT", "/info", BODY * 50)
    created = []
    with Connection(server) as connection:
        connection.send((create + read + wrong_type + wrong_method) * 20)
        for _ in range(20):
            created.append(assert_created(server, connection.read_response()))
            assert_json(connection.read_response(), "starlette")
            assert_error(connection.read_response(), 415, NOT_JSON)
            wrong = connection.read_response()
            assert_error(wrong, 405, "Method Not Allowed", allow="GET, HEAD, OPTIONS")
    assert created == sorted(set(created))


def test_a_connection_is_closed_after_the_response_if_the_client_asks_for_it(server):
    with Connection(server) as connection:
        connection.send_request("GET", "/info", headers={"Connection": "close"})
        assert_json(connection.read_response(), "starlette", connection="close")
        assert connection.read_rest() == b""


# Malformed and unusual requests

POST_HEAD = b"POST /tasks HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(b"hello\r\n\r\n", id="words"),
        pytest.param(b"BREW /tasks HTTP/1.1\r\nHost: test\r\n\r\n", id="an unknown method"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
        pytest.param(b"CONNECT test:80 HTTP/1.1\r\nHost: test:80\r\n\r\n", id="a tunnel"),
        pytest.param(
            POST_HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n" + BODY,
            id="a huge length",
        ),
        pytest.param(
            POST_HEAD + b"Content-Length: -1\r\n\r\n" + BODY,
            id="a negative length",
        ),
        pytest.param(
            POST_HEAD + b"Content-Length: 28\r\nContent-Length: 29\r\n\r\n" + BODY,
            id="two lengths",
        ),
        pytest.param(
            POST_HEAD
            + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"
            + encode_chunks(BODY),
            id="a length and chunks",
        ),
        pytest.param(
            POST_HEAD + b"Content-Length: 5\r\n\r\n" + BODY,
            id="a body longer than its length",
        ),
        pytest.param(
            POST_HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n" + BODY,
            id="a chunk without a size",
        ),
        pytest.param(
            b"GET /info HTTP/1.1\r\nHost: test\r\nX: a\x00b\r\n\r\n",
            id="a NUL in a header",
        ),
        pytest.param(
            b"GET /info HTTP/1.1\r\nHost: test\r\nX : y\r\n\r\n",
            id="a blank before the colon",
        ),
    ],
)
def test_malformed_http_is_refused_by_uvicorn(server, request_bytes):
    with Connection(server) as connection:
        connection.send(request_bytes)
        response = connection.read_response()
        assert (response.status_code, response.text) == (400, "Invalid HTTP request received.")
        assert connection.read_rest() == b""
    assert_json(server.request("GET", "/info"), "starlette")
    assert "Traceback" not in server.log


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(
            b"GET /info HTTP/1.1\r\nHost: test\r\nX: " + b"x" * 300_000 + b"\r\n\r\n",
            id="a long header",
        ),
        pytest.param(b"GET /info HTTP/1.1\r\nHost: [::1\r\n\r\n", id="an invalid host"),
        pytest.param(b"GET /info HTTP/1.1\r\n\r\n", id="no host"),
        pytest.param(b"GET http://test/info HTTP/1.1\r\nHost: test\r\n\r\n", id="a whole URL"),
        pytest.param(b"GET /info?%ff=%00&&= HTTP/1.1\r\nHost: test\r\n\r\n", id="an odd query"),
        pytest.param(b"GET /%69nfo HTTP/1.1\r\nHost: test\r\n\r\n", id="an escaped letter"),
        pytest.param(b"\r\n\r\nGET /info HTTP/1.1\r\nHost: test\r\n\r\n", id="empty lines first"),
    ],
)
def test_unusual_requests_are_served(server, request_bytes):
    with Connection(server) as connection:
        connection.send(request_bytes)
        assert_json(connection.read_response(), "starlette")
        assert_still_usable(connection)


# Methods


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200),
        ("/info", 200),
        ("/healthz", 200),
        ("/openapi.json", 200),
        ("/docs", 200),
        ("/tasks", 200),
        ("/tasks/", 200),
        ("/tasks?limit=2", 200),
        ("/tasks?limit=0", 422),
        ("/tasks/{id}", 200),
        ("/tasks/0", 404),
        ("/nothing", 404),
    ],
)
def test_head_has_the_headers_of_get_and_no_body(server, path, status):
    insert_tasks(server.db, [("bread", False), ("apples", True)])
    created = server.request("POST", "/tasks", json={"name": "milk", "done": False})
    target = path.format(id=created.json()["id"])
    with Connection(server) as connection:
        connection.send_request("GET", target)
        response = connection.read_response()
        assert_status(response, status)
        connection.send_request("HEAD", target)
        assert_head(connection.read_head(), response)
        assert_still_usable(connection)


ALLOWED = pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/", "GET, HEAD, OPTIONS"),
        ("/info", "GET, HEAD, OPTIONS"),
        ("/healthz", "GET, HEAD, OPTIONS"),
        ("/openapi.json", "GET, HEAD, OPTIONS"),
        ("/docs", "GET, HEAD, OPTIONS"),
        ("/tasks", "GET, POST, DELETE, HEAD, OPTIONS"),
        ("/tasks/", "GET, POST, DELETE, HEAD, OPTIONS"),
        ("/tasks/1", "GET, PUT, PATCH, DELETE, HEAD, OPTIONS"),
        ("/tasks/x", "GET, PUT, PATCH, DELETE, HEAD, OPTIONS"),
    ],
)


@ALLOWED
def test_options_lists_the_methods_of_a_path(server, path, allow):
    with Connection(server) as connection:
        connection.send_request("OPTIONS", path)
        assert_empty(connection.read_response(), 204, allow=allow)
        assert_still_usable(connection)


@ALLOWED
def test_every_other_method_is_refused_with_the_methods_of_the_path(server, path, allow):
    methods = ["POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"]
    with Connection(server) as connection:
        for method in [method for method in methods if method not in allow]:
            connection.send_request(method, path)
            assert_error(connection.read_response(), 405, "Method Not Allowed", allow=allow)
        assert_still_usable(connection)


# Clients that stall or vanish

LEFT_BEHIND = [  # what a client has sent when it stalls or vanishes
    b"",
    b"POST /tasks HTTP/1.1",
    POST_HEAD,
    POST_HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
    encode_request("POST", "/tasks", BODY)[:-5],
    encode_request("POST", "/tasks", BODY),
    encode_request("POST", "/tasks", BODY) * 20,
    encode_request("GET", "/tasks"),
    encode_request("GET", "/tasks") + encode_request("GET", "/info"),
    encode_request("GET", "/tasks?q=nowhere&limit=1") + encode_request("GET", "/info"),
    encode_request("POST", "/tasks", b"x" * MIB, {"Content-Type": "text/plain"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "end",
    [Connection.reset, Connection.close, lambda connection: None],
    ids=["reset", "close", "stall"],
)
def test_clients_that_stall_or_vanish_do_not_disturb_others(make_server, end):
    server = make_server()
    insert_tasks(server.db, [("x" * 1000, False)] * 5000)
    load = Load()
    load.start(server, 2)
    with ExitStack() as stack:
        for request_bytes in LEFT_BEHIND * 3:
            connection = stack.enter_context(Connection(server))
            connection.send(request_bytes)
            end(connection)
        load.wait_for_responses(10)
        assert all(writer.is_alive() for writer in load.writers)
        load.stop()
    assert load.statuses.keys() == {200}
    stored = {task["id"]: task for task in server.list_tasks()}
    lost = [task for task in load.acknowledged.values() if stored.get(task["id"]) != task]
    assert lost == []
    server.stop()
    assert "Traceback" not in server.log
    assert "Unexpected ASGI message" not in server.log
