"""The token, and the header `Authorization: Bearer ...`.

Which values of TODO_TOKEN are refused is in test_settings.py.
"""

import shutil

import pytest
from assertions import assert_error, assert_head, assert_page, assert_status
from client import Client


@pytest.fixture(scope="module")
def token_client(portal, empty_db, tmp_path_factory):
    """A client of an application with a token and without tasks."""
    db = shutil.copy(empty_db, tmp_path_factory.mktemp("token"))
    client = Client(portal, TODO_DB=str(db), TODO_TOKEN="secret").start()
    yield client
    client.stop()


@pytest.mark.parametrize(
    "method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"]
)
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/info",
        "/tasks",
        "/tasks/",
        "/tasks?done=true",
        "/tasks?done=maybe",
        "/tasks/1",
        "/tasks/x",
        "/nothing",
        "/healthz/",
        "/healthz%0A",
        "/docs/",
        "/docs/x",
        "//docs",
        "/%2Fdocs",
        "/DOCS",
    ],
)
def test_every_method_of_every_path_requires_the_token(token_client, method, path):
    assert_error(token_client.request(method, path), 401, "Not authenticated")


@pytest.mark.parametrize("path", ["/tasks", "/nothing"])
def test_head_is_401_where_get_is(token_client, path):
    response = token_client.get(path)
    assert_error(response, 401, "Not authenticated")
    assert_head(token_client.head(path), response)


def test_a_request_without_the_token_changes_nothing(make_client):
    client = make_client(TODO_TOKEN="secret")
    token = {"Authorization": "Bearer secret"}
    created = client.create_task(headers=token)
    client.post("/tasks", json={"name": "bread", "done": True})
    client.put("/tasks/1", json={"name": "bread", "done": True})
    client.patch("/tasks/1", json={"done": True})
    client.delete("/tasks/1")
    client.delete("/tasks?done=false")
    assert_page(client.get("/tasks", headers=token), [created.json()])


@pytest.mark.parametrize("path", ["/healthz", "/openapi.json", "/docs"])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}], ids=str)
@pytest.mark.parametrize(
    ("method", "status"), [("GET", 200), ("HEAD", 200), ("OPTIONS", 204), ("POST", 405)]
)
def test_three_routes_require_no_token(token_client, path, headers, method, status):
    assert_status(token_client.request(method, path, headers=headers), status)


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Bearer secre",
        "Bearer secret-",
        "Bearer Secret",
        "Bearer secret, Bearer secret",
        "Bearer secret secret",
        "Bearer secret\u00a0",
        "Bearer\tsecret",
        "Bearersecret",
        "Basic secret",
        "Token secret",
        "secret",
        "é secret",
    ],
)
def test_any_other_authorization_is_refused(token_client, authorization):
    response = token_client.get("/tasks", headers={"Authorization": authorization})
    assert_error(response, 401, "Not authenticated")


def test_two_authorizations_are_refused(token_client):
    headers = [("Authorization", "Bearer secret"), ("Authorization", "Bearer secret")]
    assert_error(token_client.get("/tasks", headers=headers), 401, "Not authenticated")


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("X-Authorization", "Bearer secret"),
        ("Proxy-Authorization", "Bearer secret"),
        ("X-Forwarded-Authorization", "Bearer secret"),
        ("Authentication", "Bearer secret"),
        ("WWW-Authenticate", "Bearer secret"),
        ("X-Api-Key", "secret"),
        ("X-Auth-Token", "secret"),
        ("Token", "secret"),
        ("Bearer", "secret"),
        ("Cookie", "Authorization=Bearer secret; token=secret"),
    ],
)
def test_the_token_in_another_header_is_refused(token_client, header, value):
    response = token_client.get("/tasks", headers={header: value})
    assert_error(response, 401, "Not authenticated")


@pytest.mark.parametrize("name", ["access_token", "token", "authorization", "Authorization"])
@pytest.mark.parametrize("value", ["secret", "Bearer%20secret"])
def test_the_token_in_the_query_is_refused(token_client, name, value):
    response = token_client.get(f"/tasks?{name}={value}")
    assert_error(response, 401, "Not authenticated")


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Host", "/docs"),
        ("X-Original-URL", "/docs"),
        ("X-Rewrite-URL", "/docs"),
        ("X-Forwarded-Path", "/docs"),
        ("X-Forwarded-Prefix", "/docs"),
        ("X-HTTP-Method-Override", "OPTIONS"),
        ("X-Forwarded-For", "127.0.0.1"),
        ("Origin", "null"),
    ],
)
def test_no_header_opens_a_route(token_client, header, value):
    response = token_client.get("/tasks", headers={header: value})
    assert_error(response, 401, "Not authenticated")


@pytest.mark.parametrize("token", ["s3cret", "voilà", "пух", "a b", "s3cret-ü\udcff", "秘密\u3000"])
def test_a_token_is_any_text(make_client, token):
    client = make_client(TODO_TOKEN=token)
    assert_page(client.get("/tasks", headers={"Authorization": f"Bearer {token}"}), [])
    response = client.get("/tasks", headers={"Authorization": f"Bearer {token[:-1]}"})
    assert_error(response, 401, "Not authenticated")


@pytest.mark.parametrize("scheme", ["bearer ", "BEARER ", "bEaReR ", "Bearer  ", "Bearer \t"])
def test_the_scheme_is_in_any_case_and_followed_by_any_blanks(token_client, scheme):
    response = token_client.get("/tasks", headers={"Authorization": f"{scheme}secret"})
    assert_page(response, [])


def test_without_the_setting_any_authorization_is_accepted(client):
    assert_page(client.get("/tasks", headers={"Authorization": "Basic x"}), [])


# The order of the checks: 401 is first.


@pytest.mark.parametrize(
    ("method", "path", "content", "headers"),
    [
        pytest.param("POST", "/nothing", b"", {}, id="404"),
        pytest.param("POST", "/info", b"", {}, id="405"),
        pytest.param("POST", "/tasks", b"{}", {"Content-Type": "text/plain"}, id="415"),
        pytest.param("POST", "/tasks", b" " * (2**20 + 1), {}, id="413"),
        pytest.param("POST", "/tasks", b"\xff", {}, id="400"),
        pytest.param("POST", "/tasks", b"5", {"Idempotency-Key": ""}, id="422"),
        pytest.param("DELETE", "/tasks/9", b"", {"If-Match": '"x"'}, id="404 or 412"),
    ],
)
def test_a_missing_token_is_the_first_error(token_client, method, path, content, headers):
    response = token_client.request(method, path, content=content, headers=headers)
    assert_error(response, 401, "Not authenticated")
