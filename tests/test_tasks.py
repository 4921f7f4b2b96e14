"""Every route's good answers, whole, and what JSON may be in a body."""

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import httpx
import pytest
from conftest import Server
from test_errors import JSON, MIB, TASK, UNREADABLE, Wire, allow, ask, check_error, chunked, compact, strict

MILK = b'{"name":"milk","done":false,"id":%d}'
PATHS = ("/tasks", "/tasks/")


def headers(answer: httpx.Response) -> dict[str, str]:
    """The answer's headers, without what the server's software adds."""
    return {name: value for name, value in answer.headers.items() if name not in ("date", "server")}


def create(client: httpx.Client, name: object = "milk", done: object = False, **more: object) -> httpx.Response:
    answer = client.post("/tasks", content=compact({"name": name, "done": done, **more}), headers=JSON)
    assert answer.status_code == 200, answer.text
    return answer


def put(client: httpx.Client, path: str, body: bytes) -> httpx.Response:
    return client.put(path, content=body, headers=JSON)


def patch(client: httpx.Client, path: str, body: bytes) -> httpx.Response:
    return client.patch(path, content=body, headers=JSON)


# The routes


@pytest.mark.parametrize(
    ("path", "body", "more"),
    [
        ("/", b'"Hello, world!"', {}),
        ("/info", b'"starlette"', {}),
        ("/healthz", b'{"status":"ok"}', {"cache-control": "no-store"}),
    ],
)
def test_a_fixed_answer(client: httpx.Client, path: str, body: bytes, more: dict[str, str]) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.content) == (200, body)
    assert headers(answer) == {"content-type": "application/json", "content-length": str(len(body)), **more}


@pytest.mark.parametrize("path", PATHS)
def test_create_answers_with_the_task_and_where_it_is(client: httpx.Client, path: str) -> None:
    answer = client.post(path, content=TASK, headers=JSON)
    id = answer.json()["id"]
    assert (answer.status_code, answer.content) == (200, MILK % id)
    assert headers(answer) == {
        "content-type": "application/json",
        "content-length": str(len(answer.content)),
        "location": f"/tasks/{id}",
        "etag": answer.headers["etag"],
        "cache-control": "no-cache",
    }
    assert client.get(answer.headers["location"]).content == answer.content


def test_read_answers_with_the_task(client: httpx.Client) -> None:
    task = create(client)
    answer = client.get(task.headers["location"])
    assert (answer.status_code, answer.content) == (200, MILK % task.json()["id"])
    assert headers(answer) == {
        "content-type": "application/json",
        "content-length": str(len(answer.content)),
        "etag": task.headers["etag"],
        "cache-control": "no-cache",
    }


@pytest.mark.parametrize("path", PATHS)
def test_list_answers_with_every_task_in_order(client: httpx.Client, path: str) -> None:
    assert client.get(path).content == b"[]"
    texts = [create(client, name, done).content for name, done in [("b", True), ("a", False), ("b", True)]]
    answer = client.get(path)
    assert (answer.status_code, answer.content) == (200, b"[%s]" % b",".join(texts))
    assert headers(answer) == {
        "content-type": "application/json",
        "content-length": str(len(answer.content)),
        "etag": answer.headers["etag"],
        "cache-control": "no-cache",
    }


def test_replace_answers_with_the_new_task(client: httpx.Client) -> None:
    task = create(client)
    id, path = task.json()["id"], task.headers["location"]
    answer = put(client, path, b'{"done":true,"name":"bread"}')
    assert (answer.status_code, answer.content) == (200, b'{"name":"bread","done":true,"id":%d}' % id)
    assert headers(answer) == {
        "content-type": "application/json",
        "content-length": str(len(answer.content)),
        "etag": client.get(path).headers["etag"],
        "cache-control": "no-cache",
    }
    assert answer.headers["etag"] != task.headers["etag"]
    assert client.get(path).content == answer.content


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (b"{}", {}),
        (b'{"name":"bread"}', {"name": "bread"}),
        (b'{"name":""}', {"name": ""}),
        (b'{"done":true}', {"done": True}),
        (b'{"done":false}', {}),
        (b'{"done":"on","name":"x"}', {"name": "x", "done": True}),
        (b'{"other":1,"id":99}', {}),
    ],
)
def test_patch_changes_what_it_names_and_answers_with_the_whole_task(
    client: httpx.Client, body: bytes, changed: dict[str, Any]
) -> None:
    task = create(client)
    answer = client.patch(
        task.headers["location"], content=body, headers={"content-type": "application/merge-patch+json"}
    )
    assert (answer.status_code, answer.content) == (200, compact({**task.json(), **changed}))
    assert headers(answer) == headers(client.get(task.headers["location"]))
    assert (answer.headers["etag"] == task.headers["etag"]) == (answer.content == task.content)


def test_delete_answers_1_and_the_task_is_gone(client: httpx.Client) -> None:
    kept, path = create(client).content, create(client).headers["location"]
    answer = client.delete(path)
    assert (answer.status_code, answer.content) == (200, b"1")
    assert headers(answer) == {"content-type": "application/json", "content-length": "1"}
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        check_error(client.request(method, path, content=TASK, headers=JSON), 404, "Task not found")
    assert client.get("/tasks").content == b"[%s]" % kept


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("word", "left"), [("true", [False, False]), ("NO", [True] * 3), ("1", [False] * 2)])
def test_delete_many_answers_how_many(client: httpx.Client, path: str, word: str, left: list[bool]) -> None:
    for done in (True, False, True, False, True):
        create(client, done=done)
    answer = client.delete(f"{path}?done={word}")
    assert (answer.status_code, answer.content) == (200, b"%d" % (5 - len(left)))
    assert headers(answer) == {"content-type": "application/json", "content-length": "1"}
    assert [task["done"] for task in client.get("/tasks").json()] == left
    assert client.delete(f"{path}?done={word}").content == b"0"


@pytest.mark.parametrize("path", ["/", "/info", "/healthz", "/tasks", "/tasks/", "/tasks?limit=1", "/tasks/1"])
def test_head_answers_as_get_without_the_body(client: httpx.Client, path: str) -> None:
    for name in ("milk", "bread"):
        location = create(client, name).headers["location"]
    path = path.replace("/tasks/1", location)
    full, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert headers(head) == headers(full)
    assert client.get(path).content == full.content  # on the same connection


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/", "GET HEAD OPTIONS"),
        ("/info", "GET HEAD OPTIONS"),
        ("/healthz", "GET HEAD OPTIONS"),
        ("/openapi.json", "GET HEAD OPTIONS"),
        ("/docs", "GET HEAD OPTIONS"),
        ("/tasks", "GET HEAD POST DELETE OPTIONS"),
        ("/tasks/", "GET HEAD POST DELETE OPTIONS"),
        ("/tasks/1", "GET HEAD PUT PATCH DELETE OPTIONS"),
    ],
)
def test_options_names_every_method(client: httpx.Client, path: str, methods: str) -> None:
    answer = client.options(path)
    assert (answer.status_code, answer.content) == (204, b"")
    assert allow(answer) == sorted(methods.split())
    assert "content-type" not in answer.headers
    assert "content-length" not in answer.headers  # RFC 9110, section 8.6


def test_nothing_is_redirected(client: httpx.Client) -> None:
    for path in ("/tasks/", "/tasks", "/info/", "/tasks/1/", "/docs/", "//tasks"):
        assert client.get(path).status_code in (200, 404)


def test_an_id_is_never_given_twice(client: httpx.Client) -> None:
    ids = []
    for method, path in [("DELETE", "/tasks/{}"), ("DELETE", "/tasks?done=false"), ("GET", "/tasks/{}")]:
        ids += [create(client).json()["id"] for _ in range(3)]
        client.request(method, path.format(ids[-1]))
    ids += [create(client).json()["id"]]
    assert ids == sorted(set(ids))


def test_an_id_is_not_given_again_after_a_restart(serve: Any) -> None:
    server = serve()
    with server.client() as client:
        last = [create(client).json()["id"] for _ in range(3)][-1]
        assert client.delete(f"/tasks/{last}").content == b"1"
    server.stop()
    with serve(db=server.db).client() as client:
        assert create(client).json()["id"] > last


def test_the_largest_id_works_and_no_task_follows_it(serve: Any) -> None:
    server = serve()
    with sqlite3.connect(server.db) as db:
        db.execute("INSERT INTO task (id, name, done) VALUES (?, 'last', 0)", [2**63 - 1])
    db.close()
    with server.client() as client:
        assert client.get(f"/tasks/{2**63 - 1}").json() == {"name": "last", "done": False, "id": 2**63 - 1}
        assert patch(client, f"/tasks/{2**63 - 1}", b'{"done":1}').json()["done"] is True
        assert client.get(f"/tasks?after={2**63 - 2}").json()[0]["id"] == 2**63 - 1
        assert client.get(f"/tasks?after={2**63 - 1}").content == b"[]"
        assert client.delete(f"/tasks/{2**63 - 1}").content == b"1"


# Names

NAMES = ["", " ", "\x00", "a\x00b", "\x00" * 100, "milk\r\n\t\b\f", "".join(map(chr, range(32))), "\x7f\x80\x9f", "\\"]
NAMES += [
    '"',
    '""',
    "\\\"'`",
    "\\u0000",
    "\\",
    "/",
    "</script>",
    "%_%",
    "null",
    "1",
    "'; DROP TABLE task; --",
    ":name ?1",
]
NAMES += [
    "é",
    "e\u0301",
    "ß",
    "日本語",
    "👍🏽",
    "👩‍👩‍👧‍👦",
    "\U0010ffff",
    "\uffff\ufffe\ufeff",
    "\ue000",
    "\u2028\u2029",
    "\u202e",
]
NAMES += ["\u0130\u0131\u017f\u212a", "\ud7ff\ue000", " padded ", "x" * 100_000, "\x00é" * 50_000, '"\\' * 10_000]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:30])
def test_a_name_comes_back_exactly(client: httpx.Client, name: str) -> None:
    expected = {"name": name, "done": True}
    for body in (compact(expected), json.dumps(expected).encode()):  # as UTF-8, and as \u escapes
        task = client.post("/tasks", content=body, headers=JSON)
        path, whole = task.headers["location"], {**expected, "id": task.json()["id"]}
        assert json.loads(task.content) == whole
        assert put(client, path, body).json() == whole
        assert patch(client, path, compact({"name": name})).json() == whole
        assert client.get(path).json() == whole
        assert client.get("/tasks").json()[-1] == whole
        assert client.get(f"/tasks?limit=1&after={whole['id'] - 1}").json() == [whole]


def test_a_name_of_nearly_1_mib_comes_back_exactly(client: httpx.Client) -> None:
    for letter in ("x", "é", "👍", "\x7f"):
        count = (MIB - 100) // len(letter.encode())
        task = create(client, letter * count)
        for answer in (task, client.get(task.headers["location"])):
            assert answer.json()["name"] == letter * count
    names = [task["name"][0] for task in client.get("/tasks").json()]
    assert names == ["x", "é", "👍", "\x7f"]


# Done


TRUE = "true t yes y on 1 TRUE True tRuE T YES Yes yEs Y ON On oN"
FALSE = "false f no n off 0 FALSE False fAlSe F NO No nO N OFF Off oFf"


@pytest.mark.parametrize(("words", "done"), [(TRUE, True), (FALSE, False)])
def test_words_for_done(client: httpx.Client, words: str, done: bool) -> None:
    path = create(client).headers["location"]
    for word in words.split():
        assert patch(client, path, compact({"done": not done})).json()["done"] is not done
        assert patch(client, path, compact({"done": word})).json()["done"] is done
        assert put(client, path, compact({"name": "x", "done": word})).json()["done"] is done
        assert len(client.get("/tasks", params={"done": word}).json()) == 1
        assert create(client, done=word).json()["done"] is done
        assert client.delete("/tasks", params={"done": word}).content == b"2"
        path = create(client).headers["location"]


def test_a_number_that_is_1_is_true(client: httpx.Client) -> None:
    for number in ["true", "1", "1.0", "1e0", "10e-1", "0.1e1", "1.00000", "1E+0", "1.00000000000000000000000001"]:
        task = client.post("/tasks", content=b'{"name":"x","done":%s}' % number.encode(), headers=JSON)
        assert task.json()["done"] is True, number


def test_a_number_that_is_0_is_false(client: httpx.Client) -> None:
    for number in ["false", "0", "-0", "0.0", "-0.0", "0e0", "0e400", "0E-400", "-0e9", "1e-400"]:
        task = client.post("/tasks", content=b'{"name":"x","done":%s}' % number.encode(), headers=JSON)
        assert task.json()["done"] is False, number


# Bodies


@pytest.mark.parametrize(
    "body",
    [
        b'\xef\xbb\xbf{"name":"milk","done":false}',
        b' \r\n\t{ "name" : "milk" ,\n"done" : false } \n',
        b'{"done":false,"name":"milk"}',
        b'{"name":"bread","done":true,"name":"milk","done":false}',
        b'{"name":5,"done":[],"name":"milk","done":false}',
        b'{"n\\u0061me":"mil\\u006B","done":false}',
        b'{"name":"milk","done":false,"more":null,"":{},"Name":"x","nested":{"name":"x"}}',
        b'{"id":99,"name":"milk","done":false}',
        b'{"name":"milk","done":false,"big":1e400,"long":%s,"half":"\\ud800"}' % (b"1" * 4300),
        b'{"json":"x","key":"x","request":"x","match":"x","rows":1,"name":"milk","done":false}',
    ],
    ids=repr,
)
def test_bodies_that_mean_the_same(client: httpx.Client, body: bytes) -> None:
    task = client.post("/tasks", content=body, headers=JSON)
    id = task.json()["id"]
    assert (task.status_code, task.content) == (200, MILK % id)
    assert id != 99
    for sent in (b'{"name":"x","done":true}', body):
        assert put(client, f"/tasks/{id}", sent).status_code == 200
    assert client.get(f"/tasks/{id}").content == MILK % id
    assert patch(client, f"/tasks/{id}", body).content == MILK % id


def test_a_body_never_chooses_the_row(client: httpx.Client) -> None:
    first, second = create(client), create(client)
    body = compact({"name": "x", "done": True, "id": first.json()["id"]})
    for send in (put, patch):
        assert send(client, second.headers["location"], body).json()["id"] == second.json()["id"]
    third = client.post("/tasks", content=body, headers=JSON)
    assert third.json()["id"] > second.json()["id"]
    assert client.get(first.headers["location"]).content == first.content


def test_a_body_may_come_in_pieces(server: Server, client: httpx.Client) -> None:
    pieces = [TASK[i : i + 1] for i in range(len(TASK))]
    answer = ask(server, "POST", "/tasks", {**JSON, "Transfer-Encoding": "chunked"}, chunked(*pieces))
    assert client.get("/tasks").content == b"[%s]" % answer.content
    with Wire(server) as wire:
        wire.request("POST", "/tasks", {**JSON, "Content-Length": str(len(TASK))})
        for piece in pieces:
            wire.send(piece)
        assert wire.answer().json()["name"] == "milk"


def test_a_body_where_none_is_wanted_is_ignored(client: httpx.Client) -> None:
    task = create(client)
    for path in ("/", "/info", "/tasks", task.headers["location"]):
        for content in (b"\xff{", b"x" * 2 * MIB):
            assert client.request("GET", path, content=content).status_code == 200
    assert client.request("DELETE", task.headers["location"], content=b"{").content == b"1"


# How much a body may nest

DEPTHS = [*range(1, 20), *range(920, 1020), 5000, 100_000, 500_000]


@pytest.mark.parametrize("form", ["name", "done", "unknown", "bare", "objects", "unclosed"])
def test_nesting_of_any_depth_is_a_clear_answer(server: Server, form: str) -> None:
    statuses = []
    with server.client() as client:
        for depth in DEPTHS:
            deep = b"[" * depth + b"]" * depth
            body = {
                "name": b'{"name":%s,"done":true}' % deep,
                "done": b'{"name":"x","done":%s}' % deep,
                "unknown": b'{"name":"x","done":true,"more":%s}' % deep,
                "bare": deep,
                "objects": (b'{"a":' * depth + b"1" + b"}" * depth)[: MIB - 1],
                "unclosed": b"[" * depth,
            }[form]
            answer = client.post("/tasks", content=body, headers=JSON)
            statuses.append(answer.status_code)
            if answer.status_code == 400:
                check_error(answer, 400, UNREADABLE)
            elif form == "unknown":
                assert answer.json()["name"] == "x"
            else:  # not check_error(): the answer, too, nests deeply
                assert answer.status_code == 422
                assert answer.content.startswith(b'{"detail":[{"type":"')
    readable = 200 if form == "unknown" else 422
    assert statuses == sorted(statuses, key=[readable, 400].index)
    assert statuses[0] == readable
    assert statuses[-1] == 400


@pytest.mark.parametrize("digits", [1, 19, 20, 308, 309, 310, 4299, 4300, 4301, 4302, 100_000])
def test_numbers_of_any_length_are_a_clear_answer(client: httpx.Client, digits: int) -> None:
    number = b"2" * digits
    status = 422 if digits <= 4300 else 400
    for member in (number, b"-" + number, b"[%s]" % number):
        for body in (b'{"name":"x","done":%s}' % member, b'{"name":%s,"done":true}' % member):
            check_error(client.post("/tasks", content=body, headers=JSON), status)
        answer = client.post("/tasks", content=b'{"name":"x","done":true,"more":%s}' % member, headers=JSON)
        assert answer.status_code == (200 if digits <= 4300 else 400)
    for body in (b"%s.5" % number, b"0.%s" % number, b"%se-9" % number, b"1e%s" % number, b"1e-%s" % number):
        answer = client.post("/tasks", content=b'{"name":%s,"done":true}' % body, headers=JSON)
        check_error(answer, 422)


# At once


def test_ten_clients_at_once_get_their_own_tasks(server: Server, client: httpx.Client) -> None:
    def work(number: int) -> list[dict[str, Any]]:
        kept = []
        with server.client() as client:
            for turn in range(20):
                task = create(client, f"{number}-{turn}").json()
                path = f"/tasks/{task['id']}"
                assert client.get(path).json() == task
                kept.append(put(client, path, compact({"name": f"{number}:{turn}", "done": True})).json())
                assert kept[-1] == {**task, "name": f"{number}:{turn}", "done": True}
                if turn % 2:
                    assert client.delete(path).content == b"1"
                    assert client.get(path).status_code == 404
                    kept.pop()
        return kept

    with ThreadPoolExecutor(10) as pool:
        kept = sorted(chain(*pool.map(work, range(10))), key=lambda task: task["id"])
    assert strict(client.get("/tasks").content) == kept
    assert len(kept) == 100
