"""Requests from web pages of other origins, which CORSMiddleware handles.

The values of TODO_CORS_ORIGINS are in test_settings.py.
"""

import pytest
from assertions import assert_error, assert_json, assert_page, assert_task

TOKEN = {"Authorization": "Bearer secret"}


@pytest.fixture
def cors_client(make_client):
    """A client of an application with a token, which two other origins may call."""
    origins = "https://a.example, http://localhost:3000"
    return make_client(TODO_CORS_ORIGINS=origins, TODO_TOKEN="secret")


@pytest.mark.parametrize("origin", ["https://a.example", "http://localhost:3000"])
def test_an_allowed_origin_may_read_every_response(cors_client, origin):
    headers = {"Origin": origin, **TOKEN}
    cors = {
        "access_control_allow_origin": origin,
        "access_control_expose_headers": "ETag, Link, Location, Retry-After",
        "vary": "Origin",
    }
    milk = {"name": "milk", "done": False}
    created = cors_client.post("/tasks", json=milk, headers=headers)
    assert_task(created, {**milk, "id": 1}, location="/tasks/1", **cors)
    assert_page(cors_client.get("/tasks", headers=headers), [{**milk, "id": 1}], **cors)
    assert_error(cors_client.get("/nothing", headers=headers), 404, "Not Found", **cors)
    without_token = cors_client.get("/tasks", headers={"Origin": origin})
    assert_error(without_token, 401, "Not authenticated", **cors)
    text = cors_client.post("/tasks", headers={"Content-Type": "text/plain", **headers})
    detail = "Send JSON with the header Content-Type: application/json (curl --json does)"
    assert_error(text, 415, detail, **cors)


with_every_other_origin = pytest.mark.parametrize(
    "origin",
    [
        "https://b.example",
        "https://a.example.evil",
        "https://evil-a.example",
        "http://a.example",
        "https://a.example:8443",
        "https://A.EXAMPLE",
        "https://a.example/",
        "http://localhost",
        "http://localhost:30000",
        "a.example",
        "null",
        "*",
        "",
    ],
)


@with_every_other_origin
def test_another_origin_may_not_read_a_response(cors_client, origin):
    response = cors_client.get("/tasks", headers={"Origin": origin, **TOKEN})
    exposed = "ETag, Link, Location, Retry-After"
    assert_page(response, [], access_control_expose_headers=exposed, vary="Origin")


@with_every_other_origin
def test_a_preflight_of_another_origin_is_refused(cors_client, origin):
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    response = cors_client.options("/tasks", headers=headers)
    assert (response.status_code, response.text) == (400, "Disallowed CORS origin")
    assert "access-control-allow-origin" not in response.headers
    assert "Origin" in response.headers["vary"]


@pytest.mark.parametrize("path", ["/tasks/1", "/docs", "/nothing"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
def test_a_preflight_needs_no_token(cors_client, path, method):
    headers = {"Origin": "https://a.example", "Access-Control-Request-Method": method}
    response = cors_client.options(path, headers=headers)
    assert (response.status_code, response.text) == (200, "OK")
    assert response.headers["access-control-allow-origin"] == "https://a.example"
    assert method in response.headers["access-control-allow-methods"].split(", ")


@pytest.mark.parametrize(
    "names",
    [
        "authorization",
        "content-type",
        "idempotency-key",
        "if-match, if-none-match",
        "x-requested-with",
        "traceparent, tracestate",
        "sentry-trace, baggage",
        "cache-control, pragma",
        "x-anything",
        "authorization,content-type,x-requested-with",
    ],
)
def test_a_preflight_may_ask_for_any_header(cors_client, names):
    headers = {
        "Origin": "https://a.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": names,
    }
    response = cors_client.options("/tasks", headers=headers)
    assert (response.status_code, response.text) == (200, "OK")
    allowed = response.headers["access-control-allow-headers"].lower().replace(" ", "")
    assert set(names.replace(" ", "").split(",")) <= set(allowed.split(","))


def test_options_that_is_no_preflight_needs_the_token(cors_client):
    assert_error(
        cors_client.options("/tasks", headers={"Origin": "https://a.example"}),
        401,
        "Not authenticated",
        access_control_allow_origin="https://a.example",
        access_control_expose_headers="ETag, Link, Location, Retry-After",
        vary="Origin",
    )


@pytest.mark.parametrize("origin", ["https://b.example", "http://localhost:5173", "null"])
def test_a_star_allows_every_origin(make_client, origin):
    client = make_client(TODO_CORS_ORIGINS="*")
    assert_json(
        client.get("/info", headers={"Origin": origin}),
        "starlette",
        access_control_allow_origin="*",
        access_control_expose_headers="ETag, Link, Location, Retry-After",
        vary="Origin",
    )
