"""Requests that are refused before their body is read: 401, 404, 405, 413 and 415.

Most clients send all of a body before they read the response, so the body is read and discarded,
up to 16 MiB. A client that sends `Expect: 100-continue` is refused before it sends any of it.
"""

import shutil

import pytest
from assertions import assert_error, assert_status, assert_task
from server import Server
from wire import Connection, assert_still_usable, encode_chunks, encode_request, split

BODY = b'{"name":"milk","done":false}'
CHUNKED = {"Transfer-Encoding": "chunked"}
MIB = 2**20
TOKEN = {"Authorization": "Bearer secret"}
TOKEN_AND_TEXT = {"Authorization": "Bearer secret", "Content-Type": "text/plain"}


@pytest.fixture(scope="module")
def server(empty_db, tmp_path_factory):
    """A server with a token."""
    db = shutil.copy(empty_db, tmp_path_factory.mktemp("refused"))
    server = Server(db, TODO_TOKEN="secret")
    yield server
    server.stop()  # Afterwards the whole log has been read.
    assert "ERROR" not in server.log


NOT_JSON = "Send JSON with the header Content-Type: application/json (curl --json does)"
TOO_LARGE = "The body is larger than 1048576 bytes: send less"
ALLOW = {"allow": "GET, HEAD, OPTIONS"}

# Requests that are refused whatever their body is.
REFUSED = pytest.mark.parametrize(
    ("method", "path", "headers", "status", "detail", "response_headers"),
    [
        pytest.param("POST", "/tasks", {}, 401, "Not authenticated", {}, id="no token"),
        pytest.param("POST", "/nothing", {}, 401, "Not authenticated", {}, id="no token, no path"),
        pytest.param("POST", "/nothing", TOKEN, 404, "Not Found", {}, id="unknown path"),
        pytest.param("POST", "/info", TOKEN, 405, "Method Not Allowed", ALLOW, id="wrong method"),
        pytest.param("POST", "/docs", {}, 405, "Method Not Allowed", ALLOW, id="open path"),
        pytest.param("POST", "/tasks", TOKEN_AND_TEXT, 415, NOT_JSON, {}, id="POST text"),
        pytest.param("PUT", "/tasks/1", TOKEN_AND_TEXT, 415, NOT_JSON, {}, id="PUT text"),
        pytest.param("PATCH", "/tasks/1", TOKEN_AND_TEXT, 415, NOT_JSON, {}, id="PATCH text"),
    ],
)


@REFUSED
def test_the_connection_can_be_used_again_after_a_refusal(
    server, method, path, headers, status, detail, response_headers
):
    with Connection(server) as connection:
        connection.send_request(method, path, BODY.ljust(2 * MIB), headers)
        assert_error(connection.read_response(), status, detail, **response_headers)
        assert_still_usable(connection, TOKEN)
        chunks = encode_chunks(*split(BODY.ljust(MIB), 50_000))
        connection.send_request(method, path, chunks, {**CHUNKED, **headers})
        assert_error(connection.read_response(), status, detail, **response_headers)
        assert_still_usable(connection, TOKEN)


@REFUSED
def test_a_client_that_closes_after_one_request_reads_the_refusal(
    server, method, path, headers, status, detail, response_headers
):
    headers = {"Connection": "close", **headers}
    with Connection(server) as connection:
        connection.send_request(method, path, BODY.ljust(15 * MIB), headers)
        response = connection.read_response()
        assert_error(response, status, detail, connection="close", **response_headers)
        assert connection.read_rest() == b""


def test_a_client_that_closes_after_one_request_reads_that_its_body_is_too_large(server):
    headers = {"Connection": "close", **TOKEN}
    with Connection(server) as connection:
        connection.send_request("POST", "/tasks", BODY.ljust(15 * MIB), headers)
        assert_error(connection.read_response(), 413, TOO_LARGE)
        assert connection.read_rest() == b""


@pytest.mark.slow
def test_a_refused_body_is_not_kept_in_memory(make_server):
    server = make_server()  # A new one, because others may have memory left that they can use.
    chunks = encode_chunks(*split(BODY.ljust(15 * MIB), MIB))
    with Connection(server) as connection:
        connection.send_request("POST", "/tasks", BODY)
        milk = {"name": "milk", "done": False, "id": 1}
        assert_task(connection.read_response(), milk, location="/tasks/1")
        server.forget_peak_memory()
        before = server.peak_memory()
        connection.send_request("POST", "/tasks", chunks, CHUNKED)
        assert_error(connection.read_response(), 413, TOO_LARGE)
        assert server.peak_memory() - before < 8 * MIB


# Expect: 100-continue


@REFUSED
@pytest.mark.parametrize(
    "framing",
    [{"Content-Length": "28"}, {"Content-Length": str(2**40)}, {"Transfer-Encoding": "chunked"}],
    ids=str,
)
def test_a_client_that_asks_first_is_refused_at_once(
    server, framing, method, path, headers, status, detail, response_headers
):
    headers = {"Expect": "100-continue", **framing, **headers}
    with Connection(server) as connection:
        connection.send_request(method, path, headers=headers)
        response = connection.read_response()
        assert_error(response, status, detail, connection="close", **response_headers)
        assert connection.read_rest() == b""


@pytest.mark.parametrize(("method", "path"), [("POST", "/tasks"), ("PUT", "/tasks/1")])
def test_a_client_that_asks_first_is_told_at_once_that_its_body_is_too_large(server, method, path):
    headers = {"Expect": "100-continue", "Content-Length": str(MIB + 1), **TOKEN}
    with Connection(server) as connection:
        connection.send_request(method, path, headers=headers)
        assert_error(connection.read_response(), 413, TOO_LARGE)
        assert connection.read_rest() == b""


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/info"), ("DELETE", "/tasks/1"), ("OPTIONS", "/tasks")]
)
def test_a_client_that_asks_first_is_told_at_once_that_a_body_is_no_use(server, method, path):
    headers = {"Expect": "100-continue", "Content-Length": str(16 * MIB + 1), **TOKEN}
    with Connection(server) as connection:
        connection.send_request(method, path, headers=headers)
        detail = "The body is larger than 16777216 bytes, and not needed: send none"
        assert_error(connection.read_response(), 413, detail)
        assert connection.read_rest() == b""


def test_what_a_refused_client_sends_all_the_same_is_not_taken_for_a_request(server):
    headers = {"Expect": "100-continue", **TOKEN_AND_TEXT}
    created = server.request("POST", "/tasks", json={"name": "milk", "done": False}, headers=TOKEN)
    target = created.headers["location"]
    body = encode_request("DELETE", target, headers=TOKEN)
    with Connection(server) as connection:
        connection.send_request("POST", "/tasks", body, headers)
        assert_error(connection.read_response(), 415, NOT_JSON, connection="close")
        assert connection.read_rest() == b""
    assert_task(server.request("GET", target, headers=TOKEN), created.json())


@pytest.mark.parametrize("expect", ["100-continue", "100-Continue"])
@pytest.mark.parametrize(
    ("framing", "body"),
    [
        pytest.param({"Content-Length": "28"}, BODY, id="length"),
        pytest.param({"Transfer-Encoding": "chunked"}, encode_chunks(*split(BODY, 3)), id="chunks"),
    ],
)
def test_a_client_that_asks_first_may_go_on(server, expect, framing, body):
    headers = {"Expect": expect, **framing, **TOKEN}
    with Connection(server) as connection:
        connection.send_request("POST", "/tasks", headers=headers)
        assert connection.read_head().status_code == 100
        connection.send(body)
        response = connection.read_response()
        assert_status(response, 200)
        id = response.json()["id"]
        assert_task(response, {"name": "milk", "done": False, "id": id}, location=f"/tasks/{id}")
        assert_still_usable(connection, TOKEN)
