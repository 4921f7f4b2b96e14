"""Who may call, and where: the token, CORS, the root path, middleware, and the settings."""

import pytest
from helpers import METHODS, TASK, check, check_error, check_tagged
from starlette.middleware.gzip import GZipMiddleware

import todo

# The token

OPEN = ["/healthz", "/openapi.json", "/docs"]
GUARDED = [path for path in METHODS if path not in OPEN]
GUARDED += ["/nothing", "/healthz/", "/docs/", "/healthz%0A", "/docs/x", "//docs", "/%2Fdocs"]
BAD = ["", "Bearer", "Bearer ", "Bearer wrong", "Basic secret", "secret", "Bearer secret-"]
BAD += ["Bearer Secret", "Bearersecret", "Bearer secret, Bearer secret", "Bearer secre", "é secret"]
OTHERS = ["https://b.example", "https://a.example.evil", "http://a.example", "null", "*", ""]
OTHERS += ["https://a.example:8443", "https://A.EXAMPLE", "https://a.example/", "a.example"]
ORIGINS = "https://a.example, http://localhost:3000"
PORTS = [":443", ":0", ":65536", ":70000", ":123456", ":", ":x"]
NO_ORIGINS = [f"https://a.example{it}" for it in [*PORTS, "/", "#"]]
NO_ORIGINS += ["localhost:3000", "https://A.example", "HTTPS://a.example", "http://a.example:80"]
MORE = ["http://a.example:443", "https://a.example:80", "http://[::1]:3000", "moz-extension://1-2"]
MORE += [
    "http://127.0.0.1",
    "https://xn--bcher-kva.example",
    "https://a.example:65535",
    "http://a:6555",
]


@pytest.fixture
def guarded(start):
    return start(TODO_TOKEN="secret")


@pytest.mark.parametrize("path", GUARDED)
def test_every_route_wants_the_token(guarded, path):
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
        check_error(guarded.request(method, path), 401)
    assert guarded.head(path).status_code == 401


@pytest.mark.parametrize("path", OPEN)
def test_three_routes_want_none(guarded, path):
    for method, status in [("GET", 200), ("HEAD", 200), ("OPTIONS", 204), ("POST", 405)]:
        for header in ({}, {"authorization": "Bearer x"}):
            assert guarded.request(method, path, **header).status_code == status


def test_no_other_header_will_do(guarded):
    for sent in [*BAD, ["Bearer secret", "Bearer secret"]]:
        check_error(guarded.get("/tasks", authorization=sent), 401)
    for header in ("host", "x_original_url", "x_forwarded_prefix", "x_authorization"):
        check_error(guarded.get("/tasks", **{header: "/docs"}), 401)


@pytest.mark.parametrize("token", ["voilà", "пух", "a b", "s3cret-ü\udcff", "秘密\u3000"])
def test_a_token_is_any_text_and_the_scheme_in_any_case(start, token):
    client = start(TODO_TOKEN=f"{token}\n")  # a file's last line ends so
    for scheme in ("Bearer ", "bearer ", "BEARER ", "bEaReR  ", "Bearer \t"):
        check_tagged(client.get("/tasks", authorization=scheme + token), [])
    check_error(client.get("/tasks", authorization=f"Bearer {token[:-1]}"), 401)


# CORS


def allowed(origin):
    """The headers with which an origin is allowed to read an answer."""
    exposed = {"access_control_expose_headers": "ETag, Link, Location, Retry-After"}
    return {**exposed, "access_control_allow_origin": origin, "vary": "Origin"}


@pytest.fixture
def shop(start):
    """A client of an application with a token that two other origins may call."""
    return start(TODO_CORS_ORIGINS=ORIGINS, TODO_TOKEN="secret")


@pytest.mark.parametrize("origin", ORIGINS.split(", "))
def test_an_allowed_origin_may_read_every_answer(shop, origin):
    cors, given = allowed(origin), {"origin": origin, "authorization": "Bearer secret"}
    check_tagged(shop.post("/tasks", **given), {**TASK, "id": 1}, location="/tasks/1", **cors)
    check_error(shop.get("/nothing", **given), 404, "Not Found", **cors)
    check_error(shop.post("/tasks", content_type="text/plain", **given), 415, **cors)
    check_error(shop.get("/tasks", origin=origin), 401, **cors)


@pytest.mark.parametrize("origin", OTHERS)
def test_another_origin_may_not(shop, origin):
    given = {"origin": origin, "authorization": "Bearer secret"}
    preflight = shop.options("/tasks", access_control_request_method="PUT", **given)
    for answer in (preflight, shop.get("/tasks", **given)):
        assert "access-control-allow-origin" not in answer.headers
        assert "Origin" in answer.headers["vary"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
def test_a_preflight_needs_no_token_and_allows_every_header(shop, method):
    wanted = "authorization, content-type, idempotency-key, if-match, if-none-match"
    preflight = {"access_control_request_method": method, "access_control_request_headers": wanted}
    answer = shop.options("/tasks/1", origin="https://a.example", **preflight)
    assert (answer.status_code, answer.text) == (200, "OK")
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    assert method in answer.headers["access-control-allow-methods"].split(", ")
    allowed = answer.headers["access-control-allow-headers"].lower()
    assert {*wanted.split(", ")} <= {*allowed.split(", ")}


def test_a_star_allows_every_origin(start):
    client = start(TODO_CORS_ORIGINS="*")
    for origin in ("https://b.example", "null"):
        check(client.get("/info", origin=origin), "starlette", **allowed("*"))


@pytest.mark.parametrize("origin", NO_ORIGINS)
def test_what_is_no_origin_is_refused(start, origin):
    with pytest.raises(todo.StartRefused, match=r"^TODO_CORS_ORIGINS: .*is no origin") as refused:
        start(TODO_CORS_ORIGINS=f"https://a.example,{origin}")
    assert repr(origin) in str(refused.value)


@pytest.mark.parametrize("origin", MORE)
def test_what_browsers_send_is_an_origin(start, origin):
    answer = start(TODO_CORS_ORIGINS=origin).get("/info", origin=origin)
    assert answer.headers["access-control-allow-origin"] == origin


@pytest.mark.parametrize("token", ["", " ", "\n", "a\nb", "a\x00b", "a\x7f"])
def test_a_token_that_no_client_could_send_is_refused(start, token):
    with pytest.raises(todo.StartRefused, match=r"^TODO_TOKEN is empty, or"):
        start(TODO_TOKEN=token)


def test_everything_works_below_a_root_path(guarded):
    below = {"root_path": "/api", "authorization": "Bearer secret"}
    task = guarded.post("/api/tasks", **below)
    check_tagged(task, {**TASK, "id": 1}, location="/api/tasks/1")
    for path in ("/api/tasks/1", "/tasks/1"):  # a proxy may take the root path away
        check_tagged(guarded.get(path, **below), task.json())
    guarded.post("/api/tasks", **below)
    link = '</api/tasks?limit=1&x=y&after=1>; rel="next"'
    assert guarded.get("/api/tasks?limit=1&x=y", **below).headers["link"] == link
    for path, status in [*dict.fromkeys(OPEN, 200).items(), ("/info", 401), ("/docs/", 401)]:
        assert guarded.get(f"/api{path}", root_path="/api").status_code == status
    check_error(guarded.get("/api/nothing", **below), 404, "Not Found")
    check(guarded.get("/api/", **below), "Hello, world!")


@pytest.mark.parametrize("wrapped", [False, True])
def test_middleware_can_be_added_or_wrapped_around(shop, wrapped):
    if wrapped:
        shop.app = GZipMiddleware(shop.application, minimum_size=10)
    else:
        shop.application.add_middleware(GZipMiddleware, minimum_size=10)
    given = {"origin": "https://a.example", "accept_encoding": "gzip"}
    answer = shop.get("/info", authorization="Bearer secret", **given)
    assert (answer.headers["content-encoding"], answer.json()) == ("gzip", "starlette")
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    assert shop.get("/info", **given).status_code == 401
