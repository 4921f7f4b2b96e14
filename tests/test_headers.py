"""ETag and its conditions, Idempotency-Key, the token, CORS."""

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import httpx
import pytest
from conftest import Server
from test_errors import JSON, TASK, Wire, allow, ask, check_error, compact, running
from test_tasks import create

TRUE = b'{"name":"milk","done":true}'


def tag(answer: httpx.Response) -> str:
    found = answer.headers["etag"]
    assert found[0] == found[-1] == '"'
    assert found[1:-1]
    assert all("!" <= letter <= "~" and letter != '"' for letter in found[1:-1])
    assert answer.headers["cache-control"] == "no-cache"
    return str(found)


# ETag


def test_a_task_has_one_tag_wherever_it_comes_from(client: httpx.Client) -> None:
    task = create(client)
    path, body = task.headers["location"], compact({"name": "milk", "done": False})
    assert tag(client.get(path)) == tag(task)
    assert tag(client.head(path)) == tag(task)
    assert tag(client.put(path, content=body, headers=JSON)) == tag(task)
    assert tag(client.patch(path, content=b"{}", headers=JSON)) == tag(task)


def test_a_tag_changes_with_the_task_and_back(client: httpx.Client) -> None:
    task = create(client)
    path, tags = task.headers["location"], [tag(task)]
    for change in ('{"done":true}', '{"name":"bread"}', '{"name":"brea\\u0000d"}', '{"done":false}', '{"name":"milk"}'):
        tags.append(tag(client.patch(path, content=change, headers=JSON)))
        assert tag(client.get(path)) == tags[-1]
    assert tags[0] == tags[-1]
    assert len(set(tags)) == 5
    assert tag(create(client)) not in tags  # the same, but for its id


def test_a_list_in_one_piece_has_a_tag_that_changes_with_it(client: httpx.Client) -> None:
    tags = [tag(client.get("/tasks"))]
    for _ in range(3):
        create(client)
        tags.append(tag(client.get("/tasks")))
        assert tag(client.get("/tasks/")) == tag(client.head("/tasks")) == tags[-1]
        again = client.get("/tasks", headers={"if-none-match": tags[-1]})
        assert (again.status_code, again.content, tag(again)) == (304, b"", tags[-1])
        assert client.get("/tasks", headers={"if-none-match": tags[-2]}).status_code == 200
    assert len(set(tags)) == 4


# If-None-Match

KNOWN = [
    "{tag}",
    "W/{tag}",
    "*",
    '"a", {tag}',
    '{tag},"a"',
    '"a",W/{tag} , "b"',
    'W/"a",\t{tag}',
    '"W/", {tag}',
]
OTHER = ["", '"a"', 'W/"a"', '"*"', "{bare}", '"a", "b"', '"{bare}x"', '"x{bare}"', "a"]


@pytest.mark.parametrize(("values", "status"), [(value, 304) for value in KNOWN] + [(value, 200) for value in OTHER])
def test_if_none_match(client: httpx.Client, values: str, status: int) -> None:
    task = create(client)
    given = {"if-none-match": values.format(tag=tag(task), bare=tag(task)[1:-1])}
    for method in ("GET", "HEAD"):
        answer = client.request(method, task.headers["location"], headers=given)
        assert (answer.status_code, tag(answer)) == (status, tag(task))
        assert answer.content == (task.content if (status, method) == (200, "GET") else b"")


def test_if_none_match_on_several_lines(client: httpx.Client) -> None:
    task = create(client)
    for values in [('"a"', tag(task)), (tag(task), '"a"'), ('"a", "b"', f'W/{tag(task)}, "c"')]:
        lines = [("if-none-match", value) for value in values]
        assert client.get(task.headers["location"], headers=lines).status_code == 304
    assert client.get(task.headers["location"], headers=[("if-none-match", '"a"')] * 2).status_code == 200


def test_if_none_match_does_not_make_a_missing_task_known(client: httpx.Client) -> None:
    check_error(client.get("/tasks/0", headers={"if-none-match": "*"}), 404, "Task not found")


# If-Match

HELD = [
    "{tag}",
    "*",
    '"a", {tag}',
    '{tag},"a"',
    'W/"a", {tag}',
    "{tag} , W/{tag}",
    '"a,b", {tag}',
    '"W/", {tag}',
]
LOST = ["", "W/{tag}", '"a"', 'W/"a", W/{tag}', '"*"', "{bare}", '"{bare}x"', '"x{bare}"', 'W/{tag}, "a"', "a"]
LOST += ["w/{tag}", "W/ {tag}", "W/\t{tag}", "/{tag}", "W{tag}", '"a"{tag}', '"a" {tag}', "{tag}x", "{tag};q=1"]


@pytest.mark.parametrize(("values", "held"), [(value, True) for value in HELD] + [(value, False) for value in LOST])
def test_if_match(client: httpx.Client, values: str, held: bool) -> None:
    for method, body in [("PUT", TRUE), ("PATCH", b'{"done":true}'), ("DELETE", b"")]:
        task = create(client)
        path = task.headers["location"]
        given = {**JSON, "if-match": values.format(tag=tag(task), bare=tag(task)[1:-1])}
        answer = client.request(method, path, content=body, headers=given)
        if held:
            assert answer.status_code == 200
            assert client.get(path).content == answer.content or method == "DELETE"
        else:
            check_error(answer, 412)
            assert client.get(path).content == task.content


@pytest.mark.parametrize("space", [" ", "\t", " \t "])
def test_white_space_after_a_header_is_no_part_of_it(server: Server, space: str) -> None:
    with Wire(server) as wire:
        key = f"key{len(space)}{ord(space[0])}"
        created = wire.request("POST", "/tasks", {**JSON, "idempotency-key": key + space}, TASK).answer()
        assert (
            wire.request("POST", "/tasks", {**JSON, "idempotency-key": key}, TASK).answer().content == created.content
        )
        path = created.headers["location"]
        for value in ("*", tag(created)):
            answer = wire.request("PATCH", path, {**JSON, "if-match": value + space}, b"{}").answer()
            assert answer.content == created.content
        assert wire.request("GET", path, {"if-none-match": f"*{space}"}).answer().status_code == 304


def test_if_match_on_several_lines(client: httpx.Client) -> None:
    path = create(client).headers["location"]
    for name, lines in [("a", ['"a"', "{}"]), ("b", ["{}", '"a"']), ("c", ['W/"a", "b"', '"c", {}'])]:
        current = tag(client.get(path))
        given = [("content-type", "application/json"), *[("if-match", line.format(current)) for line in lines]]
        assert client.patch(path, content=compact({"name": name}), headers=given).json()["name"] == name
    check_error(client.delete(path, headers=[("if-match", '"a"'), ("if-match", f"W/{tag(client.get(path))}")]), 412)


def test_if_match_sees_the_task_as_it_was_before(client: httpx.Client) -> None:
    task = create(client)
    path = task.headers["location"]
    changed = client.put(path, content=TRUE, headers=JSON)
    assert client.put(path, content=TASK, headers=JSON).content == task.content
    for method, body in [("PUT", TRUE), ("PATCH", b'{"done":true}'), ("DELETE", b"")]:
        check_error(client.request(method, path, content=body, headers={**JSON, "if-match": tag(changed)}), 412)


def at_once(count: int, server: Server, send: Callable[[httpx.Client, int], httpx.Response]) -> list[httpx.Response]:
    """The answers of many clients, each on its own connection, that all send at the same moment."""
    barrier = Barrier(count)

    def one(number: int) -> httpx.Response:
        with server.client() as client:
            client.get("/info")
            barrier.wait(30)
            return send(client, number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of four workers."""
    with running(tmp_path_factory.mktemp("four") / "todo.db", "--workers", "4") as server:
        yield server


def test_of_60_simultaneous_puts_with_one_if_match_exactly_one_wins(four: Server) -> None:
    with four.client() as client:
        for _ in range(3):
            task = create(client)
            path, given = task.headers["location"], {**JSON, "if-match": tag(task)}

            def put(
                client: httpx.Client, number: int, path: str = path, given: Mapping[str, str] = given
            ) -> httpx.Response:
                return client.put(path, content=compact({"name": str(number), "done": True}), headers=given)

            answers = at_once(60, four, put)
            won = [answer for answer in answers if answer.status_code == 200]
            assert len(won) == 1
            assert client.get(path).content == won[0].content
            for answer in answers:
                if answer is not won[0]:
                    check_error(answer, 412)


def test_a_task_has_the_same_tag_from_every_worker(four: Server) -> None:
    with four.client() as client:
        task = create(client, "é\x00👍")
    answers = at_once(40, four, lambda client, _: client.get(task.headers["location"]))
    assert {(answer.content, tag(answer)) for answer in answers} == {(task.content, tag(task))}


# Idempotency-Key


def post(client: httpx.Client, key: str, body: bytes = TASK) -> httpx.Response:
    return client.post("/tasks", content=body, headers={**JSON, "idempotency-key": key})


def count(client: httpx.Client) -> int:
    return len(client.get("/tasks").json())


GOOD_KEYS = [
    "a",
    "1",
    "!",
    "~",
    "'",
    "a" * 255,
    "8e03978e-40d5-43dd-bc93-6894a57f9324",
    "a,b;c=d",
    'a"b',
    "W/x",
    "*",
    "\\",
]


@pytest.mark.parametrize("key", GOOD_KEYS, ids=lambda key: key[:10])
def test_a_key_creates_one_task_quoted_or_bare(client: httpx.Client, key: str) -> None:
    first = post(client, key)
    assert first.status_code == 200
    for again in (post(client, key), post(client, f'"{key}"')):
        assert (again.status_code, again.content, again.headers["location"], tag(again)) == (
            200,
            first.content,
            first.headers["location"],
            tag(first),
        )
    assert count(client) == 1
    assert post(client, "another").content != first.content
    assert count(client) == 2


def test_keys_differ_by_case(client: httpx.Client) -> None:
    assert post(client, "key").content != post(client, "KEY").content
    assert count(client) == 2


@pytest.mark.parametrize(
    "body",
    [
        b'{"done":false,"name":"milk"}',
        b'{"name":"milk","done":0}',
        b' {"name" : "m\\u0069lk", "done":"OFF"} ',
        b'\xef\xbb\xbf{"name":"milk","done":-0.0,"more":1}',
        b'{"name":"x","done":false,"name":"milk"}',
    ],
)
def test_a_body_that_means_the_same_is_the_same_request(client: httpx.Client, body: bytes) -> None:
    first = post(client, "key")
    assert post(client, "key", body).content == first.content
    assert count(client) == 1


@pytest.mark.parametrize(
    "body", [TRUE, b'{"name":"Milk","done":false}', b'{"name":"","done":0}', b'{"name":"milk\\u0000","done":0}']
)
def test_another_body_is_refused_and_changes_nothing(client: httpx.Client, body: bytes) -> None:
    first = post(client, "key")
    answer = post(client, "key", body)
    check_error(answer, 422)
    (found,) = answer.json()["detail"]
    assert (found["type"], found["loc"]) == ("idempotency_key_reused", ["header", "idempotency-key"])
    assert post(client, "key").content == first.content
    assert count(client) == 1


def test_a_key_answers_with_the_task_as_it_is_now(client: httpx.Client) -> None:
    first = post(client, "key")
    changed = client.put(first.headers["location"], content=b'{"name":"bread","done":true}', headers=JSON)
    again = post(client, "key")
    assert (again.status_code, again.content, tag(again)) == (200, changed.content, tag(changed))
    assert again.headers["location"] == first.headers["location"]
    check_error(post(client, "key", b'{"name":"bread","done":true}'), 422)


def test_a_key_dies_with_its_task(client: httpx.Client) -> None:
    first = post(client, "key")
    client.delete(first.headers["location"])
    second = post(client, "key", TRUE)
    assert second.json()["id"] > first.json()["id"]
    client.delete("/tasks?done=true")
    assert post(client, "key").json()["id"] > second.json()["id"]
    assert count(client) == 1


def test_a_key_of_a_refused_request_is_free(client: httpx.Client) -> None:
    check_error(post(client, "key", b"{}"), 422)
    check_error(post(client, "key", b"\xff"), 400)
    assert post(client, "key").status_code == 200


def test_no_key_creates_a_task_each_time(client: httpx.Client) -> None:
    assert create(client).content != create(client).content
    assert count(client) == 2


def test_a_key_survives_a_restart(serve: Callable[..., Server]) -> None:
    server = serve()
    with server.client() as client:
        first = post(client, "key")
    server.stop()
    with serve(db=server.db).client() as client:
        assert post(client, "key").content == first.content
        check_error(post(client, "key", TRUE), 422)


def test_60_clients_on_four_workers_with_one_key_create_one_task(four: Server) -> None:
    with four.client() as client:
        before = count(client)
        for key in ("one", "two", "three"):
            answers = at_once(60, four, lambda client, _, key=key: post(client, key))  # type: ignore[misc]
            assert {(answer.status_code, answer.content) for answer in answers} == {(200, answers[0].content)}
        assert count(client) == before + 3


def test_60_clients_with_one_key_and_two_bodies_create_one_task(four: Server) -> None:
    answers = at_once(60, four, lambda client, number: post(client, "mixed", [TASK, TRUE][number % 2]))
    won = {answer.content for answer in answers if answer.status_code == 200}
    assert len(won) == 1
    assert sorted(answer.status_code for answer in answers) == [200] * 30 + [422] * 30


# The token

SECRET = "s3cret-ü\udcff"  # the last byte is not UTF-8


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a token, read from a file with a newline at its end, and two allowed origins."""
    origins = "https://a.example, http://localhost:3000"
    db = tmp_path_factory.mktemp("guarded") / "todo.db"
    with running(db, TODO_TOKEN=f"{SECRET}\n", TODO_CORS_ORIGINS=origins) as server:
        yield server


ROUTES = [
    ("GET", "/"),
    ("GET", "/info"),
    ("GET", "/tasks"),
    ("GET", "/tasks/"),
    ("POST", "/tasks"),
    ("DELETE", "/tasks"),
]
ROUTES += [(method, "/tasks/1") for method in ("GET", "PUT", "PATCH", "DELETE")] + [
    ("GET", "/nothing"),
    ("POST", "/info"),
]
ROUTES += [
    (method, path) for method in ("HEAD", "OPTIONS") for path in ("/", "/info", "/tasks", "/tasks/1", "/nothing")
]
ROUTES += [
    ("GET", path) for path in ("/healthz/", "/docs/", "/healthz%0A", "/docs/x", "/healthz%3F", "/%2Fdocs", "//docs")
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic s3cret", "s3cret", "Bearer s3cret-"]
)
def test_every_route_wants_the_token(guarded: Server, method: str, path: str, given: str | None) -> None:
    answer = ask(guarded, method, path, JSON if given is None else {**JSON, "Authorization": given})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    if method != "HEAD":
        check_error(answer, 401, "Not authenticated")


@pytest.mark.parametrize(
    "more",
    [
        {"Host": "x/healthz?"},
        {"Host": "x/docs#"},
        {"Host": "healthz"},
        {"Access-Control-Request-Method": "GET"},
        {"Access-Control-Request-Method": "GET", "Origin": "https://a.example"},
        {"X-Original-URL": "/docs"},
        {"X-Forwarded-Prefix": "/docs"},
        {"X-HTTP-Method-Override": "OPTIONS"},
    ],
    ids=str,
)
def test_no_header_stands_in_for_the_token(guarded: Server, more: Mapping[str, str]) -> None:
    for method, path in [("GET", "/tasks"), ("POST", "/tasks"), ("DELETE", "/tasks?done=true"), ("DELETE", "/tasks/1")]:
        check_error(ask(guarded, method, path, {**JSON, **more}, TASK), 401, "Not authenticated")


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "bEaReR ", "Bearer  "])
def test_the_scheme_may_be_in_any_case(guarded: Server, scheme: str) -> None:
    given = {**JSON, "Authorization": scheme + SECRET}
    for method, path, body, status in [
        ("GET", "/tasks", b"", 200),
        ("POST", "/tasks", TASK, 200),
        ("GET", "/x", b"", 404),
    ]:
        assert ask(guarded, method, path, given, body).status_code == status
    assert ask(guarded, "OPTIONS", "/tasks", given).status_code == 204
    assert ask(guarded, "HEAD", "/tasks", given).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/openapi.json", "/docs"])
def test_three_routes_are_open(guarded: Server, path: str) -> None:
    for given in ({}, {"Authorization": "Bearer wrong"}):
        assert ask(guarded, "GET", path, given).status_code == 200
        assert ask(guarded, "HEAD", path, given).status_code == 200
        assert ask(guarded, "OPTIONS", path, given).status_code == 204
        check_error(ask(guarded, "POST", path, given), 405)


def test_without_a_token_none_is_wanted(client: httpx.Client) -> None:
    for given in ({}, {"Authorization": "Bearer x"}, {"Authorization": "x"}):
        assert client.get("/tasks", headers=given).status_code == 200


# CORS

CORS = "access-control-"


def cors(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith(CORS)}


def words(value: str) -> set[str]:
    return {word.strip() for word in value.lower().split(",")}


@pytest.mark.parametrize("origin", ["https://a.example", "http://localhost:3000"])
def test_an_allowed_origin_may_read_every_answer_and_the_headers(guarded: Server, origin: str) -> None:
    given = {"Origin": origin, "Authorization": f"Bearer {SECRET}", **JSON}
    for method, path, body, status in [
        ("POST", "/tasks", TASK, 200),
        ("GET", "/tasks", b"", 200),
        ("HEAD", "/tasks", b"", 200),
        ("GET", "/healthz", b"", 200),
        ("GET", "/nothing", b"", 404),
        ("POST", "/info", b"", 405),
        ("POST", "/tasks", b"{", 422),
        ("OPTIONS", "/tasks", b"", 204),
        ("PUT", "/tasks/0", TASK, 404),
    ]:
        answer = ask(guarded, method, path, given, body)
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == origin
        assert words(answer.headers["access-control-expose-headers"]) >= {"etag", "link", "location"}
        assert "origin" in words(answer.headers["vary"])
    answer = ask(guarded, "GET", "/tasks", {**given, "If-None-Match": "*"})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (304, origin)


def test_a_401_carries_the_cors_headers(guarded: Server) -> None:
    answer = ask(guarded, "GET", "/tasks", {"Origin": "https://a.example"})
    check_error(answer, 401, "Not authenticated")
    assert answer.headers["access-control-allow-origin"] == "https://a.example"


OTHERS = [
    "https://b.example",
    "https://a.example.evil.example",
    "http://a.example",
    "https://a.example:8443",
    "null",
    "*",
]
OTHERS += ["https://a.example, http://localhost:3000", "https://A.EXAMPLE.", "a.example", "https://a.example/", ""]


@pytest.mark.parametrize("origin", OTHERS)
def test_another_origin_may_not(guarded: Server, origin: str) -> None:
    given = {"Origin": origin, "Authorization": f"Bearer {SECRET}"}
    preflight = {"Access-Control-Request-Method": "PUT"}
    for answer in (ask(guarded, "GET", "/tasks", given), ask(guarded, "OPTIONS", "/tasks", {**given, **preflight})):
        assert "access-control-allow-origin" not in cors(answer)
        assert "origin" in words(answer.headers["vary"])


def test_vary_names_the_origin_without_one_too(guarded: Server) -> None:
    answer = ask(guarded, "GET", "/healthz")
    assert cors(answer) == {}
    assert "origin" in words(answer.headers["vary"])


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/tasks", "GET HEAD POST DELETE OPTIONS"),
        ("/tasks/1", "GET HEAD PUT PATCH DELETE OPTIONS"),
        ("/info", "GET HEAD OPTIONS"),
    ],
)
def test_a_preflight_needs_no_token_and_allows_every_method_and_header(
    guarded: Server, path: str, methods: str
) -> None:
    for method in methods.split():
        wanted = "authorization,content-type,idempotency-key,if-match,if-none-match"
        answer = ask(
            guarded,
            "OPTIONS",
            path,
            {
                "Origin": "https://a.example",
                "Access-Control-Request-Method": method,
                "Access-Control-Request-Headers": wanted,
            },
        )
        assert (answer.status_code, answer.content) == (204, b"")
        assert allow(answer) == sorted(methods.split())
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        simple = {"get", "head", "post"}  # browsers need no leave for these
        assert method.lower() in words(answer.headers["access-control-allow-methods"]) | simple | {"options"}
        assert words(answer.headers["access-control-allow-headers"]) >= words(wanted)
        assert "origin" in words(answer.headers["vary"])


def test_a_star_allows_every_origin(serve: Callable[..., Server]) -> None:
    server = serve(TODO_CORS_ORIGINS="*")
    for origin in ("https://b.example", "null", "http://localhost"):
        answer = ask(server, "POST", "/tasks", {"Origin": origin, **JSON}, TASK)
        assert answer.headers["access-control-allow-origin"] in (origin, "*")
        preflight = {
            "Origin": origin,
            "Access-Control-Request-Method": "DELETE",
            "Access-Control-Request-Headers": "if-match",
        }
        answer = ask(server, "OPTIONS", "/tasks/1", preflight)
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] in (origin, "*")
        assert "delete" in words(answer.headers["access-control-allow-methods"])
        assert "if-match" in words(answer.headers["access-control-allow-headers"])


def test_a_long_list_carries_the_cors_headers(serve: Callable[..., Server]) -> None:
    server = serve(TODO_CORS_ORIGINS="https://a.example")
    with server.client() as client:
        for _ in range(10):
            create(client, "x" * 500_000)
        answer = client.get("/tasks", headers={"origin": "https://a.example"})
        page = client.get("/tasks?limit=1", headers={"origin": "https://a.example"})
    assert "content-length" not in answer.headers
    assert "link" in page.headers
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    assert "origin" in words(answer.headers["vary"])


def test_unset_the_origins_cost_nothing(client: httpx.Client, server: Server) -> None:
    for method in ("GET", "OPTIONS"):
        given = {"Origin": "https://a.example", "Access-Control-Request-Method": "PUT"}
        answer = ask(server, method, "/tasks", given)
        assert cors(answer) == {}
        assert "vary" not in answer.headers


# Location


def test_location_link_and_document_stay_below_the_root_path(serve: Callable[..., Server]) -> None:
    server = serve("--root-path", "/api")
    with Wire(server) as wire:
        for number in (1, 2):
            answer = wire.request("POST", "/tasks", JSON, TASK).answer()
            assert answer.headers["location"] == f"/api/tasks/{number}"
        answer = wire.request("GET", "/tasks?limit=1").answer()
        assert answer.headers["link"] == '</api/tasks?limit=1&after=1>; rel="next"'
        assert json.loads(wire.request("GET", "/tasks/2").answer().content)["id"] == 2
        assert json.loads(wire.request("GET", "/openapi.json").answer().content)["servers"] == [{"url": "/api"}]
