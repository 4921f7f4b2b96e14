"""The token: TODO_TOKEN, and the header `Authorization: Bearer ...`."""

import pytest
from assertions import assert_error, assert_page, assert_status

import todo


@pytest.fixture
def token_client(make_client):
    """A client of an application with a token."""
    return make_client(TODO_TOKEN="secret")


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
def test_every_method_of_every_path_requires_the_token(token_client, path):
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"):
        assert_error(token_client.request(method, path), 401, "Not authenticated")
    assert_status(token_client.head(path), 401)


def test_a_request_without_the_token_changes_nothing(token_client):
    token = {"Authorization": "Bearer secret"}
    created = token_client.create_task(headers=token)
    token_client.post("/tasks", json={"name": "bread", "done": True})
    token_client.put("/tasks/1", json={"name": "bread", "done": True})
    token_client.patch("/tasks/1", json={"done": True})
    token_client.delete("/tasks/1")
    token_client.delete("/tasks?done=false")
    assert_page(token_client.get("/tasks", headers=token), [created.json()])


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
def test_the_token_in_the_query_is_refused(token_client, name):
    for value in ("secret", "Bearer%20secret"):
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
def test_a_token_is_any_text_and_the_scheme_in_any_case(make_client, token):
    client = make_client(TODO_TOKEN=token)
    for scheme in ("Bearer ", "bearer ", "BEARER ", "bEaReR  ", "Bearer \t"):
        assert_page(client.get("/tasks", headers={"Authorization": scheme + token}), [])
    response = client.get("/tasks", headers={"Authorization": f"Bearer {token[:-1]}"})
    assert_error(response, 401, "Not authenticated")


@pytest.mark.parametrize("setting", ["secret\n", "secret\r\n", " secret ", "\tsecret"])
def test_white_space_around_the_setting_is_no_part_of_the_token(make_client, setting):
    client = make_client(TODO_TOKEN=setting)
    assert_page(client.get("/tasks", headers={"Authorization": "Bearer secret"}), [])


def test_without_the_setting_any_authorization_is_accepted(client):
    assert_page(client.get("/tasks", headers={"Authorization": "Basic x"}), [])


@pytest.mark.parametrize("setting", ["", " ", "\n", "a\nb", "a\x00b", "a\x7f"])
def test_a_token_that_no_client_could_send_is_refused_at_start(make_client, setting):
    with pytest.raises(todo.StartRefused) as refused:
        make_client(TODO_TOKEN=setting)
    assert str(refused.value) == "TODO_TOKEN is empty or has a control character in it"


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
